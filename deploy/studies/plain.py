"""A study in plain words: what runs, which code, what leaves, for how long. Shown before anything is approved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dictpfl.deploy.console import one_line
from dictpfl.deploy.studies.papers import Proposal
from dictpfl.deploy.units import counted


@dataclass(frozen=True)
class Fact:
    """A question that an institution asks, and the answer."""

    question: str
    answer: str


def facts(proposal: Proposal) -> list[Fact]:
    """Answer what an institution asks of a study, from its text alone."""
    return [Fact(question, one_line(answer)) for question, answer in _facts(proposal)]


def _facts(proposal: Proposal) -> Iterator[tuple[str, str]]:
    config = proposal.config
    federation, shape = config.federation, "x".join(map(str, proposal.sample_shape))
    yield "what for", proposal.title
    yield (
        "proposed by",
        f"{proposal.lead.name} ({proposal.lead.role}), version {proposal.version}; to be approved until {proposal.until}",
    )
    yield "asked", ", ".join(sorted(proposal.institutions))
    yield (
        "what runs",
        (
            f"{counted(federation.rounds, 'round')} that train the model {config.model.source!r} by the task {config.training.task!r} on your samples, "
            f"at home; W0 is {'drawn by seed' if not proposal.weights else f'given: its values have SHA-256 {proposal.weights}'}"
        ),
    )
    yield (
        "your data",
        f"samples of shape {shape}, {proposal.outputs} outputs" + (f": {proposal.data}" if proposal.data else ""),
    )
    yield "which code", f"dictpfl's own app, SHA-256 {proposal.app}"
    named = [
        f"{code} ({key}, SHA-256 of its sources {proposal.code.get(code, 'not stated')})"
        for key, code in config.own_code.items()
    ]
    yield "callables of others", "; ".join(named) or "none"
    yield "what leaves", " ".join(_leaves(proposal))
    least = config.least
    yield (
        "fewest in a sum",
        f"{least} institutions; you see the sum of the other {least - 1} of such a sum, and no single update",
    )
    yield "differential privacy", _private(proposal)
    yield (
        "how long",
        f"{proposal.hours:g} hours from the first start here; a round waits {federation.deadline_seconds:g} s for the slowest",
    )
    gpu = "a GPU" if proposal.gpu else "no GPU"
    yield "what it takes", f"{proposal.memory_gib:g} GiB of memory a process, {gpu}"
    if proposal.parent:
        yield "cloned from", f"the proposal with digest {proposal.parent}"


def _leaves(proposal: Proposal) -> Iterator[str]:
    config = proposal.config
    if config.encryption.sealer == "ckks" and config.encryption.sealed_share >= 1.0:
        yield "Encrypted updates of the model, of which the coordinator, who has no key, makes a sum; when you answer, and how much."
    else:
        yield "Updates of the model that the coordinator can read, whole or in part."
    yield (
        "A single one is masked besides, so that who has the key reads noise."
        if config.defences.masks
        else "A single one is not masked: any institution that gets hold of it reads it."
    )
    figures = config.privacy.mechanism == "none" or config.privacy.figures
    if figures:
        yield "Encrypted with them: losses and validation figures, of which all see the sum."
    if figures and config.training.metrics:
        yield (
            f"Encrypted counts, histograms or matrices over your validation samples ({', '.join(config.training.metrics)}), of which all see the "
            "exact sum in each round."
        )
    if config.decision:
        yield "Encrypted scores that your data give to the model's values, of which all see the exact sum."
    if asked := [*config.tallies.opening, *config.tallies.closing]:
        yield f"Encrypted vectors of your data ({', '.join(asked)}), of which all see the exact sum."
    if config.data.preprocessing.on:
        yield "Encrypted counts, means and histograms of your columns, of which all see the exact sum."
    yield "All institutions end with the same model. No sample and no label leaves."


def _private(proposal: Proposal) -> str:
    privacy = proposal.config.privacy
    if privacy.mechanism == "none":
        return "none: the model may remember samples"
    whom = "each training sample" if privacy.mechanism == "example" else "this institution as a whole"
    limit = f"epsilon {privacy.epsilon:g} at most" if privacy.epsilon else "no limit of epsilon"
    return f"of {whom}: {limit}, delta {privacy.delta:g}" + (
        "; figures are sent outside of it" if privacy.figures else ""
    )
