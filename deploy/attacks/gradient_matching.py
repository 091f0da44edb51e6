"""Samples whose gradient matches the observed one: solved for where they are small, searched for where they are large."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dictpfl.deploy.attacks.case import Case
from dictpfl.deploy.attacks.gradient_model import Matcher
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction, Target, search
from dictpfl.deploy.attacks.labels import as_labels, certain, infer_counts
from dictpfl.deploy.attacks.solving import MATCHED, MOST_UNKNOWNS, solve


def match_gradients(
    case: Case, effort: Effort, seed: int, labels: Tensor | None, *, squared: bool, guessed: bool = False
) -> Reconstruction:
    """Reconstruct all victims' samples.

    Args:
        case: the round under attack.
        effort: starts and iterations.
        seed: of the starts.
        labels: (victims, steps, batch); None: found together with the images, as in DLG.
        squared: match by squared distance rather than by cosine distance.
        guessed: labels may be wrong: for a single sample every other one is tried as well, where they do not follow.
    """
    target, matcher = case.target(), case.recorded.matcher(case.number)
    samples = target.steps * target.batch
    if samples * int(np.prod(target.shape)) > MOST_UNKNOWNS:
        return search(matcher, target, effort, labels, seed, squared=squared)
    public = torch.from_numpy(case.recorded.public.features)
    sure = certain(case.recorded.genesis.layout, target, matcher.coordinates)
    if labels is None or not guessed or samples > 1 or sure.all():
        return solve(matcher, target, effort, labels, public, seed, squared=squared)
    return _every_label(matcher, target, effort, labels, public, seed, squared=squared)


def guess_labels(case: Case, seed: int) -> Tensor:
    """Read labels off the head's gradient, (victims, steps, batch)."""
    target, matcher = case.target(), case.recorded.matcher(case.number)
    counts = infer_counts(matcher, case.recorded.genesis.layout, target, seed)
    return as_labels(counts, target.steps, target.batch)


def _every_label(
    matcher: Matcher, target: Target, effort: Effort, guess: Tensor, public: Tensor, seed: int, *, squared: bool
) -> Reconstruction:
    """Try every label for a batch of one whose label cannot be read off, the guess first, until one matches."""
    once, best = replace(effort, restarts=1), []
    for victim in range(len(target)):
        one, first = target.one(victim), int(guess[victim].flatten()[0])
        order = [first, *(label for label in range(target.outputs) if label != first)]
        made: Reconstruction | None = None
        for turn, label in enumerate(order):
            tried = solve(
                matcher, one, once, torch.full((1, 1, 1), label), public, seed + 31 * victim + turn, squared=squared
            )
            if made is None or float(tried.loss[0]) < float(made.loss[0]):
                made = tried
            if float(made.loss[0]) < MATCHED:
                break
        assert made is not None  # noqa: S101 -- there is at least one label
        best.append(made)
    return Reconstruction(*(torch.cat([getattr(made, part) for made in best]) for part in ("images", "labels", "loss")))
