"""Record of sums that were tried: one a round and attempt, refusals counted, and no damage taken for an empty record."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dictpfl.client.defences import chain
from dictpfl.client.defences.openings import ABANDONED, ANOTHER, Openings, Trial, openings_at
from dictpfl.common.errors import MemoryFileError, RoundError
from dictpfl.common.messages.protocol import RoundKind

EPOCH = bytes(range(32))
Named = tuple[int, RoundKind, int, bytes]


def a_sum(number: int = 0, which: int = 0, *, kind: RoundKind = RoundKind.UPDATE, attempt: int = 0) -> Named:
    return number, kind, attempt, bytes([which]) * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.opened.jsonl"


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the disk, where thousands of lines are written."""
    monkeypatch.setattr(chain.os, "fsync", lambda descriptor: None)


def record(path: Path, most: int = 3) -> Openings:
    """As a process that has just started reads it."""
    return Openings(path, EPOCH, most)


def refuse(openings: Openings, one: Named, reason: str = "tag") -> None:
    openings.admit(*one)
    openings.refused(*one, reason)


def test_one_sum_of_a_round_kind_and_attempt_is_tried(path: Path) -> None:
    record(path).admit(*a_sum())
    for openings in (record(path), record(path)):
        openings.admit(*a_sum())  # a killed process, or a memory that was restored
    with pytest.raises(RoundError, match=r"which was tried here; not opened.*dictpfl institution unlock") as refused:
        record(path).admit(*a_sum(which=1))
    assert refused.value.code == "refused"
    (refusal,) = record(path).refusals
    assert (refusal.sum, refusal.reason) == (Trial(*a_sum(which=1)), ANOTHER)
    assert record(path).refusals_seen == ()
    record(path).admit(*a_sum())
    record(path).admit(*a_sum(1, 1))


def test_the_record_is_on_disk_before_anything_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(chain.os, "fsync", lambda descriptor: (synced.append(path.stat().st_size), real(descriptor)))
    record(path).admit(*a_sum())
    size = path.stat().st_size
    assert size in synced, "written and synced"
    assert path.stat().st_mode & 0o777 == 0o600
    synced.clear()
    record(path).admit(*a_sum())
    assert size in synced, "a line that another process wrote may not have reached the disk before it was killed"


def test_a_sum_counts_once_and_is_known_when_it_comes_again(path: Path) -> None:
    assert record(path).admit(*a_sum()) is False
    assert record(path).admit(*a_sum()) is False, "tried, not refused"
    for _ in range(5):
        record(path).refused(*a_sum(), "tag")
        assert record(path).admit(*a_sum()) is True
    assert len(record(path).refusals) == 1
    record(path).unlock()
    assert record(path).admit(*a_sum()) is True


def test_it_locks_at_the_limit_and_unlocks_once_somebody_looked(path: Path) -> None:
    for attempt in range(3):
        assert not record(path).locked
        record(path).require_unlocked()
        refuse(record(path), a_sum(attempt=attempt))
    assert record(path).locked
    size = path.stat().st_size
    for one in (a_sum(attempt=3), a_sum(attempt=0), a_sum(7)):
        with pytest.raises(RoundError, match="dictpfl institution unlock") as locked:
            record(path).admit(*one)
        assert locked.value.code == "locked"
    assert path.stat().st_size == size, "whoever goes on asking fills no disk"
    assert [refusal.sum.attempt for refusal in record(path).unlock()] == [0, 1, 2]
    after = record(path)
    assert (after.locked, after.refusals, len(after.refusals_seen)) == (False, (), 3)
    refuse(after, a_sum(attempt=1))  # tried once more: what was wrong may have been here
    assert len(record(path).refusals) == 1
    assert record(path).unlock()
    assert record(path).unlock() == ()


def test_only_what_was_shown_is_looked_at(path: Path) -> None:
    for attempt in range(3):
        refuse(record(path, most=9), a_sum(attempt=attempt))
    assert [refusal.sum.attempt for refusal in record(path).unlock(2)] == [0, 1]
    assert [refusal.sum.attempt for refusal in record(path).refusals] == [2]
    assert [refusal.sum.attempt for refusal in record(path).refusals_seen] == [0, 1]


