"""Cells run once, rates are chosen without the test split, and what is compared with is what its name says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import accuracy
from ablations import ABLATIONS
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.rules import Role, survey
from dictpfl.common.config import FederationConfig
from dictpfl.common.settings import Decomposition, Model
from lib import ablations_page, federations, lora, tuning
from lib.federations import Cell, measure
from lib.workloads import BOTH, FROZEN_A, FULL, METHODS, OURS, WORKLOADS
from tests.support import federations as smallest

pytestmark = pytest.mark.usefixtures("quiet")
TINY = smallest.settings(data__limit=120, federation__rounds=2, training__steps=2, training__device="cpu")


@pytest.fixture(autouse=True)
def _own_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federations, "CELLS", tmp_path / "cells")


def test_a_cell_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("tiny", TINY)
    first = measure(cell)
    assert first["rounds"] == len(first["history"]) == 2
    assert first["bytes"]["up"] > 0
    monkeypatch.setattr(federations, "_simulated", lambda _: pytest.fail("ran again"))
    assert measure(cell) == first
    assert Cell("tiny", {**TINY, "seed": 2}).path != cell.path


def test_a_cell_that_tunes_does_not_see_the_test_split() -> None:
    found = measure(Cell("tiny", TINY, tunes=True))
    assert not {"accuracy", "final", "history", "state_digest"} & found.keys()
    assert 0 <= found["validation"] <= 100


def test_a_rate_that_diverges_is_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**TINY, "training.optimizer": "sgd", "training.learning_rate": 1e30, "training.steps": 20}
    assert measure(Cell("tiny", settings, tunes=True, in_process=True))["validation"] == 0.0
    with pytest.raises(federations.ModelError):
        measure(Cell("tiny", settings, in_process=True))


@pytest.mark.parametrize("source", ["mlp", "vit_tiny", "cnn"])
def test_lora_starts_as_its_base_and_trains_what_dictpfl_would(source: str) -> None:
    shape, base = (1, 8, 8), build_model(Model(source=source), (1, 8, 8), 10, 3)
    paired = build_model(Model(source="lib.lora:model", options={"source": source, "rank": 2}), shape, 10, 3)
    roles = survey(base, Decomposition(rank=2))
    tables = {name for name, role in roles.items() if role is Role.TABLE}
    settings = Decomposition(enabled=False, frozen=[*lora.FROZEN])
    with_pairs = survey(paired, settings)
    frozen = {name.replace(".base_layer", "") for name, role in with_pairs.items() if role is Role.FROZEN}
    assert frozen == tables
    pairs = {name for name in with_pairs if ".lora_" in name}
    assert len(pairs) == 2 * len(tables)
    others = {name.replace(".base_layer", ""): role for name, role in with_pairs.items() if name not in pairs}
    assert {n for n, r in others.items() if r is Role.DENSE} == {n for n, r in roles.items() if r is Role.DENSE}
    half = survey(paired, Decomposition(enabled=False, frozen=[*lora.FROZEN, lora.A]))
    assert {n for n in pairs if half[n] is Role.FROZEN} == {n for n in pairs if "lora_A" in n}
    plain = {name.replace(".base_layer", ""): t for name, t in paired.state_dict().items() if ".lora_" not in name}
    base.load_state_dict(plain)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(paired.eval()(x), base.eval()(x))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_starts_from_the_same_weights(method: str) -> None:
    made = WORKLOADS["digits-mlp"].cell("digits-mlp", method, 1e-2, 1)
    settings = {**made.settings, "federation.rounds": 1, "data.limit": 120, "training.epochs": 1}
    start = None if made.start is None else {**made.start, "data.limit": 120}
    found = measure(Cell(made.label, settings, start=start))
    assert 0 < found["accuracy"] <= 100
    assert (found["share"] == 100) == (method == FULL)
    assert (made.start is not None) == (method in (BOTH, FROZEN_A))


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("method", METHODS)
def test_every_workload_is_a_configuration(name: str, method: str) -> None:
    cell = WORKLOADS[name].cell(name, method, 1e-3, 1)
    assert cell.config().encryption.sealer == ("identity" if method == FULL else "ckks")
    assert cell.config().name == name


def test_a_grid_is_extended_beyond_its_best_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def best_at(rate: float, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        rates = [cell.settings["training.learning_rate"] for cell in cells]
        return [{"validation": -abs(np.log2(r / rate)), "validation_loss": 1.0} for r in rates]

    monkeypatch.setattr(tuning, "measure_all", lambda cells, _: best_at(3.2e-2, cells))
    tried = tuning.tune([("digits-vit", OURS)], 1)["digits-vit", OURS]
    assert tuning.best_rate(tried) == pytest.approx(3.2e-2)
    assert max(tried) == pytest.approx(6.4e-2)
    quick = tuning.tune([("digits-vit", OURS)], 1, quick=True)["digits-vit", OURS]
    assert max(quick) == pytest.approx(8e-3)


def test_the_better_of_two_finalists_wins_on_all_seeds() -> None:
    few = [{"validation": 99.0, "validation_loss": 0.1}]
    many = [{"validation": 90.0, "validation_loss": 0.1}] * 3
    assert tuning.best_rate({1e-3: few, 2e-3: many, 4e-3: [{"validation": 89.0, "validation_loss": 0.1}] * 3}) == 2e-3


def test_new_figures_replace_old_ones_and_no_others() -> None:
    old = {"digits-mlp": {"methods": {FULL: {"accuracy": 1.0}, OURS: {"accuracy": 2.0}}}}
    result = accuracy.merged(old, {"digits-mlp": {OURS: {"accuracy": 3.0}}, "digits-vit": {OURS: {"accuracy": 4.0}}})
    assert list(result) == ["digits-mlp", "digits-vit"]
    assert {m: row["accuracy"] for m, row in result["digits-mlp"]["methods"].items()} == {FULL: 1.0, OURS: 3.0}


def test_promises_need_all_that_they_compare() -> None:
    rows = {OURS: {"accuracy": 90.0, "share": 4.0}, FULL: {"accuracy": 91.0, "share": 100.0}}
    needed = accuracy.requirements({"digits-mlp": {"methods": rows}})
    assert [(round(r.measured, 6), r.met) for r in needed] == [(1.0, True), (4.0, True)]


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_those_of_the_experiments(name: str) -> None:
    ablation = ABLATIONS[name]
    labels = [point.label for point in ablation.points]
    for point in ablation.points:
        assert (point.against or ablation.default) in labels
        FederationConfig.load(federations.ROOT / "experiments" / f"{ablation.experiment}.toml", point.changes)


def test_the_verdict_tells_agreement_from_difference() -> None:
    rank = ABLATIONS["rank"]
    row = {"spread": 0.0, "accuracy": 90.0}
    rows = {"2": {**row, "accuracy": 85.0}, "4": row, "8": {**row, "accuracy": 95.0}}
    said = ablations_page.verdict(rank, rows)
    assert "2: -5.0 points here, -7.7 in the paper (agrees)" in said
    assert "8: +5.0 points here, +0.7 in the paper (differs)" in said
    assert "16" not in said


def test_equal_settings_of_two_ablations_are_one_cell() -> None:
    from ablations import cell

    same = [("rank", "4"), ("s", "0.7"), ("tau", "3"), ("beta", "0.5"), ("alpha", "iid"), ("institutions", "3")]
    paths = {cell(ABLATIONS[n], next(p for p in ABLATIONS[n].points if p.label == at), 1).path for n, at in same}
    assert len(paths) == 1


def test_w0_of_a_lora_run_is_that_of_dictpfl(tmp_path: Path) -> None:
    settings = {**TINY, "data.public_share": 0.2, "model.pretrain.epochs": 1, "method": OURS, "decomposition.rank": 2}
    options = {"source": "mlp", "options": {"hidden": [16]}, "weights": federations.W0, "rank": 2}
    cell = Cell("tiny", {**TINY, "model.source": "lib.lora:model", "model.options": options}, start=settings)
    changes = federations.weights_of(cell, tmp_path)
    config = cell.config(**changes)
    shape = load_dataset(config.data, config.seed).sample_shape
    paired = build_model(config.model, shape, 10, 1)
    drawn = build_model(Model(source="mlp", options={"hidden": [16]}), shape, 10, 1)
    assert not torch.equal(paired.state_dict()["1.base_layer.weight"], drawn.state_dict()["1.weight"])


def test_averaging_in_this_process_is_what_a_plaintext_federation_does() -> None:
    settings = {**TINY, "training.learning_rate": 1e-2, "federation.rounds": 3, "training.steps": 8, "data.limit": 600,
                "method": FULL, "toy_insecure": True}  # fmt: skip
    federation, alone = measure(Cell("tiny", settings)), measure(Cell("tiny", settings, in_process=True))
    # 120 test samples; a federation quantises, which may move one or two over a border.
    assert alone["final"] == pytest.approx(federation["final"], abs=2.0)
    assert alone["final"] > 30
    assert alone["values"] == federation["values"]
    assert alone["share"] == pytest.approx(federation["share"])
    # Headers and ledgers come on top in a federation, and a round that only measures.
    assert 0 < sum(federation["bytes"].values()) - sum(alone["bytes"].values()) < 8_000
