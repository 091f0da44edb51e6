"""A layer type and an exporter of somebody else's, one file each, in a federation from founding to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.rules import Role
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.exports.exporter import Exporter, load_exporter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("quiet")
SOURCE = Path(__file__).parent / "plugin" / "src"
LAYER, NETWORK = "dictpfl_plugin.layer:TableBilinear", "dictpfl_plugin.layer:pairing"
NPZ = "dictpfl_plugin.exporter:NpzExporter"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE))


def config(**changes: Any) -> FederationConfig:
    raw = {
        "federation": {"rounds": 2},
        "data": {"limit": 90},
        "model": {"source": NETWORK},
        "training": {"steps": 2, "device": "cpu"},
        "decomposition": {"layers": [LAYER], "rank": 2},
    }
    return FederationConfig.of(raw, changes)


def test_a_federation_with_both(tmp_path: Path) -> None:
    simulate(config(), tmp_path / "run", engine="local")
    finished = Finished.load(tmp_path / "run")
    assert finished.bench().twin.roles["pair.weight"] is Role.TABLE
    merged = finished.merged()
    assert type(merged.get_submodule("pair")) is nn.Bilinear
    start = finished.start()
    assert not torch.equal(merged.state_dict()["pair.weight"], start["pair.weight"])

    words = load_exporter(NPZ).export(tmp_path / "run", tmp_path / "model.npz")
    assert words == "6 arrays after 2 updates"
    with np.load(tmp_path / "model.npz") as arrays:
        for name, tensor in merged.state_dict().items():
            np.testing.assert_array_equal(arrays[name], tensor.numpy())

    # PEFT has no pair for it: it is copied whole.
    load_exporter("peft").export(tmp_path / "run", tmp_path / "peft")
    assert '"pair"' in (tmp_path / "peft" / "adapter_config.json").read_text()


def test_its_samples_are_private(tmp_path: Path) -> None:
    pytest.importorskip("opacus", reason="the extra `dp` is not installed")
    private = {"privacy.mechanism": "example", "privacy.noise_multiplier": 1.0}
    simulate(config(**private), tmp_path / "run", engine="local")
    finished = Finished.load(tmp_path / "run")
    assert finished.bench().twin.roles["pair.weight"] is Role.TABLE


def test_who_does_not_name_the_layer_trains_it_dense(tmp_path: Path) -> None:
    simulate(config(**{"decomposition.layers": []}), tmp_path / "run", engine="local")
    twin = Finished.load(tmp_path / "run").bench().twin
    assert twin.roles["pair.weight"] is Role.DENSE
    assert not any(isinstance(m, TableLayer) and isinstance(m, nn.Bilinear) for m in twin.module.modules())


def test_a_format_that_needs_what_is_missing(tmp_path: Path) -> None:
    class Needy(Exporter):
        needs = ("no_such_package.at_all",)

        def write(self, finished: Finished, output: Path) -> str:
            raise AssertionError

    with pytest.raises(ConfigError, match=r"needs no_such_package\.at_all"), Needy().prepared(tmp_path / "x"):
        pytest.fail("it was opened")


def test_a_format_that_is_unknown_or_no_exporter() -> None:
    with pytest.raises(
        ConfigError, match="--format: 'pfet' is unknown; known: merged, narrow, peft, safetensors, sparse"
    ):
        load_exporter("pfet")
    with pytest.raises(ConfigError, match="'json:dumps' is no exporter"):
        load_exporter("json:dumps")
