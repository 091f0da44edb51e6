"""Every way takes as many steps on as many samples, cuts to the shape that was asked for, and keeps what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, axes_of
from dictpfl.client.compress.narrow.phases import WAYS, Narrowed, Narrowing, count_of, kept_by_gates, narrow, one_stays
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model, Training

TASK = load_task("classification")
TRAINING = Training(batch_size=16, learning_rate=5e-3, device="cpu")


def samples() -> Samples:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 160)
    return Samples((random.normal(size=(160, 6)) + 3 * np.eye(6)[labels]).astype(np.float32), labels)


@cache
def model() -> nn.Module:
    torch.manual_seed(0)
    return mlp((6,), 3, (12, 8))


@cache
def result(way: str) -> Narrowed:
    how = Narrowing(way, keep=0.25, steps=20, recover=15, penalty=1e-2)
    return narrow(model(), axes_of(model()), samples(), TASK, TRAINING, how)


@pytest.mark.parametrize("way", WAYS)
def test_equal_steps_and_samples(way: str) -> None:
    found = result(way)
    assert (found.steps, found.samples) == (35, result("uncut").samples)
    widths = (12, 8) if way == "uncut" else (3, 2)
    assert (found.model[1].out_features, found.model[3].out_features) == widths
    assert found.model(torch.zeros(1, 6)).shape == (1, 3)


@pytest.mark.parametrize("way", ["gates", "lasso", "scratch", "uncut"])
def test_no_steps_are_none(way: str) -> None:
    found = narrow(model(), axes_of(model()), samples(), TASK, TRAINING, Narrowing(way, steps=0, recover=0))
    assert (found.steps, found.samples) == (0, 0)


@pytest.mark.parametrize("source", ["vit_tiny", "tabular", "timm:vit_tiny_patch16_224"])
def test_scratch_draws_every_weight_anew(source: str) -> None:
    """Of models, too, on which class tokens and positions hang themselves."""
    options: dict[str, object] = {"dim": 8}
    if source.startswith("timm"):
        options = {"pretrained": False, "img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 1, "init_values": 1.0}
    shape = (6,) if source == "tabular" else (3, 8, 8)
    plain = build_model(Model(source=source, options=options), shape, 3, seed=1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.fill_(7.0)
    some = Samples(np.zeros((4, *shape), dtype=np.float32), np.arange(4) % 3)
    made = [narrow(plain, axes_of_neurons(plain), some, TASK, TRAINING, Narrowing("scratch", steps=0, recover=0, seed=s))
            for s in (1, 1, 2)]  # fmt: skip
    states = [one.model.state_dict() for one in made]
    assert not any(bool((values == 7.0).any()) for values in states[0].values())
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items())
    assert any(not torch.equal(values, states[2][name]) for name, values in states[0].items())


def axes_of_neurons(net: nn.Module) -> dict[str, Axis]:
    return {name: axis for name, axis in axes_of(net).items() if axis.kind == "ffn"}


def test_the_general_model_stays() -> None:
    before = {name: value.clone() for name, value in model().state_dict().items()}
    for way in ("gates", "lasso", "ablation", "scratch"):
        narrow(model(), axes_of(model()), samples(), TASK, TRAINING, Narrowing(way, steps=3, recover=2))
    assert all(torch.equal(model().state_dict()[name], value) for name, value in before.items())


def test_recovery_follows_the_cut() -> None:
    found = result("random")
    assert not torch.equal(found.right_after[1].weight, found.model[1].weight)
    again = narrow(model(), axes_of(model()), samples(), TASK, TRAINING, Narrowing("random", steps=20, recover=0))
    assert torch.equal(again.right_after[1].weight, again.model[1].weight)
    assert torch.equal(again.right_after[1].weight, found.right_after[1].weight)


def test_gates_leave_the_body_as_it_was() -> None:
    body, first = model()[1].weight.detach(), next(iter(result("gates").kept.values()))
    assert torch.equal(result("gates").right_after[1].weight, body[torch.from_numpy(first)])


@given(
    gates=st.lists(st.floats(-4, 4), min_size=6, max_size=6),
    norms=st.lists(st.floats(0, 4, width=32), min_size=6, max_size=6),
    count=st.integers(1, 6),
)
def test_kept_by_gates_is_the_sort_in_words(gates: list[float], norms: list[float], count: int) -> None:
    axis = next(iter(axes_of(mlp((2,), 2, (6,))).values()))
    found = kept_by_gates(axis, np.array(gates), np.array(norms, dtype=np.float32), count)
    ranked = sorted(range(6), key=lambda unit: (-abs(gates[unit]) * norms[unit], unit))
    assert found.tolist() == sorted(ranked[:count])


@pytest.mark.parametrize(("share", "count"), [(0.25, 3), (0.01, 1), (5, 5), (0.99, 12)])
def test_counts(share: float, count: int) -> None:
    assert count_of(share, next(iter(axes_of(model()).values()))) == count


def test_whole_groups_stay() -> None:
    axis = next(iter(axes_of(model()).values()))
    halves = replace(axis, group=np.arange(12) % 2)
    assert (count_of(0.25, halves), count_of(0.01, halves), count_of(4, halves)) == (4, 2, 4)
    with pytest.raises(ConfigError, match="the nearest number is 4 or 6"):
        count_of(5, halves)
    assert one_stays(0.25, {"a": halves}) == one_stays(2, {"a": halves}) == ""
    assert "a unit of a; at least one unit of each group stays" in one_stays(
        0.01, {"a": halves, "b": replace(axis, units=99)}
    )


@pytest.mark.parametrize("share", [0, -1, -0.5, 2.9, math.nan, math.inf])
def test_no_share_and_no_number(share: float) -> None:
    with pytest.raises(ConfigError, match="expected a share of each layer's units above 0 and below 1"):
        count_of(share, next(iter(axes_of(model()).values())))


def test_what_cannot_be() -> None:
    axes = axes_of(model())
    with pytest.raises(ConfigError, match="cannot stay"):
        narrow(model(), axes, samples(), TASK, TRAINING, Narrowing(keep=13))
    with pytest.raises(ConfigError, match="known: gates, lasso"):
        narrow(model(), axes, samples(), TASK, TRAINING, Narrowing("luck"))
    with pytest.raises(ConfigError, match="no axis"):
        narrow(model(), {}, samples(), TASK, TRAINING, Narrowing())
