"""Opacus' own checks, and its own wrapper, take every table layer as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.model.covering import Layers
from dictpfl.client.model.networks.cnn import cnn
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.twin import decompose
from dictpfl.common.errors import ModelError
from dictpfl.common.law.dictionary import Dictionary

pytest.importorskip("opacus", reason="the extra `dp` is not installed")

from opacus import GradSampleModule
from opacus.utils.per_sample_gradients_utils import check_per_sample_gradients_are_correct, compute_opacus_grad_sample
from opacus.validators import ModuleValidator

from dictpfl.client.privacy.samplers import make_known

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:opacus",
    "ignore::FutureWarning:opacus",
    "ignore:Full backward hook is firing",  # a first layer's inputs need no gradient
)


class Attend(nn.Module):
    """Attention over itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


def conv1d_of_gpt2() -> nn.Module:
    return pytest.importorskip("transformers.pytorch_utils").Conv1D(5, 7)


def image(*shape: int) -> Callable[[int], Tensor]:
    return lambda count: torch.randn(count, *shape)


def tokens(count: int) -> Tensor:
    return torch.randint(0, 11, (count, 6))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "linear": (lambda: nn.Linear(7, 5), image(7)),
    "linear-4d": (lambda: nn.Linear(5, 7, bias=False), image(2, 3, 5)),
    "gpt2": (conv1d_of_gpt2, image(3, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), image(4, 9)),
    "conv1d-groups": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2, padding_mode="circular"), image(4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=1, dilation=(2, 1)), image(3, 9, 8)),
    "conv2d-groups": (lambda: nn.Conv2d(4, 6, 3, padding="same", groups=2), image(4, 5, 5)),
    "embedding": (lambda: nn.Embedding(11, 5), tokens),
    "embedding-padding": (lambda: nn.Embedding(11, 5, padding_idx=2), tokens),
    "attention": (Attend, image(4, 8)),
    "attention-no-bias": (lambda: Attend(bias=False), image(4, 8)),
}
both = pytest.mark.parametrize("transposed", [False, True])


def with_table(module: nn.Module, stack: ExitStack, *, transposed: bool) -> nn.Module:
    layer = module.attention if isinstance(module, Attend) else module
    kind = Layers().type_of(layer)
    assert kind is not None
    n, m = kind.matrix_shape(layer.get_parameter(kind.weight_name).shape)
    rows = m if transposed else n
    table_layer = kind.of(layer, Dictionary(np.random.default_rng(0).normal(size=(rows, 3)).astype("f"), transposed))
    nn.init.normal_(table_layer.table)
    stack.enter_context(kind.watched(table_layer))
    make_known(module)
    return module.train()


def hide_frozen(module: nn.Module) -> None:
    """Opacus' oracle asks every parameter for its gradient, frozen ones too: here they are mere attributes."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                part.__dict__[name] = part._parameters.pop(name)


@both
@pytest.mark.parametrize("kind", LAYERS)
def test_the_check_of_opacus(kind: str, transposed: bool) -> None:
    torch.manual_seed(0)
    build, inputs = LAYERS[kind]
    with ExitStack() as stack:
        module = with_table(build(), stack, transposed=transposed)
        held = {part: dict(part._parameters) for part in module.modules()}
        hide_frozen(module)
        assert check_per_sample_gradients_are_correct(inputs(4), module)
        for part, parameters in held.items():
            part._parameters.update(parameters)


@both
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_without_samples(kind: str, reduction: str, transposed: bool) -> None:
    build, inputs = LAYERS[kind]
    with ExitStack() as stack:
        module = with_table(build(), stack, transposed=transposed)
        found = compute_opacus_grad_sample(inputs(0), module, loss_reduction=reduction)
        shapes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
    assert any(name.endswith("table") for name in shapes)
    assert {name: each.shape for name, each in found.items()} == {n: (0, *shape) for n, shape in shapes.items()}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: mlp((12,), 3, (16, 16)), (12,)),
        (lambda: cnn((1, 8, 8), 4, width=8, depth=2, norm="group"), (1, 8, 8)),
    ],
    ids=["mlp", "cnn"],
)
def test_whole_models_pass_validation(model: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    twin = decompose(model(), rank=2)
    twin.train()
    names = list(twin.module.state_dict())
    assert ModuleValidator.validate(twin.module, strict=True) == []
    wrapped = GradSampleModule(twin.module, strict=True, loss_reduction="sum")
    wrapped(torch.randn(3, *shape)).square().sum().backward()
    trained = [parameter for _, _, parameter in twin.trainable()]
    assert all(p.grad_sample.shape == (3, *p.shape) for p in trained)  # type: ignore[attr-defined]
    for parameter in trained:
        torch.testing.assert_close(parameter.grad_sample.sum(dim=0), parameter.grad, atol=1e-4, rtol=1e-4)  # type: ignore[attr-defined]
    wrapped.remove_hooks()
    assert list(twin.module.state_dict()) == names


def test_attention_says_how_to_watch_it() -> None:
    kind = Layers().type_of(nn.MultiheadAttention(8, 2))
    assert kind is not None
    layer = kind.of(nn.MultiheadAttention(8, 2, batch_first=True), np.ones((24, 2)))
    x = torch.randn(2, 3, 8)
    wrapped = GradSampleModule(layer, strict=True)
    with pytest.raises(ModelError, match="watched"):
        wrapped(x, x, x)[0].sum().backward()
