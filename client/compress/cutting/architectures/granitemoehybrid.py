"""Granite 4 hybrids without experts: Mamba-2 mixers or attention, each with a gated feed-forward layer behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.architectures.mamba2 import found_in, hybrid
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes
from dictpfl.common.errors import ConfigError

_WRITES = ("mamba.out_proj", "self_attn.o_proj", "shared_mlp.output_linear")


@ARCHITECTURES.register("granitemoehybrid")
class GraniteMoeHybrid:
    """Heads, channels, neurons, width and blocks; see `mamba2` for what heads times channels must be."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return parts.of_class(model, "GraniteMoeHybrid")

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        facts: Any = model
        if facts.config.num_local_experts:
            raise ConfigError(
                f"a Granite hybrid with {facts.config.num_local_experts} experts (num_local_experts) cannot be cut: units of "
                "experts are not known; dense ones can"
            )
        axes, at = Axes(model), parts.list_of_blocks(model)
        for number in range(len(model.get_submodule(at))):  # type: ignore[arg-type]
            block = f"{at}.{number}"
            found_in(axes, model, block)
            mlp = f"{block}.shared_mlp"
            axes.found.append(
                parts.packed_feed_forward(axes, mlp, "input_linear", "output_linear", "shared_intermediate_size")
            )
        stream = parts.width(
            axes,
            embeddings=["*embed_tokens.weight"],
            reads=[f"*.{w}.weight" for w in ("in_proj", "q_proj", "k_proj", "v_proj", "input_linear")]
            + ["*lm_head.weight", "*score.weight"],
            writes=[f"*{w}.{kind}" for w in _WRITES for kind in ("weight", "bias")],
            norms=["*layernorm.weight", "*model.norm.weight", "norm.weight"],
        )
        whole = parts.blocks(axes, at, [f"{w}.*" for w in _WRITES], "num_hidden_layers")
        return [*axes.found, stream, whole]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        facts: Any = model
        config = facts.config
        changes, stay = hybrid(config, sizes)
        return parts.of_configuration(
            model,
            {
                **changes,
                "layer_types": [config.layer_types[i] for i in stay],
            },
        )
