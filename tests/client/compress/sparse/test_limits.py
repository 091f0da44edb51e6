"""What cannot be pruned, or has been already: counted rightly, or refused with what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from torch import nn

import dictpfl
from dictpfl.client.compress.sparse.lua import learn_thresholds, ranks_of
from dictpfl.client.compress.sparse.prune import prune, samples_for_scores
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError, DataError, EngineError
from tests.support.federations import tiny

CLASSES = load_task("classification")
METHODS = ("magnitude", "wanda", "sparsegpt", "lua")


def points(count: int = 40, width: int = 10) -> Samples:
    rng = np.random.default_rng(3)
    return Samples(rng.normal(size=(count, width)).astype(np.float32), rng.integers(0, 3, count))


def half_empty() -> nn.Module:
    """Ten rows of ten: five have seven zeros each, five none; the second weight has a tenth."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[0].weight[:5, :7] = 0.0
        model[2].weight[:, 0] = 0.0
    return model


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_zeros_that_are_there_go_first_and_count(method: str, sequential: bool) -> None:
    made = prune(half_empty(), points(), CLASSES, 0.5, method, sequential=sequential, steps=5)
    assert sum(made.kept.values()) == 100
    left = sum(int((w.matrix != 0).sum()) for w in made.weights.values())
    assert left == 100  # what is said to stay is there: no zero took the place of a weight


@pytest.mark.parametrize("method", METHODS)
def test_fewer_zeros_than_there_are_cannot_be_had(method: str) -> None:
    with pytest.raises(ConfigError, match=r"45 of 200 covered entries are zero already, a share of 0\.225"):
        prune(half_empty(), points(), CLASSES, 0.2, method, steps=1)
    made = prune(half_empty(), points(), CLASSES, 0.225, method, steps=1)
    assert sum(made.kept.values()) == 155


def test_a_weight_that_is_emptier_than_its_share_keeps_what_it_has() -> None:
    model = half_empty()
    with torch.no_grad():
        model[0].weight[:, 0], model[0].weight[:, 1:] = 1.0, 0.0
    made = prune(model, points(), CLASSES, 0.6, "wanda")
    assert made.kept == {"0.weight": 10, "2.weight": 70}
    assert int((made.model[0].weight != 0).sum()) == 10  # type: ignore[index]


@pytest.mark.parametrize("method", METHODS)
def test_so_sparse_that_a_weight_would_be_empty_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=r"leaves 1 entries to 2 weights, .* expected at most 0\.99"):
        prune(half_empty(), points(), CLASSES, 0.995, method, steps=1)
    assert sum(prune(half_empty(), points(), CLASSES, 0.99, method, steps=1).kept.values()) == 2


def test_a_federation_is_not_founded_on_what_cannot_be(tmp_path: Path) -> None:
    lua = {"sparsity__method": "lua", "training__optimizer": "adamw", "model__options": {"hidden": [24, 24]}}
    for wrong, message in (
        ({"sparsity__target": 0.99999}, "expected at most"),
        ({"sparsity__temperature": 200.0}, "temperature is 200; expected ranks between 0.25 and 8"),
        ({"sparsity__temperature": 0.1}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=message):
            dictpfl.simulate(tiny(**lua, **wrong), tmp_path / "run", engine="local")
        assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("temperature", [0.2, 1.3, float("nan")])
def test_a_temperature_between_a_step_and_the_whole_row(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature is .*; expected ranks between 0\.25 and 1\.25"):
        learn_thresholds(half_empty(), points(), CLASSES, 0.5, steps=1, temperature=temperature)


def test_a_weight_of_one_column_stays_whole_and_is_said() -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with structlog.testing.capture_logs() as said:
        assert list(covered(model)) == ["2.weight"]
    assert [line["weights"] for line in said] == [["0.weight"]]
    made = prune(model, points(width=1), CLASSES, 0.5, "lua", steps=2)
    assert torch.equal(made.model[0].weight, model[0].weight)  # type: ignore[index]


def test_few_tokens_and_inputs_that_are_not_finite_are_refused() -> None:
    model = half_empty()
    weights = covered(model)
    with pytest.raises(DataError, match=r"0\.weight reads 31 tokens .* at least 32"):
        ranks_of(model, weights, points(31))
    assert ranks_of(model, weights, points(32))
    for value in (np.nan, np.inf):
        samples = points()
        samples.features[3, 2] = value
        with pytest.raises(DataError, match=r"what 0\.weight reads .* is not finite"):
            ranks_of(model, weights, samples)


def test_sorted_samples_are_divided_by_chance() -> None:
    """By their order, influence would be that of some classes on the loss of others."""
    samples = Samples(np.zeros((90, 2), dtype=np.float32), np.repeat(np.arange(9), 10))
    training, validation = samples_for_scores(samples, 1)
    assert (len(training), len(validation)) == (60, 30)
    assert len(set(training.labels.tolist())) >= 8
    assert len(set(validation.labels.tolist())) >= 8
    again = samples_for_scores(samples, 1)[0].labels.tolist()
    assert again == training.labels.tolist() != samples_for_scores(samples, 2)[0].labels.tolist()


@pytest.mark.parametrize("steps", [-1, 0])
def test_steps_that_are_none_are_refused(steps: int) -> None:
    """-1 never ended, and 0 took the steps of an epoch."""
    with pytest.raises(ConfigError, match=rf"steps is {steps}; expected"):
        learn_thresholds(half_empty(), points(), CLASSES, 0.5, steps=steps)


def test_an_institution_whose_inputs_are_not_finite_seals_nothing(tmp_path: Path) -> None:
    """Zeros would have gone out in their place, as if all columns were silent."""
    lua = {"sparsity__method": "lua", "training__optimizer": "adamw", "model__options": {"hidden": [24]}}
    run = dictpfl.simulate(tiny(**lua, data__limit=80, federation__rounds=1), tmp_path / "small", engine="local")
    assert run.summary["rounds"] == 1  # 18 samples each are few, and no reason to stop

    def loud(sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, outputs))
        with torch.no_grad():
            model[1].weight.fill_(1e38)  # what the next layer reads is infinite
        return model

    config = tiny(**lua | {"model__options": {}}, federation__rounds=1)
    with pytest.raises(EngineError, match=r"what 2\.weight reads .* is not finite"):
        dictpfl.simulate(config, tmp_path / "loud", engine="local", model=loud)
