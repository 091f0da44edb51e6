"""Shrinking a model in one call: sizes from a budget or as given, units from scores, the smaller model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from dictpfl.client.compress.cutting.axes import Architecture, Axis, architecture_of
from dictpfl.client.compress.cutting.choose import ORDER, WORDS, Chosen, choose, sizes_within
from dictpfl.client.compress.cutting.cut import Plan, carry_out, planned
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import Task, load_task
from dictpfl.common.errors import ConfigError

BEST: Mapping[str, str] = dict.fromkeys(ORDER, "activation") | {"ffn": "magnitude"}
"""Way to score each kind of units where none is named: what benchmarks/minitron.py says on texts for validation (tests/benchmarks)."""
DEFAULT = "default"


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller model, and what it was made by.

    Attributes:
        model: the smaller one, of the class of the one that was given.
        plan: the cut.
        chosen: units that stay, and their scores.
        before: number of parameters of the model that was given.
        after: number of parameters of the smaller one.
    """

    model: nn.Module
    plan: Plan
    chosen: Chosen
    before: int
    after: int


def parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def shrink(
    model: nn.Module,
    samples: Samples,
    task: Task | str = "classification",
    *,
    to: float | None = None,
    heads: int | None = None,
    channels: int | None = None,
    ffn: int | None = None,
    width: int | None = None,
    layers: int | None = None,
    score: str = DEFAULT,
    seed: int = 0,
    architecture: str = "",
    rescale: bool = False,
) -> Shrunk:
    """Cut a model to a size, or to the numbers that are given.

    Args:
        model: plain, of a known architecture; left as it was.
        samples: to decide by.
        task: gives the loss.
        to: parameters that stay: a share below or at 1.0 (a float), or a number. What is not given below follows from it, all parts
            by the most similar shares that reach it within 3 %.
        heads: that stay in each Mamba mixer.
        channels: that stay in each head of those.
        ffn: neurons that stay in each feed-forward layer.
        width: of the residual stream.
        layers: blocks that stay.
        score: see `dictpfl.client.compress.cutting.scores.HOW`; `default`: the way that is best for each kind (`BEST`).
        seed: of `random`.
        architecture: see `dictpfl.client.compress.cutting.axes.architecture_of`.
        rescale: see `dictpfl.client.compress.cutting.cut.cut`.

    Raises:
        ConfigError: nothing to cut, sizes that cannot be, or an unknown architecture.
    """
    maker = architecture_of(model, architecture)
    axes = {axis.name: axis for axis in maker.axes(model)}
    given = {"mamba-head": heads, "mamba-channel": channels, "ffn": ffn, "width": width, "block": layers}
    counts = counts_of(axes, {kind: count for kind, count in given.items() if count is not None})
    if to is not None:
        counts = sizes_within(model, axes, maker, budget_of(model, to), fixed=counts, most=1)[0]
    return shrink_to(model, axes, maker, counts, samples, task, score=score, seed=seed, rescale=rescale)


def shrink_to(
    model: nn.Module,
    axes: Mapping[str, Axis],
    maker: Architecture,
    counts: Mapping[str, int],
    samples: Samples,
    task: Task | str,
    *,
    score: str | Mapping[str, str] = DEFAULT,
    seed: int = 0,
    rescale: bool = False,
    total: Mapping[str, list[Any]] | None = None,
) -> Shrunk:
    """Cut a model to numbers of units by setting; see `shrink` and `dictpfl.client.compress.cutting.choose.choose`.

    Where there is a `total`, `default` is activation: institutions have summed that for this very decision.

    Raises:
        ConfigError: nothing to cut, or sizes that cannot be.
    """
    units = {axis.setting: axis.units for axis in axes.values()}
    if all(units.get(setting) == count for setting, count in counts.items()):
        raise ConfigError(
            "nothing to cut: every size asked for is the one that is; name a share or a number of parameters, or numbers of units"
        )
    task = load_task(task) if isinstance(task, str) else task
    how: str | Mapping[str, str] = score
    if score == DEFAULT:
        how = BEST if total is None else "activation"
    # Sizes are refused before anything is scored, which takes long.
    if "block" not in axes or axes["block"].setting not in counts:
        with torch.device("meta"):
            maker.resized(model, {s: n for s, n in counts.items() if n != units[s]})
    chosen = choose(model, axes, counts, samples, task, how, seed=seed, total=total)
    plan = planned(axes, chosen.kept)
    small = carry_out(model, plan, maker, rescale=rescale)
    return Shrunk(small, plan, chosen, parameters(model), parameters(small))


def counts_of(axes: Mapping[str, Axis], given: Mapping[str, int]) -> dict[str, int]:
    """Numbers of units by setting, of numbers by kind.

    Raises:
        ConfigError: a kind that the model has not.
    """
    has = dict.fromkeys(axis.kind for axis in axes.values())
    for kind in given:
        if kind not in has:
            raise ConfigError(
                f"{WORDS[kind]}: this model has none that can be cut; it has {', '.join(WORDS[k] for k in has)}"
            )
    return {axis.setting: given[axis.kind] for axis in axes.values() if axis.kind in given}


def budget_of(model: nn.Module, to: float) -> int:
    """Number of parameters that a share, or a number, means.

    Raises:
        ConfigError: not above 0, more than there are, or no number at all.
    """
    whole = parameters(model)
    # Infinite numbers, and those that are none, are no fraction.
    share = Fraction(to).limit_denominator(10**6) if isinstance(to, float) and 0.0 < to <= 1.0 else Fraction(0)
    budget = int(share * whole) if isinstance(to, float) else to
    if not 0 < budget <= whole:
        raise ConfigError(
            f"{to} of {whole} parameters cannot stay; name a share above 0 and at most 1, or a number of parameters"
        )
    return budget
