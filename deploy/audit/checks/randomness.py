"""Checks of what the coordinator sees: words, seeds and ids look uniform, and tell nothing of values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.deploy.audit.checks.bounds import RATE, chi_square, deviations, uniformity
from dictpfl.deploy.audit.checks.check import FAILED, OK, UNTOLD, Check
from dictpfl.deploy.audit.checks.opened import Opening, Upload
from dictpfl.deploy.audit.cipher.sealed import polynomials
from dictpfl.deploy.audit.formats.streams import Words

Floats = NDArray[np.float64]
_LOOKED_AT, _LAST, _VALUE_BITS = 32, 4, 4


def checks(opening: Opening, uploads: Sequence[Upload]) -> Iterator[Check]:
    """Check words as they were sent, masks and tags included."""
    if not opening.parameters.encrypted or not uploads:
        return
    words = np.concatenate([blob.words for blob in opening.blobs.values()])
    bits = opening.parameters.word_bits
    yield _bits(words, bits)
    yield _bytes(words, bits)
    yield _serial(words, opening.parameters.p)
    yield _second_polynomials(opening, uploads)
    kind = max(("update", "score", "measure"), key=[upload.blob.kind for upload in uploads].count)
    alike = [upload for upload in uploads if upload.blob.kind == kind]
    first = min(_LOOKED_AT, *(upload.components.size for upload in alike))
    seen = np.stack([_seen(upload, bits, first) for upload in alike])
    yield _balanced(seen)
    yield _independent(seen, np.stack([_values(upload, first) for upload in alike]))


def _bits(words: Words, bits: int) -> Check:
    ones = np.array([int(((words >> np.uint64(place)) & np.uint64(1)).sum()) for place in range(bits)])
    worst = float(np.abs(ones - words.size / 2).max() / math.sqrt(words.size / 4))
    what = "each bit of a word is one as often as zero (most deviations of a bit)"
    return Check.within(what, words.size, worst, (0.0, deviations(bits)), RATE)


def _bytes(words: Words, bits: int) -> Check:
    """Count the upper 8 bits of words; below p they are uniform to within p's distance from 2^w."""
    statistic = uniformity(np.bincount((words >> np.uint64(bits - 8)).astype(np.int64), minlength=256))
    return Check.within("upper bytes of words are uniform (chi-square)", words.size, statistic, chi_square(255), RATE)


def _serial(words: Words, prime: int) -> Check:
    shares = words.astype(np.float64) / prime - 0.5
    correlation = float(12 * np.mean(shares[:-1] * shares[1:]))
    away = deviations() / math.sqrt(words.size - 1)
    return Check.within("neighbouring words are not correlated", words.size - 1, correlation, (-away, away), RATE)


def _second_polynomials(opening: Opening, uploads: Sequence[Upload]) -> Check:
    """Compare the beginnings of all second polynomials: as long as seeds differ, none comes twice."""
    starts, parameters = [], opening.parameters
    for seed in sorted({upload.entry.seed for upload in uploads}):
        parts = max(len(parameters.parts(u.bare.size - 2)) for u in uploads if u.entry.seed == seed)
        starts += [row[:8].tobytes() for row in polynomials(seed, parts, parameters.ring)]
    repeated = len(starts) - len(set(starts))
    return Check.every("second polynomials differ", len(starts), [f"{repeated} repeated"] if repeated else [])


def _seen(upload: Upload, bits: int, count: int) -> Floats:
    """Bits of an upload that anybody sees and its maker could choose: seed, id, and the first words; +-1."""
    data = np.frombuffer(upload.entry.seed + upload.entry.upload_id, np.uint8)
    flags = [np.unpackbits(data, bitorder="little")]
    first = upload.blob.words[:count]
    flags += [((first >> np.uint64(place)) & np.uint64(1)).astype(np.uint8) for place in range(bits)]
    return 2.0 * np.concatenate(flags).astype(np.float64) - 1.0


def _values(upload: Upload, count: int) -> Floats:
    """Facts of an upload's content that must not show: signs and low bits of its first and last components.

    The number of samples, losses and metric are among the first.
    """
    ends = np.concatenate([upload.components[:count], upload.components[-min(_LAST, count) :]])
    flags = [(ends < 0), *(((ends >> place) & 1) == 1 for place in range(_VALUE_BITS))]
    return 2.0 * np.concatenate(flags).astype(np.float64) - 1.0


def _balanced(seen: Floats) -> Check:
    what = "no bit of seeds, ids and first words is the same in too many uploads (most deviations)"
    return _worst(what, len(seen), np.abs(seen.sum(axis=0)) / math.sqrt(len(seen)), seen.shape[1])


def _independent(seen: Floats, values: Floats) -> Check:
    """Compare every visible bit with every bit of content: an encryption chosen by a value shows here."""
    spread = values.std(axis=0)
    varying = (values[:, spread > 0] - values[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    what = "no bit of seeds, ids and first words goes with a bit of the content (most deviations)"
    products: Any = np.abs(seen.T @ varying) / math.sqrt(len(seen))
    return _worst(what, len(seen), products, products.size)


def _worst(what: str, uploads: int, deviates: Floats, tests: int) -> Check:
    worst, limit = float(deviates.max(initial=0.0)), deviations(tests)
    detail = f"{worst:.3g}, at most {limit:.3g} of {tests} tests (false alarms: {RATE:.0e})"
    if worst > limit:
        return Check(what, uploads, FAILED, detail)
    if math.sqrt(uploads) <= limit or not tests:
        return Check(what, uploads, UNTOLD, f"{math.floor(limit**2) + 1} uploads and more would tell; {detail}")
    return Check(what, uploads, OK, detail)
