"""Tensors that stay at an institution, in every form that it exports its model in."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate


def test_an_institution_s_own_statistics_are_in_its_file(tmp_path: Path) -> None:
    """The one file had those of genesis, means of 0 and variances of 1, with weights that never saw any such."""
    config = FederationConfig.of(
        {
            "federation": {"rounds": 2},
            "data": {"limit": 150},
            "model": {"source": "cnn", "options": {"width": 2, "depth": 2}},
            "decomposition": {"batch_norm": "local"},
            "encryption": {"sealer": "identity"},
            "toy_insecure": True,
        }
    )
    run = simulate(config, tmp_path / "run", engine="local")
    means = []
    for name in ("institution-000", "institution-001"):
        home, output = run.folder / "institutions" / name, tmp_path / f"{name}.safetensors"
        said = CliRunner().invoke(app, ["export", str(home), "-o", str(output)]).output
        assert "those of the institution that made this export" in " ".join(said.split())
        exported, expected = load_file(output), Finished.load(home).merged().state_dict()
        assert all(torch.equal(exported[key], expected[key]) for key in expected)
        means += [value for key, value in exported.items() if key.endswith("running_mean")][:1]
    assert means[0].any()
    assert not torch.equal(means[0], means[1])
