"""Scores and norms of groups against loops over single values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, axes_of
from dictpfl.client.compress.narrow.groups import Lasso, group_norms, tensors_by_name
from dictpfl.client.compress.narrow.scoring import SCORES, score
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError

TASK = load_task("classification")


def model() -> nn.Module:
    torch.manual_seed(1)
    return mlp((6,), 3, (8, 5)).double()


def samples(count: int = 130) -> Samples:
    random = np.random.default_rng(2)
    return Samples(random.normal(size=(count, 6)), random.integers(0, 3, count))


def axis(net: nn.Module) -> Axis:
    return next(iter(axes_of(net).values()))


def whole_loss(net: nn.Module, of: Samples) -> torch.Tensor:
    return nn.functional.cross_entropy(net(torch.from_numpy(of.features).double()), torch.from_numpy(of.labels))


def group(net: nn.Module, unit: int) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """Every single value that goes with a neuron of the first hidden layer."""
    values = [(net[1].weight, (unit, j)) for j in range(6)] + [(net[1].bias, (unit,))]
    return values + [(net[3].weight, (i, unit)) for i in range(5)]


def test_norms_of_groups() -> None:
    net = model()
    found = group_norms(axis(net), tensors_by_name(net))
    for unit in range(8):
        assert float(found[unit].detach()) == pytest.approx(
            sum(float(t.detach()[at]) ** 2 for t, at in group(net, unit)) ** 0.5
        )
    assert float(Lasso(net, [axis(net)], 0.5)().detach()) == pytest.approx(0.5 * float(found.detach().sum()))


def test_the_lasso_has_a_gradient_at_zero() -> None:
    net = model()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    Lasso(net, [axis(net)], 1.0)().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@pytest.mark.parametrize("how", ["attribution", "attribution-abs"])
def test_attribution_is_the_sum_in_words(how: str) -> None:
    net, of = model(), samples()
    found = score(net, axis(net), of, TASK, how)
    whole_loss(net, of).backward()
    for unit in range(8):
        total = 0.0
        for tensor, at in group(net, unit):
            slope = float(tensor.grad[at])  # type: ignore[index]
            total += (abs(slope) if how == "attribution-abs" else slope) * -float(tensor.detach()[at])
        assert found[unit] == pytest.approx(abs(total), rel=1e-6, abs=1e-12)


def test_ablation_zeroes_one_unit_at_a_time() -> None:
    net, of = model(), samples()
    before = copy.deepcopy(net.state_dict())
    found, base = score(net, axis(net), of, TASK, "ablation"), float(whole_loss(net, of).detach())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    for unit in range(8):
        without = copy.deepcopy(net)
        with torch.no_grad():
            without[3].weight[:, unit] = 0.0
        assert found[unit] == pytest.approx(abs(float(whole_loss(without, of).detach()) - base), rel=1e-5, abs=1e-9)


def test_activation_is_the_mean_magnitude() -> None:
    net, of = model(), samples()
    inside = net[:3](torch.from_numpy(of.features).double()).abs().mean(dim=0)
    assert np.allclose(score(net, axis(net), of, TASK, "activation"), inside.detach().numpy())


def test_activation_counts_no_padding() -> None:
    """A text's tokens say the same whatever texts share its batch."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    net = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=30, num_labels=3, **sizes)
    ).double()
    random, lengths = np.random.default_rng(0), np.array([12, 3, 5, 9])
    ids = np.full((4, 12), PADDING)
    for row, length in enumerate(lengths):
        ids[row, :length] = random.integers(1, 30, length)
    texts = Samples(ids, np.array([0, 1, 2, 0]))
    each = [score(net, axis(net), texts.take(np.array([row])), TASK, "activation") for row in range(4)]
    found = score(net, axis(net), texts, TASK, "activation")
    np.testing.assert_allclose(found, np.average(each, axis=0, weights=lengths), rtol=1e-9)


def test_random_depends_on_seed_and_axis() -> None:
    net = model()
    first, second = axes_of(net).values()
    draws = [score(net, first, samples(), TASK, "random", seed) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0][:5], score(net, second, samples(), TASK, "random", 1))


def test_an_unknown_word() -> None:
    with pytest.raises(ConfigError, match="known: attribution"):
        score(model(), axis(model()), samples(), TASK, "luck")
    assert set(SCORES) >= {"attribution", "attribution-abs", "ablation", "magnitude", "activation", "random"}
