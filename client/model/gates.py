"""Gates: a factor for each unit in front of the weight that leads out of it, so that a frozen weight can lose units.

A table cannot silence a neuron: W0 is frozen and D T is of low rank. A gate g, 1 at the start, multiplies what the unit hands to
the out-projection; the penalty `sum_u |g_u| ||outgoing weights of u||_2` draws it to 0 where the task does not need the unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.model.base import TableLayer
from dictpfl.common.errors import ModelError
from dictpfl.common.settings import Narrow

SUFFIX = ":gate"
"""Ending of a gate's entry in the layout, behind the name of the weight that leads out of the units."""
_ATTRIBUTE = "unit_gate"


@dataclass(frozen=True)
class Gates:
    """Gates of a model, and how they are trained.

    Attributes:
        norms: Euclidean norm of each unit's outgoing weights in W0, float32, shape (units,), by name of the outgoing weight. Computed
            once, by who founds the federation: a sum's last bit differs between machines.
        penalty: factor of the penalty beside the loss.
        rate: learning rate of gates.
    """

    norms: Mapping[str, NDArray[np.float32]]
    penalty: float
    rate: float

    @classmethod
    def of(cls, norms: Mapping[str, NDArray[np.float32]], narrow: Narrow) -> Self | None:
        """Put together the gates of a federation; None where it has none."""
        return cls(norms, narrow.penalty, narrow.rate) if norms else None


def outgoing_norms(model: nn.Module, names: list[str]) -> dict[str, NDArray[np.float32]]:
    """Compute the norm of each column of linear weights, float32, shape (inputs,), by the names of these weights.

    Raises:
        ModelError: a name that is no linear layer's weight.
    """
    return {
        name: np.sqrt(np.square(_array(_owner(model, name).weight)).sum(axis=0)).astype(np.float32) for name in names
    }


class Installed:
    """The gates of one twin: parameters in front of its out-projections.

    Args:
        module: the twin's module, its tables not yet in place; changed.
        gates: which, with what penalty.

    Raises:
        ModelError: a weight that is not there, or has another number of columns.
    """

    def __init__(self, module: nn.Module, gates: Gates) -> None:
        self.gates = gates
        self._owners: dict[str, nn.Linear] = {}
        self._norms: dict[str, Tensor] = {}
        places = {name: number for number, (name, _) in enumerate(module.named_parameters(remove_duplicate=False))}
        # In the model's order: norms that were read from a file come in any.
        for name in sorted(gates.norms, key=lambda one: places.get(one, -1)):
            owner, norms = _owner(module, name), gates.norms[name]
            if norms.shape != (owner.in_features,):
                raise ModelError(
                    f"gates of {name!r}: {norms.shape} norms for {owner.in_features} units; they were made from another model"
                )
            owner.register_parameter(_ATTRIBUTE, nn.Parameter(owner.weight.detach().new_ones(owner.in_features)))
            owner.register_forward_pre_hook(_gated)
            self._owners[name + SUFFIX] = owner
            self._norms[name + SUFFIX] = torch.from_numpy(norms.copy())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the entries."""
        return iter(self._owners)

    def __contains__(self, name: object) -> bool:
        """Tell whether an entry is a gate's."""
        return name in self._owners

    def parameter(self, name: str) -> nn.Parameter:
        """Return the gates of an entry, shape (units,)."""
        return self._owners[name].get_parameter(_ATTRIBUTE)

    def penalty(self) -> Tensor:
        """Compute the penalty, its factor included, a scalar on the gates' device."""
        terms = []
        for name in self._owners:
            gate = self.parameter(name)
            terms.append((gate.abs() * self._norms[name].to(gate)).sum())
        return self.gates.penalty * torch.stack(terms).sum()


def gate_of(layer: nn.Module) -> Tensor | None:
    """Return the gates in front of a layer's inputs, shape (units,), detached; None where it has none."""
    gate = dict(layer.named_parameters(recurse=False)).get(_ATTRIBUTE)
    return None if gate is None else gate.detach()


@torch.no_grad()
def fold(module: nn.Module) -> None:
    """Multiply gates into the columns behind them and take them away, in place; in float64, so that one rounding is all.

    Tables are folded before: their layers see gated inputs too.
    """
    for part in module.modules():
        gate = gate_of(part)
        if gate is None:
            continue
        weight = part.get_parameter("weight")
        weight.copy_((weight.double() * gate.double()).to(weight.dtype))
        delattr(part, _ATTRIBUTE)
        hooks = part._forward_pre_hooks  # noqa: SLF001 -- a copied module has no handle of its hooks
        for key in [key for key, hook in hooks.items() if hook is _gated]:
            del hooks[key]


def _gated(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *rest = inputs
    return (first * module.get_parameter(_ATTRIBUTE), *rest)


def _owner(model: nn.Module, name: str) -> nn.Linear:
    path, _, attribute = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        owner = None
    plain = owner.plain_class if isinstance(owner, TableLayer) else type(owner)
    if not isinstance(owner, nn.Linear) or attribute != "weight" or plain is not nn.Linear:
        raise ModelError(
            f"gates of {name!r}: expected the weight of a plain linear layer, found {type(owner).__name__}; units that "
            "lead elsewhere have no gates"
        )
    return owner


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().to("cpu", torch.float64).numpy()
