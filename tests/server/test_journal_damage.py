"""Damage to the coordinator's file: bits, bytes and cuts anywhere are an error with a name, never other contents."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.errors import JournalError
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.server.journal import Journal
from dictpfl.server.rows import TABLES, ClosedRound, Masked, Snapshot

FEDERATION, FINGERPRINT = b"f" * 32, b"k" * 32
FLIPS, CUTS, SWAPS = 1_200, 100, 200


def closed(number: int, kind: RoundKind = RoundKind.UPDATE) -> ClosedRound:
    rejected = {"4": "drift", "77": "deadline"}
    return ClosedRound(number, kind, 1.5 + number, 2.5 + number, 0.25, 1000, 2, rejected, ("berlin", "kyoto", "oslo"))


def an_aggregate(number: int, size: int) -> Aggregate:
    uploads = tuple(bytes([number, i]) * 8 for i in range(5))
    return Aggregate(number, random.Random(number).randbytes(size), uploads, b"signed " * (number % 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal with a row of every kind: sums short and long, dropped ones, a masked one, what was refused and said."""
    path = tmp_path_factory.mktemp("whole") / "journal.sqlite"
    journal = Journal(path, FEDERATION, FINGERPRINT)
    journal.record(closed(0, RoundKind.SCORE), an_aggregate(0, 9_000))
    for number in range(1, 12):
        if number in {4, 7}:
            journal.refuse(number, 3.5, {"9": "deadline", "11": "oversized"})
            journal.give_up(number, 0)
        journal.record(closed(number), an_aggregate(number, 300 if number % 2 else 7_000))
        if number in {4, 8}:
            journal.keep(Snapshot(number, number - 1, random.Random(-number).randbytes(5_000)), 2)
    journal.settle(12, 9.0)
    journal.stop(12, 9.5)
    journal.record(closed(12), an_aggregate(12, 4_000))
    journal.dispute(3, 1.0, ["berlin", "kyoto"])
    journal.void(3, 2.0, ["berlin", "kyoto", "oslo"])
    journal.name_nodes({17: "berlin", 2**63 + 5: "kyoto"})
    journal.bind({17: 0}, 1)
    journal.exclude("kyoto", "sends nonsense")
    journal.keep_masked(Masked(closed(13), 3, '{"0": ["ab", "cd"]}', random.Random(99).randbytes(6_000), b"signed"))
    assert not [table for table in TABLES if not journal._rows(table) and table not in LATER]
    journal.close()
    return path.read_bytes()


LATER = {"restarts"}
"""Tables without a row in this journal: a restart leaves no round open to be masked."""


def contents(path: Path, *, whole: bool = False) -> dict[str, Any]:
    """All that anybody asks a journal; without `whole`, SQLite's own check hides nothing that ours must find."""
    journal = Journal(path, FEDERATION, FINGERPRINT, whole=whole)
    try:
        return {
            "rows": {table: list(journal._rows(table)) for table in TABLES},
            "next": (journal.next_round, journal.updates(), journal.oldest, journal.length(0), journal.stopped),
            "kinds": (
                list(journal.kinds()),
                journal.is_measured(),
                journal.void_scores(),
                journal.is_settled(12),
                journal.attempt(4),
            ),
            "aggregates": list(journal.aggregates(0)),
            "acknowledgements": list(journal.acknowledgements(0, 99)),
            "rounds": (list(journal.rounds()), dict(journal.contributors()), list(journal.digests())),
            "snapshots": {number: journal.snapshot(number) for number in journal.snapshots()},
            "masked": journal.masked(),
            "parties": (
                journal.disputed(),
                journal.voids(),
                journal.node_names(),
                journal.bound(1),
                journal.excluded(),
            ),
        }
    finally:
        journal.close()


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def scribbled(data: bytes, draw: random.Random) -> bytes:
    """Some bytes in a row are others."""
    length = draw.randint(1, 40)
    place = draw.randrange(len(data) - length)
    return data[:place] + draw.randbytes(length) + data[place + length :]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice([0, 1, 100, draw.randrange(len(data)), 4096 * draw.randrange(len(data) // 4096)])]


def swapped(data: bytes, draw: random.Random) -> bytes:
    """A page is another one, or an older copy that lacks what was written last."""
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    one, other = draw.randrange(len(pages)), draw.randrange(len(pages))
    pages[one] = pages[other] if draw.random() < 0.5 else bytes(4096)
    return b"".join(pages)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("look_through", [True, False], ids=["looked through", "as read"])
def test_no_damage_is_read_as_anything_else(look_through: bool, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(whole)
    expected = contents(path)
    draw, outcomes, reasons = random.Random(13 + look_through), Counter[str](), set[str]()
    kinds: list[tuple[Callable[[bytes, random.Random], bytes], int]] = [
        (flipped, FLIPS), (scribbled, SWAPS), (cut, CUTS), (swapped, SWAPS),
    ]  # fmt: skip
    for damage, times in kinds:
        for _ in range(times):
            for leftover in tmp_path.iterdir():
                leftover.unlink()
            path.write_bytes(damage(whole, draw))
            try:
                found = contents(path, whole=look_through)
            except JournalError as error:
                reasons.add(str(error))
                outcomes[f"{damage.__name__}: refused"] += 1
            else:
                assert found == expected
                outcomes[f"{damage.__name__}: nothing lost"] += 1
    assert sum(outcomes.values()) == FLIPS + CUTS + 2 * SWAPS
    assert outcomes["flipped: refused"] > FLIPS // 4, outcomes
    assert all("backup" in reason or "choose another folder" in reason for reason in reasons)


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_row_that_vanished_is_missed(table: str, whole: bytes, tmp_path: Path) -> None:
    """Properly deleted, so that SQLite finds nothing wrong."""
    path = tmp_path / "journal.sqlite"
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        if table in LATER:
            database.execute(f"INSERT INTO {table} VALUES (99, x'dd', 1, 1.0)")  # noqa: S608
        else:
            database.execute(f"DELETE FROM {table} WHERE rowid = (SELECT MAX(rowid) FROM {table})")  # noqa: S608
    database.close()
    with pytest.raises(JournalError, match=f"table '{table}'"):
        contents(path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("UPDATE rounds SET counted = replace(counted, '05', '06') WHERE round = 5", "rounds"),
        ("UPDATE rounds SET rejected = replace(rejected, 'drift', 'draft') WHERE round = 5", "rounds"),
        ("UPDATE refusals SET reasons = '{}'", "refusals"),
        ("UPDATE attempts SET next = next + 1 WHERE round = 4", "attempts"),
        ("UPDATE masked SET uploads = '{}'", "masked"),
        ("UPDATE rounds SET aggregate = (SELECT aggregate FROM rounds WHERE round = 9) WHERE round = 11", "rounds"),
    ],
)
def test_a_column_that_changed_is_named(change: str, where: str, whole: bytes, tmp_path: Path) -> None:
    """Acknowledgements and text columns among them: an upload whose id changed there would be delivered twice."""
    path = tmp_path / "journal.sqlite"
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        assert database.execute(change).rowcount >= 1
    database.close()
    with pytest.raises(JournalError, match=f"table '{where}' is not what was written; restore it from backup"):
        contents(path)


def test_a_sum_in_the_place_of_another_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        one, other = [number for (number,) in database.execute("SELECT id FROM blobs ORDER BY id DESC LIMIT 2")]
        database.execute("DELETE FROM blobs WHERE id = ?", (one,))
        database.execute("UPDATE blobs SET id = ? WHERE id = ?", (one, other))
    database.close()
    with pytest.raises(JournalError, match="blob"):
        contents(path)
