"""Measuring on the test split in some rounds only: less work, and the same federation."""

from __future__ import annotations

from pathlib import Path

import pytest

import dictpfl
from dictpfl.common.errors import ConfigError
from tests.support.federations import tiny


def rounds_measured(run: dictpfl.Run) -> list[bool]:
    return [record.test is not None for record in run.records if record.kind == "update"]


def test_some_rounds_and_the_last_one_are_measured(tmp_path: Path) -> None:
    config = tiny(federation__rounds=5)
    every = dictpfl.simulate(config, tmp_path / "every", engine="local")
    some = dictpfl.simulate(config, tmp_path / "some", engine="local", test_every=2)
    last = dictpfl.simulate(config, tmp_path / "last", engine="local", test_every=9)
    assert rounds_measured(every) == [True] * 5
    assert rounds_measured(some) == [False, True, False, True, True]
    assert rounds_measured(last) == [False] * 4 + [True]
    assert len({run.summary["state_digest"] for run in (every, some, last)}) == 1
    assert every.test == some.test == last.test
    assert every.summary["metrics"]["test"] == last.summary["metrics"]["test"]
    assert [run.records[-1].test_loss for run in (some, last)] == [every.records[-1].test_loss] * 2
    # Pages and pictures show what there is.
    assert some.plot_accuracy().axes[0].lines[0].get_xdata().tolist() == [2, 4, 5]
    assert (last.folder / "report.html").exists()


def test_the_last_round_is_measured_where_institutions_stop_early(tmp_path: Path) -> None:
    stalls = {"selection.patience": 1, "selection.min_delta": 0.9, "federation.rounds": 6}
    run = dictpfl.simulate(tiny(**stalls), tmp_path / "run", engine="local", test_every=6)
    assert run.summary["stopped"]
    assert 1 < len(rounds_measured(run)) < 6
    assert rounds_measured(run) == [False] * (len(rounds_measured(run)) - 1) + [True]
    again = dictpfl.simulate(tiny(**stalls), tmp_path / "again", engine="local")
    assert run.test == again.test


@pytest.mark.parametrize("every", [0, -1])
def test_a_number_below_one_is_refused(tmp_path: Path, every: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more"):
        dictpfl.simulate(tiny(), tmp_path / "run", engine="local", test_every=every)
    assert not (tmp_path / "run").exists()


def test_what_was_not_recorded_is_told(tmp_path: Path) -> None:
    """A run that is recorded later lacks the rounds before; one without a round left would record nothing and say nothing."""
    told: list[str] = []
    run = dictpfl.simulate(tiny(federation__rounds=2), tmp_path / "run", engine="local")
    with pytest.raises(ConfigError, match="none was recorded; simulate with --record into another folder"):
        dictpfl.simulate(tiny(federation__rounds=2), run.folder, engine="local", resume=True, record=True)
    dictpfl.simulate(
        tiny(federation__rounds=4), run.folder, engine="local", resume=True, record=True,
        on_founded=lambda founded: told.extend(founded.notes),
    )  # fmt: skip
    assert "the run was begun without --record: what it sent so far is not there to attack" in told
    assert any((run.folder / "coordinator" / "recording").iterdir())
