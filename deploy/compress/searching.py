"""`dictpfl cut --search`: sizes within a budget, measured as they are, the best distilled for a few steps, the best kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.compress.cutting.activations import sums
from dictpfl.client.compress.cutting.axes import architecture_of
from dictpfl.client.compress.cutting.choose import WORDS, sizes_within
from dictpfl.client.compress.cutting.shrink import BEST, DEFAULT, Shrunk, budget_of, counts_of, shrink_to
from dictpfl.client.compress.distil import distil
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.compress.cutting import Figures, Made, Searched, Size, number, tallied
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
    """Try sizes; the lightly distilled best of them, on the source's validation samples, is what is returned.

    What the source is measured on is looked at once the size is chosen.

    Args:
        source: what is cut, with samples to choose by (`dictpfl.deploy.compress.source.with_validation`).
        to: parameters that stay.
        given: sizes that are fixed, by kind.
        keep: how many of the best by loss without training are distilled.
        most: how many are measured.
        steps: of each distillation.
        say: prints a line of the table.
        score, seed, architecture, rescale: see `dictpfl.client.compress.cutting.shrink.shrink`.

    Raises:
        ConfigError: no size fits, or no samples to choose by.
    """
    held = source.validation
    if held is None:
        raise ConfigError(
            "a search chooses by samples that decide nothing else, and this source has none set aside for it"
        )
    maker = architecture_of(source.model, architecture)
    axes = {axis.name: axis for axis in maker.axes(source.model)}
    start = time.perf_counter()
    budget = budget_of(source.model, number(to))
    candidates = sizes_within(source.model, axes, maker, budget, fixed=counts_of(axes, given), most=most)
    opened = tallied(source, score)
    how: str | Mapping[str, str] = score
    if opened is None:
        # Sums that are made here, once for all sizes, are no tally: each kind is scored as without a search.
        how = BEST if score == DEFAULT else score
        total: Mapping[str, list[Any]] = sums(
            source.model, [a for a in axes.values() if a.kind != "block"], source.calibration
        )
    else:
        total = opened.total
    whole = Figures.of(source.model, source, held)
    words = {axis.setting: WORDS[axis.kind] for axis in axes.values()}
    say(
        f"{len(candidates)} sizes within 3 % of {budget:,} parameters, chosen by {len(held)} samples that decide nothing else; the whole model's "
        f"loss on them is {whole.loss:.4f}"
    )
    sizes: list[Size] = []
    found: list[tuple[Size, Shrunk]] = []
    for counts in candidates:
        shrunk = shrink_to(
            source.model, axes, maker, counts, source.calibration, source.task, score=how, seed=seed, rescale=rescale,
            total=total,
        )  # fmt: skip
        size = Size(counts, shrunk.after, Figures.of(shrunk.model, source, held).loss)
        sizes.append(size)
        found = sorted([*found, (size, shrunk)], key=lambda each: each[0].loss)[: max(keep, 1)]
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
    tried: list[Size] = []
    best, seen = found[0][1], 0
    slow, training = seconds_of(source.model, held), source.training.model_copy(update={"steps": steps})
    for size, shrunk in found:
        model, trained = distil(shrunk.model, source.model, source.calibration, training, seed=seed)
        loss, speed = Figures.of(model.eval(), source, held).loss, slow / seconds_of(model, held)
        row = [
            *(f"{n:>8}" for n in size.counts.values()),
            f"{size.parameters:>12,}",
            f"{size.loss:>8.4f}",
            f"{loss:>9.4f}",
            f"{speed:>6.2f}",
        ]
        say("  ".join(row))
        if all(other.distilled is None or loss < other.distilled for other in tried):
            best, seen = replace(shrunk, model=model), trained.samples_seen
        tried.append(replace(size, distilled=loss, speed=speed))
    done = [size.counts for size in tried]
    tried.sort(key=lambda size: size.distilled or 0.0)
    tried += sorted((size for size in sizes if size.counts not in done), key=lambda size: size.loss)
    return Made(
        best,
        axes,
        Figures.of(source.model, source),
        Figures.of(best.model, source),
        time.perf_counter() - start,
        voted=0 if opened is None else opened.samples,
        clipped=0 if opened is None else opened.clipped,
        search=Searched(budget, whole.loss, tuple(tried), steps, seen),
    )


@torch.no_grad()
def seconds_of(model: nn.Module, samples: Samples) -> float:
    """CPU seconds of a forward pass over a few samples, the least of three."""
    features, _ = tensors_of(model, samples.take(np.arange(min(_TIMED, len(samples)))))
    model.eval()
    taken = []
    for _ in range(3):
        began = time.process_time()
        forward(model, features)
        taken.append(time.process_time() - began)
    return max(min(taken), 1e-9)
