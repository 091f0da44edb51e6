"""Frozen weights of 8 and 4 bits: what a layer computes with them, what they take, and that W0 is as it was afterwards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training import quantised
from dictpfl.client.training.quantised import Quantised
from dictpfl.client.training.speed import Precision, device_name, home_of
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model, Training

pytest.importorskip("bitsandbytes", reason="the extra `quantised` is not installed")
CPU = torch.device("cpu")
bits = pytest.mark.parametrize("bits", [8, 4])
forms = pytest.mark.parametrize("frozen", ["8bit", "4bit"])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(**changes: Any) -> Training:
    return Training(**({"device": "cpu", "batch_size": 8, "steps": 12, "learning_rate": 1e-2} | changes))


def images(count: int = 48) -> Samples:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    return Samples(rng.normal(size=(count, 1, 8, 8)) + labels[:, None, None, None], labels)


def twin_of(source: str = "mlp", **options: Any) -> Twin:
    return decompose(
        build_model(Model(source=source, options=options or {"hidden": [128, 64]}), (1, 8, 8), 3, seed=1), rank=2
    )


@bits
def test_a_product_is_that_of_the_weight_as_its_bits_tell(bits: int) -> None:
    weight, bias = torch.randn(24, 64), torch.randn(24)
    inputs = torch.randn(5, 7, 64, requires_grad=True)
    few = Quantised.of(weight, bits)
    full = few.plain(torch.float32)
    assert 0 < float((full - weight).abs().max()) < {8: 0.1, 4: 0.8}[bits]
    outputs = F.linear(inputs, few, bias)
    assert torch.allclose(outputs, F.linear(inputs, full, bias), atol=1e-6)
    sent = torch.randn_like(outputs)
    (gradient,) = torch.autograd.grad(outputs, inputs, sent)
    assert torch.allclose(gradient, sent @ full, atol=1e-5)
    assert few.held / weight.numel() <= {8: 1.016, 4: 0.563}[bits]


@bits
def test_nothing_keeps_a_weight_in_full_for_the_backward_pass(bits: int) -> None:
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(sorted(tensor.shape)))
        return tensor

    few, inputs = Quantised.of(torch.randn(24, 64), bits), torch.randn(5, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        F.linear(inputs, few)
    assert (24, 64) not in kept
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        F.linear(inputs, few.plain(torch.float32))
    assert (24, 64) in kept, "the hook sees what a plain layer keeps"


@forms
def test_a_twin_learns_beside_them_and_w0_comes_back_bit_for_bit(frozen: str) -> None:
    chosen, twin, full = settings(frozen=frozen), twin_of(), twin_of()
    before = {name: tensor.clone() for name, tensor in twin.module.state_dict().items() if name.endswith("weight")}
    seen: list[type] = []
    layer = next(m for m in twin.module.modules() if hasattr(m, "dictionary"))
    layer.register_forward_pre_hook(lambda m, _: seen.append(type(m.weight)))  # type: ignore[misc]
    start = evaluate(twin.module, images(), Classification(), precision=Precision(chosen, CPU)).loss_sum
    train(twin, images(), chosen, Classification(), seed=5)
    train(full, images(), settings(), Classification(), seed=5)
    end = evaluate(twin.module, images(), Classification(), precision=Precision(chosen, CPU)).loss_sum
    assert set(seen) == {Quantised}
    assert end < 0.9 * start
    after = twin.module.state_dict()
    tables = {name for name, parameter in twin.module.named_parameters() if parameter.requires_grad}
    assert all(torch.equal(before[name], after[name]) for name in before if name not in tables)
    assert not np.array_equal(twin.read(), full.read()), "bits that change nothing were not used"


def test_autocast_narrows_their_product_too() -> None:
    twin, chosen = twin_of("vit_tiny", dim=64, heads=2, depth=1), settings(frozen="4bit", autocast="bfloat16")
    layer = next(m for m in twin.module.modules() if hasattr(m, "dictionary") and isinstance(m, nn.Linear))
    made: list[torch.dtype] = []
    layer.register_forward_hook(lambda _m, _i, output: made.append(output.dtype))
    train(twin, images(), chosen, Classification(), seed=5)
    assert set(made) == {torch.bfloat16}


def test_layers_that_share_a_weight_share_its_bits_and_get_it_back() -> None:
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    module = nn.Sequential(first, second).requires_grad_(False)
    with Precision(settings(frozen="8bit"), CPU).at_work(module):
        assert first.weight is second.weight
        assert type(first.weight) is Quantised
        assert module(torch.ones(2, 64)).shape == (2, 64)
    assert first.weight is second.weight
    assert type(first.weight) is nn.Parameter


def test_convolutions_and_embeddings_stay_as_they_are() -> None:
    module = nn.ModuleDict({"words": nn.Embedding(5, 8), "see": nn.Conv2d(1, 8, 3), "plain": nn.Linear(8, 8)})
    module.requires_grad_(False)
    with Precision(settings(frozen="4bit"), CPU).at_work(module):
        types = {name: type(part.weight) for name, part in module.items()}
    assert types == {"words": nn.Parameter, "see": nn.Parameter, "plain": Quantised}


def test_a_layer_that_looks_at_values_is_refused_by_name() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
            return input @ self.weight.T

    module = nn.Sequential(Own(8, 8)).requires_grad_(False)
    with (
        Precision(settings(frozen="4bit"), CPU).at_work(module),
        pytest.raises(ConfigError, match=r'serve linear layers alone; set training.frozen = "narrow"'),
    ):
        module(torch.ones(2, 8))
    assert torch.equal(module(torch.ones(2, 8)), torch.ones(2, 8) @ module[0].weight.T), "all is as it was"


def test_where_bitsandbytes_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised._tools.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'dictpfl\[quantised\]'"):
        Quantised.of(torch.ones(8, 8), 4)
    own = InstitutionSettings(name="berlin", frozen="4bit")
    with pytest.raises(ConfigError, match=r"4bit needs bitsandbytes.*dictpfl\[quantised\].* in here/institution.toml"):
        own.own_training(FederationConfig(), Path("here/institution.toml"))
    quantised._tools.cache_clear()


def test_it_is_named_and_waits_on_the_processor() -> None:
    assert device_name(settings(frozen="4bit"), CPU) == "cpu, float32, frozen in 4 bits"
    assert home_of(settings(frozen="8bit"), torch.device("cuda")) == CPU


@pytest.mark.parametrize(
    ("training", "reason"),
    [({"dtype": "float64"}, "narrows float32 alone"), ({"compile": True}, "cannot look into weights of few bits")],
)
@forms
def test_what_does_not_go_with_them_is_refused(frozen: str, training: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        FederationConfig.of({"training": {"frozen": frozen, **training}})
