"""Methods under attack, each as a real run of its own beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks.results import Adversary

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares that FedML-HE encrypts here."""
FINAL, FINAL_PRIVATE = "any method's final model", "the final model, differential privacy"
"""Targets of an outsider: encryption changes no bit of the model, noise does."""


@dataclass(frozen=True)
class Subject:
    """Method as somebody attacks it.

    Attributes:
        name: for the command line.
        label: for tables.
        settings: dotted settings that make it.
        adversary: who attacks.
        encrypted: all that this adversary attacks is encrypted for it.
        last: attack the last round rather than the first, where pruning has something to prune.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    adversary: Adversary = "server"
    encrypted: bool = True
    last: bool = False

    def config(self, path: Path | str, overrides: Mapping[str, Any]) -> FederationConfig:
        """Load the configuration to run; what protects nobody is admitted here, since it is compared, not deployed."""
        return FederationConfig.load(path, {**overrides, **self.settings, **self._admitted})

    def applied(self, config: FederationConfig) -> FederationConfig:
        """Change a configuration to this method."""
        return FederationConfig.of(config.model_dump(mode="json"), {**self.settings, **self._admitted})

    @property
    def _admitted(self) -> Mapping[str, Any]:
        """Settings of what is compared and protects nobody: with a federation's own masks or noise it would be refused, or protect."""
        if self.encrypted or self.adversary != "server":
            return {}
        return {"toy_insecure": True, "defences.masks": False, "privacy.mechanism": "none"}


def replace_section(section: Any, **changes: Any) -> Any:
    """Copy a section of a configuration with some fields changed."""
    return section.model_copy(update=changes)


def resized(section: Any, participants: int, **changes: Any) -> Any:
    """Copy the section `federation` for so many institutions, all of them asked; limits that fit the configuration's own number may not fit these."""
    fitting = {
        "participants": participants,
        "max_participants": 0,
        "sample": 0,
        "min_participants": min(3, participants),
    }
    return replace_section(section, **fitting, **changes)


def _fedml(share: float, sensitivity: str) -> Subject:
    by = "" if sensitivity == "gradient" else ", by magnitude"
    settings = {"method": "fedml-he", "encryption.sealed_share": share, "encryption.sensitivity": sensitivity}
    suffix = "" if sensitivity == "gradient" else "-magnitude"
    return Subject(
        f"fedml-he-{round(100 * share)}{suffix}", f"FedML-HE, {share:.0%} encrypted{by}", settings, encrypted=False
    )


PADDED: Mapping[str, str] = {
    "none": "dictpfl, not padded",
    "steps": "dictpfl, padded to steps",
    "full": "dictpfl, padded",
}
"""Names that results give to `encryption.pad_to`, where lengths are what is attacked."""

SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject("plaintext", "plaintext", {"method": "plaintext"}, encrypted=False),
        *(_fedml(share, "gradient") for share in SHARES),
        *(_fedml(share, "magnitude") for share in (0.3, 0.7, 0.9)),
        Subject("fedhe-topk", "FedHE-TopK", {"method": "fedhe-topk"}),
        Subject("fedhe-full", "FedHE-Full", {"method": "fedhe-full"}),
        Subject("dictpfl", "dictpfl", {"method": "dictpfl"}, last=True),
        Subject("dictpfl-unpruned", "dictpfl without pruning", {"method": "dictpfl", "pruning.enabled": False}),
        Subject(
            "dictpfl-identity", "dictpfl, NOT encrypted", {"method": "dictpfl", "encryption.sealer": "identity"},
            encrypted=False,
        ),
        Subject(
            "dictpfl-identity-last", "dictpfl, NOT encrypted, pruned round",
            {"method": "dictpfl", "encryption.sealer": "identity"}, encrypted=False, last=True,
        ),
        Subject(
            "dictpfl-collusion", "dictpfl, coordinator and one institution together", {"method": "dictpfl"},
            adversary="collusion", encrypted=False,
        ),
    )
}  # fmt: skip
"""Methods under attack by name."""


def chosen(names: Sequence[str]) -> list[Subject]:
    """Look subjects up by name, plaintext first: it shows that an attack works.

    Raises:
        ConfigError: unknown, or none.
    """
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown or not names:
        raise ConfigError(f"methods {', '.join(unknown) or '(none)'}: expected some of {', '.join(SUBJECTS)}")
    return [SUBJECTS[name] for name in dict.fromkeys(["plaintext", *names])]
