"""Table layers against plain layers with W0 + D T, and with W0 + D C E, in both orientations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers
from dictpfl.client.model.layers.attention import TableMultiheadAttention
from dictpfl.client.model.layers.linear import TableLinear
from dictpfl.common.errors import ModelError
from dictpfl.common.law.dictionary import Dictionary

RANK = 3


def image(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*shape, dtype=torch.float64),)


def tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (4, 6)),)


def pair() -> tuple[Tensor, ...]:
    key = torch.randn(2, 7, 8, dtype=torch.float64)
    return torch.randn(2, 5, 8, dtype=torch.float64), key, key


def self_pair() -> tuple[Tensor, ...]:
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    return x, x, x


def three() -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 5, 8, dtype=torch.float64) for _ in range(3))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "linear": (lambda: nn.Linear(7, 5), image(4, 7)),
    "linear-no-bias-3d": (lambda: nn.Linear(5, 7, bias=False), image(2, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), image(2, 4, 9)),
    "conv1d-replicate": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="replicate"), image(2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=1, dilation=(2, 1)), image(2, 3, 9, 8)),
    "conv2d-circular": (lambda: nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular", bias=False), image(2, 3, 5, 5)),
    "conv2d-same": (lambda: nn.Conv2d(3, 6, 3, padding="same"), image(3, 5, 5)),
    "conv1d-groups": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), image(2, 4, 9)),
    "conv2d-groups": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), image(2, 4, 9, 8)),
    "embedding": (lambda: nn.Embedding(11, 5), tokens),
    "embedding-padding": (lambda: nn.Embedding(11, 5, padding_idx=2), tokens),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), pair),
    "attention-self": (lambda: nn.MultiheadAttention(8, 2, bias=False, batch_first=True), self_pair),
    "attention-time-first": (lambda: nn.MultiheadAttention(8, 4), three),
}


def weight_name(layer: nn.Module) -> str:
    return "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"


def make(
    kind: str, *, transposed: bool, core: bool = False
) -> tuple[nn.Module, TableLayer, Dictionary, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    build, inputs = LAYERS[kind]
    plain = build().double()
    table_type = Layers().type_of(plain)
    assert table_type is not None
    n, m = table_type.matrix_shape(plain.get_parameter(weight_name(plain)).shape)
    rng, (rows, columns) = np.random.default_rng(0), (m, n) if transposed else (n, m)
    matrix = rng.normal(size=(rows, RANK)).astype(np.float32)
    right = rng.normal(size=(RANK, columns)).astype(np.float32) if core else None
    dictionary = Dictionary(matrix, transposed, right)
    twin = table_type.of(copy.deepcopy(plain), dictionary)
    return plain, twin, dictionary, inputs()


def output(layer: nn.Module, inputs: tuple[Tensor, ...], **options: Any) -> Tensor:
    answer = layer(*inputs, **options)
    return answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_output_and_gradient_are_those_of_the_plain_layer(kind: str, transposed: bool, core: bool) -> None:
    plain, twin, dictionary, inputs = make(kind, transposed=transposed, core=core)
    assert not core or twin.table.shape == (RANK, RANK)
    torch.testing.assert_close(output(twin, inputs), output(plain, inputs))

    with torch.no_grad():
        twin.table.normal_()
    weight = plain.get_parameter(weight_name(plain))
    change = torch.from_numpy(dictionary.change(twin.table.detach().numpy())).reshape(weight.shape)
    padding = getattr(plain, "padding_idx", None)
    if padding is not None:
        change[padding] = 0.0
    with torch.no_grad():
        weight.add_(change)
    torch.testing.assert_close(twin.merged_weight(), weight.detach())
    torch.testing.assert_close(output(twin, inputs), output(plain, inputs))

    output(plain, inputs).square().sum().backward()
    output(twin, inputs).square().sum().backward()
    assert weight.grad is not None
    dense = weight.grad.reshape(twin.matrix_shape(weight.shape))
    d = torch.from_numpy(dictionary.matrix).double()
    of_table = d.T @ (dense.T if transposed else dense)
    of_core = of_table if dictionary.right is None else of_table @ torch.from_numpy(dictionary.right).double().T
    torch.testing.assert_close(twin.table.grad, of_core)
    assert twin.base.grad is None
    assert not twin.base.requires_grad


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_no_tensor_of_the_weights_size_is_made_for_the_gradient(transposed: bool, core: bool) -> None:
    n, m = 40, 50
    rows, columns = (m, n) if transposed else (n, m)
    right = np.ones((2, columns), np.float32) if core else None
    layer = TableLinear.of(nn.Linear(m, n), Dictionary(np.ones((rows, 2), np.float32), transposed, right))
    made: list[tuple[int, ...]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            views = ("aten::t", "aten::transpose", "aten::detach")
            if isinstance(out, Tensor) and not func._schema.name.startswith(views):
                made.append(tuple(out.shape))
            return out

    x = torch.randn(3, m, requires_grad=True)
    with Watch():
        layer(x).sum().backward()
    assert x.grad is not None
    assert made
    assert max(int(np.prod(s)) for s in made) < n * m


def masks() -> dict[str, dict[str, Any]]:
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    return {
        "causal": {"attn_mask": causal, "is_causal": True},
        "causal-fast": {"attn_mask": causal, "is_causal": True, "need_weights": False},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding, "need_weights": False},
        "per-head": {"attn_mask": torch.randn(4, 5, 5, dtype=torch.float64), "average_attn_weights": False},
        "float": {"attn_mask": torch.randn(5, 5, dtype=torch.float64), "key_padding_mask": padding.double() * -9},
    }


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("case", masks())
def test_attention_with_masks(case: str, train: bool) -> None:
    plain, twin, _, inputs = make("attention-self", transposed=False)
    options = masks()[case]
    expected, weights = plain.train(train)(*inputs, **options)
    found, found_weights = twin.train(train)(*inputs, **options)
    torch.testing.assert_close(found, expected)
    assert (weights is None) == (found_weights is None)
    if weights is not None:
        torch.testing.assert_close(found_weights, weights)


def test_unbatched_attention() -> None:
    plain, twin, _, _ = make("attention", transposed=False)
    x = torch.randn(5, 8, dtype=torch.float64)
    for expected, found in zip(plain(x, x, x), twin(x, x, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_causal_hint_without_a_mask_is_refused() -> None:
    _, twin, _, inputs = make("attention", transposed=False)
    with pytest.raises(ModelError, match="attn_mask"):
        twin(*inputs, is_causal=True)


def test_attention_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    twin = TableMultiheadAttention.of(layer, np.ones((24, 2), np.float32))
    x = torch.randn(2, 5, 8)
    for weights in (True, False):
        twin.train()
        assert not torch.equal(twin(x, x, x, need_weights=weights)[0], twin(x, x, x, need_weights=weights)[0])
        twin.eval()
        torch.testing.assert_close(twin(x, x, x, need_weights=weights)[0], twin(x, x, x, need_weights=weights)[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_padding_row_never_moves(transposed: bool) -> None:
    plain, twin, _, _ = make("embedding-padding", transposed=transposed)
    with torch.no_grad():
        twin.table.normal_()
    padding = torch.tensor([2])
    torch.testing.assert_close(twin(padding), plain(padding))
    twin(padding).sum().backward()
    assert twin.table.grad is not None
    assert not twin.table.grad.any()


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_rebase_keeps_the_output_and_zeroes_the_table(kind: str, core: bool) -> None:
    _, twin, dictionary, inputs = make(kind, transposed=False, core=core)
    with torch.no_grad():
        twin.table.normal_()
    expected = output(twin, inputs)
    twin.rebase(replace(dictionary, matrix=dictionary.matrix[:, ::-1].copy()))
    torch.testing.assert_close(output(twin, inputs), expected)
    assert not twin.table.any()
    assert twin.dictionary[0, 0] == dictionary.matrix[0, -1]


@pytest.mark.parametrize("core", [False, True])
def test_class_and_state_come_back(core: bool) -> None:
    plain, twin, _, _ = make("conv2d", transposed=False, core=core)
    assert isinstance(twin, nn.Conv2d)
    assert set(twin.state_dict()) == {"weight", "bias", "table"}
    assert type(twin.to_plain()) is nn.Conv2d
    assert set(twin.state_dict()) == set(plain.state_dict())
    assert not {"right", "dictionary", "is_transposed"} & set(vars(twin))


def test_both_dictionaries_move_with_the_module() -> None:
    _, twin, _, _ = make("linear", transposed=False, core=True)
    twin.float()
    assert twin.right is not None
    assert {twin.right.dtype, twin.dictionary.dtype, twin.table.dtype} == {torch.float32}


def test_a_change_is_summed_in_float64() -> None:
    """Of a core in float32, too: C E is not rounded on its way to what is merged."""
    _, twin, dictionary, _ = make("linear", transposed=False, core=True)
    twin.float()
    with torch.no_grad():
        twin.table.normal_()
    expected = dictionary.change(twin.table.detach().double().numpy())
    np.testing.assert_allclose(twin.change().numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("matrix", [np.ones((4, 2)), np.ones(5), np.full((5, 2), np.nan)])
def test_dictionaries_that_do_not_fit_are_refused(matrix: np.ndarray) -> None:
    layer = nn.Linear(7, 5)
    with pytest.raises(ModelError, match="expected a finite matrix with 5 rows"):
        TableLinear.of(layer, matrix)
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("right", [np.ones((2, 6)), np.ones((3, 7)), np.ones(7), np.full((2, 7), np.nan)])
def test_right_dictionaries_that_do_not_fit_are_refused(right: np.ndarray) -> None:
    layer = nn.Linear(7, 5)
    with pytest.raises(ModelError, match=r"right dictionary .* expected a finite matrix of shape \(2, 7\)"):
        TableLinear.of(layer, Dictionary(np.ones((5, 2), np.float32), False, right.astype(np.float32)))
    assert type(layer) is nn.Linear


def test_torch_dictionaries_are_taken() -> None:
    layer = TableLinear.of(nn.Linear(7, 5), torch.ones(5, 2))
    assert layer.table.shape == (2, 7)
