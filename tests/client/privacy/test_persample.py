"""Gradients of single samples against autograd, one sample at a time, for each table layer and what else is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers
from dictpfl.client.model.networks.cnn import cnn
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.networks.tabular import Tabular
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.common.errors import ModelError
from dictpfl.common.law.dictionary import Dictionary

pytest.importorskip("opacus", reason="the extra `dp` is not installed")

from dictpfl.client.privacy.persample import require_private, sampled

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:opacus", "ignore::FutureWarning:opacus")
COUNT = 5


def image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(COUNT, *shape, dtype=torch.float64)


def tokens() -> Tensor:
    return torch.randint(0, 11, (COUNT, 6))


class Attend(nn.Module):
    """Attention over itself or over a longer input made of it."""

    def __init__(self, *, across: bool = False, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.across = across

    def forward(self, x: Tensor) -> Tensor:
        other = torch.cat([x, x.flip(1)], dim=1) if self.across else x
        out: Tensor = self.inner(x, other, other, need_weights=not self.across)[0]
        return out


def conv1d_of_gpt2() -> nn.Module:
    return pytest.importorskip("transformers.pytorch_utils").Conv1D(5, 7)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(7, 5), image(7)),
    "linear-no-bias-4d": (lambda: nn.Linear(5, 7, bias=False), image(2, 3, 5)),
    "linear-packed": (lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(7, 5), image(3, 7)),
    "gpt2": (conv1d_of_gpt2, image(3, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), image(4, 9)),
    "conv1d-replicate": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="replicate"), image(4, 9)),
    "conv1d-groups": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), image(4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=1, dilation=(2, 1)), image(3, 9, 8)),
    "conv2d-circular": (lambda: nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular", bias=False), image(3, 5, 5)),
    "conv2d-same": (lambda: nn.Conv2d(3, 6, 3, padding="same"), image(3, 5, 5)),
    "conv2d-groups": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), image(4, 9, 8)),
    "embedding": (lambda: nn.Embedding(11, 5), tokens),
    "embedding-padding": (lambda: nn.Embedding(11, 5, padding_idx=2), tokens),
    "attention": (Attend, image(4, 8)),
    "attention-across": (lambda: Attend(across=True), image(4, 8)),
    "attention-no-bias": (lambda: Attend(bias=False), image(4, 8)),
}


def with_table(plain: nn.Module, *, transposed: bool, core: bool) -> None:
    """Put a table into the one weight that is looked at; everything else stays trained."""
    layer = plain.inner if isinstance(plain, Attend) else plain
    name = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
    kind = Layers().type_of(layer)
    assert kind is not None
    n, m = kind.matrix_shape(layer.get_parameter(name).shape)
    rng, (rows, columns) = np.random.default_rng(0), (m, n) if transposed else (n, m)
    matrix = rng.normal(size=(rows, 3)).astype(np.float32)
    right = rng.normal(size=(3, columns)).astype(np.float32) if core else None
    made = kind.of(layer, Dictionary(matrix, transposed, right))
    with torch.no_grad():
        made.table.normal_()


def one_by_one(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The oracle: a backward pass for each sample."""
    found: dict[str, list[Tensor]] = {n: [] for n, p in module.named_parameters() if p.requires_grad}
    for sample in inputs.split(1):
        module.zero_grad(set_to_none=True)
        loss_of(module(sample)).sum().backward()
        for name, each in found.items():
            gradient = module.get_parameter(name).grad
            assert gradient is not None
            each.append(gradient.clone())
    return {name: torch.stack(each) for name, each in found.items()}


def loss_of(outputs: Tensor) -> Tensor:
    return outputs.flatten(1).square().sum(dim=1)


