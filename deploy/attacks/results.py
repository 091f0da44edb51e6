"""privacy.json: what attacks on data found, and what checks of ciphertexts said; `dictpfl report --privacy` reads it.

Written into the folder of an attack, with the pictures that it names beside it. `FORMAT` changes with the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private

FORMAT = "dictpfl-privacy-2"
RESULTS, PICTURES, OVERVIEW = "privacy.json", "pictures", "overview.png"
Adversary = Literal["server", "institution", "collusion", "outsider"]
Family = Literal["inversion", "labels", "tokens", "membership", "property", "distinguishing", "aggregate", "collusion"]
TITLES: Mapping[Family, str] = {
    "inversion": "Images from one institution's update",
    "labels": "Labels from one institution's update",
    "tokens": "Words from one institution's update",
    "property": "An institution's share of a class, from one update",
    "membership": "Was a sample trained on? From the final model",
    "collusion": "The coordinator and one institution together",
    "aggregate": "What an institution reads of the others' sum",
    "distinguishing": "Which of two data sets an institution has, from sizes and times that the coordinator sees",
}
"""Headings of tables, in their order."""
Verdict = Literal["succeeds", "better than blind", "no better than blind", "not measured"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(_Document):
    """Mean (or AUC) with its 95 % interval."""

    value: float
    low: float
    high: float


class Finding(_Document):
    """Outcome of one attack by one adversary on one method at one setting."""

    family: Family
    attack: str = Field(description="The attack's name, such as `cosine, labels inferred`.")
    source: str = Field(description="Paper that it is taken from.")
    adversary: Adversary
    method: str = Field(description="What was attacked, such as `fedml-he, 30 % sealed`.")
    encrypted: bool = Field(description="Whether everything that this adversary attacks crossed encrypted.")
    setting: dict[str, int | float | str] = Field({}, description="Batch, steps, institutions, and the like.")
    metric: str = Field(description="`SSIM`, `labels right`, `AUC`, ...; larger is better for the attacker.")
    found: Interval
    blind: Interval = Field(description="The best guess of somebody who sees nothing of the run.")
    gain: Interval = Field(description="found - blind, paired where it can be.")
    success: float = Field(description="`found.value` from which on the attack counts as successful.")
    trials: int = Field(ge=1)
    method_of_interval: str = Field(description="Student's t or DeLong, and over what.")
    more: dict[str, float] = Field({}, description="Other measures of the same trials, such as PSNR.")
    picture: str = Field("", description="File below `pictures/`; empty: none.")
    note: str = ""
    needs: str = Field(
        "",
        description="Section of the configuration without which a federation has nothing of the kind; empty: all have.",
    )

    @property
    def verdict(self) -> Verdict:
        """Success by the stated threshold, above the blind guess; else the comparison with that, beyond the interval.

        One trial has no interval: what is not a success is not measured.
        """
        if self.found.value >= self.success and self.found.value > self.blind.value:
            return "succeeds"
        if self.trials == 1:
            return "not measured"
        return "better than blind" if self.gain.low > 0 else "no better than blind"


def best_by_method(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Pick the strongest finding on each method, methods in the order in which they come; of equal ones the first."""
    best: dict[str, Finding] = {}
    for f in findings:
        if f.method not in best or f.found.value > best[f.method].found.value:
            best[f.method] = f
    return best


class Check(_Document):
    """Requirement of an attack where nothing is encrypted: if it is not met, the attack is broken, not the method private."""

    attack: str
    setting: dict[str, int | float | str] = {}
    metric: str
    required: float
    found: float

    @property
    def met(self) -> bool:
        """Tell if it was reached."""
        return self.found >= self.required


class Detection(_Document):
    """Active attack on ciphertexts or rounds, and what noticed it."""

    attack: str
    adversary: Adversary
    outcome: Literal["detected", "harmless", "not detected", "succeeds by design"]
    by: str = Field(description="The error or the mechanism that stopped it; empty where nothing did.")
    meaning: str
    test: str = Field("", description="The test that holds it.")


class CiphertextCheck(_Document):
    """Line of the audit of a recorded run: it fails when encryption is wrong, whatever an attack on data finds."""

    topic: str = Field(description="Question that it answers (`dictpfl.deploy.attacks.ciphertexts.TOPICS`).")
    method: str = Field(description="What was audited, such as `dictpfl`.")
    what: str = Field(description="The statement that was checked.")
    count: int = Field(description="Number of things that it was checked on.")
    verdict: Literal["ok", "FAILED", "cannot tell"]
    detail: str = ""


class Seen(_Document):
    """Kind of thing that a party saw in the recorded run."""

    party: Adversary
    what: str
    count: int
    bytes: int
    readable: bool = Field(description="Whether this party could read values out of it.")


class PrivacyResults(_Document):
    """Findings of an attack run, and all that a reader must know of it."""

    format: Literal["dictpfl-privacy-2"] = "dictpfl-privacy-2"
    name: str
    config: dict[str, Any]
    granted: list[str] = Field(description="What attackers were given beyond their view.")
    seen: list[Seen]
    findings: list[Finding]
    checks: list[Check]
    ciphertexts: list[CiphertextCheck] = Field([], description="Checks of the runs of methods that encrypt everything.")
    overview: str = Field("", description="Picture of the best reconstruction of each method; empty: none.")
    detections: list[Detection] = []
    skipped: list[str] = Field([], description="What was not tried, and why.")
    machine: dict[str, Any] = {}
    seconds: float = 0.0

    @property
    def broken(self) -> list[Check]:
        """Attacks that do not work even on plaintext: their other findings mean nothing."""
        return [check for check in self.checks if not check.met]

    @property
    def wrong(self) -> list[CiphertextCheck]:
        """Checks of ciphertexts that failed: encryption is wrong."""
        return [check for check in self.ciphertexts if check.verdict == "FAILED"]

    def of(self, *families: Family, adversary: Adversary | None = None) -> Sequence[Finding]:
        """Pick the findings of some families."""
        return [f for f in self.findings if f.family in families and adversary in (None, f.adversary)]

    def save(self, folder: Path) -> None:
        """Write privacy.json into a folder."""
        write_private(folder / RESULTS, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read privacy.json from a folder.

        Raises:
            ConfigError: none there, or of another schema.
        """
        path = Path(folder) / RESULTS
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} holds no {RESULTS}; `dictpfl attack CONFIG.toml --out DIR` makes one"
            ) from None
        except (OSError, ValidationError) as error:
            raise ConfigError(f"cannot use {path}: {explained(error)}; attack again with this release") from error
