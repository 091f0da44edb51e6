"""Others' samples from the sum that an institution opens, its own part subtracted.

Two attacks, for K institutions and batches of b samples, n = (K - 1) b strange samples in the sum:

- span check: the gradient of a first layer's table is a sum of outer products, so that its rows span the samples of the
  batch as long as these are at most r (Petrov et al. 2024, DAGER, for tokens; here for whole samples). A candidate that
  lies in the span was there.
- inversion: all n samples are solved for together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.layout import Entry, Kind
from dictpfl.deploy.attacks import cores, images
from dictpfl.deploy.attacks.intervals import auc_interval, auc_method, constant, gain_interval, mean_interval, shifted
from dictpfl.deploy.attacks.inversion import Effort, Target
from dictpfl.deploy.attacks.inversion_run import SIMILAR
from dictpfl.deploy.attacks.labels import as_labels, infer_counts
from dictpfl.deploy.attacks.methods import replace_section, resized
from dictpfl.deploy.attacks.observations import in_collusion, of_the_others
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.registry import ATTACKS, FederationAttack, Tools
from dictpfl.deploy.attacks.results import Finding
from dictpfl.deploy.attacks.solving import solve

Array = NDArray[np.float64]
_RANK = 1e-6
"""Singular values below this share of the largest count as rounding."""


def span_scores(genesis: Genesis, update: Array, candidates: Array) -> Array:
    """Measure how near each candidate, (n, features), is to the span of the first table's rows: 0 within it, -1 at right angles.

    Of a core, what it shows of the candidates is compared.

    Raises:
        ConfigError: the first shared matrix does not see whole samples.
    """
    entry = first_matrix(genesis, candidates.shape[1])
    candidates = cores.seen(genesis.dictionaries, entry.name, candidates)
    _, strengths, directions = np.linalg.svd(cores.rows(genesis.dictionaries, entry, update), full_matrices=False)
    basis = directions[strengths > _RANK * max(float(strengths[0]), 1e-30)]
    inside = candidates @ basis.T
    lengths = np.maximum(np.linalg.norm(candidates, axis=1), 1e-12)
    scores: Array = np.sqrt(np.clip((inside**2).sum(axis=1), 0, None)) / lengths - 1.0
    return scores


def first_matrix(genesis: Genesis, features: int) -> Entry:
    """Find the first shared matrix whose columns are a sample's features, or what a core shows of them.

    Raises:
        ConfigError: none.
    """
    for entry in genesis.layout.entries:
        is_matrix = entry.kind in (Kind.TABLE, Kind.DENSE) and len(entry.shape) == 2  # noqa: PLR2004
        if is_matrix and cores.width(genesis.dictionaries, entry) == features:
            return entry
    raise ConfigError("the span check needs a first layer that sees whole samples, such as that of `mlp`")


def federation(config: FederationConfig, institutions: int, batch: int) -> FederationConfig:
    """Configure so many institutions with one step of SGD on an MLP, all of weight 1: the clearest sum that one can get."""
    changes = {
        "toy_insecure": config.toy_insecure or institutions < 3,  # noqa: PLR2004 -- two can subtract themselves
        "federation": resized(config.federation, institutions, rounds=1, sample_cap=1),
        "model": replace_section(config.model, source="mlp", options={"hidden": [64]}),
        # They change nothing of a sum, and one's own part of it is read from its upload here.
        "defences": replace_section(config.defences, masks=False),
        "decomposition": replace_section(config.decomposition, rank=8),
        "training": replace_section(config.training, steps=1, batch_size=batch, optimizer="sgd"),
    }
    return config.model_copy(update=changes)


def read_the_sum(
    recorded: RecordedRun, effort: Effort, *, most: int, pictures: Path | None = None, seed: int = 0
) -> list[Finding]:
    """Try both attacks on one run by institution 0; inversion only where at most so many samples are to be solved for."""
    number = recorded.update_rounds[0]
    own, *others = recorded.victims(number)
    mine = in_collusion(recorded.collusion, own.seen).update  # what institution 0 itself sealed
    seen = of_the_others(recorded.auditor, number, mine)
    strange = np.concatenate([v.samples.features for v in others]).astype(np.float64)
    labels = np.concatenate([v.samples.labels for v in others])
    config = recorded.genesis.config
    setting: dict[str, int | float | str] = {
        "institutions": config.federation.participants, "batch": config.training.batch_size, "samples": len(strange),
        "rank": config.decomposition.rank, "model": config.model.source,
    }  # fmt: skip
    findings = [_span(recorded, seen.update, strange, setting)]
    if len(strange) <= most:
        findings.append(_inversion(recorded, seen.update, strange, labels, effort, setting, pictures, seed))
    return findings


def _span(recorded: RecordedRun, update: Array, strange: Array, setting: Mapping[str, Any]) -> Finding:
    outside = recorded.public.features.astype(np.float64)
    inside = span_scores(recorded.genesis, update, strange.reshape(len(strange), -1))
    out = span_scores(recorded.genesis, update, outside.reshape(len(outside), -1))
    area = auc_interval(inside, out)
    exact = float(np.mean(inside > out.max()))
    return Finding(
        family="aggregate", attack="span check", source="Petrov et al. 2024 (DAGER)", adversary="institution",
        method="dictpfl", encrypted=False, setting=dict(setting), metric="AUC of membership in the batch", found=area,
        blind=constant(0.5), gain=shifted(area, 0.5), success=0.99, trials=len(inside) + len(out),
        method_of_interval=auc_method(area, len(inside), "samples"),
        more={"members nearer than every other sample": exact, "largest distance of a member": float(-inside.min())},
    )  # fmt: skip


def _inversion(
    recorded: RecordedRun, update: Array, strange: Array, labels: NDArray[np.int64], effort: Effort, setting: Mapping[str, Any],
    pictures: Path | None, seed: int,
) -> Finding:  # fmt: skip
    matcher = recorded.matcher(recorded.update_rounds[0])
    public = recorded.public.features
    others = recorded.genesis.config.federation.participants - 1
    observed = matcher.observed(update, float(others))[None]
    tensors = torch.from_numpy(recorded.genesis.layout.tensor_of[matcher.coordinates].astype(np.int64))
    target = Target(
        observed, torch.ones_like(observed, dtype=torch.bool), tensors, 1, len(strange), strange.shape[1:],
        float(public.min()), float(public.max()), recorded.genesis.outputs,
    )  # fmt: skip
    if len(strange) > 1:
        effort = replace(effort, restarts=min(2, effort.restarts))
    counts = infer_counts(matcher, recorded.genesis.layout, target, seed)
    guessed = as_labels(counts, 1, len(labels))
    made = solve(matcher, target, effort, guessed, torch.from_numpy(public), seed, squared=True)
    span = target.high - target.low
    back = images.matched(made.images[0].numpy(), strange)
    mean = public.mean(axis=0, dtype=np.float64)
    similar = [images.ssim(a, b, span) for a, b in zip(back, strange, strict=True)]
    blind = [images.ssim(mean, b, span) for b in strange]
    picture = ""
    if pictures is not None and strange.ndim == 4 and not recorded.genesis.config.data.of_features:  # noqa: PLR2004 -- n, C, H, W
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
        found=mean_interval(similar), blind=mean_interval(blind), gain=gain_interval(similar, blind), success=SIMILAR,
        trials=len(similar), method_of_interval="Student's t over samples, paired",
        more={"recovered": float(np.mean([value >= SIMILAR for value in similar]))}, picture=picture,
    )  # fmt: skip


@ATTACKS.register("sums")
class Sums(FederationAttack):
    """Others' samples from their sum, by number of institutions and batch.

    Attributes:
        cells: institutions and batch.
        most: strange samples up to which they are solved for together: 36 images of 64 pixels are 2,304 unknowns.
    """

    cells: ClassVar[Sequence[tuple[int, int]]] = ((2, 1), (2, 4), (3, 1), (3, 4), (5, 1), (10, 1))
    most: ClassVar[int] = 9

    def run(self, config: FederationConfig, folder: Path, tools: Tools) -> Iterator[Finding]:
        """See `FederationAttack.run`."""
        for institutions, batch in self.cells:
            recorded = play(federation(config, institutions, batch), folder / f"{institutions}-{batch}")
            yield from read_the_sum(recorded, tools.effort, most=self.most, pictures=tools.pictures)


@ATTACKS.register("all-sums")
class AllSums(Sums):
    """Others' samples from their sum, for the whole table."""

    cells = tuple((institutions, batch) for institutions in (2, 3, 5, 10) for batch in (1, 4, 16))
    most = 36
