"""An institution's file: whole or not at all, refused when damaged, foreign or laxly protected."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dictpfl.client.memory.record
import dictpfl.common.files
from dictpfl.client.memory.record import Memory, Pending, Record
from dictpfl.common.errors import KeyFileError, MemoryFileError
from dictpfl.common.law.pruning import History
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.law.state import Pace, Refresh, Residual, SharedState

FEDERATION = bytes(range(32))
SIZE = 7


def a_record(number: int = 3, *, pending: bool = True) -> Record:
    rng = np.random.default_rng(number)
    shared = SharedState(
        number,
        number,
        rng.normal(size=SIZE),
        History(rng.integers(0, 3, SIZE).astype(np.uint8), rng.integers(0, 3, SIZE).astype(np.uint8)),
        rng.random(2),
        rng.random(SIZE) < 0.5,
        (Refresh(np.array([True, True]), rng.normal(size=4)), Refresh(np.array([False, True]), rng.normal(size=3))),
        Course(Best(float(rng.normal()), 2, 1, rng.normal(size=SIZE)), float(rng.normal()), 3),
        Pace(rng.random(2), np.array([3, 4], dtype=np.uint32)),
    )
    waiting = Pending(number, rng.bytes(16), rng.bytes(50), Residual(rng.normal(size=SIZE)), Residual(np.zeros(SIZE)))
    local = {"norm.running_mean": rng.normal(size=2).astype(np.float32), "norm.count": np.array(4)}
    return Record(shared, Residual(rng.normal(size=SIZE)), rng.bytes(32), local, waiting if pending else None)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory", FEDERATION)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_what_is_stored_comes_back_bit_for_bit(
    pending: bool, mapped: bool, again: bool, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `store` returns it, and read again; residuals stay in the file where they are large."""
    monkeypatch.setattr(dictpfl.client.memory.record, "MAPPED", 0 if mapped else 1 << 26)
    record = a_record(pending=pending)
    kept = memory.store(record)
    found = memory.recall() if again else kept
    assert found is not None
    assert found.residual.values.flags.writeable != mapped
    assert found.shared.values.flags.writeable
    assert found.shared.digest == record.shared.digest
    np.testing.assert_array_equal(found.residual.values, record.residual.values)
    assert found.secret == record.secret
    assert {n: (v.dtype, v.tobytes()) for n, v in found.local.items()} == {
        n: (v.dtype, v.tobytes()) for n, v in record.local.items()
    }
    assert (found.pending is None) == (record.pending is None)
    if found.pending and record.pending:
        assert (found.pending.round, found.pending.upload_id, found.pending.blob) == (
            record.pending.round, record.pending.upload_id, record.pending.blob
        )  # fmt: skip
        np.testing.assert_array_equal(found.pending.counted.values, record.pending.counted.values)
        np.testing.assert_array_equal(found.pending.missed.values, record.pending.missed.values)


