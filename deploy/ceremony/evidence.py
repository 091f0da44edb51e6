"""Looking again at evidence of a refused sum: by anybody at what is signed, by an institution also at what is inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dictpfl.client.defences.evidence import Evidence
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.errors import EvidenceError

_ALONE = (
    "Whose signatures these are is said by the file alone: --institution FOLDER, of an institution in that epoch, compares its list of "
    "members and their keys."
)


@dataclass(frozen=True)
class Judged:
    """Evidence whose reason was found again.

    Attributes:
        evidence: as it was written.
        reason: reason to refuse the sum.
        known: its list of members and their keys is that of an institution's epoch, not only its own.
    """

    evidence: Evidence
    reason: str
    known: bool = False

    def lines(self) -> list[str]:
        """For a terminal."""
        found, digest = self.evidence, self.evidence.digest
        return [
            f"round {found.aggregate.round}: {found.institution} was right to refuse this sum: {self.reason}",
            found.message,
            f"sum         {digest}",
            "That the coordinator sent this very sum is shown by its custody log, which names the same digest.",
            *([] if self.known else [_ALONE]),
        ]


def judge(path: Path, institution: Path | None = None) -> Judged:
    """Check who made the evidence, then everything that made it refuse the sum.

    Args:
        institution: folder of an institution of the same epoch, whose key opens the sum, and who knows its members; without
            it, only what is signed is looked at, under the keys that the file itself names.

    Raises:
        EvidenceError: no evidence, altered, of other members, or nothing is found wrong with the sum.
    """
    try:
        evidence = Evidence.of_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise EvidenceError(f"cannot read {path}: {error.strerror}") from error
    if institution is None:
        reason = evidence.look_again()
    else:
        keys = Keyring(institution, InstitutionSettings.load(institution))
        _require_members(evidence, keys, path)
        reason = evidence.look_again(keys.at(evidence.aggregate.round)[0])
    if not reason and institution is None:
        raise EvidenceError(
            f"{path} says {evidence.reason!r}, which cannot be seen without a key: signatures and numbers are as they should "
            "be. Give --institution FOLDER, of an institution in that epoch, to look inside"
        )
    if not reason:
        raise EvidenceError(
            f"{path} says {evidence.reason!r}, but nothing is wrong with this sum: it should be applied"
        )
    return Judged(evidence, reason, known=institution is not None)


def _require_members(evidence: Evidence, keys: Keyring, path: Path) -> None:
    """Refuse evidence with a list of members of its own: with other keys in it, any honest sum looks forged."""
    if evidence.aggregate.round < 0 or evidence.roster != keys.roster_at(evidence.aggregate.round):
        raise EvidenceError(
            f"{path} names other members, or other keys of theirs, than were in round {evidence.aggregate.round}: it is of another "
            f"federation or epoch, or {evidence.institution} did not write it"
        )
