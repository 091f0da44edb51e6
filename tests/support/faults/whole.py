"""A federation run twice: undisturbed, and under a schedule of faults; what must be equal afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.client.replay import replay
from dictpfl.common.ckks.opening import opener_for
from dictpfl.common.law.state import SharedState
from dictpfl.common.messages.protocol import Aggregate
from dictpfl.deploy.runs.run import processor
from dictpfl.server.journal import Journal
from tests.support import ROOT
from tests.support.faults.ground import NAMES, Ground
from tests.support.faults.played import Player, Row
from tests.support.faults.schedule import BACKED_UP, COORDINATOR, KINDS, Fault, drawn


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        digests: of shared state, by institution.
        updates: rounds whose update was applied.
        rounds: closed rounds, measurement at the end too.
    """

    digests: dict[str, str]
    updates: int
    rounds: int


@dataclass
class Report:
    """Everything that is known afterwards."""

    seed: int
    rounds: int
    institutions: int
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    undisturbed: Outcome | None = None
    disturbed: Outcome | None = None
    replaced: int | None = None
    """Closed rounds when an old backup took the place of an institution's memory; None: none did."""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        ends = {
            name: vars(one) if one else None
            for name, one in (("undisturbed", self.undisturbed), ("disturbed", self.disturbed))
        }
        return {
            "seed": self.seed, "rounds": self.rounds, "institutions": self.institutions, "replaced": self.replaced, **self.facts, **ends,
            "wrong": self.wrong, "rows": [row.to_json() for row in self.rows],
        }  # fmt: skip


def play(
    seed: int, rounds: int, institutions: int, folder: Path, kinds: Collection[str] | None = None,
    tell: Callable[[str], None] = print,
    sabotage: Callable[[Ground], None] | None = None,
) -> Report:  # fmt: skip
    """Found a federation, run it undisturbed, run it under faults, compare.

    Args:
        seed: of the schedule.
        rounds: update rounds.
        institutions: how many.
        folder: for everything; made anew.
        kinds: of faults; None: all.
        tell: told of progress, a line at a time.
        sabotage: done to the ground after the last round, as a test of the checks.
    """
    names, began = NAMES[:institutions], time.monotonic()
    schedule = drawn(seed, names, rounds, kinds)
    report = Report(seed, rounds, institutions, facts=_facts())
    founded = Ground(folder / "founded", names, rounds)
    tell(f"founded: {', '.join(names)} ({time.monotonic() - began:.0f} s)")
    disks = sorted({fault.where for fault in schedule if fault.kind.startswith("disk")})
    ground = founded.copy(folder / "disturbed", disks)
    player = Player(ground, tell)
    # Beside each other, since the disturbed run waits most of its time.
    with ThreadPoolExecutor(1) as beside, ground.running():
        quiet = founded.copy(folder / "undisturbed")
        calm = beside.submit(_undisturbed, quiet)
        try:
            report.rows += _disturbed(ground, player, schedule)
            if sabotage is not None:
                sabotage(ground)
            report.disturbed, report.undisturbed = _outcome(ground), calm.result()
            report.replaced = player.replaced
            report.wrong = [*wrong_of(report, schedule), *_differing(ground, quiet, player.journals, report)]
        except AssertionError as error:
            report.wrong.append(str(error))
        finally:
            quiet.abandoned = True  # nobody waits for it any more, as after Ctrl-C
    report.facts["seconds"] = round(time.monotonic() - began)
    return report


def _facts() -> dict[str, Any]:
    import os

    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit.stdout.strip(), "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def _undisturbed(ground: Ground) -> Outcome:
    with ground.running():
        ground.keep_running()
        ground.wait(lambda: ground.finished, 900, "the undisturbed run's end", pause=1.0)
        return _outcome(ground)


def _disturbed(ground: Ground, player: Player, schedule: list[Fault]) -> Iterator[Row]:
    ground.keep_running()
    ground.reached(BACKED_UP if any(fault.kind.startswith("old") for fault in schedule) else 0)
    for party in (*ground.founders, COORDINATOR):
        ground.back_up(party)
    for fault in schedule:
        yield from player.play(fault)
    ground.wait(lambda: ground.finished, 900, "the disturbed run's end", pause=1.0)
    # Once more, as `run` says where somebody was not online at its end: it tells them the last sum and closes no round.
    told = ground.run(log="run-told.log")
    assert told.wait(300) == 0, told.text


def _outcome(ground: Ground) -> Outcome:
    records = {name: ground.record(name) for name in ground.founders}
    updates = {record.shared.updates for record in records.values()}
    with ground.journal() as journal:
        return Outcome(
            {name: one.shared.digest.hex() for name, one in records.items()}, max(updates), journal.next_round
        )