def test_a_mapped_record_outlives_its_file(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file takes the place of the one that is mapped; whoever has the old record still reads what it was."""
    monkeypatch.setattr(dictpfl.client.memory.record, "MAPPED", 0)
    first = a_record(3)
    kept = memory.store(first)
    memory.store(a_record(4))
    memory.path.unlink()
    np.testing.assert_array_equal(kept.residual.values, first.residual.values)
    assert kept.pending is not None
    assert first.pending is not None
    np.testing.assert_array_equal(kept.pending.counted.values, first.pending.counted.values)


def test_a_mapped_file_that_is_damaged_is_refused(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictpfl.client.memory.record, "MAPPED", 0)
    record = a_record()
    memory.store(record)
    data = bytearray(memory.path.read_bytes())
    place = data.index(record.residual.values.tobytes())
    data[place] ^= 1
    memory.path.write_bytes(data)
    with pytest.raises(MemoryFileError, match="its digest does not match"):
        memory.recall()


def test_nothing_yet(memory: Memory) -> None:
    assert memory.recall() is None
    assert memory.stamp() == (0, 0, 0)


def test_only_the_owner_reads(memory: Memory) -> None:
    memory.store(a_record())
    with memory.locked():
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in memory.path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(memory.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_lax_folder_is_refused(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 700"):
        Memory(folder, FEDERATION)


def test_every_change_changes_the_stamp(memory: Memory) -> None:
    memory.store(a_record(1))
    before = memory.stamp()
    memory.store(a_record(2))
    assert memory.stamp() != before


def test_every_damaged_byte_is_refused_or_harmless(memory: Memory) -> None:
    """No bit of the file may change what is recalled: not even in the facts beside the tensors."""
    record = a_record()
    memory.store(record)
    whole = memory.path.read_bytes()
    rng = np.random.default_rng(5)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = {*rng.integers(0, len(whole), 150).tolist(), *range(0, header, 3)}
    silent = []
    for place in sorted(places):
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        memory.path.write_bytes(data)
        try:
            found = memory.recall()
        except MemoryFileError:
            continue
        if not same(found, record):
            silent.append((place, bytes(data[max(0, place - 12) : place + 12])))
    assert silent == []


def same(found: Record | None, record: Record) -> bool:
    if found is None or found.pending is None or record.pending is None:
        return False
    return (
        found.shared.digest == record.shared.digest
        and found.residual.values.tobytes() == record.residual.values.tobytes()
        and found.secret == record.secret
        and found.pending.upload_id == record.pending.upload_id
        and found.pending.round == record.pending.round
        and found.pending.blob == record.pending.blob
        and sorted(found.local) == sorted(record.local)
    )


@pytest.mark.parametrize("fact", ["round", "updates", "pending_round", "upload_id", "secret"])
def test_an_altered_fact_is_refused(fact: str, memory: Memory) -> None:
    """A flipped upload id would make a counted upload look lost, and deliver it a second time."""
    memory.store(a_record())
    from safetensors import safe_open

    with safe_open(memory.path, framework="numpy") as file:
        facts = json.loads(file.metadata()["facts"])
    value = facts[fact]
    facts[fact] = value + 1 if isinstance(value, int) else f"{int(value[:2], 16) ^ 1:02x}{value[2:]}"
    save_file(load_file(memory.path), memory.path, metadata={"facts": json.dumps(facts)})
    with pytest.raises(MemoryFileError):
        memory.recall()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_a_truncated_file_is_refused(length: int, memory: Memory) -> None:
    memory.store(a_record())
    memory.path.write_bytes(memory.path.read_bytes()[:length])
    with pytest.raises(MemoryFileError, match="Restore it from backup"):
        memory.recall()


def test_another_federations_file_is_refused(memory: Memory, tmp_path: Path) -> None:
    memory.store(a_record())
    other = Memory(tmp_path / "memory", bytes(32))
    memory.path.rename(other.path)
    with pytest.raises(MemoryFileError, match="another federation"):
        other.recall()


def test_an_unreadable_file_is_refused(memory: Memory) -> None:
    memory.path.mkdir()
    with pytest.raises(MemoryFileError):
        memory.recall()
    with pytest.raises(MemoryFileError):
        memory.store(a_record())


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_refusing_disk_keeps_the_old_file(call: str, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.store(a_record(1))
    with monkeypatch.context() as patch:

        def refuse(*_arguments: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(dictpfl.common.files.os, call, refuse)
        with pytest.raises(MemoryFileError, match="No space left"):
            memory.store(a_record(2))
    found = memory.recall()
    assert found is not None
    assert found.shared.round == 1
    assert [path.name for path in memory.path.parent.iterdir()] == [memory.path.name]
    memory.store(a_record(2))


def test_a_refusing_lock_is_named(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MemoryFileError), memory.locked():
        pass


def test_a_vanished_folder_is_made_again(memory: Memory) -> None:
    """Who removes the folder of a living institution, to catch up by replay, gets just that."""
    memory.path.parent.rmdir()
    with memory.locked():
        assert memory.recall() is None
        memory.store(a_record())
    assert memory.recall() is not None


def test_the_lock_is_given_back_on_errors(memory: Memory) -> None:
    with pytest.raises(RuntimeError), memory.locked():
        raise RuntimeError
    with memory.locked():
        pass


def test_without_a_clear_mask_or_records(memory: Memory) -> None:
    record = a_record()
    record = replace(record, shared=replace(record.shared, clear=None, records=()), local={})
    memory.store(record)
    found = memory.recall()
    assert found is not None
    assert found.shared.clear is None
    assert found.shared.records == ()
    assert found.local == {}
    assert found.shared.digest == record.shared.digest
