"""Kernels that take W0 itself: a table is trained on machines that have them, too."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model import fused
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.reached import require_tables_reached
from dictpfl.common.errors import ModelError
from dictpfl.common.law.layout import Kind
from dictpfl.common.settings import Decomposition

transformers = pytest.importorskip("transformers")

_SPLIT, _INNER = "mamba2_split_conv1d_scan_combined", "mamba_inner_fn"
_SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16}
_MAMBA2 = {"num_heads": 4, "head_dim": 8, "n_groups": 2, "state_size": 4, "num_hidden_layers": 1, "chunk_size": 4}
_HYBRID = {
    "layers_block_type": ["linear_attention"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "chunk_size": 4,
}
_BAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 4, "mamba_chunk_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nemotron_h": ("NemotronH", _SPLIT, _HYBRID | {"ssm_state_size": 4}),
    "mamba2": ("Mamba2", _SPLIT, _MAMBA2),
    "bamba": ("Bamba", _SPLIT, _BAMBA),
    "mamba": ("Mamba", _INNER, {"num_hidden_layers": 1, "state_size": 4}),
}
every = pytest.mark.parametrize("kind", MODELS)


def built(kind: str) -> nn.Module:
    name, _, options = MODELS[kind]
    config = getattr(transformers, f"{name}Config")(**_SMALL | options)
    config.use_cache = False
    model: nn.Module = getattr(transformers, f"{name}ForCausalLM")(config)
    return model


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[str]:
    """Stand in for the fused kernel as an installed one is called: zeros that hang on the weight of `out_proj` itself."""
    called = []

    def kernel_of(projected: Tensor, *given: Any, outproj_weight: Tensor | None = None, **_: Any) -> Tensor:
        called.append(kind)
        weight = given[4] if outproj_weight is None else outproj_weight
        split = outproj_weight is not None
        batch, length = (projected.shape[0], projected.shape[1]) if split else (projected.shape[0], projected.shape[2])
        return projected.new_zeros(batch, length, weight.shape[0]) + 0.0 * weight.sum() + 0.0 * projected.sum()

    module = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    monkeypatch.setattr(module, MODELS[kind][1], kernel_of)
    return called


def ids() -> Tensor:
    return torch.randint(1, 40, (2, 7), generator=torch.Generator().manual_seed(0))


def out_tables(twin: Twin) -> dict[str, nn.Parameter]:
    return {name: table for name, _, table in twin.trainable() if name.endswith("out_proj.weight")}


@every
def test_the_stand_in_is_called_where_no_table_is(kind: str, kernel: list[str]) -> None:
    """Otherwise the tests below would show nothing."""
    built(kind).train()(ids())
    assert kernel == [kind]


@every
def test_the_table_of_a_mixers_output_gets_a_gradient_in_training(kind: str, kernel: list[str]) -> None:
    twin = decompose(built(kind), rank=2)
    twin.train()
    twin.module(ids()).logits.square().sum().backward()
    tables = out_tables(twin)
    assert tables
    assert not kernel
    for name, table in tables.items():
        assert table.grad is not None, name
        assert table.grad.abs().max() > 0, name


@every
def test_a_mixers_layers_train_and_it_is_free_again_once_merged(kind: str, kernel: list[str]) -> None:
    twin = decompose(built(kind), rank=2)
    twin.train()
    (mixer,) = (m for m in twin.module.modules() if hasattr(m, "A_log"))
    assert not mixer.training
    assert all(child.training for child in mixer.children())
    twin.eval()
    twin.merge().train()(ids())
    assert kernel == [kind]


@every
def test_a_mixer_without_a_table_keeps_its_kernel(kind: str, kernel: list[str]) -> None:
    twin = decompose(built(kind), rank=2, dense=["*.mamba.*" if kind == "bamba" else "*.mixer.*"])
    assert all(entry_kind is Kind.DENSE for name, entry_kind, _ in twin.trainable() if name.endswith("out_proj.weight"))
    twin.train()
    twin.module(ids())
    assert kernel == [kind]


@pytest.mark.parametrize("kind", ["nemotron_h"])
def test_the_check_before_round_1_sees_what_training_alone_does(
    kind: str, kernel: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a mixer not known for one, the check would say so: it looks at the model as it trains, too."""
    samples = Samples(ids().numpy(), np.zeros(2, np.int64))
    require_tables_reached(built(kind), Decomposition(rank=2), samples)
    assert not kernel
    monkeypatch.setattr(fused, "mixers", lambda _: [])
    with pytest.raises(ModelError, match=r"out_proj\.weight.*decomposition\.dense"):
        require_tables_reached(built(kind), Decomposition(rank=2), samples)