def wrong_of(report: Report, schedule: list[Fault]) -> Iterator[str]:
    """What differs from the undisturbed run, and what was not explained."""
    calm, after = report.undisturbed, report.disturbed
    assert calm is not None
    assert after is not None
    if len(set(calm.digests.values())) != 1:
        yield f"the undisturbed run's own digests differ: {calm.digests}"
    for name, digest in after.digests.items():
        if report.replaced is None and digest != calm.digests[name]:
            yield f"{name} holds {digest[:16]}, the undisturbed run {calm.digests[name][:16]}"
    if (after.updates, after.rounds) != (calm.updates, calm.rounds) or calm.updates != report.rounds:
        yield f"{after.updates} updates in {after.rounds} rounds; undisturbed {calm.updates} in {calm.rounds}, agreed {report.rounds}"
    for row in report.rows:
        if row.wrong:
            yield f"{row.kind} ({row.what or row.where}) stopped something, and no `status` explained it"
    if missing := {fault.kind for fault in schedule} - {row.kind for row in report.rows}:
        yield f"not played: {sorted(missing)}"


def _differing(ground: Ground, quiet: Ground, journals: list[Path], report: Report) -> Iterator[str]:
    """What a fresh reader of the journals finds: each round once, no upload twice, and the state that institutions hold.

    Round by round, the states are those of the undisturbed run; of the rounds after an institution's memory was replaced by an old one
    only that all institutions hold one state, and that it is the one of the sums.
    """
    rounds: dict[int, Aggregate] = {}
    for path in [*journals, ground.journal_copy(ground.folder / "journal-end.sqlite")]:
        for aggregate in _aggregates(ground, path):
            one = rounds.setdefault(aggregate.round, aggregate)
            if sorted(one.counted) != sorted(aggregate.counted):
                yield f"round {aggregate.round} was closed twice, with different uploads"
    assert report.disturbed is not None
    if sorted(rounds) != list(range(report.disturbed.rounds)):
        yield f"journals hold rounds {sorted(rounds)}, of {report.disturbed.rounds} closed ones"
        return
    uploads = [upload for aggregate in rounds.values() for upload in aggregate.counted]
    if len(uploads) != len(set(uploads)):
        yield "an upload was counted twice"
    short = [number for number, one in rounds.items() if len(one.counted) != len(ground.founders)]
    if short:
        yield f"rounds {short} lack an institution"
    states, before = _replayed(ground, rounds), report.disturbed.digests
    calm = _replayed(
        quiet, {one.round: one for one in _aggregates(quiet, quiet.journal_copy(quiet.folder / "journal-end.sqlite"))}
    )
    alike = len(calm) if report.replaced is None else report.replaced
    if other := [
        number
        for number, (one, two) in enumerate(zip(states[:alike], calm[:alike], strict=True))
        if one.digest != two.digest
    ]:
        yield f"after round {other[0]} the sums give another state than those of the undisturbed run"
    state = states[-1]
    if {state.digest.hex()} != set(before.values()):
        yield f"replayed from the sums: {state.digest.hex()[:16]}; institutions hold {sorted({d[:16] for d in before.values()})}"
    if not np.any(state.values != ground.keyring(ground.founders[0]).start().values):
        yield "the model did not change: these rounds show nothing"


def _aggregates(ground: Ground, path: Path) -> list[Aggregate]:
    agreed = ground.agreed
    journal = Journal(
        path, agreed.uploads.federation, agreed.uploads.fingerprint, epoch=agreed.epoch, first_round=agreed.first_round
    )
    try:
        first = next((one.round for one in journal.rounds()), 0)
        return list(journal.aggregates(first))
    finally:
        journal.close()


def _replayed(ground: Ground, rounds: dict[int, Aggregate]) -> list[SharedState]:
    """States after each round, in order, from the sums alone."""
    keys = ground.keyring(ground.founders[0])
    state, opener = keys.start(), opener_for(keys.genesis.parameters, keys.key)
    states = []
    for number in sorted(rounds):
        state = replay(keys.genesis, opener, state, rounds[number], len(ground.founders)).state
        states.append(state)
    return states


def write(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")


def table(rows: list[Row]) -> str:
    """The table, in Markdown."""
    lines = [
        "| kind | where | what | round | seen by | what `status` said | repaired by | outcome | seconds |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        said = row.said.replace("|", "\\|")
        lines.append(
            f"| {row.kind} | {row.where} | {row.what} | {row.round} | {row.seen_by} | {said} | {row.repaired_by} | {row.outcome} | "
            f"{row.seconds:.0f} |"
        )
    return "\n".join(lines)


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


__all__ = ["KINDS", "Outcome", "Report", "clear", "play", "table", "write"]
