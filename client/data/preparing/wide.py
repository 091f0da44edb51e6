"""Exact sums of real numbers of any usual size, as digits that a tally adds.

A value is the multiple of 2^-60 that is nearest to it. Sums of these, and of their squares, are whole numbers of up to 300 bits; an institution
sends them as digits of 32 bits, each with the number's sign. Adding digits adds the numbers, so that the sum over institutions is that of
the pooled samples, whoever holds which, without a range that anybody would have to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints

POINT = 60
"""Bits behind the point."""
RADIX_BITS = 32
SUM_DIGITS, SQUARE_DIGITS = 5, 9
"""Digits of a sum and of a sum of squares: 160 and 288 bits, for up to 2^40 values below `dictpfl.client.data.columns.LARGEST`."""


def whole(values: NDArray[np.float64]) -> list[int]:
    """Nearest multiples of 2^-60, in these steps."""
    return [int(value) for value in np.rint(np.ldexp(values, POINT))]


def digits(total: int, count: int) -> list[int]:
    """Write a whole number as so many digits of 32 bits, lowest first, each with its sign.

    Raises:
        OverflowError: it has more.
    """
    rest, sign = abs(total), -1 if total < 0 else 1
    found = []
    for _ in range(count):
        found.append(sign * (rest & ((1 << RADIX_BITS) - 1)))
        rest >>= RADIX_BITS
    if rest:
        raise OverflowError(f"{total.bit_length()} bits do not fit {count} digits of {RADIX_BITS}")
    return found


def number(summed: Ints | Iterable[int], power: int) -> Fraction:
    """Read a sum of digits as a number.

    Args:
        summed: digits, each a sum of several institutions'.
        power: 1 for a sum of values, 2 for one of squares.
    """
    total = sum(int(digit) << (RADIX_BITS * place) for place, digit in enumerate(summed))
    return Fraction(total, 1 << (POINT * power))
