"""Quantisation of updates to integers on a grid whose steps are powers of two.

Dividing by a step, subtracting a multiple of it and adding it up are then exact in float64, so that
error feedback loses nothing and every platform computes the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CODE_BITS = 11
"""A range code counts about 1/1024 of the range, in a power of two."""
SMALLEST_STEP = -200
"""log2 of the smallest step: far below any update, far above underflow."""


def step_exponents(ranges: Floats, largest: int) -> NDArray[np.int32]:
    """Compute for each tensor the smallest E with largest * 2^E >= range, int32; shape and order of `ranges`."""
    mantissa, exponent = np.frexp(ranges / largest)
    whole = np.where(mantissa == 0.5, exponent - 1, exponent)  # noqa: PLR2004 -- a power of two exactly
    return np.where(ranges > 0, np.maximum(whole, SMALLEST_STEP), SMALLEST_STEP).astype(np.int32)


def code_units(steps: Floats, largest: int) -> Floats:
    """Compute the unit of range codes for each step: `largest` steps make 1,024 to 2,047 units."""
    return np.ldexp(steps, largest.bit_length() - _CODE_BITS)


def quantise(values: Floats, steps: float | Floats, largest: int) -> tuple[Ints, Floats]:
    """Round v / step to integers, half to even, and clip them to +-largest; return also what is left of each value.

    Args:
        values: float64, shape (n,).
        steps: step of all values or of each, powers of two, float64, shape (n,).
        largest: bound that integers are clipped to.

    Returns:
        `q` int64 and `rest` float64 with `q * steps + rest == values`, bit for bit.
    """
    scaled = values / steps
    np.rint(scaled, out=scaled)
    np.clip(scaled, -largest, largest, out=scaled)
    q = scaled.astype(np.int64)
    scaled *= steps
    return q, np.subtract(values, scaled, out=scaled)


def range_codes(values: Floats, units: Floats, tensors: NDArray[np.int32], cap: int) -> Ints:
    """Compute for each tensor the code ceil(max|v| / unit), at most `cap`; 0 where nothing of it is sent.

    Args:
        values: values about to be quantised, float64, shape (n,).
        units: unit of each tensor (`code_units`), shape (tensors,).
        tensors: number of each value's tensor, shape (n,), ascending.
        cap: largest code that the ledger holds.
    """
    codes = np.zeros(units.size, dtype=np.float64)
    if values.size:
        starts = np.flatnonzero(np.concatenate([[True], tensors[1:] != tensors[:-1]]))
        sent = tensors[starts]
        codes[sent] = np.maximum.reduceat(np.abs(values), starts) / units[sent]
    return np.minimum(np.ceil(codes), cap).astype(np.int64)


def next_ranges(ranges: Floats, units: Floats, code_sums: Ints, participants: int, headroom: float | Floats) -> Floats:
    """Compute the ranges of the next round: headroom times the mean largest magnitude; kept where nothing was sent.

    Args:
        ranges: ranges of this round, float64, shape (tensors,).
        units: unit of each tensor's code, shape (tensors,).
        code_sums: sums of the participants' codes, int64, shape (tensors,).
        participants: number of uploads in the sum.
        headroom: factor on the mean, of all tensors or of each, float64, shape (tensors,).
    """
    measured = code_sums.astype(np.float64) * (units * headroom) / participants
    return np.where(code_sums > 0, measured, ranges)
