"""Sums over samples in integers: rounded sample by sample, so that they do not depend on who holds which sample.

The tally of n institutions then equals, to the last bit, the tally of their pooled samples. Rounding an institution's sum would not do:
the rounded parts of a sum add up to another number than the rounded whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.training.tally import Form
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.tally import Tally

SAMPLES, CLIPPED = "samples", "clipped"
"""Entries that every counting tally ends with: its samples, and those of them of which a value was clipped."""
SAMPLE_BITS = 20
"""An institution may count 2^20 samples, about a million."""


def counting_form(entries: Sequence[tuple[str, tuple[int, ...]]], *, most: int = 0, fraction: int = 0) -> Form:
    """Form of a tally of sums over samples.

    Args:
        entries: name and shape of each; `samples` and `clipped` come behind them.
        most: values of one sample are at most 2^most in magnitude; larger ones are clipped, and counted as clipped.
        fraction: values of one sample are rounded to multiples of 2^-fraction.

    Raises:
        ConfigError: values of one sample that all round to 0.
    """
    if most + fraction < 0:
        raise ConfigError(f"a counting tally with values up to 2^{most} in steps of 2^-{fraction}: all of them are 0")
    return Form([*entries, (SAMPLES, (1,)), (CLIPPED, (1,))], most + SAMPLE_BITS, fraction, "none")


class Counting:
    """Sums over samples of q = clip(rint(ldexp(v, fraction)), +-2^(bound + fraction) / 2^20), and two counts behind them.

    Law: `total` depends on which samples were added, and on no order or division of them. So a value must be computed of one sample alone:
    in a batch, its last bits may depend on its neighbours.
    """

    def __init__(self, tally: Tally) -> None:
        """Begin with no samples, for a tally of `counting_form`."""
        self._tally = tally
        self._sums = np.zeros(tally.layout.size - 2, dtype=np.int64)
        self._samples = self._clipped = 0

    def add(self, values: NDArray[np.float64]) -> None:
        """Add samples: float64, finite, shape (samples, layout.size - 2).

        Raises:
            ModelError: another shape, a value that is not finite, or more samples than fit.
        """
        values = np.asarray(values, dtype=np.float64)
        size = self._sums.size
        if values.ndim != 2 or values.shape[1] != size or not np.isfinite(values).all():  # noqa: PLR2004 -- samples, entries
            raise ModelError(
                f"tally {self._tally.name!r}: samples of shape {values.shape}{self._where(values)}, expected (samples, {size}) and finite"
            )
        scaled, most = np.rint(np.ldexp(values, self._tally.fraction)), self._tally.largest >> SAMPLE_BITS
        self._sums += np.clip(scaled, -most, most).astype(np.int64).sum(axis=0)
        self._clipped += int((np.abs(scaled) > most).any(axis=1).sum())
        self._samples += len(values)
        if self._samples > 1 << SAMPLE_BITS:
            raise ModelError(
                f"tally {self._tally.name!r} counts at most {1 << SAMPLE_BITS} samples of an institution; use fewer of them"
            )

    def total(self) -> Ints:
        """Sums, samples, clipped samples: int64, shape (layout.size,)."""
        return np.concatenate([self._sums, np.array([self._samples, self._clipped], dtype=np.int64)])

    def _where(self, values: NDArray[np.float64]) -> str:
        """Name the first entry that is not finite, if the shape is right."""
        for entry in self._tally.layout.entries[:-2]:
            if values.ndim == 2 and not np.isfinite(values[:, entry.span]).all():  # noqa: PLR2004 -- samples, entries
                return f", not finite in {entry.name!r}"
        return ""
