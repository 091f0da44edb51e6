"""Pruning of a model by one method, from scores to a model with exact zeros (`dictpfl.prune`)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from dictpfl.client.compress.influence.layers import Layers, layer_influence
from dictpfl.client.compress.influence.shares import BY_SCORES, arranged, kept_by_shares, sparsity_by_layer
from dictpfl.client.compress.sparse import sparsegpt
from dictpfl.client.compress.sparse.inputs import Grams, Squares, calibrate
from dictpfl.client.compress.sparse.lua import BATCHES, learn_thresholds
from dictpfl.client.compress.sparse.sequential import in_order
from dictpfl.client.compress.sparse.spectra import BY_WEIGHTS, OWL_SPREAD, tail_exponents, without_outliers
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.scores import Floats, magnitude, wanda
from dictpfl.client.model.sparse.select import (
    by_all,
    kept_of_each,
    neighbours,
    require_dividing,
    require_sparsity,
    rows_alike,
    rows_together,
    zeros_of,
)
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.training.task import Task
from dictpfl.client.training.timing import timed
from dictpfl.client.training.train import Measured, resolve_device
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.sparsity import Bools, capped
from dictpfl.common.settings import Training

Method = Literal["magnitude", "wanda", "sparsegpt", "lua"]
METHODS: tuple[str, ...] = get_args(Method)
_BY_BLOCKS = (*BY_SCORES, *BY_WEIGHTS)
Allocation = Literal["uniform", "global", "layerif", "reversed", "random", "gradient", "alpha", "owl"]
Pattern = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A model with zeros in it, and how it was made.

    Attributes:
        model: plain, of the class that was given, in evaluation mode, on the CPU.
        masks: True where an entry stays.
        weights: the covered weights of `model`.
        method, allocate: words of the command.
        sparsity: share of entries that were to go; of a pattern, what it says.
        before, after: on the samples to measure; None where there were none.
        seconds: that measuring took, before and after, on this machine (`dictpfl.client.training.timing`).
    """

    model: nn.Module
    masks: Masks
    weights: Mapping[str, Weight]
    method: str
    allocate: str
    sparsity: float
    before: Measured | None
    after: Measured | None
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def kept(self) -> dict[str, int]:
        """Entries that stay in each covered weight."""
        return self.masks.kept_by_name()

    def kept_by_block(self) -> dict[str, tuple[int, int]]:
        """Entries that stay, and all entries, in each part of the model."""
        sums: dict[str, tuple[int, int]] = {}
        for name, kept in self.kept.items():
            block = self.weights[name].block
            before = sums.get(block, (0, 0))
            sums[block] = (before[0] + kept, before[1] + self.weights[name].size)
        return sums


