"""Check of the noise that protects whole institutions: it is in the integers, and new in every upload."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.deploy.audit.checks.bounds import RATE, deviations
from dictpfl.deploy.audit.checks.check import UNTOLD, Check
from dictpfl.deploy.audit.checks.opened import Upload
from dictpfl.deploy.audit.checks.states import Replay
from dictpfl.deploy.audit.folder import RunFolder
from dictpfl.deploy.audit.replay.noise import Noise, noise_of


def checks(run: RunFolder, uploads: Sequence[Upload], replay: Replay) -> Iterator[Check]:
    """Check the noise of a run that has it; its law is known, the clipped update below it only by its length."""
    noise = noise_of(run.agreement)
    if noise is None:
        return
    integers = [(upload, drawn) for upload in uploads if (drawn := noised(upload, replay)) is not None]
    yield _strength(noise, integers)
    yield _fresh(noise, integers)


def noised(upload: Upload, replay: Replay) -> Ints | None:
    """Unpack the integers of an update; None of another kind of round, or one that was not replayed."""
    made = replay.plans.get(upload.blob.round)
    if made is None or upload.blob.kind != "update" or made.kind != "update":
        return None
    section = made.sealed
    part = upload.components[made.encrypted[1][0]]
    return section.digits.unpacked(part, section.index.size) if part.size == section.components else None


def _strength(noise: Noise, integers: Sequence[tuple[Upload, Ints]]) -> Check:
    """Compare squared lengths: that of the noise, and at most that of a clipped update with it."""
    faults, spread = [], deviations(2 * max(1, len(integers)))
    for upload, drawn in integers:
        total, mean = float(np.square(drawn).sum()), noise.variance * drawn.size
        away = spread * math.sqrt(drawn.size * (noise.variance + 2 * noise.variance**2))
        away += spread * 2 * math.sqrt(noise.variance) * noise.length
        if not mean - away <= total <= mean + noise.length**2 + away:
            faults.append(f"{upload.name}: squared length {total:.4g}, expected {mean:.4g} of noise")
    detail = f"variance {noise.variance:.4g} a value (false alarms: {RATE:.0e})"
    return Check.every("integers carry the agreed noise", len(integers), faults, detail)


def _fresh(noise: Noise, integers: Sequence[tuple[Upload, Ints]]) -> Check:
    """Multiply the integers of two uploads: the same noise in both would show as its variance a value."""
    what = "noise is new in every upload"
    pairs = [(one, two) for one, two in combinations(integers, 2) if one[1].size == two[1].size]
    faults, told, spread = [], 0, deviations(len(pairs))
    for (first, one), (second, two) in pairs:
        away = math.sqrt(one.size) * noise.variance + 2 * math.sqrt(noise.variance) * noise.length
        limit = noise.length**2 + spread * away
        told += limit < one.size * noise.variance
        if float((one * two).sum()) > limit:
            faults.append(f"{first.name} and {second.name}")
    if not told and not faults:
        return Check(what, len(pairs), UNTOLD, "too few values for the length of an update")
    return Check.every(what, told, faults, f"pairs of uploads (false alarms: {RATE:.0e})")
