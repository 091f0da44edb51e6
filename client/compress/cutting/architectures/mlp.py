"""The multi-layer perceptron of this project."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dictpfl.client.compress.cutting.axes import ARCHITECTURES, Axes, Axis, Sizes, alone, single
from dictpfl.common.errors import ConfigError


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
        axes, linears = Axes(model), _linears(model)
        if len({id(layer) for _, layer in linears}) < len(linears):
            raise ConfigError(
                "a linear layer of this Sequential runs more than once, so that its neurons belong to no one place"
            )
        for (name, layer), (following, reader) in pairwise(linears):
            units = layer.out_features
            if reader.in_features != units:
                raise ConfigError(
                    f"layer {name} of this Sequential has {units} neurons, and layer {following} reads {reader.in_features} values: those of several "
                    "places, which are not known"
                )
            rows = single(units)
            slices = axes.slices(
                (f"{name}.weight", 0, rows), (f"{name}.bias", 0, rows), (f"{following}.weight", 1, rows)
            )
            out = (f"{following}.weight",)
            axes.found.append(Axis(f"ffn:{name}", "ffn", units, slices, alone(units), out, f"hidden:{name}"))
        return axes.found

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """See `Architecture.resized`."""
        parts, narrow = OrderedDict[str, nn.Module](), 0
        for name, part in _parts(model):
            if not isinstance(part, nn.Linear):
                parts[name] = copy.deepcopy(part)
                continue
            wide = sizes.get(f"hidden:{name}", part.out_features)
            bias = part.bias is not None
            made = nn.Linear(narrow or part.in_features, int(wide), bias=bias, dtype=part.weight.dtype)  # type: ignore[arg-type]
            narrow = made.out_features
            parts[name] = made
        return nn.Sequential(parts)


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Parts in the order in which they run, one that runs several times each time: `named_children` has it once."""
    return [(name, part) for name, part in model._modules.items() if part is not None]  # noqa: SLF001 -- torch has no other list of them


def _linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, part) for name, part in _parts(model) if isinstance(part, nn.Linear)]
