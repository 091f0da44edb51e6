"""Nemotron-H: blocks of one Mamba-2 mixer, feed-forward layer or attention each (arXiv 2504.03624)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes
from dictpfl.common.errors import ConfigError


@ARCHITECTURES.register("nemotron_h")
class NemotronH:
    """Heads, channels, neurons, width and blocks. Attention is not cut: 8 % of the layers (arXiv 2504.11409)."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return parts.of_class(model, "NemotronH")

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        facts: Any = model
        if "moe" in facts.config.layers_block_type:
            raise ConfigError(
                "a Nemotron-H with experts (`moe` in layers_block_type) cannot be cut: units of experts are not known"
            )
        axes, at = Axes(model), parts.list_of_blocks(model)
        for number, kind in enumerate(facts.config.layers_block_type):
            mixer = f"{at}.{number}.mixer"
            if kind == "linear_attention":
                module = model.get_submodule(mixer)
                axes.found += parts.mamba(axes, mixer, module, "mamba_num_heads", "mamba_head_dim")
            elif kind == "mlp":
                axes.found.append(parts.feed_forward(axes, mixer, ["up_proj"], "down_proj", "intermediate_size"))
        writes = ["out_proj", "down_proj", "o_proj"]
        stream = parts.width(
            axes,
            embeddings=["*embeddings.weight"],
            reads=[f"*mixer.{w}_proj.weight" for w in ("in", "up", "q", "k", "v")]
            + ["*lm_head.weight", "*score.weight"],
            writes=[f"*mixer.{w}.{kind}" for w in writes for kind in ("weight", "bias")],
            norms=["*[0-9].norm.weight", "*norm_f.weight"],
        )
        whole = parts.blocks(axes, at, [f"mixer.{w}.*" for w in writes], "layers_block_type")
        return [*axes.found, stream, whole]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        facts: Any = model
        config, changes = facts.config, {k: v for k, v in sizes.items() if k != "layers_block_type"}
        heads = parts.count_of(sizes, "mamba_num_heads", config.mamba_num_heads)
        parts.divisible(heads, config.n_groups, "heads (mamba_num_heads)")
        kinds = list(config.layers_block_type)
        stay = parts.kept_blocks(sizes, "layers_block_type", len(kinds))
        return parts.of_configuration(model, {**changes, "layers_block_type": [kinds[i] for i in stay]})
