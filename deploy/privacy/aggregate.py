"""The institution's view: what the others' sum, its own part subtracted, says of their samples.

Two attacks, for K institutions and batches of b samples, n = (K - 1) b strange samples in the sum:

- span check: the gradient of a first layer's table is a sum of outer products, so that its rows span the samples of the
  batch as long as these are at most r (Petrov et al. 2024, DAGER, for tokens; here for whole samples). A candidate that
  lies in the span was there.
- inversion: all n samples are solved for together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import FederationConfig
from common.errors import ConfigError
from common.layout import Entry, Kind, Layout
from deploy.privacy import images
from deploy.privacy.intervals import auc_interval, constant, gain_interval, mean_interval, shifted
from deploy.privacy.inversion import Effort, Target
from deploy.privacy.labels import as_labels, infer_counts
from deploy.privacy.observations import in_collusion, of_the_others
from deploy.privacy.reading import SIMILAR
from deploy.privacy.results import Finding
from deploy.privacy.solving import solve
from deploy.privacy.stage import Stage

Array = NDArray[np.float64]
_RANK = 1e-6
"""Singular values below this share of the largest count as rounding."""


def span_scores(layout: Layout, update: Array, candidates: Array) -> Array:
    """How near each candidate, (n, features), is to the span of the first table's rows: 0 within it, -1 at right angles.

    Raises:
        ConfigError: the first shared matrix does not see whole samples.
    """
    entry = first_matrix(layout, candidates.shape[1])
    rows = update[entry.span].reshape(entry.shape)
    _, strengths, directions = np.linalg.svd(rows, full_matrices=False)
    basis = directions[strengths > _RANK * max(float(strengths[0]), 1e-30)]
    inside = candidates @ basis.T
    lengths = np.maximum(np.linalg.norm(candidates, axis=1), 1e-12)
    found: Array = np.sqrt(np.clip((inside**2).sum(axis=1), 0, None)) / lengths - 1.0
    return found


def first_matrix(layout: Layout, features: int) -> Entry:
    """The first shared matrix whose columns are a sample's features.

    Raises:
        ConfigError: none.
    """
    for entry in layout.entries:
        if entry.kind in (Kind.TABLE, Kind.DENSE) and len(entry.shape) == 2 and entry.shape[1] == features:  # noqa: PLR2004
            return entry
    raise ConfigError("the span check needs a first layer that sees whole samples, such as that of `mlp`")


def federation(config: FederationConfig, institutions: int, batch: int) -> FederationConfig:
    """So many institutions with one step of SGD on an MLP, all of weight 1: the clearest sum that an institution can get."""
    from deploy.privacy.game import replace_section

    changes = {
        "toy_insecure": institutions < 3,  # noqa: PLR2004 -- two can subtract themselves
        "federation": replace_section(
            config.federation, participants=institutions, min_participants=min(3, institutions), rounds=1, sample_cap=1
        ),
        "model": replace_section(config.model, source="mlp", options={"hidden": [64]}),
        "decomposition": replace_section(config.decomposition, rank=8),
        "training": replace_section(config.training, steps=1, batch_size=batch, optimizer="sgd"),
    }
    return config.model_copy(update=changes)


def read_the_sum(
    stage: Stage, effort: Effort, *, most: int, pictures: Path | None = None, seed: int = 0
) -> list[Finding]:
    """Both attacks on one run by institution 0; inversion only where there are at most so many samples to solve for."""
    number = stage.update_rounds[0]
    own, *others = stage.victims(number)
    mine = in_collusion(stage.collusion, own.seen).update  # what institution 0 itself sealed
    seen = of_the_others(stage.auditor, number, mine)
    strange = np.concatenate([v.samples.features for v in others]).astype(np.float64)
    labels = np.concatenate([v.samples.labels for v in others])
    config = stage.genesis.config
    setting: dict[str, int | float | str] = {
        "institutions": config.federation.participants, "batch": config.training.batch_size, "samples": len(strange),
        "rank": config.decomposition.rank, "model": config.model.source,
    }  # fmt: skip
    found = [_span(stage, seen.update, strange, setting)]
    if len(strange) <= most:
        found.append(_inversion(stage, seen.update, strange, labels, effort, setting, pictures, seed))
    return found


def _span(stage: Stage, update: Array, strange: Array, setting: Mapping[str, Any]) -> Finding:
    layout = stage.genesis.layout
    outside = stage.public.features.astype(np.float64)
    inside = span_scores(layout, update, strange.reshape(len(strange), -1))
    out = span_scores(layout, update, outside.reshape(len(outside), -1))
    single = len(inside) == 1
    # One member: an AUC of one positive has no variance of its own; it is twice the same one.
    area = auc_interval(np.repeat(inside, 2) if single else inside, out)
    exact = float(np.mean(inside > out.max()))
    return Finding(
        family="aggregate", attack="span check", source="Petrov et al. 2024 (DAGER)", adversary="institution",
        method="dictpfl", encrypted=False, setting=dict(setting), metric="AUC of membership in the batch", found=area,
        blind=constant(0.5), gain=shifted(area, 0.5), success=0.99, trials=len(inside) + len(out),
        method_of_interval="DeLong over samples",
        more={"members nearer than every other sample": exact, "largest distance of a member": float(-inside.min())},
    )  # fmt: skip


def _inversion(
    stage: Stage, update: Array, strange: Array, labels: NDArray[np.int64], effort: Effort, setting: Mapping[str, Any],
    pictures: Path | None, seed: int,
) -> Finding:  # fmt: skip
    matcher = stage.matcher(stage.update_rounds[0])
    public = stage.public.features
    others = stage.genesis.config.federation.participants - 1
    observed = matcher.observed(update, float(others))[None]
    tensors = torch.from_numpy(stage.genesis.layout.tensor_of[matcher.coordinates].astype(np.int64))
    target = Target(
        observed, torch.ones_like(observed, dtype=torch.bool), tensors, 1, len(strange), strange.shape[1:],
        float(public.min()), float(public.max()), stage.genesis.outputs,
    )  # fmt: skip
    if len(strange) > 1:
        effort = replace(effort, restarts=min(2, effort.restarts))
    counts = infer_counts(matcher, stage.genesis.layout, target, seed)
    guessed = as_labels(counts, 1, len(labels))
    made = solve(matcher, target, effort, guessed, torch.from_numpy(public), seed, squared=True)
    span = target.high - target.low
    back = images.matched(made.images[0].numpy(), strange)
    mean = public.mean(axis=0, dtype=np.float64)
    found = [images.ssim(a, b, span) for a, b in zip(back, strange, strict=True)]
    blind = [images.ssim(mean, b, span) for b in strange]
    picture = ""
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        picture = f"aggregate-{setting['institutions']}-institutions-batch{setting['batch']}.png"
        shown = {"true": list(strange[:8]), "recovered": list(back[:8])}
        images.grid(
            pictures / picture,
            shown,
            f"sum of {others} other institutions, batch {setting['batch']}: solved for together",
        )
    return Finding(
        family="aggregate", attack="inversion of the sum", source="Geiping et al. 2020, least squares",
        adversary="institution", method="dictpfl", encrypted=False, setting=dict(setting), metric="SSIM",
        found=mean_interval(found), blind=mean_interval(blind), gain=gain_interval(found, blind), success=SIMILAR,
        trials=len(found), method_of_interval="Student's t over samples, paired",
        more={"recovered": float(np.mean([f >= SIMILAR for f in found]))}, picture=picture,
    )  # fmt: skip
