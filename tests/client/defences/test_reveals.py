"""What was told about masks: one sum of a round, and of scores that are made again the same members."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dictpfl.client.defences.reveals import Reveals
from dictpfl.common.errors import RoundError
from dictpfl.common.messages.masks import SharesQuestion


def question(members: Sequence[int], mark: int = 0, attempt: int = 0) -> SharesQuestion:
    return SharesQuestion(attempt, {member: bytes([member, mark] * 8) for member in members}, {})


def test_scores_made_again_are_those_of_the_same_members(tmp_path: Path) -> None:
    path = tmp_path / "memory.told.json"
    Reveals(path).tell_of_sum(0, question([0, 1, 2, 3]), scores=0)
    for members in ([0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 4]):
        with pytest.raises(RoundError, match=r"scores of members \[0, 1, 2, 3\] were opened here") as caught:
            Reveals(path).tell_of_sum(1, question(members, mark=1), scores=0)
        assert caught.value.code == "reveal"
    Reveals(path).move_on(1, 7)
    Reveals(path).tell_of_missing(1, 8, [4], [(range(5), 1)])
    Reveals(path).tell_of_sum(1, question([0, 1, 2, 3], mark=2, attempt=8), scores=0)
    Reveals(path).tell_of_sum(2, question([0, 1, 2]), scores=1)  # the next tally
    Reveals(path).tell_of_sum(3, question([0, 1, 3]))  # an update


def test_a_record_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    path = tmp_path / "memory.told.json"
    path.write_text(json.dumps({"round": 3, "attempt": 1, "missing": [2], "opened": ""}))
    with pytest.raises(RoundError, match="were said to be missing"):
        Reveals(path).tell_of_sum(3, question([0, 1, 2], attempt=1))
    Reveals(path).tell_of_sum(3, question([0, 1], attempt=1), scores=3)
    assert json.loads(path.read_text())["scored"] == [0, 1]
