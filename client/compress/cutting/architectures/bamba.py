"""Bamba: Mamba-2 mixers or attention, each with a gated feed-forward layer behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.architectures.mamba2 import found_in, hybrid
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes

_WRITES = ("mamba.out_proj", "self_attn.o_proj", "feed_forward.down_proj")


@ARCHITECTURES.register("bamba")
class Bamba:
    """Heads, channels, neurons, width and blocks; see `mamba2` for what heads times channels must be."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return parts.of_class(model, "Bamba")

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes, at = Axes(model), parts.list_of_blocks(model)
        for number in range(len(model.get_submodule(at))):  # type: ignore[arg-type]
            block = f"{at}.{number}"
            found_in(axes, model, block)
            ups = ["gate_proj", "up_proj"]
            axes.found.append(parts.feed_forward(axes, f"{block}.feed_forward", ups, "down_proj", "intermediate_size"))
        stream = parts.width(
            axes,
            embeddings=["*embed_tokens.weight"],
            reads=[f"*.{w}_proj.weight" for w in ("in", "gate", "up", "q", "k", "v")]
            + ["*lm_head.weight", "*score.weight"],
            writes=[f"*{w}.{kind}" for w in _WRITES for kind in ("weight", "bias")],
            norms=["*layernorm.weight", "*norm_f.weight"],
        )
        whole = parts.blocks(axes, at, [f"{w}.*" for w in _WRITES], "num_hidden_layers")
        return [*axes.found, stream, whole]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        facts: Any = model
        config = facts.config
        changes, stay = hybrid(config, sizes)
        attention = set(config.attn_layer_indices or ())
        return parts.of_configuration(
            model,
            {
                **changes,
                "attn_layer_indices": [new for new, old in enumerate(stay) if old in attention],
            },
        )
