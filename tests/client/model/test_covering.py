"""Layer types as a door: plug-ins act where a federation names them, and each type of this project is one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

import dictpfl.client
from dictpfl.client.model import base
from dictpfl.client.model.base import LAYERS, TableLayer
from dictpfl.client.model.covering import Layers
from dictpfl.client.model.layers.linear import TableLinear
from dictpfl.client.model.rules import Role, survey
from dictpfl.client.model.twin import decompose
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Decomposition

HERE = f"{__name__}:TableTripled"


class Tripled(nn.Linear):
    """A user's own layer."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        return 3 * super().forward(input)


class TableTripled(TableLayer, Tripled):
    """Its table layer: the least that one must write."""

    takes: ClassVar = (Tripled,)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        up, down = self.factors()
        return 3 * (F.linear(input, self.weight, self.bias) + F.linear(F.linear(input, down), up))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Tripled(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2))


def roles(module: nn.Module, layers: Sequence[str] = ()) -> dict[str, Role]:
    return survey(module, Decomposition(rank=2, layers=list(layers)))


def test_a_plug_in_acts_only_where_it_is_named() -> None:
    assert roles(model())["0.weight"] is Role.DENSE
    assert roles(model(), [HERE])["0.weight"] is Role.TABLE
    assert roles(model(), [HERE])["2.weight"] is Role.TABLE


def test_a_plug_in_decomposes_and_merges() -> None:
    plain, x = model(), torch.randn(5, 8)
    twin = decompose(plain, rank=2, layers=[HERE])
    assert {type(m) for m in twin.module.modules()} >= {TableTripled, TableLinear}
    torch.testing.assert_close(twin.module(x), plain(x))
    twin.load(twin.read() + np.random.default_rng(0).normal(scale=0.1, size=twin.layout.size))
    expected = twin.module(x)
    merged = twin.merge()
    assert type(merged[0]) is Tripled
    torch.testing.assert_close(merged(x), expected)


def test_gradients_of_single_samples_need_not_be_written() -> None:
    layer = TableTripled.of(Tripled(8, 6), np.random.default_rng(0).normal(size=(6, 2)))
    nn.init.normal_(layer.table)
    x, gradients = torch.randn(4, 3, 8), torch.randn(4, 3, 6)
    each = layer.sample_gradients([x], gradients)
    assert {p.shape for p in each} == {layer.table.shape, (6,)}
    for parameter, found in each.items():
        for i in range(4):
            (expected,) = torch.autograd.grad((layer(x[i : i + 1]) * gradients[i : i + 1]).sum(), [parameter])
            torch.testing.assert_close(found[i], expected)
    assert all(len(found) == 0 for found in layer.sample_gradients([x[:0]], gradients[:0]).values())


@pytest.mark.parametrize("name", [f"{__name__}:Tripled", f"{__name__}:model", f"{base.__name__}:TableLayer"])
def test_a_name_that_leads_to_no_layer_type_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"decomposition\.layers: .* is no layer type"):
        Layers([name])


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"decomposition\.layers: 'linaer' is unknown; known: .*linear"):
        Layers(["linaer"])


def test_a_plug_in_may_take_the_place_of_a_type_of_this_project() -> None:
    class Mine(TableLinear):
        takes: ClassVar = (nn.Linear,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYERS._own, "mine", Mine)
        assert Layers(["mine"]).type_of(nn.Linear(2, 2)) is Mine
        assert Layers().type_of(nn.Linear(2, 2)) is TableLinear


def test_gpt2_is_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other module knows of it, and without it everything else goes on."""
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    root = Path(next(iter(dictpfl.client.__path__))).resolve()
    knowing = [
        path.name for path in root.rglob("*.py")
        # Masked layers (`sparse`) are another family than tables, with a class of their own for each kind.
        if "sparse" not in path.parts and re.search(r"pytorch_utils|TableConv1D|layers[./]gpt2", path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert knowing == ["gpt2.py"]
    module = nn.Sequential(conv1d(32, 32), nn.Linear(32, 32), nn.Linear(32, 2))
    assert roles(module)["0.weight"] is Role.TABLE
    LAYERS.own()
    monkeypatch.delitem(LAYERS._own, "gpt2")
    assert roles(module)["0.weight"] is Role.DENSE
    assert roles(module)["1.weight"] is Role.TABLE


def test_the_dictionary_moves_with_the_module_and_is_no_state() -> None:
    layer = TableLinear.of(nn.Linear(7, 5), np.ones((5, 2)))
    assert layer.double().dictionary.dtype == layer.table.dtype == torch.float64
    assert not list(layer.buffers())
    assert set(layer.state_dict()) == {"weight", "bias", "table"}
    assert layer.to("meta").dictionary.is_meta
    assert type(layer.to_plain()) is nn.Linear
    assert not hasattr(layer, "dictionary")
