"""Importance of units: what all institutions' samples use of heads, channels, neurons and width (arXiv 2504.11409), for `dictpfl cut`.

The sums are of integers that each sample gave by itself, so that they equal, to the last bit, those of the pooled samples; what stays is a
sort of them, and everybody derives the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import nn

from dictpfl.client.compress.cutting.activations import squares, taps_of
from dictpfl.client.compress.cutting.axes import Axis, axes_of
from dictpfl.client.training.counting import Counting, counting_form
from dictpfl.client.training.tally import TALLIES, Form, Own, Subject
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.tally import Tally

NAME = "importance"


@TALLIES.register(NAME)
class Importance:
    """Squares of mean magnitudes, by axis, one training sample at a time.

    Heads and channels of a mixer are one grid, which is sent once. Blocks are not tallied: how far outputs move without one is no sum.
    """

    def __init__(self, most: int = 8, fraction: int = 12, samples: int = 1024) -> None:
        """Choose the numbers' form, and how many samples are read.

        Args:
            most: a square is at most 2^most; larger ones are clipped, and counted as clipped.
            fraction: squares are rounded to multiples of 2^-fraction.
            samples: of an institution, the first so many.

        Raises:
            ConfigError: no samples.
        """
        if samples < 1:
            raise ConfigError(f"tallies.options.importance: samples is {samples}, expected at least 1")
        self._most, self._fraction, self._samples = most, fraction, samples

    def form(self, subject: Subject) -> Form:
        """See `dictpfl.client.training.tally.Source.form`.

        Raises:
            ConfigError: a model without known axes.
        """
        entries = [(axis.name, _shape(axis)) for axis in tallied_axes(subject.twin.merge()).values()]
        return counting_form(entries, most=self._most, fraction=self._fraction)

    def local(self, subject: Subject, own: Own, tally: Tally) -> Ints | None:
        """See `dictpfl.client.training.tally.Source.local`; None without samples, as where none belongs to a skill.

        Raises:
            ModelError: an activation that is not finite; names the axis.
        """
        if not len(own.training):
            return None
        model, counting = subject.twin.merge(), Counting(tally)
        axes = list(tallied_axes(model).values())
        # One sample at a time: in a batch, its last bits would depend on its neighbours.
        for batch in squares(model, axes, own.training.take(np.arange(min(self._samples, len(own.training)))), 1):
            counting.add(np.concatenate([part.reshape(1, -1) for axis in axes for part in batch[axis.name]], axis=1))
        return counting.total()


def tallied_axes(model: nn.Module) -> dict[str, Axis]:
    """Axes whose activations are tallied: all but blocks, and channels, which the heads' grid says too."""
    return {name: axis for name, axis in axes_of(model).items() if axis.kind not in ("block", "mamba-channel")}


class Opened(NamedTuple):
    """The institutions' tally of importance, opened.

    Attributes:
        total: sums of squares by axis, int64 (units, k) of each tap, channels included, as
            `dictpfl.client.compress.cutting.choose.choose` takes them.
        samples: that they are of.
        clipped: samples out of these of which a square was larger than the tally's bound, and counts as the bound: units may tie by it.
    """

    total: dict[str, list[Ints]]
    samples: int
    clipped: int


def totals(sums: Ints, model: nn.Module) -> Opened:
    """Take opened sums apart.

    Args:
        sums: int64, of this tally.
        model: plain, of the architecture that was tallied.

    Raises:
        ConfigError: sums of another model.
    """
    at: dict[str, Ints] = {}
    start = 0
    for name, axis in tallied_axes(model).items():
        shape = _shape(axis)
        size = int(np.prod(shape))
        if start + size > len(sums) - 2:
            break
        at[name] = sums[start : start + size].reshape(shape)
        start += size
    if start != len(sums) - 2 or len(at) != len(tallied_axes(model)):
        raise ConfigError(
            f"the tally {NAME!r} has {len(sums)} sums, which are not those of this {type(model).__name__}"
        )
    found = {name: list(parts) for name, parts in at.items()}
    for name, axis in axes_of(model).items():
        if axis.kind == "mamba-channel":
            found[name] = [np.ascontiguousarray(at[name.replace("mamba-channel:", "mamba-head:")][0].T)]
    return Opened(found, int(sums[-2]), int(sums[-1]))


def _shape(axis: Axis) -> tuple[int, ...]:
    taps = taps_of(axis)
    return (len(taps), *taps[0].index.shape)
