"""Narrowing inside a federation: the norms that genesis carries, and the units that all institutions keep alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, Ints, axes_of
from dictpfl.client.compress.narrow.phases import all_closed, count_of, kept_by_gates
from dictpfl.client.model.gates import SUFFIX, outgoing_norms
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.state import Floats
from dictpfl.common.settings import Narrow


def gated_axes(model: nn.Module, narrow: Narrow) -> dict[str, Axis]:
    """Find the axes that get gates, by name; none where nothing is narrowed.

    Raises:
        ConfigError: an architecture without known axes, or without units of these kinds.
    """
    if not narrow.axes:
        return {}
    found = {name: axis for name, axis in axes_of(model).items() if axis.kind in narrow.axes}
    if not found:
        raise ConfigError(
            f"narrow.axes = {list(narrow.axes)}, but {type(model).__name__} has no such units; leave narrow.axes empty"
        )
    for axis in found.values():
        count_of(narrow.keep, axis)
    return found


def gate_norms(model: nn.Module, narrow: Narrow) -> dict[str, NDArray[np.float32]]:
    """Compute what genesis carries of gates: norms of outgoing weights, by name of the outgoing weight; see `outgoing_norms`."""
    return outgoing_norms(model, [axis.out[0] for axis in gated_axes(model, narrow).values()])


def kept_units(genesis: Genesis, values: Floats, axes: Mapping[str, Axis]) -> dict[str, Ints]:
    """Choose the units that stay from shared state alone: elementwise products and a sort, the same at every institution.

    Args:
        genesis: agreement.
        values: shared vector, float64, shape (size,).
        axes: those with gates, by name (`gated_axes`).

    Returns:
        Ints of the units, int64, rising, by axis.
    """
    shared, keep = genesis.layout.unflatten(values), genesis.config.narrow.keep
    return {
        name: kept_by_gates(axis, shared[axis.out[0] + SUFFIX], genesis.gates[axis.out[0]], count_of(keep, axis))
        for name, axis in axes.items()
    }


def closed_axes(genesis: Genesis, values: Floats, axes: Mapping[str, Axis]) -> tuple[str, ...]:
    """Name the axes all of whose gates have closed in a shared state (`all_closed`); nothing is decided by it."""
    shared = genesis.layout.unflatten(values)
    return all_closed({name: shared[axis.out[0] + SUFFIX] for name, axis in axes.items()})


def left_open(genesis: Genesis, values: Floats, axes: Mapping[str, Axis], kept: Mapping[str, Ints]) -> float:
    """Measure what a cut takes though its gates still let it through: the share of all |gate| x norm of outgoing weights that goes.

    Near 0 where gates have closed; the cut then changes little. Gates close later where institutions differ, for each holds its own open.
    Rounded sums of floats, for people to read; nothing is decided by it.
    """
    shared = genesis.layout.unflatten(values)
    total = lost = 0.0
    for name, axis in axes.items():
        through = np.abs(shared[axis.out[0] + SUFFIX]) * genesis.gates[axis.out[0]].astype(np.float64)
        total += float(through.sum())
        lost += float(np.delete(through, kept[name]).sum())
    return lost / total if total else 0.0