def test_a_lower_limit_holds_at_once(path: Path) -> None:
    refuse(record(path), a_sum())
    assert record(path, most=1).locked
    assert not record(path, most=2).locked


def test_a_trial_that_never_ended_counts_once_another_attempt_comes(path: Path) -> None:
    """Otherwise each refusal that a full disk or a kill keeps from being recorded would be a free one."""
    for attempt in range(3):
        record(path).admit(*a_sum(attempt=attempt))  # and the process dies before it could say `refused`
    with pytest.raises(RoundError) as locked:
        record(path).admit(*a_sum(attempt=3))
    assert locked.value.code == "locked"
    assert [refusal.reason for refusal in record(path).refusals] == [ABANDONED] * 3


def test_a_kind_asked_instead_is_another_trial_of_the_round(path: Path) -> None:
    record(path).admit(*a_sum(kind=RoundKind.MEASURE))
    record(path).admit(*a_sum(kind=RoundKind.UPDATE, which=1))
    assert [refusal.reason for refusal in record(path).refusals] == [ABANDONED]


def test_of_a_round_one_sum_is_opened_whatever_its_kind_and_attempt_and_whoever_looked(path: Path) -> None:
    record(path).admit(*a_sum())
    record(path).opened(*a_sum())
    size = path.stat().st_size
    record(path).opened(*a_sum())
    assert path.stat().st_size == size, "written once"
    others = [a_sum(which=1), a_sum(attempt=1), a_sum(kind=RoundKind.MEASURE), a_sum(attempt=1, which=2)]
    for one in others * 2:
        with pytest.raises(RoundError, match=r"which was opened here; not opened.*move all but \*\.privacy\.json"):
            record(path, most=9).admit(*one)
        record(path, most=9).unlock()
    assert [refusal.reason for refusal in record(path).refusals_seen] == [ANOTHER] * 8
    assert record(path).admit(*a_sum()) is False, "the one that was opened is replayed"
    record(path).admit(*a_sum(1, attempt=1))


def test_once_somebody_looked_another_may_be_the_true_one(path: Path) -> None:
    """A forged sum came first: the true one was another for good."""
    refuse(record(path), a_sum())
    with pytest.raises(RoundError):
        record(path).admit(*a_sum(which=1))
    assert [refusal.reason for refusal in record(path).unlock()] == ["tag", ANOTHER]
    assert record(path).admit(*a_sum(which=1)) is True
    record(path).opened(*a_sum(which=1))
    with pytest.raises(RoundError, match="which was opened here"):
        record(path).admit(*a_sum())


def test_a_trial_that_never_ended_is_forgotten_with_the_refusal_that_it_caused(path: Path) -> None:
    record(path).admit(*a_sum())  # and the process dies before it could say `refused`
    with pytest.raises(RoundError):
        record(path).admit(*a_sum(which=1))
    record(path).unlock()
    record(path).admit(*a_sum(which=1))


@pytest.mark.usefixtures("unsynced")
def test_rounds_that_went_on_count_nothing(path: Path) -> None:
    for number in range(50):
        record(path).admit(*a_sum(number))
    for number in range(50):  # the memory was restored: all of it is replayed
        record(path).admit(*a_sum(number))
    assert record(path).refusals == ()


def test_epochs_are_apart(tmp_path: Path) -> None:
    memory = tmp_path / "f.safetensors"
    one, other = openings_at(memory, EPOCH, 1), openings_at(memory, EPOCH[::-1], 1)
    refuse(one, a_sum())
    assert one.locked
    other.admit(*a_sum(which=1))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[1].read_bytes())
    files[1].write_bytes(files[0].read_bytes())
    for again in (openings_at(memory, EPOCH, 1), openings_at(memory, EPOCH[::-1], 1)):
        try:
            assert again.locked or again.refusals == ()
        except MemoryFileError:
            break
    else:
        pytest.fail("the record of another epoch was taken for this one's")


# Damage


def written(path: Path) -> bytes:
    openings = record(path)
    openings.admit(*a_sum(0))
    refuse(openings, a_sum(1))
    openings.unlock()
    refuse(openings, a_sum(1, attempt=1))
    openings.skip(5)
    return path.read_bytes()


