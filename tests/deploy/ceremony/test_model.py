"""The model out of an institution's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import GENESIS_WEIGHTS, VALIDATION
from dictpfl.client.keys.epochs import epoch_folder
from dictpfl.client.model.build import build_model, load_weights
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.cli import app
from tests.support.ceremonies import NAMES, Ceremony

pytestmark = pytest.mark.usefixtures("quiet")


def export(institution: Path, output: Path) -> str:
    done = CliRunner().invoke(app, ["export", str(institution), "-o", str(output)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_every_institution_exports_the_same_model_and_it_does_what_the_shared_one_does(ceremony: Ceremony) -> None:
    for name in NAMES:
        ceremony.join(name)
        ceremony.give_data(name)
    with pytest.raises(ConfigError, match="applied no round yet"):
        export(ceremony.home("oslo"), ceremony.root / "none")
    assert not (ceremony.root / "none").exists()

    ceremony.hand_over()
    ceremony.run(NAMES)
    said = {export(ceremony.home(name), ceremony.root / name / "m.safetensors").split(" ", 1)[1] for name in NAMES}
    (words,) = said
    assert "after 3 updates, sha256 " in words

    home = epoch_folder(ceremony.home("berlin"), 1)
    genesis, first = Genesis.load(home), load_file(home / GENESIS_WEIGHTS)
    exported = load_file(ceremony.home("berlin") / "m.safetensors")
    assert {name: tensor.shape for name, tensor in exported.items()} == {n: t.shape for n, t in first.items()}
    assert any(not torch.equal(exported[name], first[name]) for name in first)
    model = build_model(genesis.config.model, genesis.sample_shape, genesis.outputs, genesis.config.seed)
    load_weights(model, ceremony.home("berlin") / "m.safetensors")
    twin = Workbench(genesis, home / GENESIS_WEIGHTS).twin_at(ceremony.state("berlin"), {})
    samples, task = Samples.load(ceremony.home("kyoto") / VALIDATION), load_task(genesis.config.training.task)
    assert evaluate(model, samples, task).loss_sum == pytest.approx(
        evaluate(twin.module, samples, task).loss_sum, rel=1e-5
    )
