"""Gradients over public samples, and the dictionaries that are made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.networks.cnn import cnn
from dictpfl.client.model.twin import make_dictionaries
from dictpfl.client.training.directions import gradients
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.genesis import Genesis
from dictpfl.common.settings import Decomposition
from dictpfl.deploy.simulation.founding import found
from tests.support.federations import tiny


def samples(count: int = 77) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(count, 12)).astype(np.float32), rng.integers(0, 3, count))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Dropout(0.5), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def test_gradient_of_the_mean_loss() -> None:
    """In batches as in one, without dropout; the model itself stays as it is."""
    module, task, some = model().double(), load_task("classification"), samples()
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found_ = gradients(module, some, task)
    whole = model().double().eval()
    task.loss(whole(torch.from_numpy(some.features).double()), torch.from_numpy(some.labels)).backward()
    for (name, parameter), expected in zip(found_.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), expected.grad, msg=name)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_parameter_that_the_loss_does_not_reach_has_none() -> None:
    module = nn.ModuleDict({"used": nn.Linear(12, 3), "unused": nn.Linear(4, 4)})
    module.forward = module["used"].forward  # type: ignore[method-assign,assignment]
    found_ = gradients(module, samples(), load_task("classification"))
    assert not found_.get_parameter("unused.weight").any()


@pytest.mark.parametrize("form", ["table", "core"])
def test_dictionaries_take_up_most_of_the_gradient(form: str) -> None:
    """One step along them lowers the loss by as much as rank r can; W0's own directions by less."""
    module, task, some = model(), load_task("classification"), samples()
    slopes = gradients(module, some, task)
    taken = {}
    for basis in ("weights", "gradient"):
        chosen = Decomposition(basis=basis, form=form, rank=2)  # type: ignore[arg-type]
        made = make_dictionaries(module, chosen, bytes(32), gradients=slopes)
        g = slopes.get_parameter("0.weight").detach().double().numpy()
        d = made["0.weight"].matrix.astype(float)
        left = d @ np.linalg.pinv(d) @ g
        e = made["0.weight"].right
        inside = left if e is None else left @ np.linalg.pinv(e.astype(float)) @ e.astype(float)
        taken[basis] = np.linalg.norm(inside)
        best = np.linalg.norm(np.linalg.svd(g, compute_uv=False)[:2])
    assert taken["gradient"] == pytest.approx(best, rel=1e-5)
    assert taken["weights"] < 0.9 * best


def test_ranks_and_tables_are_those_of_w0() -> None:
    """A weight that no gradient reaches gets a drawn dictionary, at the same rank and side."""
    module = cnn((1, 8, 8), 4, width=8, depth=2)
    nothing = gradients(
        module, Samples(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.int64)), load_task("classification")
    )
    with torch.no_grad():
        for parameter in nothing.parameters():
            parameter.zero_()
    chosen = Decomposition(basis="gradient", rank=2)
    drawn = make_dictionaries(module, chosen, b"s" * 32, gradients=nothing)
    own = make_dictionaries(module, Decomposition(rank=2), b"s" * 32)
    assert {n: d.matrix.shape for n, d in drawn.items()} == {n: d.matrix.shape for n, d in own.items()}
    assert all((np.abs(d.matrix) == abs(d.matrix[0, 0])).all() for d in drawn.values())


def test_what_has_no_gradient_is_refused() -> None:
    task = load_task("classification")
    with pytest.raises(ModelError, match="at least one public sample"):
        gradients(model(), samples(0), task)
    broken = model()
    with torch.no_grad():
        broken.get_parameter("0.weight").fill_(torch.inf)
    with pytest.raises(ModelError, match="not finite"):
        gradients(broken, samples(), task)
    with pytest.raises(ConfigError, match="only a simulation"):
        make_dictionaries(model(), Decomposition(basis="gradient"), bytes(32))


@pytest.mark.usefixtures("quiet")
def test_a_simulation_agrees_on_them(tmp_path: Path) -> None:
    plain = found(tiny(data__public_share=0.2), tmp_path / "plain").genesis
    made = found(tiny(data__public_share=0.2, decomposition__basis="gradient"), tmp_path / "made")
    assert made.genesis.federation != plain.federation
    assert any((d.matrix != plain.dictionaries[name].matrix).any() for name, d in made.genesis.dictionaries.items())
    assert Genesis.load(made.home(1)).federation == made.genesis.federation


def test_no_public_samples_no_gradients() -> None:
    with pytest.raises(ConfigError, match="no public samples"):
        tiny(decomposition__basis="gradient")
    tiny(decomposition__basis="gradient", decomposition__enabled=False)