def told(path: Path) -> tuple[object, ...]:
    openings = record(path)
    return openings.refusals, openings.refusals_seen, openings.locked


@pytest.mark.usefixtures("unsynced")
def test_each_flipped_bit_is_noticed(path: Path) -> None:
    whole = written(path)
    with path.open("r+b", buffering=0) as file:  # in place: quicker than a file written anew each time
        for place in range(8 * len(whole)):
            byte, flip = place // 8, 1 << place % 8
            os.pwrite(file.fileno(), bytes([whole[byte] ^ flip]), byte)
            with pytest.raises(MemoryFileError, match="restore it from backup"):
                told(path)
            os.pwrite(file.fileno(), whole[byte : byte + 1], byte)
    assert len(record(path).refusals) == 1


def test_each_line_that_is_taken_out_swapped_or_doubled_is_noticed(path: Path) -> None:
    lines = written(path).splitlines(keepends=True)
    for place in range(len(lines) - 1):
        for other in (
            lines[:place] + lines[place + 1 :],
            [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]],
            lines[: place + 1] + lines[place:],
        ):
            path.write_bytes(b"".join(other))
            with pytest.raises(MemoryFileError):
                told(path)


@pytest.mark.usefixtures("unsynced")
def test_a_process_killed_at_any_byte_leaves_a_record_that_goes_on(path: Path) -> None:
    record(path).admit(*a_sum(0))
    first = path.read_bytes()
    record(path).refused(*a_sum(0), "tag")
    whole = path.read_bytes()
    for length in range(len(first), len(whole)):
        for zeros in (b"", bytes(3)):
            path.write_bytes(whole[:length] + zeros)
            openings = record(path)
            assert openings.refusals == ()
            refuse(openings, a_sum(0))
            assert len(record(path).refusals) == 1
            assert path.read_bytes().startswith(first)