def prune(
    model: nn.Module,
    samples: Samples,
    task: Task,
    sparsity: float = 0.5,
    method: str = "wanda",
    *,
    pattern: Pattern | None = None,
    allocate: str = "uniform",
    scores: Mapping[str, Mapping[str, float]] | None = None,
    spread: float = 0.3,
    sequential: bool = True,
    cover: Sequence[str] = (),
    keep: Sequence[str] = (),
    layers: Sequence[str] = (),
    measure: Samples | None = None,
    device: str = "cpu",
    steps: int = 120,
    rate: float = 1e-2,
    regularisation: float = 16.0,
    training: Training = BATCHES,
    seed: int = 1,
) -> Pruned:
    """Zero a share of a model's covered weights; exactly so many entries stay.

    | method | an entry's score | compared with | others move |
    |---|---|---|---|
    | `magnitude` | its size | its weight | no |
    | `wanda` | its size times the norm of its input (arXiv 2306.11695) | its row | no |
    | `sparsegpt` | the error that it leaves when the others make up for it (arXiv 2301.00774) | 128 columns | yes |
    | `lua` (experimental) | as `wanda`, against a threshold for each row that is learnt (Lu et al. 2025) | everything | no |

    Args:
        model: plain; copied, never changed.
        samples: to calibrate with; `magnitude` needs none.
        task: loss and metric of what is measured.
        sparsity: share of all covered entries that go, exactly.
        method: see above.
        pattern: (2, 4) keeps 2 of every 4 neighbours in a row, in place of `sparsity`.
        allocate: `uniform`: the same share of every weight; `global`: one threshold over all of them; `layerif`: more of the blocks that
            single samples move far, and its arms (`dictpfl.client.compress.influence.shares`); `alpha`, `owl`: more of the blocks with light
            tails, or few outliers (`dictpfl.client.compress.sparse.spectra`).
        scores: of such an allocation, `influence` and `gradient` of each block; None: measured here, on two thirds of the samples for
            training, at most 64, and the rest for validation, at most 32.
        spread: of such an allocation and of `alpha`, see `dictpfl.client.compress.influence.shares.sparsity_by_layer`.
        sequential: each part is calibrated on the outputs of the parts that were pruned before it; False: all on the dense model.
        cover, keep, layers: see `dictpfl.client.model.sparse.weights.covered`.
        measure: samples to measure before and after.
        device: to calibrate and measure on.
        steps, rate, regularisation, training, seed: of `lua` alone, see `dictpfl.client.compress.sparse.lua.learn_thresholds`.

    Raises:
        ConfigError: an unknown word, or options that contradict each other.
        ModelError, DataError: weights or samples that cannot be used.
    """
    _require_sound(method, allocate, pattern)
    where = resolve_device(device)
    made = copy.deepcopy(model).to(where).eval()
    weights = covered(made, cover, keep, layers)
    before, first = _measured(made, measure, task)
    if pattern is not None:
        require_dividing({n: w.shape[1] for n, w in weights.items()}, pattern[1])
        sparsity = 1.0 - pattern[0] / pattern[1]
    else:
        require_sparsity(weights, sparsity)
    divided = (
        _divided(made, weights, samples, task, sparsity, allocate, scores, spread, seed)
        if allocate in _BY_BLOCKS
        else None
    )
    plan = _Plan(weights, sparsity, pattern, divided)
    if method == "magnitude":
        sized = {n: magnitude(w) for n, w in weights.items()}
        masks = (
            by_all(sized, sparsity)
            if allocate == "global"
            else Masks({n: plan.mask(n, s, rows_together) for n, s in sized.items()})
        )
    elif method == "sparsegpt":
        masks = _sparsegpt(made, plan, samples)
    elif method == "lua":
        learnt = learn_thresholds(
            made, samples, task, sparsity, weights=weights, steps=steps, rate=rate, regularisation=regularisation,
            training=training.model_copy(update={"device": device}), seed=seed,
        )  # fmt: skip
        masks = learnt.masks()
    elif allocate == "global" or not sequential:
        masks = _wanda_at_once(made, plan, samples, together=allocate == "global")
    else:
        masks = _wanda_in_order(made, plan, samples)
    masks.put_on(weights)
    after, second = _measured(made, measure, task)
    made.to("cpu")
    return Pruned(made, masks, weights, method, allocate, sparsity, before, after, (first, second))


