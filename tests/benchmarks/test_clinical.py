"""The plain twin computes what dictpfl computes, rates are chosen without test rows, and tables say what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import clinical
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.client.training.batches import indices
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.law.aggregation import beginning, moved
from dictpfl.common.rounds import Aggregation
from dictpfl.common.settings import Decomposition, Model, Training
from lib.clinical import linear, page, tuning
from lib.clinical.cells import linear as linear_cell
from lib.clinical.linear import Kind, Rows, federated, figure, gradient
from lib.clinical.published import FLOOR, MOMENTUM, PUBLISHED, SECOND, Rates
from lib.clinical.tables import Table
from lib.machine import ROOT
from sets import clinical as fetched

FEATURES = 5


def rows(kind: Kind, count: int, seed: int) -> Rows:
    """Samples with an effect of the first feature."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, FEATURES))
    if kind == "logistic":
        return Rows(x, (x[:, 0] + random.normal(size=count) > 0).astype(float))
    times = np.round(np.exp(2 - x[:, 0] + random.normal(size=count)), 1)
    return Rows(x, np.stack([times, (random.random(count) < 0.6).astype(float)], axis=1))


KINDS = pytest.mark.parametrize("kind", ["logistic", "cox"])


@KINDS
def test_gradients_are_autograd_s(kind: Kind) -> None:
    batch = rows(kind, 8, 3)
    weights = np.random.default_rng(0).normal(size=(3, FEATURES + 1))
    for own, found in zip(weights, gradient(kind, weights, batch), strict=True):
        w = torch.tensor(own, requires_grad=True)
        scores, labels = torch.tensor(batch.features) @ w[:-1] + w[-1], torch.tensor(batch.labels)
        cox = load_task("cox").loss
        loss = (
            cox(scores, labels)
            if kind == "cox"
            else torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
        )
        (wanted,) = torch.autograd.grad(loss, w)
        assert found == pytest.approx(wanted.numpy(), abs=1e-12)


@pytest.mark.parametrize("rule", ["average", "adam", "yogi", "adagrad"])
@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_it_is_the_federation_of_dictpfl(rule: str, proximal: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds of two institutions with dictpfl's own training and rules, batch by batch the same."""
    centres, steps = [rows("cox", 40, 1), rows("cox", 25, 2)], 4
    training = Training(task="cox", optimizer="sgd", learning_rate=0.1, steps=steps, batch_size=8, dtype="float64",
                        proximal=proximal)  # fmt: skip
    settings = Decomposition(enabled=False)
    plain = build_model(Model(source="mlp", options={"hidden": []}), (FEATURES,), 1, 3).double()
    twin = Twin(plain, settings, make_dictionaries(plain, settings, bytes(32)))
    twin.to(dtype=torch.float64)
    agreed = Aggregation(rule=rule, rate=0.3, momentum=MOMENTUM, second=SECOND, floor=FLOOR)
    shared, moments = twin.read(), beginning(agreed, FEATURES + 1)
    begin = shared.copy()
    for number in range(3):
        mean = np.zeros(FEATURES + 1)
        for index, centre in enumerate(centres):
            twin.load(shared)
            train(twin, Samples(centre.features, centre.labels), training, load_task("cox"), seed=10 * number + index)
            mean += len(centre.features) / 65 * (twin.read() - shared)
        shared, moments = moved(agreed, shared, moments, mean, np.ones(FEATURES + 1, dtype=bool))

    def dealt(centre: Rows, size: int, _random: np.random.Generator) -> Iterator[Rows]:
        own = [len(one.features) for one in centres].index(len(centre.features))
        for number in range(3):
            for index in indices(len(centre.features), training, 10 * number + own):
                yield Rows(
                    centre.features.astype(np.float32).astype(float)[index],
                    centre.labels.astype(np.float32).astype(float)[index],
                )

    names = [entry.name for entry in twin.layout.entries]
    places = np.concatenate(
        [
            np.arange(twin.layout.size)[twin.layout.entries[names.index(n)].span]
            for n in sorted(names, key=lambda n: "bias" in n)
        ]
    )
    monkeypatch.setattr(linear, "batches", dealt)
    monkeypatch.setattr(linear, "start", lambda _features, _seed: begin[places][None])
    grid = [Rates("average", 0.7), Rates(rule, 0.1, 0.3, proximal)]
    found = federated("cox", centres, grid, rounds=3, steps=steps, batch=8, seed=0)
    assert found[1] == pytest.approx(shared[places], rel=1e-7, abs=1e-9)
    assert np.abs(found[1] - begin[places]).max() > 1e-3


@KINDS
def test_figures_are_the_metrics_of_dictpfl(kind: Kind) -> None:
    weights, held = np.random.default_rng(4).normal(size=(2, FEATURES + 1)), rows(kind, 50, 9)
    for own, found in zip(weights, figure(kind, weights, held), strict=True):
        layer = torch.nn.Linear(FEATURES, 1 if kind == "cox" else 2).double()
        with torch.no_grad():
            layer.weight.zero_()[-1] = torch.tensor(own[:-1])
            layer.bias.zero_()[-1] = own[-1]
        labels = held.labels if kind == "cox" else held.labels.astype(np.int64)
        measured = evaluate(
            layer, Samples(held.features, labels), load_task("cox" if kind == "cox" else "classification")
        )
        assert found == pytest.approx(measured.metric_sum / 50, abs=1e-9)


def test_no_pair_is_no_figure() -> None:
    censored = Rows(np.ones((3, FEATURES)), np.array([[1.0, 0], [2, 0], [3, 0]]))
    assert np.isnan(figure("cox", np.ones((1, FEATURES + 1)), censored)).all()


def test_rates_are_chosen_without_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "heart", replace(PUBLISHED["heart"], rounds=2))
    monkeypatch.setattr(tuning, "SPLITS", 2)
    monkeypatch.setattr(tuning, "STEPS", 10)
    monkeypatch.setattr(tuning, "_GRIDS", {"FedAvg": {"rate": [2.0**-7, 2.0**-6]}})
    train = {name: rows("logistic", 30, seed) for seed, name in enumerate("abc")}
    table = Table("heart", "logistic", train, {})
    found = tuning.chosen(table, "FedAvg")
    assert found["rate"] > 2.0**-6, "the best stood at the end, and the grid was not extended"
    assert found["settings_tried"] > 2
    assert 0.5 < found["validation"] <= 1
    for centre in train.values():
        first, held = tuning._split(centre, 0)
        both = np.concatenate([first.features, held.features])
        assert sorted(both[:, 0].tolist()) == sorted(centre.features[:, 0].tolist())
        assert abs(held.event.mean() - centre.event.mean()) < 0.1