@given(st.binary(min_size=1, max_size=300))
def test_other_files_are_damage_or_nothing(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("other") / "m.opened.jsonl"
    path.write_bytes(data)
    try:
        assert told(path) == ((), (), False)
    except MemoryFileError:
        return
    assert b"\n" not in data


@pytest.mark.parametrize("failing", ["pwrite", "fsync", "short"])
def test_a_disk_that_refuses_opens_nothing(failing: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(path).admit(*a_sum(0))
    before = path.read_bytes()

    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    openings = record(path)
    assert openings.refusals == ()
    real = os.pwrite
    with monkeypatch.context() as patch:
        if failing == "short":
            patch.setattr(chain.os, "pwrite", lambda descriptor, data, at: real(descriptor, data[:9], at))
        else:
            patch.setattr(chain.os, failing, full)
        for act in (lambda: openings.admit(*a_sum(1)), lambda: openings.refused(*a_sum(0), "tag")):
            with pytest.raises(MemoryFileError, match="No space left"):
                act()
    assert path.read_bytes() == before
    openings.admit(*a_sum(1))
    assert record(path).refusals == ()
    with pytest.raises(RoundError):
        record(path).admit(*a_sum(1, 2))


def test_a_record_that_goes_away_is_no_empty_one(path: Path) -> None:
    openings = record(path)
    openings.admit(*a_sum(0))
    path.unlink()
    with pytest.raises(MemoryFileError, match="is gone"):
        openings.admit(*a_sum(0, 1))
    with pytest.raises(MemoryFileError, match="ends with round -1, this institution's memory with round 0"):
        record(path).require_complete(1)
    record(path).require_complete(0)


def test_a_record_older_than_the_memory_is_refused(path: Path) -> None:
    record(path).admit(*a_sum(0))
    older = path.read_bytes()
    record(path).admit(*a_sum(1))
    record(path).require_complete(2)
    path.write_bytes(older)
    with pytest.raises(MemoryFileError, match="restore it from backup"):
        record(path).require_complete(2)
    record(path).skip(9)  # a snapshot brought the state before round 9
    record(path).skip(4)
    record(path).require_complete(9)
    with pytest.raises(MemoryFileError):
        record(path).require_complete(10)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MemoryFileError, match="cannot write"):
        record(tmp_path / "none" / "m.opened.jsonl").admit(*a_sum())
    (tmp_path / "m.opened.jsonl").mkdir()
    with pytest.raises(MemoryFileError, match="cannot read"):
        record(tmp_path / "m.opened.jsonl").admit(*a_sum())


# Processes and length


def test_processes_by_turns_see_what_the_others_wrote(path: Path) -> None:
    one, other = record(path), record(path)
    one.admit(*a_sum(0))
    with pytest.raises(RoundError):
        other.admit(*a_sum(0, 1))
    assert len(one.refusals) == 1
    other.unlock()
    assert one.refusals == ()
    kept = path.read_bytes()
    path.unlink()
    path.write_bytes(kept)  # restored from backup below a process that lives
    assert len(one.refusals_seen) == 1


def test_who_writes_without_the_lock_spoils_nothing(path: Path) -> None:
    one = record(path)
    one.admit(*a_sum(0))
    read = one._chain.news
    one._chain.news = lambda: (False, [])  # type: ignore[method-assign] -- has read, and then somebody else writes
    record(path).admit(*a_sum(1))
    with pytest.raises(MemoryFileError, match="another process"):
        one.admit(*a_sum(2))
    one._chain.news = read  # type: ignore[method-assign]
    one.admit(*a_sum(2))
    record(path).require_complete(3)


@pytest.mark.slow
@pytest.mark.usefixtures("unsynced")
def test_ten_thousand_rounds_are_read_and_added_to_at_once(path: Path) -> None:
    openings = record(path)
    for number in range(10_000):
        openings.admit(*a_sum(number))
    began = time.process_time()
    fresh = record(path)
    fresh.require_unlocked()
    read = time.process_time() - began
    began = time.process_time()
    for number in range(10_000, 10_100):
        fresh.admit(*a_sum(number))
    added = (time.process_time() - began) / 100
    assert read < 1.0, "0.07 s of processor time on an idle machine, for 2 MB"
    assert added < 0.01, "0.14 ms on an idle machine, without the disk"


class Oracle(RuleBasedStateMachine):
    """Against the record as anybody would write it: a few lists in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(chain.os, "fsync", lambda descriptor: None)
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name) / "m.opened.jsonl"
        self.tried: dict[tuple[int, RoundKind, int], Named] = {}
        self.opened: dict[int, Named] = {}
        self.unseen: list[Named] = []
        self.ever: set[Named] = set()

    def teardown(self) -> None:
        self.place.cleanup()
        self.patch.undo()

    def count(self, one: Named) -> None:
        if one not in self.unseen:
            self.unseen.append(one)
        self.ever.add(one)

    def expected(self, one: Named) -> str:
        if len(self.unseen) >= 3:
            return "locked"
        name = one[:3]
        first = self.opened.get(one[0]) or self.tried.get(name)
        if first not in (None, one):
            self.count(one)
            return "refused"
        if first is None:
            for other in self.tried.values():
                if other[0] == one[0] and other not in self.ever:
                    self.count(other)
            if len(self.unseen) >= 3:
                return "locked"
            self.tried[name] = one
        return ""

    @rule(
        number=st.integers(0, 2), kind=st.sampled_from([RoundKind.UPDATE, RoundKind.MEASURE]),
        attempt=st.integers(0, 2), which=st.integers(0, 2), good=st.booleans(),
    )  # fmt: skip
    def bring(self, number: int, kind: RoundKind, attempt: int, which: int, good: bool) -> None:
        one = a_sum(number, which, kind=kind, attempt=attempt)
        expected, code, openings = self.expected(one), "", record(self.path)
        try:
            assert openings.admit(*one) == (one in self.ever)
        except RoundError as error:
            code = error.code
        assert code == expected
        if not code and good:
            openings.opened(*one)
            self.opened[number] = one
        elif not code:
            openings.refused(*one, "tag")
            self.count(one)

    @rule()
    def look(self) -> None:
        assert [refusal.sum for refusal in record(self.path).unlock()] == [Trial(*one) for one in self.unseen]
        for one in self.unseen:
            self.tried.pop(one[:3], None)
        self.unseen = []

    @invariant()
    def same(self) -> None:
        assert [refusal.sum for refusal in record(self.path).refusals] == [Trial(*one) for one in self.unseen]


TestOracle = Oracle.TestCase
