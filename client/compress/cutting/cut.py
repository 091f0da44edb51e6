"""Cutting: the smaller model of the same class, its configuration changed, its weights those of the units that stay."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.client.compress.cutting.axes import Architecture, Axis, Ints, architecture_of
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.keeping import require_admissible

_EMPTY = -1
"""Stands for a unit of zeros."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A cut that can be made.

    Attributes:
        axes: axes of the model by name, but for those of blocks that go.
        kept: units that stay, by axis; only of axes that lose some, or change their order.
        sizes: new values of settings, for `Architecture.resized`.
        filled: for axes that were filled with units of zeros up to the size that they share with others: how many.
    """

    axes: Mapping[str, Axis]
    kept: Mapping[str, Ints]
    sizes: Mapping[str, int | tuple[int, ...]]
    filled: Mapping[str, int]

    @property
    def shrinks(self) -> bool:
        """Tell whether any axis ends smaller than it was."""
        return any(self.size(axis) < axis.units for axis in self.axes.values())

    def size(self, axis: Axis) -> int:
        """Number of units that an axis ends with, units of zeros included."""
        size = self.sizes.get(axis.setting, axis.units)
        return len(size) if isinstance(size, tuple) else size

    def units(self, axis: Axis) -> Ints:
        """Units of an axis as they will stand, `-1` for those of zeros: evenly in every group."""
        kept = self.kept.get(axis.name, np.arange(axis.units, dtype=np.int64))
        size = self.size(axis)
        if len(kept) == size:
            return kept
        rows = kept.reshape(axis.groups, -1)
        wide = np.full((axis.groups, size // axis.groups), _EMPTY, dtype=np.int64)
        wide[:, : rows.shape[1]] = rows
        return wide.reshape(-1)


def planned(axes: Mapping[str, Axis], kept: Mapping[str, Ints | Iterable[int]], *, grouped: bool = True) -> Plan:
    """Check what shall stay, and find the sizes that follow.

    Axes of one setting end with one size, that of the largest; smaller ones are filled with units of zeros, which change no
    output. A setting of which one axis is not named stays as it is.

    Args:
        axes: of the model.
        kept: units that stay, by axis, each once; in another order than the axis's, they change places.
        grouped: False: heads may go from any group, and the others read what is not theirs then. For experiments that show it.

    Raises:
        ConfigError: an axis that is unknown, or units that cannot stay.
    """
    unknown = sorted(kept.keys() - axes.keys())
    if unknown:
        raise ConfigError(f"this model has no axis {', '.join(unknown)}; its axes are {', '.join(axes)}")
    checked = {name: _checked(axes[name], units, grouped=grouped) for name, units in kept.items()}
    changed = {n: u for n, u in checked.items() if not np.array_equal(u, np.arange(axes[n].units))}
    alive = _alive(axes, changed)
    sizes: dict[str, int | tuple[int, ...]] = {}
    for axis in alive.values():
        if axis.kind == "block":
            if axis.name in changed:
                sizes[axis.setting] = tuple(int(u) for u in changed[axis.name])
            continue
        before, stay = sizes.get(axis.setting, 0), len(checked.get(axis.name, range(axis.units)))
        assert isinstance(before, int)  # noqa: S101 -- for the type checker: only blocks are named one by one
        sizes[axis.setting] = max(before, stay)
    whole = {axis.setting: axis.units for axis in alive.values()}
    plan = Plan(
        alive,
        {name: units for name, units in changed.items() if name in alive},
        {key: size for key, size in sizes.items() if size != whole[key]},
        {},
    )
    short = {n: plan.size(a) - len(checked.get(n, range(a.units))) for n, a in alive.items()}
    return replace(plan, filled={name: count for name, count in short.items() if count})


def _alive(axes: Mapping[str, Axis], changed: Mapping[str, Ints]) -> dict[str, Axis]:
    """Axes but for those of blocks that go."""
    gone: tuple[str, ...] = ()
    for axis in axes.values():
        if axis.kind == "block" and axis.name in changed:
            gone = tuple(m for i, m in enumerate(axis.members) if i not in set(changed[axis.name].tolist()))
    return {
        n: a
        for n, a in axes.items()
        if a.kind in ("block", "width") or not a.slices[0].tensor.startswith(gone or ("\0",))
    }


def _checked(axis: Axis, units: Ints | Iterable[int], *, grouped: bool) -> Ints:
    chosen = np.asarray(list(units) if not isinstance(units, np.ndarray) else units, dtype=np.int64)
    groups = axis.groups if grouped else 1
    require_admissible(len(chosen), axis.units, axis.groups, axis.name)
    if len(np.unique(chosen)) != len(chosen) or chosen.min() < 0 or chosen.max() >= axis.units:
        raise ConfigError(f"{axis.name}: expected units from 0 to {axis.units - 1}, each once, found {chosen.tolist()}")
    if axis.kind == "block" and not np.array_equal(np.sort(chosen), chosen):
        raise ConfigError(f"{axis.name}: blocks stay in their order, found {chosen.tolist()}")
    expected = np.repeat(np.arange(groups), len(chosen) // groups)
    if grouped and not np.array_equal(axis.group[chosen], expected):
        raise ConfigError(
            f"{axis.name}: {len(chosen) // groups} units must stay in each of {groups} groups, one group after the other; found "
            f"units of groups {axis.group[chosen].tolist()}"
        )
    return chosen


def cut(
    model: nn.Module,
    kept: Mapping[str, Ints | Iterable[int]],
    *,
    architecture: str = "",
    rescale: bool = False,
    grouped: bool = True,
) -> nn.Module:
    """A smaller model of the same class; the given one is left as it is.

    Args:
        model: plain, of a known architecture.
        kept: units that stay, by axis (`dictpfl.client.compress.cutting.axes.axes_of`); see `planned`.
        architecture: see `dictpfl.client.compress.cutting.axes.architecture_of`.
        rescale: multiply norms that average over the units by sqrt(all / kept), so that those that stay come out as large as they
            would with the others silent; left off, they keep the magnitude that they had.
        grouped: see `planned`.

    Raises:
        ConfigError: what cannot be cut so.
        ModelError: the model that was made is not as large as the axes say; a fault of the architecture's file.
    """
    maker = architecture_of(model, architecture)
    plan = planned({axis.name: axis for axis in maker.axes(model)}, kept, grouped=grouped)
    return carry_out(model, plan, maker, rescale=rescale)


@torch.no_grad()
def carry_out(model: nn.Module, plan: Plan, maker: Architecture, *, rescale: bool = False) -> nn.Module:
    """Make the cut that was planned; see `cut`."""
    made = maker.resized(model, plan.sizes)
    new_names = _renamed(plan)
    parameters = dict(made.named_parameters())
    carried: set[str] = set()
    for name, tensor in model.named_parameters():
        target = new_names(name)
        if target is None:
            continue
        value = _carried(name, tensor, plan, rescale=rescale)
        if target not in parameters or parameters[target].shape != value.shape:
            found = tuple(parameters[target].shape) if target in parameters else "none"
            raise ModelError(
                f"{name}: the axes of this architecture leave shape {tuple(value.shape)}, the smaller model has {found}; a fault of "
                "its architecture file"
            )
        parameters[target].copy_(value)
        carried.add(target)
    buffers = dict(made.named_buffers())
    for name, buffer in model.named_buffers():
        target = new_names(name)
        if target in buffers and buffers[target].shape == buffer.shape:
            buffers[target].copy_(buffer)
    _require_size(model, made, plan, carried)
    made.to(next(model.parameters()).device)
    for name, parameter in model.named_parameters():
        target = new_names(name)
        if target is not None:
            parameters[target].requires_grad_(parameter.requires_grad)
    return made.train(model.training)


def _carried(name: str, tensor: Tensor, plan: Plan, *, rescale: bool) -> Tensor:
    value = tensor.detach()
    for dim in range(value.ndim):
        sources = _sources(name, dim, value.shape[dim], plan)
        if sources is not None:
            stay = torch.from_numpy(np.maximum(sources, 0)).to(value.device)
            value = value.index_select(dim, stay)
            empty = torch.from_numpy(np.flatnonzero(sources == _EMPTY)).to(value.device)
            value.index_fill_(dim, empty, 0)
    factor = math.prod(_factor(axis, plan, rescale=rescale) for axis in plan.axes.values() if name in axis.norms)
    return value * factor if factor != 1.0 else value


def _factor(axis: Axis, plan: Plan, *, rescale: bool) -> float:
    """Factor on a norm that averages over an axis: units of zeros are counted by it, and so are not those that went."""
    stay = len(plan.kept.get(axis.name, range(axis.units)))
    filling = math.sqrt(stay / plan.size(axis))
    return filling * math.sqrt(axis.units / stay) if rescale else filling


def _sources(name: str, dim: int, size: int, plan: Plan) -> Ints | None:
    """Where each position of the smaller dimension comes from; -1: zeros. None: all as it was."""
    source = np.arange(size, dtype=np.int64)
    stays, touched = np.ones(size, dtype=bool), False
    for axis in plan.axes.values():
        units = plan.units(axis)
        if axis.kind == "block" or np.array_equal(units, np.arange(axis.units)):
            continue
        for part in axis.slices:
            if (part.tensor, part.dim) != (name, dim):
                continue
            touched = True
            # The first places of the axis are taken by the units that stay. Axes that share a dimension (heads, channels)
            # are a grid on it, so that one may move units after the other.
            step = np.arange(size, dtype=np.int64)
            step[part.index[: len(units)]] = np.where(units[:, None] == _EMPTY, _EMPTY, part.index[units])
            stays[part.index[len(units) :]] = False
            source = np.where(step == _EMPTY, _EMPTY, source[np.maximum(step, 0)])
    return source[stays] if touched else None


def _renamed(plan: Plan) -> _Names:
    block = next((axis for axis in plan.axes.values() if axis.kind == "block"), None)
    if block is None or block.name not in plan.kept:
        return _Names({})
    places = {int(old): new for new, old in enumerate(plan.kept[block.name])}
    members = block.members
    return _Names({members[old]: members[places[old]] if old in places else None for old in range(block.units)})


@dataclass(frozen=True)
class _Names:
    """Names of parameters in the smaller model, None for those of blocks that went."""

    prefixes: Mapping[str, str | None]

    def __call__(self, name: str) -> str | None:
        for old, new in self.prefixes.items():
            if name.startswith(old):
                return None if new is None else new + name.removeprefix(old)
        return name


def parameters_after(model: nn.Module, plan: Plan, names: Iterable[str] | None = None) -> int:
    """Number of parameters of the smaller model in closed form: of each tensor, what the axes leave of its dimensions.

    Args:
        model: plain.
        plan: the cut.
        names: of the parameters that count; None: all.
    """
    new_names, total, own = _renamed(plan), 0, dict(model.named_parameters())
    for name in own if names is None else names:
        tensor = own[name]
        if new_names(name) is None:
            continue
        sizes = list(tensor.shape)
        for dim, size in enumerate(tensor.shape):
            sources = _sources(name, dim, size, plan)
            sizes[dim] = size if sources is None else len(sources)
        total += math.prod(sizes)
    return total


def _require_size(model: nn.Module, made: nn.Module, plan: Plan, carried: set[str]) -> None:
    missing = sorted(dict(made.named_parameters()).keys() - carried)
    if missing:
        raise ModelError(f"the smaller model has parameters that the cut did not carry over: {missing}")
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, made))
    if plan.shrinks and not (after < before and after == parameters_after(model, plan)):
        raise ModelError(
            f"the cut left {after} of {before} parameters, and the axes say {parameters_after(model, plan)}; a fault of the "
            "architecture's file"
        )


def silenced(model: nn.Module, axis: Axis, units: Ints | Iterable[int]) -> nn.Module:
    """A copy of a model in which these units say nothing: their positions in `axis.out` are zero.

    The slow, obvious counterpart of a cut: it equals one with `rescale`.
    """
    quiet = copy.deepcopy(model)
    _silence(quiet, axis, units)
    return quiet


@contextmanager
def quiet(model: nn.Module, axis: Axis, units: Ints | Iterable[int]) -> Iterator[None]:
    """Silence units of the model itself for a while, as `silenced` does of a copy; afterwards it is as it was, to the last bit."""
    chosen = list(units)
    parameters = dict(model.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in _speaking(axis, chosen)}
    try:
        _silence(model, axis, chosen)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in kept.items():
                parameters[name].copy_(tensor)


def _speaking(axis: Axis, units: Iterable[int]) -> list[str]:
    """Tensors by which these units are heard."""
    if axis.kind != "block":
        return list(axis.out)
    return [name for name in axis.out if any(name.startswith(axis.members[u]) for u in units)]


@torch.no_grad()
def _silence(model: nn.Module, axis: Axis, units: Ints | Iterable[int]) -> None:
    chosen = np.asarray(list(units), dtype=np.int64)
    parameters = dict(model.named_parameters())
    for name in _speaking(axis, chosen):
        if axis.kind == "block":
            parameters[name].zero_()
        for part in (s for s in axis.slices if s.tensor == name):
            at = torch.from_numpy(part.index[chosen].reshape(-1))
            parameters[name].index_fill_(part.dim, at.to(parameters[name].device), 0)
