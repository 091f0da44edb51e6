"""Mistakes in a user's own model, data, task or part: told by file and line, before round 1, with a traceback only where it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import structlog
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError, own_place
from dictpfl.deploy import cli
from dictpfl.deploy.agreeing import require_trainable
from tests.support.federations import as_toml

OWN = """
from torch import nn

class Keyed(nn.Sequential):
    def __init__(self, sample_shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, outputs))
    def forward(self, x):
        return {}["logits"]

class Sliced(Keyed):
    def forward(self, x):
        raise IndexError("of their own")

def made(sample_shape, outputs):
    return {}["no such size"]

def read():
    open("nosuch.csv")

def needs():
    import nosuchpackage

class Task:
    metric_name, higher_is_better = "mine", True
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)
    def metric(self, outputs, targets):
        raise AttributeError("their metric")

class Begun(Task):
    def __init__(self):
        raise RuntimeError("their beginning")

class Unmeasured:
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets)

class Allocator:
    def ranks(self, facts):
        return {}

class Dividing:
    def ranks(self, facts, rank):
        return 1 / 0

class Schedule:
    def at(self, facts):
        return None

class Metric:
    name, higher_is_better = "m", True
    def total(self, outputs):
        return 0
"""
LINES = {line.strip(): number for number, line in enumerate(OWN.splitlines(), 1)}
MODEL = {"model__options": {}}


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a simulation that must fail with exit code 1, and return what it said on standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")

    def run(*options: str, **changes: object) -> str:
        sys.modules.pop("own", None)
        (tmp_path / "tiny.toml").write_text(
            as_toml(federation__rounds=1, data__limit=150, training__steps=1, **changes)
        )
        words = ["dictpfl", "simulate", "tiny.toml", "--engine", "local", "--out", "out", *options]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        return capsys.readouterr().err

    yield run
    structlog.reset_defaults()  # a command logs to the standard error of its time
    sys.modules.pop("own", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


@pytest.mark.parametrize(
    ("changes", "line", "words"),
    [
        (MODEL | {"model__source": "own:Keyed"}, 'return {}["logits"]', "KeyError: 'logits'"),
        (MODEL | {"model__source": "own:Sliced"}, 'raise IndexError("of their own")', "cannot be trained on this data"),
        (MODEL | {"model__source": "own:made"}, 'return {}["no such size"]', "KeyError: 'no such size'"),
        ({"data__source": "own:read"}, 'open("nosuch.csv")', "No such file or directory: nosuch.csv"),
        ({"data__source": "own:needs"}, "import nosuchpackage", "No module named 'nosuchpackage'"),
        ({"training__task": "own:Task"}, 'raise AttributeError("their metric")', "their metric"),
        ({"training__task": "own:Begun"}, 'raise RuntimeError("their beginning")', "their beginning"),
        ({"decomposition__allocator": "own:Dividing"}, "return 1 / 0", "ZeroDivisionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_and_line_are_told(changes: dict[str, object], line: str, words: str, typed: Callable[..., str]) -> None:
    said = typed(**changes)
    assert words in said
    assert f"It arose in own.py, line {LINES[line]}, in " in said
    assert "Traceback" not in said
    assert said.count("\n") <= 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__task": "own:Unmeasured"}, "training.task 'own:Unmeasured': Unmeasured has no metric, metric_name, higher_is_better"),
        ({"decomposition__allocator": "own:Allocator"}, "decomposition.allocator 'own:Allocator': Allocator.ranks(facts) is called with 2"),
        ({"pruning__schedule": "own:Schedule"}, "pruning.schedule 'own:Schedule': Schedule.at(facts) is called with 2"),
        ({"training__metric": "own:Metric"}, "training.metric 'own:Metric': Metric.total(outputs) is called with 2"),
    ],
)  # fmt: skip
def test_a_part_of_another_shape_is_told_by_name(
    changes: dict[str, object], words: str, typed: Callable[..., str]
) -> None:
    said = typed(**changes)
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize("source", ["own:Keyed", "own:Sliced"])
def test_the_traceback_is_there_where_it_is_asked_for(source: str, typed: Callable[..., str]) -> None:
    said = typed("-v", **MODEL, model__source=source)
    assert "Traceback" in said
    assert "in forward" in said


def test_an_error_of_this_project_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dictpfl", "doctor"])
    monkeypatch.setattr(cli, "own_place", lambda _error: "")
    monkeypatch.setattr(cli, "app", lambda: {}["ours"])
    with pytest.raises(KeyError, match="ours"):
        cli.main()


def test_the_cause_counts_and_installed_packages_do_not() -> None:
    import torch

    def wrapped() -> None:
        try:
            torch.zeros(2) @ torch.zeros(3)
        except RuntimeError as error:
            raise ConfigError("wrapped") from error

    with pytest.raises(ConfigError) as raised:
        wrapped()
    assert "test_own_code.py, line" in own_place(raised.value)
    with pytest.raises(RuntimeError) as theirs:
        torch.nn.Linear(2, 3)(torch.zeros(1, 5))
    error = theirs.value
    assert "test_own_code.py" in own_place(error)
    assert own_place(error.with_traceback(theirs.tb.tb_next)) == "", "from torch's own modules on"
    with pytest.raises(ZeroDivisionError) as compiled:
        exec(compile("1 / 0", "av/error.py", "exec"))  # noqa: S102 -- so compiled packages name their sources
    assert own_place(compiled.value.with_traceback(compiled.tb.tb_next)) == ""


def test_pixels_of_whole_numbers_are_said_to_be_read_as_tokens() -> None:
    pixels = Samples(np.ones((4, 3), np.uint8), np.zeros(4, np.int64))
    with pytest.raises(ModelError, match=r"cannot be trained on this data.* give floats for pixels"):
        require_trainable(nn.Linear(3, 2), [pixels], FederationConfig.of({}), 2)
