"""The multi-layer perceptron of this project."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes, alone, single


@ARCHITECTURES.register("mlp")
class MLP:
    """`nn.Sequential` of a flattening, linear layers and ReLU between them; each hidden layer has a size of its own."""

    def takes(self, model: nn.Module) -> bool:
        """See `Architecture.takes`."""
        parts = list(model.children())
        known = (nn.Linear, nn.ReLU, nn.Flatten)
        return type(model) is nn.Sequential and len(_linears(model)) > 1 and all(isinstance(p, known) for p in parts)

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """See `Architecture.axes`."""
        axes = Axes(model)
        for (name, layer), (following, _) in pairwise(_linears(model)):
            units = layer.out_features
            rows = single(units)
            slices = axes.slices(
                (f"{name}.weight", 0, rows), (f"{name}.bias", 0, rows), (f"{following}.weight", 1, rows)
            )
            out = (f"{following}.weight",)
            axes.found.append(Axis(f"ffn:{name}", "ffn", units, slices, alone(units), out, f"hidden:{name}"))
        return axes.found

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        parts, narrow = [], 0
        for name, part in model.named_children():
            if not isinstance(part, nn.Linear):
                parts.append(copy.deepcopy(part))
                continue
            wide = sizes.get(f"hidden:{name}", part.out_features)
            bias = part.bias is not None
            made = nn.Linear(narrow or part.in_features, int(wide), bias=bias, dtype=part.weight.dtype)  # type: ignore[arg-type]
            narrow = made.out_features
            parts.append(made)
        return nn.Sequential(*parts)


def _linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in model.named_children() if isinstance(part, nn.Linear)]
