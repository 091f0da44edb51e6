"""Sights of the parties: counted from the coordinator's recording and journal, or taken from the attacked run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dictpfl.deploy.attacks.results import Adversary, PrivacyResults, Seen
from dictpfl.deploy.review.egress import Egress
from dictpfl.deploy.review.judged import PARTIES
from dictpfl.deploy.review.parties import Parties
from dictpfl.server.recording import EVENTS, RECORDING


@dataclass(frozen=True)
class Sight:
    """Rows of the table, and what they were counted from."""

    rows: Sequence[Seen]
    source: str

    @property
    def grouped(self) -> list[tuple[Adversary, list[Seen]]]:
        """Rows by party, in the order of `PARTIES`."""
        groups = [(party, [row for row in self.rows if row.party == party]) for party in PARTIES]
        return [(party, rows) for party, rows in groups if rows]


def who_saw_what(parties: Parties, record: Egress, results: PrivacyResults | None) -> Sight:
    """Choose the best account there is: this run's recording, its journal and diaries, or the attacked run's recording."""
    recorded = any((folder / RECORDING / EVENTS).exists() for folder in parties.coordinators)
    if parties.simulated and recorded:
        from dictpfl.deploy.attacks.recorded import RecordedRun  # needs torch, which a coordinator has not

        # Opens every sum again with the key of institution 0, as this one did.
        return Sight(
            RecordedRun(parties.folder).seen(), "Counted from the recording that the coordinator of this run kept."
        )
    if record.journal or record.flows:
        return Sight(
            list(_counted(parties, record)),
            "Counted from the coordinator's journal and the institutions' diaries."
            + (
                ""
                if recorded
                else " Single uploads were not recorded, so they are counted by their number and size only."
            ),
        )
    if results is not None and results.seen:
        return Sight(results.seen, "Counted from the recording of the attacked run; this folder holds no run itself.")
    return Sight([], "")


def _counted(parties: Parties, record: Egress) -> list[Seen]:
    encrypted = _encrypted(parties)
    lines = record.journal.values()
    rows: list[tuple[str, str, int, int, bool]] = []
    if lines:
        kind = "encrypted" if encrypted else "in clear, in part or whole"
        rows += [
            (
                "server",
                f"uploads, {kind}",
                sum(x.uploads for x in lines),
                sum(x.received for x in lines),
                not encrypted,
            ),
            ("server", f"sums, {kind}", len(record.journal), sum(x.sum for x in lines), not encrypted),
            ("server", "who took part in each round, when, and how much each sent", len(record.journal), 0, True),
        ]
        if record.snapshots[0]:
            rows.append(("server", "sealed snapshots of shared state", *record.snapshots, False))
    for name, flows in list(record.flows.items())[:1]:
        got = [flow.received for flow in flows.values() if flow.received]
        rows.append(("institution", f"sums, opened (as {name} noted them; all get the same)", len(got), sum(got), True))
    return [
        Seen.model_validate({"party": party, "what": what, "count": count, "bytes": size, "readable": readable})
        for party, what, count, size, readable in rows
    ]


def _encrypted(parties: Parties) -> bool:
    if parties.config is not None:
        encryption = parties.config.encryption
        return encryption.sealer == "ckks" and encryption.sealed_share >= 1.0
    return parties.agreement is not None and parties.agreement.encrypted and not parties.agreement.uploads.max_clear
