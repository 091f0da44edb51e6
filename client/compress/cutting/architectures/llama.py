"""Llama and kin (SmolLM2, Mistral, Qwen2): attention and a gated feed-forward layer in each block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes

_WRITES = ("self_attn.o_proj", "mlp.down_proj")
_KIN = ("LlamaFor", "LlamaModel", "MistralFor", "MistralModel", "Qwen2For", "Qwen2Model")


@ARCHITECTURES.register("llama")
class Llama:
    """Neurons, width and blocks. Heads of attention are not cut; their size stays when the width goes down."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return parts.of_class(model, *_KIN)

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes, at = Axes(model), parts.list_of_blocks(model)
        for number in range(len(model.get_submodule(at))):  # type: ignore[arg-type]
            mlp = f"{at}.{number}.mlp"
            axes.found.append(parts.feed_forward(axes, mlp, ["gate_proj", "up_proj"], "down_proj", "intermediate_size"))
        stream = parts.width(
            axes,
            embeddings=["*embed_tokens.weight"],
            reads=[f"*.{w}_proj.weight" for w in ("gate", "up", "q", "k", "v")] + ["*lm_head.weight", "*score.weight"],
            writes=[f"*{w}.{kind}" for w in _WRITES for kind in ("weight", "bias")],
            norms=["*layernorm.weight", "*model.norm.weight", "norm.weight"],
        )
        whole = parts.blocks(axes, at, [f"{w}.*" for w in _WRITES], "num_hidden_layers")
        return [*axes.found, stream, whole]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        facts: Any = model
        config = facts.config
        wide = parts.count_of(sizes, "hidden_size", config.hidden_size)
        parts.divisible(wide, config.num_attention_heads, "width (hidden_size) of a model with so many heads")
        changes: dict[str, Any] = {k: v for k, v in sizes.items() if isinstance(v, int)}
        stay = parts.kept_blocks(sizes, "num_hidden_layers", config.num_hidden_layers)
        if getattr(config, "layer_types", None):
            changes["layer_types"] = [config.layer_types[i] for i in stay]
        changes |= {"head_dim": parts.head_size(config), "num_hidden_layers": len(stay)}
        return parts.of_configuration(model, changes)
