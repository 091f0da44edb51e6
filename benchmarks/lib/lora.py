"""LoRA in a federation, as others do it: `model.source = "lib.lora:model"` puts PEFT's own layers into a model.

W = W0 + B A. With both factors trained and averaged one by one (FedIT, arXiv 2305.05644) the average of the products is not the
product of the averages. With A frozen (FFA-LoRA, arXiv 2403.12313) it is: that is a random dictionary on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dictpfl.client.model.build import build_model
from dictpfl.client.model.rules import Role, survey
from dictpfl.common.settings import Decomposition, Model

FROZEN = ("*.base_layer.weight",)
"""Patterns of `decomposition.frozen` that leave W0 alone; `A` adds the factor that FFA-LoRA freezes."""
A = "*.lora_A.default.weight"


def model(
    sample_shape: Sequence[int],
    outputs: int,
    *,
    source: str,
    weights: str = "",
    options: Mapping[str, Any] | None = None,
    rank: int = 4,
) -> nn.Module:
    """The model of another source with a LoRA pair beside every weight that dictpfl would give a table.

    Args:
        sample_shape, outputs: as `dictpfl.client.model.build.build_model`.
        source, options: of that model. `weights`: its W0; empty: its own.
        rank: of the pairs; alpha is the same, so that the factor on B A is one. A is drawn (Kaiming uniform), B zero.
    """
    from peft import LoraConfig, inject_adapter_in_model

    base = build_model(
        Model(source=source, options=dict(options or {}), weights=weights), tuple(sample_shape), outputs, 0
    )
    tables = [name for name, role in survey(base, Decomposition(rank=rank)).items() if role is Role.TABLE]
    targets = [name.removesuffix(".weight") for name in tables]
    paired: nn.Module = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), base)
    # PEFT switches off whatever is no adapter, head and norms included; here `FROZEN` says what stays, as for the methods beside it.
    return paired.requires_grad_(True)
