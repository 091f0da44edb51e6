"""Sums that institutions refused, with the evidence that they kept, and how many they refuse before they lock."""

from __future__ import annotations

from dataclasses import dataclass

from dictpfl.client.defences.evidence import EVIDENCE, Evidence
from dictpfl.client.defences.limits import MOST_EVIDENCE
from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.errors import EvidenceError
from dictpfl.deploy.review.parties import Parties


@dataclass(frozen=True)
class Refused:
    """A file of evidence: whose, its name, and what it says; or that it cannot be used."""

    institution: str
    file: str
    says: str


def cap(parties: Parties) -> str:
    """Say how many refused sums an institution bears; empty where no institution's folder is here."""
    limits = sorted({InstitutionSettings.load(place).most_refused for place in parties.institutions})
    if not limits:
        return ""
    most = str(limits[0]) if len(limits) == 1 else f"{limits[0]} to {limits[-1]}"
    return (
        f"Of each round and attempt an institution tries one sum. After {most} refused or void ones in an epoch it opens nothing until its "
        f"operator has looked (most_refused in its own institution.toml); it keeps at most {MOST_EVIDENCE} files of evidence."
    )


def refused(parties: Parties) -> list[Refused]:
    """Read all evidence in the institutions' folders, and check its signature; the sums are not looked at again."""
    refusals = []
    for place in parties.institutions:
        for path in sorted((place / EVIDENCE).glob("*.json")):
            try:
                evidence = Evidence.of_bytes(path.read_bytes(), path.name)
                says = f"round {evidence.aggregate.round}: {evidence.message}"
            except EvidenceError as error:
                says = f"cannot be used: {error}"
            refusals.append(Refused(parties.names[place], path.name, says))
    return refusals
