"""Sums at an institution: its own uploads in them, in its name and marked by its secret; and wrong ones of an older epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import structlog

from dictpfl.client.defences.evidence import EVIDENCE, Evidence
from dictpfl.client.defences.integrity import Integrity
from dictpfl.client.defences.pairs import OwnKeys, Pairs
from dictpfl.client.defences.sums import Sums
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.memory.record import Record
from dictpfl.common.errors import IntegrityError
from dictpfl.common.law.members import PairGraph, Peer, Roster
from dictpfl.common.law.pruning import History
from dictpfl.common.law.state import Residual, SharedState
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.wire import AGGREGATE, Entry, Header, write

START = SharedState(3, 3, np.zeros(4), History.new(4), np.ones(1))
RECORD = Record(START, Residual.none(4), b"o" * 32)
OWN = RECORD.mark(3) + b"own item"


def roster(*names: str) -> Roster:
    return Roster(tuple(Peer(name, name.encode() * 32, name.upper().encode() * 32) for name in names))


def found(members: Roster, *uploads: bytes) -> tuple[tuple[bytes, ...], list[str]]:
    """Ids that are those of institution b, and what it logs."""
    settings = InstitutionSettings(name="b")
    with mock.patch("dictpfl.client.defences.sums.openings_of"):
        sums = Sums(Path(), mock.Mock(), settings, Path(), None, "b", mock.Mock())
    entries = tuple(Entry(member, upload, bytes(32)) for member, upload in enumerate(uploads))
    with structlog.testing.capture_logs() as logs:
        return sums._own(RECORD, entries, 3, members), [entry["event"] for entry in logs]


def test_an_id_of_its_own_that_names_another_member_is_not_its_own() -> None:
    assert found(roster("a", "b", "c"), b"a" * 16, OWN, b"c" * 16) == ((OWN,), [])
    assert found(roster("a", "b", "c"), OWN) == ((), [])
    assert found(roster("a", "b", "c"), b"a" * 16, RECORD.mark(3) + b"restored") == (
        (RECORD.mark(3) + b"restored",),
        [],
    )


def test_an_upload_in_its_name_that_is_not_its_own_is_told() -> None:
    own, said = found(roster("a", "b", "c"), OWN, b"b" * 16)
    assert own == ()
    assert "in this institution's name" in said[0]


def test_of_an_older_epoch_its_number_is_the_one_that_it_had_then() -> None:
    """Nobody is accused of another member's upload under what is its number now."""
    assert found(roster("b", "c", "d"), OWN, b"c" * 16, b"d" * 16) == ((OWN,), [])
    assert found(roster("a", "c", "d"), b"a" * 16, b"c" * 16) == ((), []), "not yet a member"


# The last sum of an epoch, replayed after a rotation: its tags do not fit

OLDER, NEWER = b"o" * 32, b"n" * 32
"""Seeds of the epochs, the first up to round 3."""
KEYS = {name: OwnKeys.make(name) for name in "abcd"}


def members(*names: str) -> Roster:
    return Roster(tuple(KEYS[name].public for name in names))


def summed(number: int, tag: bytes) -> bytes:
    header = Header(AGGREGATE, RoundKind.UPDATE, number, 0, b"f" * 32, b"k" * 32, tag)
    return write(header, [Entry(0, b"u" * 16, bytes(32))], np.array([1, 2, 3], np.uint64), 47)


def replayed(folder: Path, monkeypatch: pytest.MonkeyPatch, before: Roster) -> tuple[Callable[[bytes], Any], mock.Mock]:
    """What institution b makes of it, by the next round's sum; and its record of openings, to which it is new."""
    judge = "dictpfl.client.defences.sums"
    header = SimpleNamespace(round=3, kind=RoundKind.UPDATE, attempt=0)
    total = SimpleNamespace(blob=SimpleNamespace(header=header), plan=None, digest=bytes(32))
    openings = mock.Mock(admit=mock.Mock(return_value=False))
    monkeypatch.setattr(f"{judge}.openings_of", lambda *_: openings)
    monkeypatch.setattr(f"{judge}.received", lambda *_: total)
    monkeypatch.setattr(f"{judge}.require_authentic", mock.Mock(side_effect=IntegrityError("tag", "they do not fit")))
    keys = mock.Mock(roster_at=lambda _: before)
    keys.at = lambda number: (SimpleNamespace(secret_seed=OLDER if number <= 3 else NEWER), None)
    graph = PairGraph(3, 1000, bytes(32), bytes(64))
    integrity = Integrity(Pairs(KEYS["b"], 0, members("b", "c", "d"), graph, bytes(64)))
    sums = Sums(folder, keys, InstitutionSettings(name="b"), Path(), integrity, "b", mock.Mock())
    return lambda following: sums.opened(RECORD, Aggregate(3, summed(3, b"t" * 32)), following), openings


def test_it_is_void_at_once_where_the_others_went_on_without_it_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, openings = replayed(tmp_path, monkeypatch, members("a", "b", "c"))
    after = START.void(score=False)
    done, own = opened(summed(4, after.tag(NEWER)))
    assert (done.state.digest, done.ledger, own) == (after.digest, None, ())
    openings.refused.assert_called_once()
    assert len(list((tmp_path / EVIDENCE).iterdir())) == 1


def test_evidence_names_the_members_that_there_were_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, openings = replayed(tmp_path, monkeypatch, members("a", "b", "c"))
    with pytest.raises(IntegrityError):
        opened(b"")
    openings.refused.assert_called_once()
    (path,) = (tmp_path / EVIDENCE).iterdir()
    evidence = Evidence.of_bytes(path.read_bytes(), str(path))
    assert (evidence.roster, evidence.member, evidence.institution) == (members("a", "b", "c"), 1, "b")


def test_under_keys_that_it_had_not_then_it_gives_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Roster((KEYS["a"].public, OwnKeys.make("b").public, KEYS["c"].public))
    opened, openings = replayed(tmp_path, monkeypatch, other)
    with pytest.raises(IntegrityError):
        opened(b"")
    openings.refused.assert_called_once()
    assert not (tmp_path / EVIDENCE).exists()
