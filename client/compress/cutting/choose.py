"""Choosing what stays: sizes from a budget, and units from scores, in the paper's order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.compress.cutting.activations import sums, unit_scores
from dictpfl.client.compress.cutting.axes import Architecture, Axis, Ints
from dictpfl.client.compress.cutting.cut import parameters_after, planned
from dictpfl.client.compress.cutting.scores import score
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import Task
from dictpfl.common.errors import ConfigError
from dictpfl.common.keeping import keep, require_admissible

ORDER = ("mamba-channel", "mamba-head", "ffn", "width", "block")
"""Kinds in the order in which they are decided: heads by the channels that stay."""
WORDS = {"mamba-head": "heads", "mamba-channel": "channels", "ffn": "ffn", "width": "width", "block": "layers"}
"""A kind's word for people, and its option's."""
SHARES = tuple(Fraction(n, 8) for n in range(8, 0, -1))
"""Shares of a size that a search tries."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Units that stay, and what they were chosen by.

    Attributes:
        kept: by axis.
        scores: by axis.
        even: axes whose scores were all equal, so that the index decided.
    """

    kept: Mapping[str, Ints]
    scores: Mapping[str, NDArray[Any]]
    even: tuple[str, ...]


def choose(
    model: nn.Module,
    axes: Mapping[str, Axis],
    counts: Mapping[str, int],
    samples: Samples,
    task: Task,
    how: str | Mapping[str, str] = "activation",
    *,
    seed: int = 0,
    total: Mapping[str, list[Any]] | None = None,
) -> Chosen:
    """Choose the units that stay.

    Args:
        model: plain.
        axes: of the model.
        counts: number of units that stay, by setting (`Axis.setting`).
        samples: to score by.
        task: gives the loss.
        how: way to score, or one for each kind (`dictpfl.client.compress.cutting.scores.HOW`).
        seed: of `random`.
        total: sums of squares to decide by, as of a tally; None: those of `samples`.

    Raises:
        ConfigError: counts that cannot be, or a setting that there is not.
    """
    unknown = counts.keys() - {axis.setting for axis in axes.values()}
    if unknown:
        raise ConfigError(f"no axis of this model is sized by {', '.join(sorted(unknown))}")
    wanted = [
        a
        for kind in ORDER
        for a in axes.values()
        if a.kind == kind and a.setting in counts and counts[a.setting] != a.units
    ]
    for axis in wanted:
        require_admissible(counts[axis.setting], axis.units, axis.groups, axis.name)
    ways = {kind: how if isinstance(how, str) else how.get(kind, "activation") for kind in ORDER}
    if total is None and any(ways[a.kind] == "activation" and a.kind != "block" for a in wanted):
        total = sums(model, [a for a in wanted if a.kind != "block"], samples)
    kept: dict[str, Ints] = {}
    scores: dict[str, NDArray[Any]] = {}
    for axis in wanted:
        channels = kept.get(axis.name.replace("mamba-head:", "mamba-channel:")) if axis.kind == "mamba-head" else None
        if ways[axis.kind] == "activation" and axis.kind != "block":
            assert total is not None  # noqa: S101 -- for the type checker
            scores[axis.name] = unit_scores(axis, total, channels)
        else:
            scores[axis.name] = score(model, axis, samples, task, ways[axis.kind], seed=seed)
        kept[axis.name] = keep(scores[axis.name], axis.group, counts[axis.setting], axis.name)
    even = tuple(name for name, values in scores.items() if (values == values[0]).all())
    return Chosen(kept, scores, even)


class Counted:
    """Number of parameters that sizes lead to, without making a model.

    It is linear in each size while the others stand, so that the corners say all of it, exactly.

    Args:
        model: plain.
        axes: of the model.
        free: settings whose sizes may change, but for blocks.
    """

    def __init__(self, model: nn.Module, axes: Mapping[str, Axis], free: Sequence[str]) -> None:
        self._units = {a.setting: a.units for a in axes.values() if a.setting in free}
        self._least = {a.setting: a.groups for a in axes.values() if a.setting in free}
        self._free = tuple(s for s in free if self._units[s] > self._least[s])
        self._corners = {}
        for corner in itertools.product((0, 1), repeat=len(self._free)):
            sizes = {s: (self._units if high else self._least)[s] for s, high in zip(self._free, corner, strict=True)}
            kept = {n: first(a, sizes[a.setting]) for n, a in axes.items() if a.setting in sizes}
            self._corners[corner] = parameters_after(model, planned(axes, kept))

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Number of parameters; settings that are not named stay."""
        total = Fraction(0)
        at = []
        for s in self._free:
            low, high = self._least[s], self._units[s]
            at.append(Fraction(sizes.get(s, high) - low, high - low))
        for corner, count in self._corners.items():
            part = Fraction(1)
            for place, high in zip(at, corner, strict=True):
                part *= place if high else 1 - place
            total += part * count
        return int(total)


