"""Places of parameters in a model, and the layer type that covers the layer at each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.model.base import LAYERS, TableLayer
from dictpfl.client.model.woven import WovenWeight
from dictpfl.common.errors import ConfigError, ModelError

_MATRIX = 2  # dimensions


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a parameter in a model.

    Attributes:
        name: the parameter's.
        module: owns it.
        attribute: its name there.
        order: index of the module in definition order; a layer inside of `outer` counts as that one.
        outer: layer that uses this module's weight past its forward, as an attention its output projection's.
    """

    name: str
    module: nn.Module
    attribute: str
    order: int
    outer: nn.Module | None = None


class Layers:
    """Layer types that may take a table: those that a federation names, then this project's own.

    Args:
        named: `decomposition.layers`.
        woven: `decomposition.tables`: patterns of matrices that get a table though no layer type covers them.

    Raises:
        ConfigError: a name that leads to no layer type.
    """

    def __init__(self, named: Sequence[str] = (), woven: Sequence[str] = ()) -> None:
        self._woven = tuple(woven)
        self.named: tuple[type[TableLayer], ...] = tuple(_layer_type(name) for name in named)
        self._all = (*self.named, *(kind for kind in LAYERS.own().values() if kind not in self.named))
        self._by_class: Mapping[type[nn.Module] | str, type[TableLayer]] = {
            plain: kind for kind in reversed(self._all) for plain in kind.takes
        }

    def type_of(self, layer: nn.Module) -> type[TableLayer] | None:
        """The layer type that takes layers of exactly this one's class; of a table layer, its own."""
        if isinstance(layer, TableLayer):
            return type(layer)
        plain = type(layer)
        return self._by_class.get(plain) or self._by_class.get(f"{plain.__module__}.{plain.__qualname__}")

    def type_like(self, layer: nn.Module) -> type[TableLayer] | None:
        """The layer type that takes layers of this one's class, or of a class that it is derived from."""
        exact = self.type_of(layer)
        if exact is not None:
            return exact
        bases = ((kind, plain) for kind in self._all for plain in kind.takes if isinstance(plain, type))
        return next((kind for kind, plain in bases if isinstance(layer, plain)), None)

    def covering(self, place: Place, *, tied: bool = False) -> type[TableLayer] | None:
        """The layer type that computes exactly what the layer at this place does with this parameter.

        Args:
            place: of a plain model.
            tied: the parameter hangs at other places, too.
        """
        kind = self.type_of(place.module)
        if kind is None:
            return WovenWeight if self.is_woven(place) and not tied else None
        if not kind.holds(place.attribute) or not kind.covers(place.module, tied=tied):
            return None
        if issubclass(kind, WovenWeight) and (tied or place.module.get_parameter(place.attribute).ndim < _MATRIX):
            return None
        if place.outer is not None:
            outer = self.type_of(place.outer)
            if outer is None or not outer.covers(place.outer):
                return None
        return kind

    def covers_all(self, at: Sequence[Place]) -> bool:
        """Tell whether layer types cover a parameter at all places that it hangs at, and take the same matrix for it."""
        kinds = [self.covering(place, tied=len(at) > 1) for place in at]
        # One table cannot say D T of a weight to one layer, and of its transpose to another.
        return None not in kinds and len({kind.by_input for kind in kinds if kind is not None}) == 1

    def kind_at(self, place: Place) -> type[TableLayer]:
        """The layer type of a weight that is covered, at this place."""
        return self.type_of(place.module) or WovenWeight

    def is_woven(self, place: Place) -> bool:
        """Tell whether a pattern names this parameter, and it is a matrix."""
        return place.module.get_parameter(place.attribute).ndim >= _MATRIX and any(
            fnmatchcase(place.name, pattern) for pattern in self._woven
        )

    def is_watched(self, at: Sequence[Place]) -> bool:
        """Tell whether what a parameter is multiplied by can be seen at all of its places: scores of weights need that."""
        if any(isinstance(place.module, nn.Embedding) for place in at):
            return False
        kinds = [self.covering(place, tied=len(at) > 1) for place in at]
        if any(kind is not None and issubclass(kind, WovenWeight) for kind in kinds):
            return False  # recurrent layers hand their weights to kernels of their own, whose inputs nobody sees
        return all(kind is not None for kind in kinds) and len(set(kinds)) == 1

    def places(self, model: nn.Module) -> dict[str, tuple[Place, ...]]:
        """Every parameter by its first name, in the order of `named_parameters`, with all places it hangs at.

        A tied parameter has several places and is handled once, under its first name.

        Raises:
            ModelError: a module whose layers cannot be looked at, or that cannot be copied.
        """
        hanging: dict[int, list[Place]] = {}
        outer: dict[int, tuple[int, nn.Module]] = {}
        for order, (prefix, module) in enumerate(model.named_modules()):
            _require_plain(prefix, module)
            kind = self.type_like(module)
            if kind is not None:
                outer |= {id(inner): (order, module) for inner in kind.inner(module)}
            at, around = outer.get(id(module), (order, None))
            for attribute, parameter in module.named_parameters(recurse=False):
                name = f"{prefix}.{attribute}" if prefix else attribute
                hanging.setdefault(id(parameter), []).append(Place(name, module, attribute, at, around))
        return {name: tuple(hanging[id(parameter)]) for name, parameter in model.named_parameters()}

    def matrix_shape(self, at: Sequence[Place]) -> tuple[int, int]:
        """(n, m) of the covered weight that hangs at these places."""
        return self.kind_at(at[0]).matrix_shape(at[0].module.get_parameter(at[0].attribute).shape)


def _require_plain(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{name or 'the model'} was compiled by torch.jit, and its layers take no tables: expected the module that it was made from; "
            "training.compile makes training quicker"
        )
    if computed := [n for n, value in vars(module).items() if isinstance(value, Tensor) and value.grad_fn is not None]:
        raise ModelError(
            f"{', '.join(computed)} of {name or 'the model'} ({type(module).__name__}) is computed from other tensors, and cannot be copied: "
            "expected parameters. Use torch.nn.utils.parametrizations in place of torch.nn.utils.weight_norm, call prune.remove of a pruned "
            "layer, and detach what a module keeps of a pass"
        )


def statistics(model: nn.Module) -> dict[str, Place]:
    """Running means and variances by name.

    The count of batches is there only for layers without momentum, the only ones that it acts on.
    """
    places = {}
    for order, (prefix, module) in enumerate(model.named_modules()):
        if not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        counted = ("num_batches_tracked",) if module.momentum is None else ()
        for attribute in ("running_mean", "running_var", *counted):
            name = f"{prefix}.{attribute}" if prefix else attribute
            places[name] = Place(name, module, attribute, order)
    return places


def own_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of floats that a model's file holds and no running statistic is: neither shared nor kept from round to round."""
    known, kept = statistics(model), model.state_dict(keep_vars=True)
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in kept and name not in known and buffer.is_floating_point()
    }


def _layer_type(name: str) -> type[TableLayer]:
    kind = LAYERS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, TableLayer) and kind.takes):
        raise ConfigError(
            f"decomposition.layers: {name!r} is no layer type; expected a subclass of "
            "dictpfl.client.model.base.TableLayer that says which plain layers it takes (`takes`)"
        )
    return kind
