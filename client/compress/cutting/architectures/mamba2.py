"""Mamba-2 (arXiv 2405.21060)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes


@ARCHITECTURES.register("mamba2")
class Mamba2:
    """Heads, channels, width and blocks. Heads times channels must be a whole multiple (`expand`) of the width."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return parts.of_class(model, "Mamba2")

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes, at = Axes(model), parts.list_of_blocks(model)
        for name, mixer in parts.named(model, "A_log", "conv1d"):
            axes.found += parts.mamba(axes, name, mixer, "num_heads", "head_dim")
        stream = parts.width(
            axes,
            embeddings=["*embeddings.weight"],
            reads=["*mixer.in_proj.weight", "*lm_head.weight", "*score.weight"],
            writes=["*mixer.out_proj.weight", "*mixer.out_proj.bias"],
            norms=["*[0-9].norm.weight", "*norm_f.weight"],
        )
        return [*axes.found, stream, parts.blocks(axes, at, ["mixer.out_proj.*"], "num_hidden_layers")]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        facts: Any = model
        config = facts.config
        changes = expanded(config, sizes, "num_heads", "head_dim", "expand", "n_groups")
        stay = parts.kept_blocks(sizes, "num_hidden_layers", config.num_hidden_layers)
        return parts.of_configuration(model, {**changes, "num_hidden_layers": len(stay)})


def expanded(config: Any, sizes: Sizes, heads: str, channels: str, expand: str, groups: str) -> dict[str, Any]:
    """Changes of a configuration that says the inner size three times over: heads, channels, and a whole multiple of the width.

    Args:
        config: the model's.
        sizes: new ones.
        heads, channels, expand, groups: keys of the number of heads, a head's size, the multiple, the number of groups.

    Raises:
        ConfigError: sizes that it cannot say.
    """
    changes: dict[str, Any] = {k: v for k, v in sizes.items() if isinstance(v, int)}
    count = parts.count_of(sizes, heads, getattr(config, heads))
    size = parts.count_of(sizes, channels, getattr(config, channels))
    wide = parts.count_of(sizes, "hidden_size", config.hidden_size)
    parts.divisible(count, getattr(config, groups), f"heads ({heads})")
    parts.divisible(
        count * size, wide, f"heads times channels ({heads} x {channels}) of a model that says it by `{expand}`"
    )
    return {**changes, expand: count * size // wide}


def found_in(axes: Axes, model: nn.Module, block: str) -> None:
    """Add the axes of a block's mixer, where it has one in place of attention (Bamba, Granite)."""
    mixer = getattr(model.get_submodule(block), "mamba", None)
    if isinstance(mixer, nn.Module):
        axes.found += parts.mamba(axes, f"{block}.mamba", mixer, "mamba_n_heads", "mamba_d_head")


def hybrid(config: Any, sizes: Sizes) -> tuple[dict[str, Any], Sequence[int]]:
    """Changes of a configuration whose blocks have a mixer or attention (Bamba, Granite), and the blocks that stay.

    Raises:
        ConfigError: sizes that it cannot say.
    """
    changes = expanded(config, sizes, "mamba_n_heads", "mamba_d_head", "mamba_expand", "mamba_n_groups")
    stay = parts.kept_blocks(sizes, "num_hidden_layers", config.num_hidden_layers)
    return {**changes, "head_dim": parts.head_size(config), "num_hidden_layers": len(stay)}, stay
