"""What was told about masks: one sum of a round, and of scores that are made again the same members."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dictpfl.client.defences import reveals as module
from dictpfl.client.defences.reveals import Reveals
from dictpfl.common.errors import MemoryFileError, RoundError
from dictpfl.common.messages.masks import SumQuestion
from tests.support.failing_disks import full_disk


def question(members: Sequence[int], mark: int = 0, attempt: int = 0) -> SumQuestion:
    return SumQuestion(attempt, {member: bytes([member, mark] * 8) for member in members})


def test_scores_made_again_are_those_of_the_same_members(tmp_path: Path) -> None:
    path = tmp_path / "memory.told.json"
    Reveals(path).tell_of_sum(0, question([0, 1, 2, 3]), scores=0)
    for members in ([0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 4]):
        with pytest.raises(RoundError, match=r"scores of members \[0, 1, 2, 3\] were opened here") as caught:
            Reveals(path).tell_of_sum(1, question(members, mark=1), scores=0)
        assert caught.value.code == "reveal"
    Reveals(path).move_on(1, 7)
    Reveals(path).tell_of_missing(1, question([0, 1, 2, 3], mark=2, attempt=8))
    Reveals(path).tell_of_sum(1, question([0, 1, 2, 3], mark=2, attempt=8), scores=0)
    Reveals(path).tell_of_sum(
        1, question([3, 2, 1, 0], mark=2, attempt=8), scores=0
    )  # in whatever order they are named
    Reveals(path).tell_of_sum(2, question([0, 1, 2]), scores=1)  # the next tally
    Reveals(path).tell_of_sum(3, question([0, 1, 3]))  # an update


def test_one_sum_of_an_attempt_is_signed(tmp_path: Path) -> None:
    reveals = Reveals(tmp_path / "memory.told.json")
    reveals.agree(0, question([0, 1, 2, 3]))
    reveals.agree(0, question([0, 1, 2, 3]))
    for tell in (reveals.agree, reveals.tell_of_missing, reveals.tell_of_sum):
        with pytest.raises(RoundError, match="another sum of attempt 0 at round 0 was signed here") as caught:
            tell(0, question([0, 1, 2, 4]))
        assert caught.value.code == "reveal"
    reveals.move_on(0, 1)
    reveals.agree(0, question([0, 1, 2, 4], attempt=1))
    with pytest.raises(RoundError, match="was given up here"):
        reveals.agree(0, question([0, 1, 2, 3]))


def test_an_attempt_that_was_given_up_is_not_gone_back_to(tmp_path: Path) -> None:
    """Though nothing was told of the next one yet: streams of the earlier one may be known, and an upload for it would have them again."""
    path = tmp_path / "memory.told.json"
    Reveals(path).move_on(0, 1)
    with pytest.raises(RoundError, match="round 0 is at attempt 1 here, 0 is asked for"):
        Reveals(path).require_open(0, 0)
    with pytest.raises(RoundError, match="attempt 0 at round 0 was given up here"):
        Reveals(path).agree(0, question([0, 1, 2, 3]))
    Reveals(path).require_open(0, 1)


def test_of_an_opened_sum_no_streams_are_told(tmp_path: Path) -> None:
    reveals = Reveals(tmp_path / "memory.told.json")
    reveals.tell_of_sum(0, question([0, 1, 2, 3]))
    reveals.tell_of_sum(0, question([0, 1, 2, 3]))
    with pytest.raises(RoundError, match="opened already; no pair's stream"):
        reveals.tell_of_missing(0, question([0, 1, 2, 3]))
    for members in ([0, 1, 2, 4], [0, 1, 2]):
        with pytest.raises(RoundError, match="opened already, as another sum"):
            reveals.agree(0, question(members))


def test_of_an_attempt_in_which_an_earlier_release_told_streams_nothing_more_is_told(tmp_path: Path) -> None:
    path = tmp_path / "memory.told.json"
    path.write_text(json.dumps({"round": 3, "attempt": 1, "missing": [2], "opened": ""}))
    for members in ([0, 1, 2], [0, 1]):
        with pytest.raises(RoundError, match="another sum of attempt 1"):
            Reveals(path).tell_of_sum(3, question(members, attempt=1))
    path.write_text(json.dumps({"round": 3, "attempt": 1, "missing": [], "opened": ""}))
    Reveals(path).tell_of_sum(3, question([0, 1], attempt=1), scores=3)
    assert json.loads(path.read_text())["scored"] == [0, 1]
    path.write_text(json.dumps({"round": 3, "attempt": 1, "missing": [], "opened": ""}))
    Reveals(path).tell_of_sum(4, question([0, 1]), scores=1)  # of scores it says nothing


def test_of_an_older_round_nothing_is_told_and_to_none_delivered(tmp_path: Path) -> None:
    """The memory or the journal is an old copy then: what was told of that round is not known here any more."""
    path = tmp_path / "memory.told.json"
    reveals = Reveals(path)
    reveals.tell_of_sum(4, question([0, 1, 2, 3]))
    kept = path.read_bytes()
    for tell in (reveals.agree, reveals.tell_of_missing, reveals.tell_of_sum):
        with pytest.raises(RoundError, match="masks of round 4 were told of here") as caught:
            tell(3, question([0, 1, 2, 3]))
        assert caught.value.code == "reveal"
    for deliver in (reveals.require_open, reveals.move_on):
        with pytest.raises(RoundError, match="masks of round 4 were told of here"):
            deliver(3, 0)
    assert path.read_bytes() == kept
    reveals.require_open(5, 0)


def test_without_its_record_nothing_is_told(tmp_path: Path) -> None:
    """Neither where it cannot be written, nor where it is damaged: that is never taken for an empty one."""
    path = tmp_path / "memory.told.json"
    reveals = Reveals(path)
    for tell in (reveals.agree, reveals.tell_of_missing, reveals.tell_of_sum):
        with full_disk(module, "write_private"), pytest.raises(MemoryFileError, match="nothing was told"):
            tell(0, question([0, 1, 2, 3]))
    assert not path.exists()
    for damaged in ("", "{", "[]", "{}", '{"round": 0, "attempt": 0}', '{"round": "?", "attempt": 0, "opened": ""}'):
        path.write_text(damaged)
        for tell in (reveals.agree, reveals.tell_of_missing, reveals.tell_of_sum):
            with pytest.raises(MemoryFileError, match="is damaged"):
                tell(0, question([0, 1, 2, 3]))
        with pytest.raises(MemoryFileError, match="is damaged"):
            reveals.require_open(0, 0)
