"""Sums that institutions refused, with the evidence that they kept."""

from __future__ import annotations

from dataclasses import dataclass

from client.evidence import EVIDENCE, Evidence
from common.errors import EvidenceError
from deploy.review.parties import Parties


@dataclass(frozen=True)
class Refused:
    """A file of evidence: whose, its name, and what it says; or that it cannot be used."""

    institution: str
    file: str
    says: str


def refused(parties: Parties) -> list[Refused]:
    """All evidence in the institutions' folders, its signature checked; the sums themselves are not looked at again."""
    found = []
    for place in parties.institutions:
        for path in sorted((place / EVIDENCE).glob("*.json")):
            try:
                evidence = Evidence.of_bytes(path.read_bytes(), path.name)
                says = f"round {evidence.aggregate.round}: {evidence.message}"
            except EvidenceError as error:
                says = f"cannot be used: {error}"
            found.append(Refused(parties.names[place], path.name, says))
    return found
