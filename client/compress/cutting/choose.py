"""Choosing what stays: sizes from a budget, and units from scores, in the paper's order."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.compress.cutting.activations import sums, unit_scores
from dictpfl.client.compress.cutting.axes import Architecture, Axis, Ints
from dictpfl.client.compress.cutting.cut import parameters_after, planned
from dictpfl.client.compress.cutting.scores import AGAIN, blocks_that_stay, score
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
POINTS = 2**18
"""Combinations of sizes up to which all are tried."""
_RUNS = 5
"""Runs of neighbouring settings that go together where there are more."""
_ASKED, _NAMED = 100, 6


@dataclass(frozen=True, eq=False)
class Chosen:
    """Units that stay, and what they were chosen by.

    Attributes:
        kept: by axis.
        scores: by axis.
        even: axes whose scores were all equal, so that the index decided.
        ways: how each axis was scored (`dictpfl.client.compress.cutting.scores.HOW`).
    """

    kept: Mapping[str, Ints]
    scores: Mapping[str, NDArray[Any]]
    even: tuple[str, ...]
    ways: Mapping[str, str]


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
    """Choose the units that stay; blocks one after the other (`dictpfl.client.compress.cutting.scores.blocks_that_stay`).

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
        way, count = ways[axis.kind], counts[axis.setting]
        if axis.kind == "block" and way in AGAIN:
            scores[axis.name], kept[axis.name] = blocks_that_stay(model, axis, samples, task, way, count)
            continue
        if way == "activation":
            assert total is not None  # noqa: S101 -- for the type checker
            scores[axis.name] = unit_scores(axis, total, channels)
        else:
            scores[axis.name] = score(model, axis, samples, task, way, seed=seed)
        kept[axis.name] = keep(scores[axis.name], axis.group, count, axis.name)
    even = tuple(name for name, values in scores.items() if (values == values[0]).all())
    return Chosen(kept, scores, even, {axis.name: ways[axis.kind] for axis in wanted})


class Counted:
    """Number of parameters that sizes lead to, without making a model.

    A tensor's is linear in each size that it hangs on while the others stand, so that the corners of these few say all of it, exactly,
    however many sizes the model has.

    Args:
        model: plain.
        axes: of the model.
        free: settings whose sizes may change, but for blocks.
    """

    def __init__(self, model: nn.Module, axes: Mapping[str, Axis], free: Sequence[str]) -> None:
        self._units = {a.setting: a.units for a in axes.values() if a.setting in free}
        self._least = {a.setting: a.groups for a in axes.values() if a.setting in free}
        moving = [s for s in free if self._units[s] > self._least[s]]
        touched: dict[str, set[str]] = {}
        for axis in axes.values():
            for part in axis.slices if axis.setting in moving else ():
                touched.setdefault(part.tensor, set()).add(axis.setting)
        alike: dict[tuple[str, ...], list[str]] = {}
        self._rest = 0
        for name, tensor in model.named_parameters():
            if name in touched:
                alike.setdefault(tuple(s for s in moving if s in touched[name]), []).append(name)
            else:
                self._rest += tensor.numel()
        self._parts = [(on, self._corners(model, axes, on, names)) for on, names in alike.items()]
        self._known: list[dict[tuple[int, ...], int | Fraction]] = [{} for _ in self._parts]

    def _corners(
        self, model: nn.Module, axes: Mapping[str, Axis], on: Sequence[str], names: Sequence[str]
    ) -> dict[tuple[int, ...], int]:
        """Parameters of some tensors where each of their sizes is the least or the whole."""
        found = {}
        for corner in itertools.product((0, 1), repeat=len(on)):
            sizes = {s: (self._units if high else self._least)[s] for s, high in zip(on, corner, strict=True)}
            kept = {n: first(a, sizes[a.setting]) for n, a in axes.items() if a.setting in sizes}
            found[corner] = parameters_after(model, planned(axes, kept), names)
        return found

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Number of parameters; settings that are not named stay."""
        total: int | Fraction = self._rest
        for (on, corners), known in zip(self._parts, self._known, strict=True):
            here = tuple(sizes.get(s, self._units[s]) for s in on)
            if here not in known:
                known[here] = self._between(on, corners, here)
            total += known[here]
        return int(total)

    def _between(
        self, on: Sequence[str], corners: Mapping[tuple[int, ...], int], here: Sequence[int]
    ) -> int | Fraction:
        lows, highs = ([each[s] for s in on] for each in (self._least, self._units))
        at = [Fraction(n - low, high - low) for n, low, high in zip(here, lows, highs, strict=True)]
        total = Fraction(0)
        for corner, count in corners.items():
            total += count * math.prod(place if high else 1 - place for place, high in zip(at, corner, strict=True))
        return int(total) if total.denominator == 1 else total


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

    Each setting has a grid of eighths, and all combinations are tried while there are at most 2^18 of them: six settings. Where there
    are more (an `mlp` of many hidden layers has one each), neighbouring settings go together, in five runs of one share each; and from
    each eighth to the next, one setting after the other takes the step, from the first on and from the last. The model as it is counts
    only where the budget is all of it.

    Args:
        model, axes, maker: the model, its axes and its architecture.
        budget: number of parameters.
        fixed: sizes that are given, by setting.
        tolerance: share of the budget by which a candidate may miss it.
        most: number of candidates.
        kinds: of axes that may shrink.

    Raises:
        ConfigError: none; says the nearest numbers that can be reached, and by which sizes.
    """
    fixed = dict(fixed or {})
    if any(a.kind == "block" and a.setting in fixed for a in axes.values()):
        raise ConfigError(
            "layers: which blocks go is known once they are scored, and so is what a budget leaves to the others; name a budget, or "
            "numbers of units"
        )
    for axis in axes.values():
        if axis.setting in fixed:
            require_admissible(fixed[axis.setting], axis.units, axis.groups, axis.name)
    free = list(
        dict.fromkeys(a.setting for k in kinds for a in axes.values() if a.kind == k and a.setting not in fixed)
    )
    units = {a.setting: a.units for a in axes.values()}
    counted = Counted(model, axes, [*free, *(s for s in fixed if s in units)])
    whole = counted({})

    def candidates() -> Iterator[tuple[int, dict[str, int]]]:
        for sizes in _grid(axes, free):
            chosen = sizes | fixed
            if budget >= whole or any(units.get(s) != n for s, n in chosen.items()):
                yield counted(chosen), chosen

    fitting = [
        (_unevenness(axes, {s: n for s, n in sizes.items() if s not in fixed}), abs(count - budget), sizes)
        for count, sizes in candidates()
        if abs(count - budget) <= tolerance * budget
    ]
    fitting.sort(key=lambda each: each[:2])
    found = list(itertools.islice((s for *_, s in fitting if _can_be(model, maker, axes, s)), most))
    if not found:
        near = _nearest(candidates(), budget, lambda sizes: _can_be(model, maker, axes, sizes))
        raise ConfigError(f"no sizes leave {budget} parameters within {tolerance:.0%}; {_told(near, axes)}")
    return found