def first(axis: Axis, count: int) -> Ints:
    """The first units of every group, so many in all."""
    per = count // axis.groups
    return np.concatenate([np.flatnonzero(axis.group == g)[:per] for g in range(axis.groups)])


def sizes_within(
    model: nn.Module,
    axes: Mapping[str, Axis],
    maker: Architecture,
    budget: int,
    *,
    fixed: Mapping[str, int] | None = None,
    tolerance: float = 0.03,
    most: int = 200,
    kinds: Sequence[str] = ("mamba-head", "mamba-channel", "ffn", "width"),
) -> list[dict[str, int]]:
    """Sizes that leave about so many parameters, the evenest first: those that cut all parts by the most similar shares.

    Args:
        model, axes, maker: the model, its axes and its architecture.
        budget: number of parameters.
        fixed: sizes that are given, by setting.
        tolerance: share of the budget by which a candidate may miss it.
        most: number of candidates.
        kinds: of axes that may shrink.

    Raises:
        ConfigError: none; says the smallest number that can be reached.
    """
    fixed = dict(fixed or {})
    if any(a.kind == "block" and a.setting in fixed for a in axes.values()):
        raise ConfigError(
            "layers: which blocks go is known once they are scored, and so is what a budget leaves to the others; name a budget, or "
            "numbers of units"
        )
    free = list(
        dict.fromkeys(a.setting for k in kinds for a in axes.values() if a.kind == k and a.setting not in fixed)
    )
    counted = Counted(
        model, axes, [*free, *(s for s in fixed if any(a.setting == s and a.kind != "block" for a in axes.values()))]
    )
    found: list[tuple[float, int, dict[str, int]]] = []
    least: tuple[int, dict[str, int]] | None = None
    for sizes in _grid(axes, free):
        whole = sizes | fixed
        count = counted(whole)
        if least is None or count < least[0]:
            least = count, whole
        if abs(count - budget) <= tolerance * budget and _can_be(model, maker, axes, whole):
            found.append((_unevenness(axes, sizes), abs(count - budget), whole))
    if not found:
        raise ConfigError(
            f"no sizes leave {budget} parameters within {tolerance:.0%}; the smallest that {', '.join(free)} lead to is "
            f"{least[0] if least else 'unknown'}: ask for more, or for fewer layers"
        )
    found.sort(key=lambda each: each[:2])
    return [sizes for *_, sizes in found[:most]]


def _grid(axes: Mapping[str, Axis], free: Sequence[str]) -> Iterator[dict[str, int]]:
    options = []
    for setting in free:
        axis = next(a for a in axes.values() if a.setting == setting)
        per = axis.units // axis.groups
        options.append(sorted({max(1, math.floor(per * share)) * axis.groups for share in SHARES}, reverse=True))
    for chosen in itertools.product(*options):
        yield dict(zip(free, chosen, strict=True))


def _unevenness(axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> float:
    units = {a.setting: a.units for a in axes.values()}
    shares = [math.log(sizes[s] / units[s]) for s in sizes]
    return max(shares, default=0.0) - min(shares, default=0.0)


def _can_be(model: nn.Module, maker: Architecture, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> bool:
    """Ask the configuration, on no memory."""
    import torch

    now = {a.setting: a.units for a in axes.values()}
    try:
        with torch.device("meta"):
            maker.resized(model, {s: n for s, n in sizes.items() if n != now[s]})
    except ConfigError:
        return False
    return True
