"""Audit of a run, as its JSON beside the run has it: the document says no more of ciphertexts than was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from dictpfl.common.documents import explained
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.attacks.ciphertexts import OTHER, TOPICS, Topic, topic_of, worst
from dictpfl.deploy.attacks.results import CiphertextCheck, PrivacyResults
from dictpfl.deploy.audit.checks.check import FAILED, OK, UNTOLD, Check
from dictpfl.deploy.audit.folder import COORDINATOR, RECORDING
from dictpfl.deploy.review.judged import Mark

REPORT = "audit.json"
"""File that `dictpfl audit crypto RUN` leaves in RUN."""
COMMAND = "dictpfl audit crypto RUN"
_MARKS: dict[str, Mark] = {OK: "good", FAILED: "bad", UNTOLD: "open"}


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: str
    run: str
    federation: str = ""
    failed: int
    checks: list[Check]

    @field_validator("checks")
    @classmethod
    def _known(cls, checks: list[Check]) -> list[Check]:
        """Refuse a verdict that no audit gives."""
        if others := sorted({check.verdict for check in checks} - _MARKS.keys()):
            raise ValueError(f"a verdict {others[0]!r}, expected one of {', '.join(_MARKS)}")
        return checks

    @model_validator(mode="after")
    def _counted(self) -> Self:
        """Refuse lines that are not those that were written."""
        if (found := sum(check.failed for check in self.checks)) != self.failed:
            raise ValueError(f"it has {found} lines that failed, and counts {self.failed}")
        return self


@dataclass(frozen=True)
class Line:
    """Line of an audit with the topic that explains it, and whose ciphertexts it was checked on."""

    of: str
    check: Check | CiphertextCheck

    @property
    def topic(self) -> Topic:
        """Topic of the line."""
        return topic_of(self.check.what)

    @property
    def mark(self) -> Mark:
        """Mark of the verdict."""
        return _MARKS[self.check.verdict]


@dataclass(frozen=True)
class Audit:
    """State of the audit of a run.

    Attributes:
        lines: lines of it; none where the run was not audited, or after the audit more came.
        why: reason why there are none.
    """

    lines: Sequence[Line]
    why: str = ""

    @property
    def failed(self) -> Sequence[Line]:
        """Lines that say that the run is at fault."""
        return [line for line in self.lines if line.mark == "bad"]

    @property
    def whole(self) -> bool:
        """Tell whether the run was audited, every check could tell, and nothing was at fault."""
        return bool(self.lines) and all(line.mark == "good" for line in self.lines)

    @property
    def sentence(self) -> str:
        """State in one sentence."""
        if not self.lines:
            return f"Not audited: run `{COMMAND}`{f' ({self.why})' if self.why else ''}."
        good = sum(line.mark == "good" for line in self.lines)
        open_ones = len(self.lines) - good - len(self.failed)
        told = f"; {open_ones} cannot tell in a run of this size" if open_ones else ""
        failed = f"; {len(self.failed)} FAILED, first: {self.failed[0].check.what}" if self.failed else ", none failed"
        return f"Audited by a second implementation: {good} of {len(self.lines)} checks hold{failed}{told}."


NOT_AUDITED = Audit(())


def audit_of(folder: Path, federation: bytes) -> Audit:
    """Read what an audit of the run in a folder said.

    Args:
        folder: of the run.
        federation: id of its federation; what was found on another one says nothing of it.

    Raises:
        ConfigError: a file that no audit of this release has written.
    """
    path = folder / REPORT
    if not path.exists():
        return Audit(
            (), "" if (folder / COORDINATOR).is_dir() else "it needs all parties' folders, as a simulation has"
        )
    try:
        report = _Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"cannot use {path}: {explained(error)}; run `{COMMAND}` again with this release") from error
    if report.federation != federation.hex():
        return Audit((), f"{REPORT} is not of this federation, or does not say of which")
    uploads = (folder / COORDINATOR / RECORDING).glob("*.upload")
    if any(upload.stat().st_mtime > path.stat().st_mtime for upload in uploads):
        return Audit((), f"{REPORT} is older than the run's newest upload")
    return Audit([Line("this run", check) for check in report.checks])


def checked_elsewhere(results: PrivacyResults | None) -> list[Line]:
    """List checks of the runs that `dictpfl attack` made for the purpose: of the same software, of other runs."""
    return [Line(check.method, check) for check in results.ciphertexts] if results else []


def by_topic(audit: Audit, elsewhere: Sequence[Line]) -> list[tuple[Topic, list[Line]]]:
    """Group lines by topic, in the order of `TOPICS`: those of this run one by one, those of other runs summed up."""
    groups = []
    for topic in (*TOPICS, OTHER):
        lines = [line for line in audit.lines if line.topic is topic]
        others = [line for line in elsewhere if line.topic is topic]
        lines += [_summed(of, [line for line in others if line.of == of]) for of in dict.fromkeys(o.of for o in others)]
        if lines:
            groups.append((topic, lines))
    return groups


def _summed(of: str, lines: Sequence[Line]) -> Line:
    """Sum up the lines of one topic and run: the worst verdict, and what is to be said of each that does not hold."""
    good = sum(line.mark == "good" for line in lines)
    said = [f"{line.check.what}: {line.check.detail}" for line in lines if line.mark != "good"]
    verdict = worst([line.check.verdict for line in lines])
    return Line(of, Check(f"{good} of {len(lines)} of these checks hold", len(lines), verdict, "; ".join(said)))
