"""One institution's part of a tally, by who sees more than one institution may: from its sum, or from its upload.

What is looked for is how an institution's samples divide among classes, counted by the tally `classes`. Guesses are shares; the measure is 1 less
the share of samples that would have to be of another class. Four adversaries: an institution with the sum less its own counts; all
institutions but one; coordinator and one institution, who have the upload and the key; the same where masks are on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DictPFLError
from dictpfl.common.protection import Privacy
from dictpfl.common.rounds import Tallies
from dictpfl.deploy.attacks.intervals import gain_interval, mean_interval
from dictpfl.deploy.attacks.methods import replace_section, resized
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Adversary, Family, Finding

Array = NDArray[np.float64]
_EXACT = 0.999
"""Likeness from which on counts are known exactly."""


@dataclass(frozen=True)
class Guess:
    """Guess of the classes of each institution but the first.

    Attributes:
        found: likeness of the guesses, an institution each.
        blind: that of the public samples' classes.
    """

    found: Array
    blind: Array


def federation(config: FederationConfig, institutions: int, *, masks: bool) -> FederationConfig:
    """Configure a federation of different institutions that counts its classes before the first update."""
    changes = {
        "toy_insecure": False,
        "federation": resized(config.federation, institutions, rounds=1),
        "data": replace_section(config.data, partition="dirichlet", alpha=0.3),
        "encryption": replace_section(config.encryption, sealer="ckks", sealed_share=1.0),
        "defences": replace_section(config.defences, masks=masks),
        "privacy": Privacy(),
        "tallies": Tallies(opening=["classes"]),
    }
    return config.model_copy(update=changes)


def counts_of(recorded: RecordedRun) -> Array:
    """Count what each institution has of each class, float64, shape (institutions, classes)."""
    outputs, many = recorded.genesis.outputs, recorded.genesis.config.federation.participants
    labels = [recorded.samples(index).labels for index in range(many)]
    return np.stack([np.bincount(own, minlength=outputs) for own in labels]).astype(np.float64)


def likeness(guess: Array, truth: Array) -> float:
    """Compare two divisions: 1 less half the sum of differences between their shares; of a guess of nothing, 0."""
    guess = np.clip(guess, 0, None)
    if not guess.sum():
        return 0.0
    return float(1.0 - np.abs(guess / guess.sum() - truth / truth.sum()).sum() / 2)


def guesses(recorded: RecordedRun) -> Mapping[str, Guess]:
    """Let each adversary guess, by its name."""
    truth, outputs = counts_of(recorded), recorded.genesis.outputs
    (number,) = [n for n, opened in recorded.auditor.sums.items() if opened.plan.tally is not None]
    total = recorded.auditor.sums[number].total[:outputs]
    public = np.bincount(recorded.public.labels, minlength=outputs).astype(np.float64)
    blind = np.array([likeness(public, own) for own in truth[1:]])
    from_sum = np.array([likeness(total - truth[0], own) for own in truth[1:]])
    rest = [total - np.delete(truth, place, axis=0).sum(axis=0) for place in range(1, len(truth))]
    from_all = np.array([likeness(left, own) for left, own in zip(rest, truth[1:], strict=True)])
    read = np.array([likeness(_read(recorded, number, place), truth[place]) for place in range(1, len(truth))])
    return {"sum": Guess(from_sum, blind), "all but one": Guess(from_all, blind), "upload": Guess(read, blind)}


def _read(recorded: RecordedRun, number: int, index: int) -> Array:
    """Open an institution's upload as coordinator and institution 0; zeros where it does not open."""
    victim = next(victim for victim in recorded.victims(number) if victim.index == index)
    try:
        values, _ = recorded.collusion.open(victim.seen)
    except DictPFLError:
        return np.zeros(recorded.genesis.outputs)
    return values[: recorded.genesis.outputs]


def tally_findings(recorded: RecordedRun) -> Iterator[Finding]:
    """Judge what each adversary guessed in a run of `federation`."""
    masks = recorded.genesis.config.defences.masks
    institutions = recorded.genesis.config.federation.participants
    kinds: Sequence[tuple[str, str, Adversary, Family]] = (
        ("sum", "classes from the sum of a tally", "institution", "aggregate"),
        ("all but one", "classes from the sum, by all institutions but one", "institution", "aggregate"),
        ("upload", "open another's tally with the shared key", "collusion", "collusion"),
    )
    made = guesses(recorded)
    for name, attack, adversary, family in kinds:
        guess = made[name]
        if masks and name != "upload":
            continue  # masks change nothing of a sum
        yield Finding(
            family=family, attack=attack, source="this project's threat model", adversary=adversary,
            method="dictpfl, masks" if masks else "dictpfl", encrypted=True, setting={"institutions": institutions},
            metric="likeness of classes", found=mean_interval(guess.found), blind=mean_interval(guess.blind),
            gain=gain_interval(guess.found, guess.blind), success=_EXACT, trials=len(guess.found),
            method_of_interval="Student's t over institutions, paired with public classes", needs="tallies",
        )  # fmt: skip


@ATTACKS.register("tallies")
class TallyAttack(FederationAttack):
    """Classes of single institutions from the tally of all, with and without masks.

    Attributes:
        institutions: sizes of federations.
    """

    institutions: ClassVar[Sequence[int]] = (3, 6)

    def run(self, config: FederationConfig, folder: Path, _tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for institutions in self.institutions:
            for masks in (False, True):
                made = federation(config, institutions, masks=masks)
                yield from tally_findings(play(made, folder / f"{institutions}{'-masks' if masks else ''}"))
