"""Vision transformers: this project's `vit_tiny` (and `tabular`, of the same blocks), and timm's `VisionTransformer`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dictpfl.client.compress.cutting.architectures import parts
from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes
from dictpfl.client.model import hub
from dictpfl.client.model.networks.tabular import Tabular
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.common.errors import ConfigError

_TIMM = "timm.models.vision_transformer"


@ARCHITECTURES.register("vit_tiny")
class Small:
    """Neurons and blocks. The width cannot be cut: the size of heads hangs on it, and norms subtract a mean."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        return type(model) in (VitTiny, Tabular)

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes = Axes(model)
        count = len(model.get_submodule("blocks"))  # type: ignore[arg-type]
        layers = [parts.feed_forward(axes, f"blocks.{i}", ["fc1"], "fc2", "mlp_ratio") for i in range(count)]
        return [*layers, parts.blocks(axes, "blocks", ["proj.*", "fc2.*"], "depth")]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        return _narrowed(model, sizes, "")


@ARCHITECTURES.register("timm-vit")
class VisionTransformer:
    """Neurons and blocks of timm's vision transformers with plain feed-forward layers."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        kind = type(model)
        return kind.__module__ == _TIMM and kind.__name__ == "VisionTransformer"

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes, found = Axes(model), []
        for i, block in enumerate(model.get_submodule("blocks").children()):
            mlp: Any = block.mlp
            if type(mlp).__name__ != "Mlp" or not isinstance(mlp.norm, nn.Identity):
                raise ConfigError(
                    f"block {i} of this VisionTransformer has a {type(mlp).__name__}, whose neurons are not known; only plain "
                    "feed-forward layers (Mlp without a norm) can be cut"
                )
            found.append(parts.feed_forward(axes, f"blocks.{i}.mlp", ["fc1"], "fc2", "mlp_ratio"))
        return [*found, parts.blocks(axes, "blocks", ["attn.proj.*", "mlp.fc2.*"], "depth")]

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        return _narrowed(model, sizes, "mlp.")


def _narrowed(model: nn.Module, sizes: Sizes, inner: str) -> nn.Module:
    """A copy with fewer blocks, and feed-forward layers of another size: what a constructor makes of `mlp_ratio` and `depth`."""
    made: Any = copy.deepcopy(model)
    stay = parts.kept_blocks(sizes, "depth", len(made.blocks))
    made.blocks = nn.Sequential(*(made.blocks[i] for i in stay))
    wide = sizes.get("mlp_ratio")
    for block in made.blocks if wide is not None else ():
        first, second = block.get_submodule(f"{inner}fc1"), block.get_submodule(f"{inner}fc2")
        assert isinstance(wide, int)  # noqa: S101 -- for the type checker
        where: dict[str, Any] = {"dtype": first.weight.dtype, "device": first.weight.device}
        with torch.random.fork_rng(devices=[]):
            up = nn.Linear(first.in_features, wide, bias=first.bias is not None, **where)
            down = nn.Linear(wide, second.out_features, bias=second.bias is not None, **where)
        holder = block.get_submodule(inner.rstrip(".")) if inner else block
        holder.fc1, holder.fc2 = up, down
    return _recorded(made, wide)


def _recorded(made: Any, wide: int | tuple[int, ...] | None) -> nn.Module:
    """Note in timm's record what the model was made with, so that its folder loads by timm as it now is."""
    if type(made).__module__ == _TIMM:
        narrower = {"mlp_ratio": ratio(wide, made.embed_dim)} if isinstance(wide, int) else {}
        hub.record(made, depth=len(made.blocks), **narrower)
    return made  # type: ignore[no-any-return]


def ratio(hidden: int, width: int) -> float:
    """The `mlp_ratio` of which `int(width * ratio)` is `hidden`.

    Raises:
        ConfigError: no float is.
    """
    for value in (hidden / width, (hidden + 0.5) / width):
        if int(width * value) == hidden:
            return value
    raise ConfigError(f"no mlp_ratio says {hidden} neurons at width {width}")