def _nearest(
    candidates: Iterator[tuple[int, dict[str, int]]], budget: int, can_be: Callable[[dict[str, int]], bool]
) -> list[tuple[bool, int, dict[str, int]]]:
    """The candidate below a budget, and the one above it, that are nearest to it and can be: whether it is below, its count and sizes."""
    sides: tuple[list[tuple[int, dict[str, int]]], ...] = ([], [])
    for count, sizes in candidates:
        sides[count > budget].append((count, sizes))
    found = []
    for side, members in zip((True, False), sides, strict=True):
        # Each is asked of a configuration, which takes its time: the nearest hundred say enough.
        first_ones = heapq.nsmallest(_ASKED, members, key=lambda each: abs(each[0] - budget))
        found += [(side, *each) for each in itertools.islice((one for one in first_ones if can_be(one[1])), 1)]
    return found


def _told(near: Sequence[tuple[bool, int, dict[str, int]]], axes: Mapping[str, Axis]) -> str:
    """What can be asked for instead, in words; a size by its option, unless several share it."""
    kinds = {a.setting: a.kind for a in axes.values()}
    units = {a.setting: a.units for a in axes.values()}
    many = {kind for kind, settings in Counter(kinds.values()).items() if settings > 1}

    def words(sizes: Mapping[str, int]) -> str:
        changed = [f"{s if kinds[s] in many else WORDS[kinds[s]]} {n}" for s, n in sizes.items() if n != units[s]]
        return ", ".join(changed[:_NAMED]) + (", ..." if len(changed) > _NAMED else "")

    if not near:
        return "none that its configuration can say is near; name numbers of units"
    reached = " and ".join(f"{count} ({words(sizes)})" for _, count, sizes in near)
    if not near[0][0]:
        return f"the smallest that can be is {reached}: ask for more, or for fewer layers"
    return f"the nearest that can be {'are' if len(near) > 1 else 'is'} {reached}: ask for one of these, or name numbers of units"


def _grid(axes: Mapping[str, Axis], free: Sequence[str]) -> Iterator[dict[str, int]]:
    levels = []
    for setting in free:
        axis = next(a for a in axes.values() if a.setting == setting)
        per = axis.units // axis.groups
        levels.append([max(1, math.floor(per * share)) * axis.groups for share in SHARES])
    options = [sorted(set(sizes), reverse=True) for sizes in levels]
    if math.prod(map(len, options)) <= POINTS:
        chosen: Iterable[tuple[int, ...]] = itertools.product(*options)
    else:
        chosen = dict.fromkeys(
            tuple(sizes[at] for sizes, at in zip(levels, places, strict=True)) for places in _together(len(free))
        )
    for point in chosen:
        yield dict(zip(free, point, strict=True))


def _together(count: int) -> Iterator[Sequence[int]]:
    """Places on the grid of so many settings, without all of their combinations: see `sizes_within`."""
    run_of = [at * _RUNS // count for at in range(count)]
    for shares in itertools.product(range(len(SHARES)), repeat=_RUNS):
        yield [shares[run] for run in run_of]
    for share in range(len(SHARES) - 1):
        for stepped in range(1, count):
            forward = [share + 1] * stepped + [share] * (count - stepped)
            yield from (forward, forward[::-1])


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
