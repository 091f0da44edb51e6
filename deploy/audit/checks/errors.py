"""Checks of the errors that hide values: their variance, their mean, and that they are there at all.

The words of an upload are rounded, and the rounding is larger than the error. Whether an error was added shows where
a coefficient without it would lie next to the edge between two words: there the error decides which word is sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dictpfl.deploy.audit.checks.bounds import RATE, counted, deviations, tail
from dictpfl.deploy.audit.checks.check import FAILED, OK, UNTOLD, Check
from dictpfl.deploy.audit.checks.keys import ERROR_VARIANCE
from dictpfl.deploy.audit.checks.opened import Opening, Upload
from dictpfl.deploy.audit.cipher.sealed import Box, Parameters
from dictpfl.deploy.audit.cipher.tags import TAGS

_BITS = 21
_EXCESS = -5.25
"""Fourth cumulant of the error: 42 fair bits of -1/8 each."""


@dataclass
class Crossings:
    """Words that an error moved to another one: how many there are, and how many are expected."""

    seen: int = 0
    expected: float = 0.0
    far: int = 0
    coefficients: int = 0

    def add(self, exact: Sequence[int], words: Sequence[int], q: int, p: int) -> None:
        """Compare the words of an upload with those that it would have without errors."""
        for x, word in zip(exact, words, strict=True):
            plain = (2 * x * p + q) // (2 * q)
            # Largest and smallest coefficient of this word; the error is subtracted from a coefficient.
            up = ((2 * plain + 1) * q - 1) // (2 * p) - x
            down = x - (-((-(2 * plain - 1) * q) // (2 * p)))
            self.coefficients += 1
            chance = _TAIL[min(up + 1, _BITS + 1)] + _TAIL[min(down + 1, _BITS + 1)]
            self.expected += chance
            if plain % p != word:
                self.seen += 1
                self.far += min(up, down) >= _BITS


_TAIL = tail(_BITS)


def checks(opening: Opening, uploads: Sequence[Upload]) -> Iterator[Check]:
    """Check the errors of all uploads together."""
    if opening.box is None or not uploads:
        return
    rests = np.concatenate([upload.inside.rests for upload in uploads]).astype(np.float64)
    yield _variance(opening.parameters, rests)
    yield _mean(opening.parameters, rests)
    yield from _present(opening.box, uploads)


def expected_variance(p: Parameters) -> float:
    """Variance of a rest: the error, rounding to a word of width q / p, and rounding back."""
    return ERROR_VARIANCE + (p.q / p.p) ** 2 / 12 + 1 / 6


def _variance(p: Parameters, rests: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Check:
    wanted = expected_variance(p)
    spread = math.sqrt((2 * wanted**2 + _EXCESS - (p.q / p.p) ** 4 / 120) / rests.size)
    away = deviations() * spread
    what = "rests have the variance of an error and of two roundings"
    return Check.within(what, rests.size, float(np.mean(rests**2)), (wanted - away, wanted + away), RATE)


def _mean(p: Parameters, rests: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Check:
    away = deviations() * math.sqrt(expected_variance(p) / rests.size)
    return Check.within("rests are centred", rests.size, float(rests.mean()), (-away, away), RATE)


def _present(box: Box, uploads: Sequence[Upload]) -> Iterator[Check]:
    crossings, p = Crossings(), box.parameters
    for upload in uploads:
        exact = box.exact(upload.components, upload.entry.seed)
        crossings.add(exact, upload.bare[:-TAGS].tolist(), p.q, p.p)
    what = "errors move as many words over an edge as errors of a centred binomial do"
    low, high = counted(crossings.expected)
    detail = f"{crossings.seen}, expected {max(low, 0):.1f} to {high:.1f} (false alarms: {RATE:.0e})"
    good = low <= crossings.seen <= high
    verdict = (OK if low > 0 else UNTOLD) if good else FAILED
    yield Check(what, crossings.coefficients, verdict, detail if low > 0 else f"too few coefficients: {detail}")
    faults = [f"{crossings.far} words"] if crossings.far else []
    yield Check.every("no error is beyond 21", crossings.coefficients, faults)
