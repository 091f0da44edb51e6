"""Objects in place of names, and what a run gives back as objects."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from numpy.typing import NDArray
from torch import nn

import dictpfl
from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import GIVEN
from tests.support.federations import encrypted, tiny


@pytest.fixture
def _unconfigured() -> Iterator[None]:
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


class Counted:
    """Classification under a name of its own."""

    metric_name = "counted accuracy"
    higher_is_better = True

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metric(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(dim=1) == targets).sum()


def network(sample_shape: tuple[int, ...], outputs: int, hidden: list[int]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(sample_shape)), hidden[0]), nn.ReLU(), nn.Linear(hidden[0], outputs)
    )


def samples(count: int = 240) -> dictpfl.Dataset:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    features = (np.eye(3)[labels].repeat(4, axis=1) + rng.normal(0, 0.3, (count, 12))).astype(np.float32)
    return dictpfl.Dataset(dictpfl.Samples(features, labels), outputs=3, name="given")


def test_objects_do_what_names_do(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    config = encrypted(training__epochs=3, training__steps=0, training__learning_rate=0.05, federation__rounds=3)
    run = dictpfl.simulate(config, tmp_path / "run", engine="local", model=plain, data=samples(), task=Counted())
    assert run.summary["metric"] == "counted accuracy"
    assert run.accuracy > 0.6, "three classes far apart"
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items()), (
        "the given module was changed"
    )
    # What it gives back.
    outputs = run.predict(samples().samples.features)
    assert outputs.shape == (240, 3)
    assert (outputs.argmax(axis=1) == samples().samples.labels).mean() > 0.6
    assert isinstance(run.model(), nn.Sequential)
    frame = run.history
    assert list(frame.index) == [record.round + 1 for record in run.records]
    assert frame["test"].dropna().iloc[-1] == run.accuracy
    assert {"bytes_up", "seconds.train", "contributors"} <= set(frame.columns)
    said = repr(run)
    assert "counted accuracy" in said
    assert "trainable" in said
    assert len(said.splitlines()) == 1


def test_a_function_gets_what_it_takes_and_the_same_bits_as_by_name(tmp_path: Path) -> None:
    by_name = dictpfl.simulate(tiny(federation__rounds=2), tmp_path / "named", engine="local")
    from dictpfl.client.model.networks.mlp import mlp

    given = dictpfl.simulate(tiny(federation__rounds=2), tmp_path / "given", engine="local", model=mlp)
    assert given.summary["test_history"] == by_name.summary["test_history"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": 3}, "expected a torch.nn.Module"),
        ({"data": [1, 2]}, "expected a dictpfl.Dataset"),
        ({"task": object()}, "has no loss, metric"),
        ({"data": list}, "it returned list"),
    ],
)
def test_another_object_is_refused_by_name(given: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        dictpfl.simulate(tiny(), tmp_path / "run", engine="local", **given)


def test_objects_need_the_local_engine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="objects exist in this process only"):
        dictpfl.simulate(tiny(), tmp_path / "run", model=network)
    assert not (tmp_path / "run").exists()


def test_another_process_is_told_to_give_the_object_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder holds no object; a finished run that gets it again is as it was."""
    config = tiny(federation__rounds=1)
    run = dictpfl.simulate(config, tmp_path / "run", engine="local", task=Counted())
    monkeypatch.delitem(sys.modules, GIVEN)
    with pytest.raises(ConfigError, match=r"training.task: this run was given its task as an object .*resume=True"):
        dictpfl.evaluate(tmp_path / "run")
    again = dictpfl.simulate(config, tmp_path / "run", engine="local", task=Counted(), resume=True)
    assert (again.test, dictpfl.evaluate(again).metric) == (run.test, run.test)


class Doubled(Counted):
    """Another task, told by its figure."""

    def metric(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 2 * super().metric(outputs, targets)


def test_a_later_run_leaves_an_earlier_one_its_objects(tmp_path: Path) -> None:
    """A network of the same shapes, and a task, that the next run was given answered for the first, in silence."""
    config, runs, said = tiny(federation__rounds=1), list[dictpfl.Run](), list[NDArray[Any]]()
    for number, (act, task) in enumerate(((nn.ReLU(), Counted()), (nn.Tanh(), Doubled()))):
        model = nn.Sequential(nn.Linear(12, 8), act, nn.Linear(8, 3))
        given = {"model": model, "data": samples(), "task": task}
        runs.append(dictpfl.simulate(config, tmp_path / str(number), engine="local", **given))
        said.append(runs[-1].predict(samples().samples.features))
    first, home = runs[0], tmp_path / "0" / "institutions" / "institution-000"
    assert np.array_equal(first.predict(samples().samples.features), said[0])
    assert dictpfl.evaluate(first).metric == pytest.approx(first.test)
    assert dictpfl.evaluate(home).metric <= 1.0, "measured by the other run's task"
    assert dictpfl.evaluate(runs[1]).metric == pytest.approx(runs[1].test)
    assert isinstance(runs[1].model()[1], nn.Tanh)
    assert isinstance(first.model()[1], nn.ReLU)
    with pytest.raises(ConfigError, match="is not empty"):
        dictpfl.simulate(config, tmp_path / "0", engine="local", model=nn.Linear(12, 3))
    assert isinstance(first.model()[1], nn.ReLU), "what was refused changed nothing"


@pytest.mark.usefixtures("_unconfigured")
def test_a_program_says_itself_what_it_wants_to_hear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dictpfl.simulate(tiny(federation__rounds=1), tmp_path / "quiet", engine="local")
    assert "round closed" not in capsys.readouterr().out
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())
    dictpfl.simulate(tiny(federation__rounds=1), tmp_path / "heard", engine="local")
    assert "round closed" in capsys.readouterr().out


def test_version() -> None:
    assert dictpfl.__version__[0].isdigit()
