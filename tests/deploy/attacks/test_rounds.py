"""Many rounds tell an institution more of the others' samples than one, up to the rule that the report states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from dictpfl.deploy.attacks.published import rounds
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.reports.exposure import Exposure, exposure
from dictpfl.deploy.runs.run import INSTITUTIONS
from tests.deploy.attacks.conftest import made

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """Thirty samples of others, 64 inputs, rank 4, batches of 16, no pruning, ten rounds of 8-bit values."""
    return play(rounds.federation(made(grid__value_bits=8), 10), tmp_path_factory.mktemp("rounds"))


def judged(recorded: RecordedRun) -> Exposure:
    found = exposure(recorded.genesis, sorted((recorded.folder / INSTITUTIONS).iterdir()))
    assert found is not None
    return found


def require_more_from_ten(recorded: RecordedRun) -> None:
    one, four, ten = (rounds.over_rounds(recorded, count).found.value for count in (1, 4, 10))
    assert one < 0.7
    assert one + 0.1 < four < ten
    assert ten > 0.95


def test_ten_rounds_tell_what_one_does_not(recorded: RecordedRun) -> None:
    require_more_from_ten(recorded)
    finding = rounds.over_rounds(recorded, 10)
    assert finding.verdict == "succeeds"
    assert finding.setting["samples"] == 30
    assert rounds.over_rounds(recorded, 1).verdict != "succeeds"
    assert judged(recorded).is_exposed


def test_fewer_bits_blur_and_do_not_hide(tmp_path_factory: pytest.TempPathFactory) -> None:
    recorded = play(rounds.federation(made(grid__value_bits=4), 10), tmp_path_factory.mktemp("bits"))
    one, ten = (rounds.over_rounds(recorded, count).found.value for count in (1, 10))
    assert one + 0.1 < ten < 0.95


def test_an_attack_that_pools_one_round_only_fails_this_test(
    recorded: RecordedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Callable[[RecordedRun, Sequence[int], int], np.ndarray] = rounds.pooled_rows
    monkeypatch.setattr(rounds, "pooled_rows", lambda run, numbers, features: whole(run, numbers[:1], features))
    with pytest.raises(AssertionError):
        require_more_from_ten(recorded)


@pytest.mark.parametrize(("limit", "most", "near"), [(324, 0.9, True), (1000, 0.65, False)])
def test_the_more_samples_the_less_shows(
    limit: int, most: float, near: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Distinct inputs of 64 values: 92 are hardly more, and still lean; 280 tell little."""
    recorded = play(rounds.federation(made(), 12, limit), tmp_path_factory.mktemp("many"))
    finding = rounds.over_rounds(recorded, 12)
    assert finding.setting["samples"] > 64
    assert finding.found.value < most
    assert not judged(recorded).is_exposed
    assert judged(recorded).is_near == near