class _Plan:
    """How many entries of each weight stay."""

    def __init__(
        self, weights: Mapping[str, Weight], sparsity: float, pattern: Pattern | None, divided: Mapping[str, int] | None
    ) -> None:
        self.weights, self.sparsity, self.pattern = weights, sparsity, pattern
        sizes = {n: w.size for n, w in weights.items()}
        if pattern is not None:
            self.kept = {n: size * pattern[0] // pattern[1] for n, size in sizes.items()}
            return
        # Of a weight with many zeros as it comes, no more can stay than it has.
        most = {n: max(1, sizes[n] - zeros) for n, zeros in zeros_of(weights).items()}
        self.kept = capped(kept_of_each(sizes, sparsity) if divided is None else divided, most)

    def mask(self, name: str, scores: Floats, choose: Any) -> Bools:
        chosen: Bools = choose(scores, self.kept[name]) if self.pattern is None else neighbours(scores, self.pattern)
        return chosen

    def ordered(self, found: Mapping[str, Bools]) -> Masks:
        """Masks in the order of the model's parameters."""
        return Masks({name: found[name] for name in self.weights})


def _divided(
    model: nn.Module, weights: Mapping[str, Weight], samples: Samples, task: Task, sparsity: float, allocate: str,
    scores: Mapping[str, Mapping[str, float]] | None, spread: float, seed: int,
) -> dict[str, int]:  # fmt: skip
    """Entries of each weight that stay, by scores of blocks."""
    if allocate == "alpha":
        by_block = tail_exponents(weights)
    elif allocate == "owl":
        squares = Squares()
        calibrate(model, weights, samples, squares.see)
        by_block, spread = without_outliers(weights, squares), min(OWL_SPREAD / sparsity, 0.99)
    else:
        found: Layers | Mapping[str, Mapping[str, float]] | None = scores
        if found is None:
            training, validation = samples_for_scores(samples, seed)
            found = layer_influence(model, training, validation, task, weights=weights)
        by_block = arranged(allocate, found, seed)
        known = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
        if foreign := [block for block in by_block if block not in known]:
            raise ConfigError(
                f"scores are of another model: it has no {', '.join(foreign[:5])}; name scores of this one"
            )
    sizes: dict[str, int] = {}
    for weight in weights.values():
        sizes[weight.block] = sizes.get(weight.block, 0) + weight.size
    if missing := [block for block in sizes if block not in by_block]:
        raise ConfigError(
            f"scores say nothing of {', '.join(missing[:5])}; they are of {', '.join(list(by_block)[:5])}: name this model's"
        )
    wanted = sparsity_by_layer(
        {block: by_block[block] for block in sizes}, sizes, sparsity, spread, smooth=allocate != "owl"
    )
    return kept_by_shares(
        {n: wanted[w.block] for n, w in weights.items()}, {n: w.size for n, w in weights.items()}, sparsity
    )


def samples_for_scores(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Divide samples to decide by, drawn by seed: two thirds to train, at most 64, the rest to validate, at most 32.

    By their order the one part would be of other classes than the other, where samples lie sorted. The measured ones are no part of them.
    """
    first, order = len(samples) * 2 // 3, np.random.default_rng([seed, len(samples)]).permutation(len(samples))
    return samples.take(order[: min(first, 64)]), samples.take(order[first : first + 32])


def wanda_scores(weights: Mapping[str, Weight], squares: Squares) -> dict[str, Floats]:
    """Wanda's scores of weights whose inputs were gathered."""
    return {name: wanda(weight, squares.norms(name)) for name, weight in weights.items()}


def _wanda_at_once(model: nn.Module, plan: _Plan, samples: Samples, *, together: bool) -> Masks:
    squares = Squares()
    calibrate(model, plan.weights, samples, squares.see)
    scores = wanda_scores(plan.weights, squares)
    if together:
        return by_all(scores, plan.sparsity)
    return Masks({n: plan.mask(n, s, rows_alike) for n, s in scores.items()})


def _wanda_in_order(model: nn.Module, plan: _Plan, samples: Samples) -> Masks:
    found: dict[str, Bools] = {}

    def decide(group: Sequence[Weight], squares: Squares) -> None:
        here = {w.name: plan.mask(w.name, wanda(w, squares.norms(w.name)), rows_alike) for w in group}
        Masks(here).put_on({w.name: w for w in group})
        found.update(here)

    in_order(model, plan.weights, samples, Squares, decide, by_input=False)
    return plan.ordered(found)


def _sparsegpt(model: nn.Module, plan: _Plan, samples: Samples) -> Masks:
    found: dict[str, Bools] = {}

    @torch.no_grad()
    def decide(group: Sequence[Weight], grams: Grams) -> None:
        for w in group:
            moved, found[w.name] = sparsegpt.of_weight(
                w, grams.sums[w.name], w.size - plan.kept[w.name], pattern=plan.pattern
            )
            w.parameter.copy_(w.as_stored(moved))

    in_order(model, plan.weights, samples, Grams, decide, by_input=True)
    return plan.ordered(found)


def _measured(model: nn.Module, samples: Samples | None, task: Task) -> tuple[Measured | None, float]:
    return (None, 0.0) if samples is None else timed(model, samples, task)


def _require_sound(method: str, allocate: str, pattern: Pattern | None) -> None:
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if allocate not in get_args(Allocation):
        raise ConfigError(f"allocate is {allocate!r}; expected one of {', '.join(get_args(Allocation))}")
    if method == "lua" and (allocate != "uniform" or pattern is not None):
        raise ConfigError(
            "method = `lua` learns what goes from each row; it takes neither a pattern nor another way to divide it"
        )
    if allocate in _BY_BLOCKS and pattern is not None:
        raise ConfigError(f"a pattern keeps the same share of every weight; leave allocate `uniform`, not `{allocate}`")
    if allocate == "global" and (method == "sparsegpt" or pattern is not None):
        raise ConfigError(
            "allocate = `global` compares entries of all weights at once, which neither `sparsegpt` (one weight after the other) nor a "
            "pattern (so many of each group) does; leave it `uniform`"
        )
