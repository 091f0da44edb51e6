"""Axes: lists of units that can be cut from a model without changing any other shape (a door: architectures)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import Registry

Kind = Literal["ffn", "mamba-head", "mamba-channel", "width", "block"]
Ints = NDArray[np.int64]
Sizes = Mapping[str, "int | tuple[int, ...]"]
"""New values of `Axis.setting`: a number of units; of blocks, those that stay, in order."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Positions of one dimension of one tensor that belong to units.

    Attributes:
        tensor: the parameter's first name in the model.
        dim: the dimension.
        index: int64 (units, k); row u holds the positions of unit u. Positions in no row always stay.
    """

    tensor: str
    dim: int
    index: Ints


@dataclass(frozen=True, eq=False)
class Axis:
    """Units that are cut alike: neurons, heads, channels, residual width, or whole blocks.

    Attributes:
        name: unique in the model: the kind, and where it stands.
        kind: of the units.
        units: their number.
        slices: what goes with a unit; none for blocks.
        group: int64 (units,); the same number of units is kept in every group.
        out: tensors whose zeroing at the unit's positions (of a block: as a whole) silences it.
        setting: key of the configuration that holds the size; axes of one setting end with one size.
        norms: weights of norms that average squares over the units, so that those that stay grow when others go.
        members: of blocks: the prefix of each one's names.
    """

    name: str
    kind: Kind
    units: int
    slices: tuple[Slice, ...]
    group: Ints
    out: tuple[str, ...]
    setting: str
    norms: tuple[str, ...] = ()
    members: tuple[str, ...] = ()

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group.max()) + 1 if self.units else 0

    def slice_of(self, tensor: str, dim: int | None = None) -> Slice:
        """The slice of a tensor, of its dimension `dim` where it is given.

        Raises:
            KeyError: this axis has none.
        """
        found = [s for s in self.slices if s.tensor == tensor and dim in (None, s.dim)]
        if not found:
            raise KeyError(f"axis {self.name} cuts nothing of {tensor}")
        return found[0]


class Architecture(Protocol):
    """A family of models: its axes, and how a smaller one is made."""

    def takes(self, model: nn.Module) -> bool:
        """Tell whether a model is of this family."""
        ...

    def axes(self, model: nn.Module) -> Sequence[Axis]:
        """Axes of a model, those of one layer after the other.

        Raises:
            ConfigError: a variant of the family that cannot be cut; says why.
        """
        ...

    def resized(self, model: nn.Module, sizes: Sizes) -> nn.Module:
        """Make a model of the same class with other sizes and any weights; settings that are not named stay.

        Raises:
            ConfigError: sizes that its configuration cannot say; names the nearest ones that it can.
        """
        ...


ARCHITECTURES: Registry[type[Architecture]] = Registry(
    "architecture",
    key="dictpfl cut --architecture",
    group="dictpfl.architectures",
    folder="dictpfl.client.compress.cutting.architectures",
)
"""Families of models that can be cut."""
REFUSED: dict[str, str] = {
    "FalconH1": "attention and Mamba of a block run side by side and are scaled by multipliers that its configuration holds by width",
    "Zamba2": "its attention blocks are shared between layers, so that no unit belongs to one place",
}
"""Families that are known not to fit, by the beginning of their class names, with the reason."""


def architecture_of(model: nn.Module, name: str = "") -> Architecture:
    """The architecture of a model.

    Args:
        model: plain.
        name: of an architecture, or `package.module:name`; empty: the one that takes this model.

    Raises:
        ConfigError: none, or one that does not take this model; lists those that are known.
    """
    kind = type(model).__name__
    for refused, reason in REFUSED.items():
        if not name and kind.startswith(refused):
            raise ConfigError(f"{kind} cannot be cut: {reason}")
    known = ARCHITECTURES.own()
    if name:
        chosen = ARCHITECTURES.load(name)()
        if not chosen.takes(model):
            raise ConfigError(f"architecture {name!r} takes no {kind}; known: {', '.join(known)}")
        return chosen
    for part in known.values():
        made = part()
        if made.takes(model):
            return made
    raise ConfigError(
        f"{kind} has no axis that is known; known architectures: {', '.join(known)}. One of your own is a class in a module, "
        "named as package.module:name (dictpfl.client.compress.cutting.axes.Architecture)"
    )


def axes_of(model: nn.Module, architecture: str = "") -> dict[str, Axis]:
    """The axes of a model by name, those of one layer after the other.

    Args:
        model: plain.
        architecture: see `architecture_of`.

    Raises:
        ConfigError: see `architecture_of`, or a variant that cannot be cut.
    """
    return {axis.name: axis for axis in architecture_of(model, architecture).axes(model)}


@dataclass
class Axes:
    """Axes as an architecture collects them, with the parameters that they name looked up in the model."""

    model: nn.Module
    found: list[Axis] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}

    def has(self, name: str) -> bool:
        """Tell whether the model has a parameter of that name; of a tied one, its first name alone counts."""
        return name in self._shapes

    def slices(self, *wanted: tuple[str, int, Ints]) -> tuple[Slice, ...]:
        """Slices of those tensors that there are: biases may be missing, and a tied weight counts once."""
        return tuple(Slice(name, dim, index) for name, dim, index in wanted if self.has(name))

    def names(self, *wanted: str) -> tuple[str, ...]:
        """Names out of these that are parameters."""
        return tuple(name for name in wanted if self.has(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._shapes[name]


def single(units: int, start: int = 0) -> Ints:
    """Positions of units of one position each: int64 (units, 1), from `start` on."""
    return np.arange(start, start + units, dtype=np.int64)[:, None]


def alone(units: int) -> Ints:
    """Groups of units that are free of each other: all in one."""
    return np.zeros(units, dtype=np.int64)
