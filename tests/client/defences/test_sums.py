"""Uploads in a sum that are an institution's own: in its name, under the number of the round's epoch, and marked by its secret."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import structlog

from dictpfl.client.defences.sums import Sums
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.memory.record import Record
from dictpfl.common.law.members import Peer, Roster
from dictpfl.common.law.pruning import History
from dictpfl.common.law.state import Residual, SharedState
from dictpfl.common.messages.wire import Entry

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
