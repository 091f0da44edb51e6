"""Callbacks that log a run while it goes on: TensorBoard's files are read back; W&B by what it is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.reports.loggers import TensorBoardLogger, WandbLogger
from dictpfl.deploy.reports.tensorboard import write_events
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import Run
from tests.support.federations import tiny

ROUND = RoundRecord(
    3, "update", 4, 3, {}, 7, {}, 1, 90, 95, 0.5, 1.0, None, None, 1.25, refreshed=False, seconds={"train": 2.0}
)
TOLD = {
    "accuracy/test": 0.5, "loss/test": 1.0, "loss/train": 1.25, "traffic/values sent": 7, "traffic/bytes up": 90,
    "traffic/bytes down": 95, "seconds/train": 2.0,
}  # fmt: skip


def test_events_are_there_after_each_round(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardLogger(tmp_path) as log:
        log(ROUND)
        events = accumulator.EventAccumulator(str(tmp_path))  # before the log is closed
        events.Reload()
        assert {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == pytest.approx(TOLD)
        assert events.Scalars("accuracy/test")[0].step == 3


def test_events_of_a_run_stand_once_and_where_their_model_was(tmp_path: Path) -> None:
    """Validation figures stood a round late, the last two of them at one step, and all points twice once a run was resumed."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rounds = [
        replace(ROUND, round=0, update=1, validation=0.1),
        replace(ROUND, round=1, update=2, validation=0.2),
        replace(ROUND, round=2, update=2, kind="measure", test=None, sent=0, validation=0.3),
    ]
    run = Run(tmp_path, tiny(), {}, rounds)
    for _ in range(2):
        assert write_events(run, tmp_path / "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    validation, sent = (events.Scalars(tag) for tag in ("accuracy/validation", "traffic/values sent"))
    assert [(e.step, round(e.value, 3)) for e in validation] == [(0, 0.1), (1, 0.2), (2, 0.3)]
    assert [(e.step, e.value) for e in sent] == [(1, 7), (2, 7)]


class Told(ModuleType):
    """Stands for a package that is not installed here, and notes what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*words: Any, **named: Any) -> Told:
            self.calls.append((name, words, named))
            return self

        return called


def test_wandb_is_told_figures_and_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Told("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    with WandbLogger(project="ward", run="one") as log:
        log(ROUND)
    assert package.calls == [
        ("init", (), {"project": "ward", "name": "one", "config": {}}), ("log", (TOLD,), {"step": 3}), ("finish", (), {"exit_code": 0})
    ]  # fmt: skip


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"dictpfl\[wandb\]"):
        WandbLogger(project="ward", run="one")