def by_hooks(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    module.zero_grad(set_to_none=True)
    with sampled(module) as watched:
        watched.give_out(inputs)
        loss_of(module(inputs)).sum().backward()
        watched.collect(len(inputs))
        return {n: p.grad_sample.clone() for n, p in parameters.items()}  # type: ignore[attr-defined]


def check(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    classes = [type(part) for part in module.modules()]
    expected, found = one_by_one(module, inputs), by_hooks(module, inputs)
    assert expected.keys() == found.keys()
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, msg=lambda text, name=name: f"{name}: {text}")
    assert list(module.state_dict()) == list(before), "names and their order are as before"
    assert [type(part) for part in module.modules()] == classes
    assert not any(hasattr(p, "grad_sample") for p in module.parameters())
    torch.testing.assert_close(one_by_one(module, inputs), expected)
    return found


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_table_layers(kind: str, transposed: bool, core: bool) -> None:
    torch.manual_seed(0)
    build, inputs = LAYERS[kind]
    module = build().double()
    with_table(module, transposed=transposed, core=core)
    found = check(module, inputs())
    assert any(name.endswith("table") and gradients.any() for name, gradients in found.items())


NOT_OPACUS = {"conv1d-replicate", "conv2d-circular"}
"""Opacus 1.6 takes every padding of a plain convolution for zeros."""


@pytest.mark.parametrize("kind", sorted(LAYERS.keys() - NOT_OPACUS))
def test_the_same_layers_without_a_table(kind: str) -> None:
    torch.manual_seed(0)
    build, inputs = LAYERS[kind]
    check(build().double(), inputs())


@pytest.mark.parametrize("kind", sorted(NOT_OPACUS))
def test_gradients_that_do_not_add_up_are_refused(kind: str) -> None:
    torch.manual_seed(0)
    build, inputs = LAYERS[kind]
    with pytest.raises(ModelError, match="weight: gradients of single samples"):
        by_hooks(build().double(), inputs())


@pytest.mark.parametrize("form", ["table", "core"])
@pytest.mark.parametrize("orientation", ["paper", "smaller"])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: mlp((12,), 3, (16, 16)), (12,)),
        (lambda: VitTiny((1, 8, 8), 4, dim=16, depth=2, heads=2), (1, 8, 8)),
        (lambda: Tabular((5,), 4, dim=16, depth=1, heads=2), (5,)),
        (lambda: cnn((1, 8, 8), 4, width=8, depth=2, norm="group"), (1, 8, 8)),
    ],
    ids=["mlp", "vit", "tabular", "cnn-group"],
)
def test_whole_models(model: Callable[[], nn.Module], shape: tuple[int, ...], orientation: str, form: str) -> None:
    torch.manual_seed(0)
    twin = decompose(model().double(), rank=2, orientation=orientation, form=form)
    rng = np.random.default_rng(0)
    twin.load(twin.read() + rng.normal(scale=0.05, size=twin.layout.size))
    twin.train()
    require_private(twin.module)
    check(twin.module, torch.randn(COUNT, *shape, dtype=torch.float64))


def test_a_table_that_two_layers_share() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(torch.tanh(self.first(x)))
            return out

    torch.manual_seed(0)
    twin = decompose(Tied().double(), rank=2, head="decomposed")
    assert sum(isinstance(m, TableLayer) for m in twin.module.modules()) == 2
    twin.train()
    check(twin.module, torch.randn(COUNT, 6, dtype=torch.float64))


def test_activations_in_place() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double()
    check(module, torch.randn(COUNT, 6, dtype=torch.float64))
    assert module[1].inplace


def test_batch_normalisation_is_refused_with_a_way_out() -> None:
    twin = decompose(cnn((1, 8, 8), 4, width=8, depth=2), rank=2)
    twin.train()
    with pytest.raises(ModelError, match="GroupNorm"):
        require_private(twin.module)
    frozen = decompose(cnn((1, 8, 8), 4, width=8, depth=2), rank=2, batch_norm="frozen")
    frozen.train()
    require_private(frozen.module)
    with pytest.raises(ModelError, match="in decomposition"), sampled(frozen.module):
        pass


def frozen_twin() -> Twin:
    return decompose(cnn((1, 8, 8), 4, width=8, depth=2), rank=2, batch_norm="frozen", frozen=["1.*", "5.*"])


def test_batch_normalisation_that_is_frozen_whole_is_not() -> None:
    torch.manual_seed(0)
    twin = frozen_twin()
    twin.train()
    twin.to(dtype=torch.float64)
    check(twin.module, torch.randn(COUNT, 1, 8, 8, dtype=torch.float64))


def test_a_parameter_that_hooks_do_not_see_is_refused() -> None:
    class Hidden(nn.Module):
        """Uses a layer's weight without calling the layer."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + x[:, :2] * self.layer.weight[0, 0]

    with pytest.raises(ModelError, match=r"layer\.weight: gradients"):
        by_hooks(Hidden(), torch.randn(COUNT, 6))


def test_a_free_parameter_without_a_sample_dimension_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.layer = nn.Parameter(torch.ones(6)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x * self.scale)
            return out

    with pytest.raises(ModelError, match="scale of the model"):
        by_hooks(Scaled(), torch.randn(COUNT, 6))
    module = copy.deepcopy(Scaled())
    module.scale.requires_grad_(False)
    check(module, torch.randn(COUNT, 6))
