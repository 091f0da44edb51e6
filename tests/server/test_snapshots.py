"""What the coordinator does with snapshots that it cannot open: compares, keeps the newest, and drops what they cover."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import JournalError, SnapshotError
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind, Wish
from dictpfl.common.messages.snapshots import HEADER_BYTES, SnapshotHeader, body
from dictpfl.common.messages.wire import Limits
from dictpfl.common.protection import Encryption
from dictpfl.server.agreement import Agreement
from dictpfl.server.catchup import CatchUp, provision, recent
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound, Snapshot
from dictpfl.server.snapshots import SnapshotVotes
from tests.support.coordinators import (
    all_of,
    delivers,
    opened,
    plain_uploads,  # noqa: F401  a fixture
    play,
)

FEDERATION, FINGERPRINT, TAG = b"f" * 32, b"k" * 32, b"t" * 32
LIMITS = Limits(FEDERATION, FINGERPRINT, 40, 500, 0, 3)
AGREEMENT = Agreement(
    CKKSParameters.choose(Encryption(), 3),
    True,
    LIMITS,
    20,
    0,
    3,
    60.0,
    (),
    snapshot_length=400,
    snapshot_growth=1,
)
NUMBER = 7


def sealed(content: bytes = b"state", **changes: object) -> bytes:
    header = SnapshotHeader(1, NUMBER, 6, FEDERATION, FINGERPRINT, TAG, b"n" * 12, len(content))
    header = replace(header, digest=hashlib.sha256(content).digest(), **changes)  # type: ignore[arg-type]
    return header.to_bytes() + content


# headers


def test_a_header_comes_back() -> None:
    data = sealed()
    header = SnapshotHeader.read(data)
    assert (len(header.to_bytes()), HEADER_BYTES) == (172, 172)
    assert header.to_bytes() == data[:HEADER_BYTES]
    assert bytes(body(header, data)) == b"state"
    assert header.bound != header.to_bytes(), "the digest is of what is sealed, so it cannot be in it"


def test_the_bytes_of_a_header() -> None:
    """Golden: a header that changes by accident makes every snapshot that is kept unreadable."""
    numbers = b"".join(number.to_bytes(4, "little") for number in (1, NUMBER, 6))
    digest = "4ba69735ca53765ed6a709edb56c6ea236b7193a3b29a6b390c346f0f4340e4e"
    known = b"DICTSNP\x00\x01\x00\x00\x00" + numbers + b"f" * 32 + b"k" * 32 + b"t" * 32 + b"n" * 12
    assert sealed() == known + (5).to_bytes(8, "little") + bytes.fromhex(digest) + b"state"


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_anything_else_is_refused_by_name(data: bytes) -> None:
    for content in (data, b"DICTSNP\x00" + data, sealed()[: len(data)] + data):
        try:
            header = SnapshotHeader.read(content)
            body(header, content)
        except SnapshotError:
            continue
        assert header.to_bytes() == content[:HEADER_BYTES]


# agreement


@pytest.fixture
def votes() -> SnapshotVotes:
    return SnapshotVotes(AGREEMENT, NUMBER)


def test_one_sends_it_and_the_others_say_the_same(votes: SnapshotVotes) -> None:
    data = sealed()
    for node in (0, 1):
        votes.take(node, data[:HEADER_BYTES])
    votes.take(2, data)
    assert votes.agreed([0, 1, 2], 3, TAG) == Snapshot(NUMBER, 6, data)
    assert votes.agreed([0, 1, 2], 3) is not None
    assert votes.agreed([0, 1, 2], 3, b"o" * 32) is None, "not the state that the sum was made from"
    assert votes.agreed([0, 1], 3, TAG) is None, "too few stand for it"
    assert votes.agreed([], 0) is None


def test_without_the_whole_there_is_nothing_to_keep(votes: SnapshotVotes) -> None:
    for node in range(3):
        votes.take(node, sealed()[:HEADER_BYTES])
    assert votes.agreed([0, 1, 2], 3, TAG) is None


def test_what_the_sender_says_alone_does_not_count(votes: SnapshotVotes) -> None:
    votes.take(0, sealed(b"other"))
    for node in (1, 2, 3):
        votes.take(node, sealed()[:HEADER_BYTES])
    assert votes.agreed([0, 1, 2, 3], 3, TAG) is None
    votes.take(4, sealed())
    assert votes.agreed([0, 1, 2, 3, 4], 3, TAG) == Snapshot(NUMBER, 6, sealed())


def test_half_is_not_most(votes: SnapshotVotes) -> None:
    for node in (0, 1, 2):
        votes.take(node, sealed(b"other")[:HEADER_BYTES])
    for node in (3, 4, 5):
        votes.take(node, sealed())
    assert votes.agreed(range(6), 3, TAG) is None


BAD = {
    "nothing": b"",
    "another federation": sealed(federation=b"o" * 32),
    "another key": sealed(fingerprint=b"o" * 32),
    "another epoch": sealed(epoch=2),
    "another round": sealed(round=NUMBER - 1),
    "altered": sealed()[:-1] + b"x",
    "cut off": sealed()[:-1],
    "too long": sealed(bytes(400)),
    "a header that promises too much": sealed(length=10**12)[:HEADER_BYTES],
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_taken(what: str, votes: SnapshotVotes) -> None:
    with pytest.raises(SnapshotError):
        votes.take(0, BAD[what])
    for node in (1, 2, 3):
        votes.take(node, sealed())
    assert votes.agreed([0, 1, 2, 3], 3, TAG) is not None


@pytest.mark.usefixtures("plain_uploads")
def test_a_whole_one_that_nobody_asked_for_displaces_none(tmp_path: Path) -> None:
    """One institution alone must not keep all others from a snapshot, and sums from being dropped, for ever."""
    coordinator = opened(tmp_path, snapshot_every=1, snapshot_length=400)
    play(coordinator, range(5))
    state = sealed(round=1, updates=1)

    def honest(node: int, request: Request) -> Reply:
        part = {Wish.WHOLE: state, Wish.HEADER: state[:HEADER_BYTES]}[request.wish]
        return replace(delivers(node, request), snapshot=part)

    def lies(node: int, request: Request) -> Reply:
        assert request.wish is Wish.HEADER
        return replace(delivers(node, request), snapshot=sealed(b"other", round=1, updates=1))

    play(coordinator, range(5), {**all_of(range(5), honest), 4: lies})
    assert list(coordinator._journal.snapshots()) == [1]
    coordinator.close_journal()


# the journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, FEDERATION, FINGERPRINT)
    yield made
    made.close()


def close_round(journal: Journal, number: int, size: int = 100, kind: RoundKind = RoundKind.UPDATE) -> None:
    closed = ClosedRound(number, kind, 1.5, 2.5, 0.25, 1000, 2, {})
    counted = tuple(number.to_bytes(8, "big") + bytes([i]) * 8 for i in range(3))
    journal.record(closed, Aggregate(number, bytes([number % 256]) * size, counted))


def filled(journal: Journal, rounds: int = 10) -> Journal:
    for number in range(rounds):
        close_round(journal, number)
    return journal


def test_the_newest_are_kept(path: Path, journal: Journal) -> None:
    filled(journal)
    for number in (3, 6):
        journal.keep(Snapshot(number, number, b"s%d" % number), 2)
    assert (list(journal.snapshots().items()), journal.oldest) == ([(6, 2), (3, 2)], 3)
    journal.keep(Snapshot(9, 9, b"s9"), 2)
    assert (list(journal.snapshots()), journal.oldest) == ([9, 6], 6)
    journal.close()
    found = Journal(path, FEDERATION, FINGERPRINT)
    assert found.snapshot(9) == b"s9"
    assert [a.round for a in found.aggregates(0)] == [6, 7, 8, 9]
    assert [len(a.counted) for a in found.acknowledgements(0, 6)] == [3] * 6
    assert {a.blob for a in found.acknowledgements(0, 10)} == {b""}
    assert found.contributors()[0] == (3, 100)
    assert found.updates() == 10
    assert found.length(0) == 400
    with pytest.raises(JournalError):
        found.snapshot(3)
    found.close()


def test_one_snapshot_alone_drops_nothing(journal: Journal) -> None:
    filled(journal).keep(Snapshot(6, 6, b"s"), 2)
    assert (journal.oldest, journal.length(0)) == (0, 1000)


def test_nothing_is_dropped_where_all_is_to_be_kept(journal: Journal) -> None:
    filled(journal)
    for number in (3, 6, 9):
        journal.keep(Snapshot(number, number, b"s"), 0)
    assert (journal.oldest, journal.length(0), list(journal.snapshots())) == (0, 1000, [9, 6, 3])


def test_the_file_stops_growing(path: Path, journal: Journal) -> None:
    sizes = []
    for number in range(400):
        close_round(journal, number, size=20_000)
        if number % 10 == 9:
            journal.keep(Snapshot(number, number, bytes(30_000)), 2)
        if number % 100 == 99:
            journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            sizes.append(path.stat().st_size)
    assert sizes[-1] < sizes[0] + 300 * 500, "a few hundred bytes a round, not twenty thousand"


def test_a_full_disk_changes_nothing(journal: Journal) -> None:
    filled(journal).keep(Snapshot(3, 3, b"s"), 2)
    journal._db.execute(f"PRAGMA max_page_count = {journal._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(JournalError, match="full"):
        journal.keep(Snapshot(6, 6, bytes(1_000_000)), 2)
    assert (list(journal.snapshots()), journal.oldest) == ([3], 0)


def test_a_restart(path: Path, journal: Journal) -> None:
    journal.restart(Snapshot(30, 28, b"state"))
    assert (journal.next_round, journal.updates(), journal.oldest) == (30, 28, 30)
    assert not journal.is_measured()
    close_round(journal, 30)
    close_round(journal, 31, kind=RoundKind.MEASURE)
    journal.close()
    found = Journal(path, FEDERATION, FINGERPRINT)
    assert (found.next_round, found.updates(), found.oldest, found.is_measured()) == (32, 29, 30, True)
    found.close()


def test_after_a_restart_nobody_knows_whether_scores_were_sent(journal: Journal) -> None:
    filled(journal, 4)
    assert not journal.is_scored()
    close_round(journal, 4, kind=RoundKind.SCORE)
    assert journal.is_scored()
    close_round(journal, 5, kind=RoundKind.MEASURE)
    assert journal.is_scored()
    journal.restart(Snapshot(9, 4, b"state"))
    assert not journal.is_scored()
    close_round(journal, 9, kind=RoundKind.SCORE)
    assert journal.is_scored()
    journal.void(9, 0.0, ["kyoto"])
    assert not journal.is_scored()


def test_a_restart_of_an_old_copy(journal: Journal) -> None:
    filled(journal, 4)
    journal.restart(Snapshot(9, 8, b"state"))
    assert (journal.next_round, journal.updates(), journal.oldest, journal.is_measured()) == (9, 8, 9, False)
    assert provision(journal, 2).snapshot == b"state"  # type: ignore[union-attr]
    close_round(journal, 9)
    assert (journal.updates(), journal.oldest) == (9, 9)


@pytest.mark.parametrize("number", [0, 3, 4])
def test_nothing_goes_back(number: int, journal: Journal) -> None:
    filled(journal, 4)
    with pytest.raises(JournalError):
        journal.restart(Snapshot(number, number, b"state"))
    assert (journal.next_round, journal.updates()) == (4, 4)
    assert not journal.snapshots()


# the way that costs least


def test_few_missed_rounds_are_replayed(journal: Journal) -> None:
    filled(journal).keep(Snapshot(6, 6, bytes(350)), 0)
    found = provision(journal, 5)
    assert found is not None
    assert ([a.round for a in found.aggregates], found.start) == ([5, 6, 7, 8, 9], None)


def test_many_are_not(journal: Journal) -> None:
    filled(journal).keep(Snapshot(6, 6, bytes(350)), 0)
    found = provision(journal, 2)
    assert found is not None
    assert (found.start, found.snapshot) == (6, bytes(350))
    assert [(a.round, bool(a.blob)) for a in found.aggregates] == [
        *((n, False) for n in range(2, 6)),
        *((n, True) for n in range(6, 10)),
    ]


def test_of_a_void_round_no_upload_is_listed(journal: Journal) -> None:
    """The chain of acknowledgements has none of it: who skips it by a snapshot is told what the others hold."""
    filled(journal, 4)
    journal.void(2, 0.0, ["kyoto"])
    assert [len(one.counted) for one in journal.acknowledgements(0, 4)] == [3, 3, 0, 3]


def test_a_newcomer_needs_no_acknowledgements(journal: Journal) -> None:
    filled(journal).keep(Snapshot(6, 6, b"s"), 0)
    found = provision(journal, 0, newcomer=True)
    assert found is not None
    assert [a.round for a in found.aggregates] == [6, 7, 8, 9]


def test_what_was_refused_is_avoided(journal: Journal) -> None:
    filled(journal)
    for number in (6, 9):
        journal.keep(Snapshot(number, number, b"s%d" % number), 2)
    assert provision(journal, 0).start == 9  # type: ignore[union-attr]
    assert provision(journal, 0, avoid={9}).start == 6  # type: ignore[union-attr]
    assert provision(journal, 0, avoid={9, 6}) is None
    assert provision(journal, 7, avoid={9}).start is None  # type: ignore[union-attr]


def test_on_a_guess_no_snapshot_is_sent(journal: Journal) -> None:
    assert recent(journal).aggregates == ()
    filled(journal)
    assert [a.round for a in recent(journal).aggregates] == [9]
    journal.restart(Snapshot(20, 20, b"state"))
    assert recent(journal).aggregates == ()
    assert recent(journal).snapshot == b""


def test_who_comes_from_one_position_after_another_fills_no_memory(journal: Journal) -> None:
    """An institution that lies may advance by a round at a time, and is sent all that follows, each time."""
    filled(journal, 50)
    catchup = CatchUp(journal)
    catchup.open(Request(50, RoundKind.UPDATE, FEDERATION, FINGERPRINT), {})
    for newcomer in (False, True):
        for position in range(50):
            request = catchup.further(1, position, newcomer=newcomer)
            assert request is not None
            assert [aggregate.round for aggregate in request.aggregates] == list(range(position, 50))
            assert request is catchup.further(2, position, newcomer=newcomer), "read once for all at one position"
    held = [thing for kept in (catchup._requests, catchup._provisions) for thing in kept.values() if thing]
    assert sum(len(aggregate.blob) for thing in held for aggregate in thing.aggregates) < 20 * 50 * 100


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_position_is_served_whatever_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Law: with any retention, an institution at any position gets aggregates without a hole up to the open round."""
    path = tmp_path_factory.mktemp("law") / "journal.sqlite"
    journal = Journal(path, FEDERATION, FINGERPRINT)
    journal._db.execute("PRAGMA synchronous=OFF")
    rounds, kept = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 3))
    for number in range(rounds):
        close_round(journal, number, size=data.draw(st.integers(1, 300)))
        if data.draw(st.booleans()):
            journal.keep(Snapshot(number, number, bytes(data.draw(st.integers(1, 300)))), kept)
    for position in range(rounds + 1):
        found = provision(journal, position)
        assert found is not None
        start = position if found.start is None else found.start
        assert [a.round for a in found.aggregates if a.blob] == list(range(start, rounds))
        assert [a.round for a in found.aggregates if not a.blob] == list(range(position, start))
    journal.close()