@pytest.mark.parametrize(("best", "is_inside"), [(0.004, True), (1000.0, False)])
def test_a_rate_at_the_end_of_what_was_tried_is_called_that(
    monkeypatch: pytest.MonkeyPatch, best: float, is_inside: bool
) -> None:
    def measured(cells: Any, _jobs: int) -> list[dict[str, float]]:
        return [{"validation": -abs(math.log(cell / best))} for cell in cells]

    monkeypatch.setattr(clinical, "network", lambda _name, _method, rate, _seed, tunes: rate)
    monkeypatch.setattr(clinical, "measure_all", measured)
    found = clinical._chosen_rate("heart_mlp", clinical.FULL, 1, quick=False)
    assert found["inside"] is is_inside
    assert len(found["tried"]) == len({float(rate) for rate in found["tried"]})
    assert (found["rate"] == max(map(float, found["tried"]))) is not is_inside


def test_two_outputs_move_twice_as_far() -> None:
    heart, tcga = (linear_cell(name, Rates("yogi", 0.01, 0.1, 0.2), 42).settings for name in ("heart", "tcga"))
    assert (heart["training.learning_rate"], heart["aggregation.rate"], heart["training.proximal"]) == (
        0.005,
        0.05,
        0.4,
    )
    assert (tcga["training.learning_rate"], tcga["aggregation.rate"], tcga["training.proximal"]) == (0.01, 0.1, 0.2)
    assert linear_cell("heart", Rates("average", 0.01), 42).settings["aggregation.rate"] == 1.0


def test_a_centre_is_standardised_by_its_own_training_rows() -> None:
    import pandas as pd

    table = pd.DataFrame({"age": [1.0, 3.0, 9.0, 10.0, 30.0, 50.0], "same": [5.0, 5.0, 7.0, 1.0, 2.0, 3.0]})
    groups, trains = np.array(list("aaabbb")), np.array([True, True, False, True, True, True])
    scaled = fetched._standardised(table, groups, trains)
    assert scaled["age"].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5, 7 / 2**0.5, -1, 0, 1])
    assert scaled["same"].tolist() == pytest.approx([0, 0, 0, -1, 0, 1])


@pytest.mark.skipif(not (ROOT / "data" / "heart.csv").exists(), reason="python experiments/fetch.py --only heart,tcga")
def test_the_splits_are_flamby_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sizes = {name: {c: (len(t.train[c].features), len(t.test[c].features)) for c in t.train}
             for name in ("heart", "tcga") for t in (Table.load(name),)}  # fmt: skip
    assert sizes == {
        "heart": {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)},
        "tcga": {"northeast": (248, 63), "south": (156, 40), "west": (164, 42), "midwest": (129, 33), "europe": (129, 33),
                 "canada": (40, 11)},
    }  # fmt: skip
    assert {name: len(next(iter(Table.load(name).train.values())).features[0]) for name in sizes} == {
        "heart": 13,
        "tcga": 39,
    }


def test_a_table_shows_every_centre() -> None:
    def run(north: float, south: float) -> dict[str, Any]:
        return {"by_group": {"north": north, "south": south}, "mean_of_groups": (north + south) / 2, "final": 61.0,
                "bytes": {"up": 2000, "down": 3000}, "values": {"sent": 420, "model": 28, "shared": 28}}  # fmt: skip

    clear = {"by_seed": [70.0, 72.0], "by_group": {"north": 50.0, "south": 92.0}}
    found = {"runs": {"FedYogi, FLamby's rates": [run(70, 80), run(72, 84)]},
             "clear": {"FedYogi, FLamby's rates": clear, "pooled": clear, "local, best single centre": clear | {"centre": "south"}}}  # fmt: skip
    line = page.table("heart", found).splitlines()[2]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "FedYogi, FLamby's rates", "76.5 ± 2.1", "71.0", "82.0", "61.0", "420", "2.0", "3.0", "73.1 ± 1.3", "71.0"
    ]  # fmt: skip
