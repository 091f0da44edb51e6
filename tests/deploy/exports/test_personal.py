"""A personal head: trained at home on home's data, measured on samples that it never saw, and nothing else moved."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import dictpfl
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.personal import write_personal
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

HEAD = {"5.weight", "5.bias"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Very different mixtures of classes, and a model that is far from done: a head of one's own has something to gain."""
    config = FederationConfig.of({}, {
        "data.limit": 500, "data.partition": "dirichlet", "data.alpha": 0.2, "federation.rounds": 3, "training.steps": 4,
        "model.options": {"hidden": [32, 32]}, "encryption.sealer": "identity", "toy_insecure": True,
        "data.validation_share": 0.3, "training.dense_learning_rate": 2e-3, "training.head_learning_rate": 2e-3,
    })  # fmt: skip
    return simulate(config, tmp_path_factory.mktemp("personal") / "run", engine="local")


def home(run: Run, number: int = 0) -> Path:
    return run.folder / "institutions" / f"institution-{number:03d}"


def test_the_head_alone_moves_and_helps(run: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in home(run).rglob("*") if path.is_file() and path.suffix != ".lock"}
    gains = []
    for number in range(3):
        output = tmp_path / str(number)
        figures = write_personal(home(run, number), output)
        gains.append(figures.after - figures.before)
        shared = Finished.load(home(run, number)).merged().state_dict()
        own = load_file(output / "model.safetensors")
        moved = {name for name in shared if not np.array_equal(shared[name].numpy(), own[name].numpy())}
        assert moved == (HEAD if figures.epochs else set())
        assert figures.parameters == sum(own[name].numel() for name in HEAD)
        assert json.loads((output / "personal.json").read_text())["after"] == figures.after
        assert figures.trained + figures.held == len(Samples.load(home(run, number) / TRAIN))
        assert figures.validation == len(Samples.load(home(run, number) / VALIDATION))
        assert stat.S_IMODE(output.stat().st_mode) == 0o700
        assert "nobody else has agreed to pass it on" in (output / "README.md").read_text()
    assert sum(gains) > 0.1
    after = {path: path.read_bytes() for path in before}
    assert after == before, "a personal head changed something that the federation goes on with"


def test_it_is_the_same_every_time(run: Run, tmp_path: Path) -> None:
    first, second = (write_personal(home(run), tmp_path / name, layers=2, epochs=3) for name in "ab")
    assert first == second
    assert first.parameters > sum(load_file(tmp_path / "a" / "model.safetensors")[name].numel() for name in HEAD)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_head_that_does_not_help_is_not_taken(run: Run, tmp_path: Path) -> None:
    figures = write_personal(home(run), tmp_path / "out", rate=1e4, epochs=2)
    assert figures.epochs == 0
    assert (figures.before, figures.loss_before) == (figures.after, figures.loss_after)


def test_a_rate_of_ones_own_goes_before_the_federations(run: Run, tmp_path: Path) -> None:
    for name, rate in (("still", 1e-30), ("moved", 1e-2)):
        write_personal(home(run), tmp_path / name, rate=rate, epochs=1)
    shared = Finished.load(home(run)).merged().state_dict()["5.weight"].numpy()
    still, moved = (load_file(tmp_path / name / "model.safetensors")["5.weight"].numpy() for name in ("still", "moved"))
    assert np.array_equal(still, shared)
    assert not np.array_equal(moved, shared)


def test_it_starts_from_the_best(run: Run, tmp_path: Path) -> None:
    best = run.summary["best"]
    assert best is not None
    assert write_personal(home(run), tmp_path / "out", checkpoint="best", epochs=1).updates == best["updates"]


def test_a_checkpoint_of_another_name_is_refused(run: Run, tmp_path: Path) -> None:
    for name in ("first", "Last"):
        with pytest.raises(ConfigError, match=f"checkpoint is {name!r}; expected `last` or `best`"):
            dictpfl.evaluate(run, checkpoint=name)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="expected `last` or `best`"):
            dictpfl.export(run, tmp_path / "model.safetensors", checkpoint=name)  # type: ignore[arg-type]


def test_what_it_needs(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="institution's own data"):
        write_personal(run.folder, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="holds something"):
        write_personal(home(run), tmp_path / "full")
    samples = Samples.load(home(run, 2) / VALIDATION)
    samples.take(np.arange(0)).save(home(run, 2) / VALIDATION)
    try:
        with pytest.raises(DataError, match="nothing would show"):
            write_personal(home(run, 2), tmp_path / "none")
    finally:
        samples.save(home(run, 2) / VALIDATION)


def test_a_skills_head_is_of_its_classes_alone(tmp_path: Path) -> None:
    """A federation that is narrowed trains on them alone: its head would unlearn the skill on the others."""
    skill = [0, 2, 4]
    config = tiny(narrow__axes=["ffn"], narrow__keep=4, narrow__classes=skill, training__steps=3)
    made = simulate(config, tmp_path / "run", engine="local")
    figures = write_personal(home(made), tmp_path / "own", epochs=1)
    train, validation = (Samples.load(home(made) / name).of_classes(skill) for name in (TRAIN, VALIDATION))
    assert (figures.trained + figures.held, figures.validation) == (len(train), len(validation))


def test_a_learnt_mask_is_not_filled(tmp_path: Path) -> None:
    changes = {"sparsity__method": "lua", "sparsity__target": 0.8, "sparsity__scores": "magnitude"}
    made = simulate(tiny(**changes, model__options={"hidden": [24, 24]}), tmp_path / "run", engine="local")
    with pytest.raises(ConfigError, match="are zero, and training it would fill them"):
        write_personal(home(made), tmp_path / "two", epochs=1, layers=2)
    assert write_personal(home(made), tmp_path / "one", epochs=1).parameters


def test_the_command_says_before_and_after(run: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["personalise", str(home(run)), "-o", str(tmp_path / "own"), "--epochs", "2"])
    assert done.exit_code == 0, done.output
    assert "before" in done.output
    assert "validation samples" in done.output
