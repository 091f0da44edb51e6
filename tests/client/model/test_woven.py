"""Tables of weights that a module uses by name: recurrent layers, and matrices of one's own."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.model.rules import survey
from dictpfl.client.model.twin import Twin, decompose, make_dictionaries, merge
from dictpfl.client.model.woven import WovenWeight, table_layer
from dictpfl.client.privacy.persample import sampled
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Decomposition

# torch's word on a kernel that it lacks.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


class Owner(nn.Module):
    """Matrices that are read by name: by itself, by whoever holds it, and one in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Parameter(torch.randn(12, 8) / 3)
        self.kernel = nn.Parameter(torch.randn(8, 3, 4) / 3)
        self.shift = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.inward + self.shift


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.owner, self.out = Owner(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        # The last factor is taken past the owner's forward.
        return self.out(self.owner(x).tanh() + x @ self.owner.kernel.flatten(1).t())


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for part in x.chunk(3, dim=1):
            state = self.cell(part, state)
        return self.out(state)


class Steps(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.steps = kind(4, 8, batch_first=True, **options)
        self.out = nn.LazyLinear(2)
        self(torch.zeros(2, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.steps(x.reshape(len(x), 3, 4))[0].mean(dim=1))


MODELS: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "raw": (Holder, {"tables": ["*.inward", "*.kernel"]}, {"owner.inward", "owner.kernel"}),
    "cell": (Cells, {}, {"cell.weight_ih", "cell.weight_hh"}),
    "rnn": (lambda: Steps(nn.RNN), {}, {"steps.weight_ih_l0", "steps.weight_hh_l0"}),
    "lstm": (
        lambda: Steps(nn.LSTM, num_layers=2, bidirectional=True, proj_size=5),
        {},
        {
            f"steps.weight_{what}_l{layer}{back}"
            for what in ("ih", "hh", "hr")
            for layer in (0, 1)
            for back in ("", "_reverse")
        },
    ),
}
each = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def twin_of(kind: str, rank: int = 2) -> tuple[nn.Module, Twin, Tensor]:
    build, settings, names = MODELS[kind]
    model = build()
    twin = decompose(model, rank=rank, **settings)
    assert {name for name, role in twin.roles.items() if role == "table"} == names
    return model, twin, torch.randn(6, 12)


@each
def test_a_step_moves_tables_alone_and_merges(kind: str) -> None:
    model, twin, x = twin_of(kind)
    torch.testing.assert_close(twin.module(x), model(x))
    optimiser = torch.optim.SGD([parameter for _, _, parameter in twin.trainable()], lr=0.5)
    twin.train()
    twin.module(x).square().sum().backward()
    moved = {name: parameter.grad for name, _, parameter in twin.trainable()}
    assert all(gradient is not None and bool(gradient.any()) for gradient in moved.values()), moved
    optimiser.step()
    copied = copy.deepcopy(twin.module)  # after a pass, whose graph a recurrent layer holds on to
    twin.eval()
    after = twin.module(x)
    assert not torch.allclose(after, model(x), atol=1e-3)
    torch.testing.assert_close(copied(x), after)
    plain = merge(twin)
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    assert list(plain.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(plain(x), after, rtol=1e-4, atol=1e-5)
    for name in MODELS[kind][2]:
        assert torch.equal(dict(twin.module.named_parameters())[name], dict(model.named_parameters())[name]), "W0 stays"


@each
def test_the_gradient_of_a_table_is_that_of_the_weight_through_its_dictionary(kind: str) -> None:
    model, twin, x = twin_of(kind)
    twin.module(x).square().sum().backward()
    model(x).square().sum().backward()
    for name in MODELS[kind][2]:
        path, _, attribute = name.rpartition(".")
        layer = table_layer(twin.module.get_submodule(path), attribute)
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None
        matrix = gradient.flatten(1)
        torch.testing.assert_close(layer.table.grad, layer.dictionary.t() @ matrix, rtol=1e-4, atol=1e-6)


@each
def test_it_goes_where_the_module_goes_and_is_refreshed(kind: str) -> None:
    _, twin, x = twin_of(kind)
    twin.to(dtype=torch.float64)
    x = x.double()
    vector = np.random.default_rng(0).normal(0, 0.1, twin.layout.size)
    twin.load(vector)
    before = twin.module(x)
    assert before.dtype == torch.float64
    _, settings, names = MODELS[kind]
    dictionaries = make_dictionaries(merge(twin).float(), Decomposition(rank=2, **settings), bytes(32))
    twin.rebase({name: twin.layout.unflatten(vector)[name] for name in names}, dictionaries)
    torch.testing.assert_close(twin.module(x), before)


@pytest.mark.parametrize(
    ("patterns", "why"), [(["*.shift"], "matches vectors alone"), (["*.inwrad"], "nearest names are owner.inward")]
)
def test_a_pattern_that_names_no_matrix_is_refused(patterns: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        decompose(Holder(), tables=patterns)


def test_what_layers_cover_is_named_alike_and_what_they_hold_beside_is_refused() -> None:
    assert survey(Holder(), Decomposition(tables=["out.*"], rank=1))["out.weight"] == "table"
    odd = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    odd[0].register_parameter("beside", nn.Parameter(torch.randn(8, 8)))
    with pytest.raises(ConfigError, match=re.escape("decomposition.tables names '0.beside', which can have none")):
        decompose(odd, tables=["0.beside"])


def test_gradients_of_single_samples_are_refused_by_name() -> None:
    _, twin, _ = twin_of("cell")
    twin.train()
    with (
        pytest.raises(ModelError, match=r"weight_ih, weight_hh of GRUCell .* decomposition.dense"),
        sampled(twin.module),
    ):
        pass


def test_a_federation_that_was_founded_without_goes_on_without() -> None:
    model = Steps(nn.LSTM)
    older = Twin(model, Decomposition(rank=2, dense=["steps.*"]), {})
    assert Twin(model, Decomposition(rank=2), {}).layout == older.layout
    assert not any(isinstance(part, WovenWeight) for part in older.module.modules())
