"""A site's policy, `policy.toml` in the institution's own folder: what a study must keep to, or it cannot be approved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError, StudyError
from dictpfl.common.files import read_toml
from dictpfl.common.settings import Section
from dictpfl.deploy.studies.code import differing
from dictpfl.deploy.studies.papers import Proposal

POLICY = "policy.toml"
Share = Annotated[float, Field(gt=0.0)]


class Policy(Section):
    """`policy.toml`; without it, what stands here."""

    leads: tuple[str, ...] = Field(
        (), description="Whose studies may be approved, by name. Empty: any institution's, and the authority's."
    )
    allowed_code: tuple[str, ...] = Field(
        (), description="Code of `package.module:name` that a study may name. Empty: none but dictpfl's own."
    )
    min_participants: Annotated[int, Field(ge=1)] = Field(
        3, description="Fewest institutions in a sum that a study may open."
    )
    masks: bool = Field(True, description="A study must mask single uploads (`defences.masks`).")
    epsilon: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Largest epsilon that a study may spend, with differential privacy. 0: it need have none."
    )
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(1e-4, description="Largest delta beside that epsilon.")
    tallies: bool = Field(
        True,
        description="A study may add up vectors exactly (`[tallies]`, `[data.preprocessing]`, `training.metrics`, `[scores]`).",
    )
    rounds: Annotated[int, Field(ge=1)] = Field(1000, description="Most rounds of training.")
    hours: Share = Field(168.0, description="Most hours that a study may run here, from its first start on.")
    memory_gib: Share = Field(16.0, description="Most GiB of memory that each process of a study may take.")
    gpu: bool = Field(False, description="A study may use a GPU.")
    at_once: Annotated[int, Field(ge=1)] = Field(1, description="Studies that run at a time; further ones are refused.")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `folder/policy.toml`; a missing one is the default.

        Raises:
            ConfigError: it cannot be used.
        """
        path = folder / POLICY
        try:
            return cls.model_validate(read_toml(path) if path.exists() else {})
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use {path}: {explained(error, cls.model_fields)}") from error

    def require_kept(self, proposal: Proposal, app: str) -> None:
        """Refuse a study that breaks this policy; see `broken`.

        Raises:
            StudyError (policy): it does; each reason is a sentence.
        """
        if reasons := list(broken(self, proposal, app)):
            raise StudyError(
                f"{proposal.name} breaks the policy of this institution. "
                + " ".join(reasons)
                + f" Ask {proposal.lead.name} for "
                f"another version, or change {POLICY} in this institution's folder",
                code="policy",
            )

    def settings(self, proposal: Proposal, network: InstitutionSettings, passphrase_file: str) -> InstitutionSettings:
        """Return `institution.toml` of a study, by which the institution holds it to this policy in every round.

        Args:
            proposal: of the study.
            network: the institution's settings in the network's own federation, which go on to hold.
            passphrase_file: relative to the study's folder, or empty.
        """
        least = (self.min_participants, network.min_participants, proposal.config.federation.min_participants)
        held = {
            "min_participants": max(least),
            "most_rounds": proposal.config.federation.rounds,
            "toy_insecure": False,
            "passphrase_file": passphrase_file,
            "allowed_code": tuple(sorted(set(self.allowed_code) & set(proposal.config.own_code.values()))),
        }
        return network.model_copy(update=held)


def policy_digest(folder: Path) -> str:
    """SHA-256 of `policy.toml` in hexadecimal, for the custody log; `default` where there is none."""
    path = folder / POLICY
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "default"


def broken(policy: Policy, proposal: Proposal, app: str) -> Iterator[str]:
    """Yield why a study breaks a policy, a sentence for each reason.

    Args:
        policy: of the institution.
        proposal: of the study.
        app: SHA-256 of the app bundle that is installed here, in hexadecimal.
    """
    config = proposal.config
    if policy.leads and proposal.lead.name not in policy.leads:
        yield f"{proposal.lead.name} is not among those whose studies are approved here ({', '.join(policy.leads)})."
    if proposal.app != app:
        yield f"It runs the release with app {proposal.app[:12]}, and here is {app[:12]}."
    for key, code in config.own_code.items():
        if code not in policy.allowed_code:
            yield f"It runs {code} ({key}), which allowed_code does not name."
    for code in differing(proposal.code, config):
        yield f"The sources of {code} are not here as they were proposed."
    yield from _privacy(policy, proposal)
    yield from _resources(policy, proposal)


def _privacy(policy: Policy, proposal: Proposal) -> Iterator[str]:
    config = proposal.config
    for reason in config.insecurities:
        yield f"It protects nobody: {reason}."
    least = config.federation.min_participants
    if least < policy.min_participants:
        yield f"It opens sums of {least} institutions, and at least {policy.min_participants} are wanted here."
    if policy.masks and not config.defences.masks:
        yield "It leaves single uploads without masks, which are wanted here."
    privacy = config.privacy
    if policy.epsilon and privacy.mechanism == "none":
        yield f"It has no differential privacy, and epsilon {policy.epsilon:g} at most is wanted here."
    elif policy.epsilon and not 0.0 < privacy.epsilon <= policy.epsilon:
        said = f"epsilon {privacy.epsilon:g}" if privacy.epsilon else "no limit of epsilon"
        yield f"It has {said}, and {policy.epsilon:g} at most is wanted here."
    if policy.epsilon and privacy.mechanism != "none" and privacy.delta > policy.delta:
        yield f"It has delta {privacy.delta:g}, and {policy.delta:g} at most is wanted here."
    if policy.epsilon and privacy.mechanism != "none" and privacy.figures:
        yield "It sends validation figures outside of epsilon (privacy.figures)."
    exact = {
        "tallies": config.tallies.opening or config.tallies.closing,
        "data.preprocessing": config.data.preprocessing.on,
        "training.metrics": config.training.metrics,
        "scores": config.decision,
    }
    if not policy.tallies and (named := [name for name, asked in exact.items() if asked]):
        yield f"It adds up vectors of the institutions exactly, which is not wanted here ({', '.join(named)})."


def _resources(policy: Policy, proposal: Proposal) -> Iterator[str]:
    asked = (
        ("rounds", proposal.config.federation.rounds, policy.rounds, "rounds of training"),
        ("hours", proposal.hours, policy.hours, "hours"),
        ("memory_gib", proposal.memory_gib, policy.memory_gib, "GiB of memory"),
    )
    for _, wanted, most, what in asked:
        if wanted > most:
            yield f"It asks for {wanted:g} {what}, and {most:g} are allowed here."
    device = proposal.config.training.device
    if not policy.gpu and (proposal.gpu or device not in ("auto", "cpu")):
        yield "It asks for a GPU, and none is given here."
