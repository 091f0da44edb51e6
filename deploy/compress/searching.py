"""`dictpfl cut --search`: sizes within a budget, measured as they are, the best distilled for a few steps, the best kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from dictpfl.client.compress.cutting.activations import sums
from dictpfl.client.compress.cutting.axes import architecture_of
from dictpfl.client.compress.cutting.choose import WORDS, sizes_within
from dictpfl.client.compress.cutting.shrink import BEST, DEFAULT, budget_of, counts_of, shrink_to
from dictpfl.client.compress.distil import distil
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.deploy.compress.cutting import Figures, Made, number, tallied
from dictpfl.deploy.compress.source import Source

_TIMED = 4


def searched(
    source: Source,
    *,
    to: str,
    given: Mapping[str, int],
    keep: int,
    most: int,
    steps: int,
    say: Callable[[str], None],
    score: str,
    seed: int,
    architecture: str = "",
    rescale: bool = False,
) -> Made:
    """Try sizes; the lightly distilled best of them is what is returned.

    Args:
        source: what is cut.
        to: parameters that stay.
        given: sizes that are fixed, by kind.
        keep: how many of the best by loss without training are distilled.
        most: how many are measured.
        steps: of each distillation.
        say: prints a line of the table.
        score, seed, architecture, rescale: see `dictpfl.client.compress.cutting.shrink.shrink`.

    Raises:
        ConfigError: no size fits.
    """
    maker = architecture_of(source.model, architecture)
    axes = {axis.name: axis for axis in maker.axes(source.model)}
    start = time.perf_counter()
    budget = budget_of(source.model, number(to))
    candidates = sizes_within(source.model, axes, maker, budget, fixed=counts_of(axes, given), most=most)
    total, voted = tallied(source, score)
    how: str | Mapping[str, str] = score
    if total is None:
        # Sums that are made here, once for all sizes, are no tally: each kind is scored as without a search.
        how = BEST if score == DEFAULT else score
        total = sums(source.model, [a for a in axes.values() if a.kind != "block"], source.calibration)
    before = Figures.of(source.model, source)
    words = {axis.setting: WORDS[axis.kind] for axis in axes.values()}
    say(f"{len(candidates)} sizes within 3 % of {budget:,} parameters; the whole model's loss is {before.loss:.4f}")
    found = []
    for counts in candidates:
        shrunk = shrink_to(
            source.model, axes, maker, counts, source.calibration, source.task, score=how, seed=seed, rescale=rescale,
            total=total,
        )  # fmt: skip
        figures = Figures.of(shrunk.model, source)
        found.append((figures.loss, counts, shrunk))
        found = sorted(found, key=lambda each: each[0])[: max(keep, 1)]
    say(
        "  ".join(
            [
                *(f"{words[s]:>8}" for s in candidates[0]),
                f"{'parameters':>12}",
                f"{'loss':>8}",
                f"{'distilled':>9}",
                f"{'speed':>6}",
            ]
        )
    )
    best: Made | None = None
    slow = seconds_of(source, source.model)
    for loss, counts, shrunk in found:
        training = source.training.model_copy(update={"steps": steps})
        model, _ = distil(shrunk.model, source.model, source.calibration, training, seed=seed)
        after = Figures.of(model.eval(), source)
        speed = slow / seconds_of(source, model)
        row = [
            *(f"{counts[s]:>8}" for s in counts),
            f"{shrunk.after:>12,}",
            f"{loss:>8.4f}",
            f"{after.loss:>9.4f}",
            f"{speed:>6.2f}",
        ]
        say("  ".join(row))
        made = Made(replace(shrunk, model=model), axes, before, after, 0.0, voted)
        if best is None or after.loss < best.after.loss:
            best = made
    assert best is not None  # noqa: S101 -- there is one candidate, or `sizes_within` has refused
    return replace(best, seconds=time.perf_counter() - start)


@torch.no_grad()
def seconds_of(source: Source, model: torch.nn.Module) -> float:
    """CPU seconds of a forward pass over a few samples, the least of three."""
    features, _ = tensors_of(model, source.measure.take(np.arange(min(_TIMED, len(source.measure)))))
    model.eval()
    taken = []
    for _ in range(3):
        began = time.process_time()
        forward(model, features)
        taken.append(time.process_time() - began)
    return max(min(taken), 1e-9)
