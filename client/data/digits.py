"""Digits of numbers as they are written: counts that say how numbers look, and nothing of any one of them.

Numbers are read as exact decimal text, never as floats: "0.10" has the last digit 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from dictpfl.client.data.readers.separated import read_separated, require_once
from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Section

FILE = "numbers.json"
"""File of an institution's counts, in its folder."""
LOWEST, HIGHEST = -6, 8
"""Orders of magnitude that are told apart; what is beyond counts at the ends."""
PARTS: Mapping[str, int] = {
    "first": 9,
    "second": 10,
    "last": 10,
    "magnitude": HIGHEST - LOWEST + 1,
    "numbers": 1,
    "zeros": 1,
    "others": 1,
}
"""Entries of a histogram: digits 1 to 9, 0 to 9 and 0 to 9, orders of magnitude, and how many numbers, zeros and other words there are."""
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:[,\u00a0 ]\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d{1,3})?%?")
_IN_TEXT = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w])|(?<![\w.,])\d+(?:\.\d+)?(?![\w])")
_SHORT, _LONG = 2, 3
"""Fewest written digits of a number whose last one is counted: in a column of about one order of magnitude, and in any other."""
_MOSTLY = 0.98
"""Share of a column's numbers that must have two digits, for last digits of two to count: of scores from 0 to 10 the tens alone would."""
_PLACES = 20
"""Steps of its last place that a column must span for its last digits to be about even: two rounds of the ten."""
_FEW = 20
"""Different whole numbers below which a column holds codes, if each is there often, unless all lie on one step, as rounded measurements do."""
_OFTEN = 5
"""Rows of each different number, in the mean, from which on few numbers are no chance of a short column."""
ORDERS = 3
"""Orders of magnitude that a column must span for Benford's law to be expected of it."""
_MACHINE = 15
"""Significant digits from which on a number was computed: what float64 holds of any decimal, and more than anybody reads off."""
_ANCIENT, _FUTURE = 1800_01_01, 2200_12_31
_EDGE = 0.01  # share of a column's numbers at either end that does not count towards the span
_MOST = 1 << 30


@dataclass(frozen=True)
class Histogram:
    """Counts of digits.

    Attributes:
        counts: int64, (47,), the parts of `PARTS` one behind the other.
    """

    counts: Ints

    @classmethod
    def empty(cls) -> Histogram:
        """Counts of nothing."""
        return cls(np.zeros(sum(PARTS.values()), dtype=np.int64))

    def part(self, name: str) -> Ints:
        """Counts of one part."""
        start = 0
        for part, size in PARTS.items():
            if part == name:
                return self.counts[start : start + size]
            start += size
        raise KeyError(name)

    def __add__(self, other: Histogram) -> Histogram:
        """Count both together."""
        return Histogram(self.counts + other.counts)


class Numbers(Section):
    """Content of `numbers.json`: counts alone."""

    format: Literal["dictpfl-numbers-1"] = "dictpfl-numbers-1"
    columns: list[str] = Field(description="Columns that were counted, for the institution's own memory.")
    counts: dict[str, list[int]] = Field(description="By part, see `dictpfl.client.data.digits.PARTS`.")

    def histogram(self) -> Histogram:
        """Counts as one array.

        Raises:
            DataError: other parts, or counts that are negative or beyond 2^30.
        """
        sizes = {name: len(counts) for name, counts in self.counts.items()}
        flat = [count for name in PARTS for count in self.counts.get(name, [])]
        if sizes != dict(PARTS) or min(flat) < 0 or max(flat) > _MOST:
            raise DataError(
                f"{FILE}: expected whole counts up to 2^30 of {dict(PARTS)}, found parts of {sizes}; make the file anew"
            )
        return Histogram(np.array(flat, dtype=np.int64))


def digits_of(word: str) -> Decimal | None:
    """Read a word as a number, exactly; None: it is none. Thousands separators, exponents and a percent sign are understood."""
    text = word.strip()
    if not text or not _NUMBER.fullmatch(text) or not any(c.isdigit() for c in text):
        return None
    try:
        return Decimal(text.rstrip("%").replace(",", "").replace("\u00a0", "").replace(" ", ""))
    except InvalidOperation:
        return None


def histogram(words: Iterable[str], *, every: bool = False) -> Histogram:
    """Count the digits of one column.

    First and second digits are significant ones, of a column that spans three orders of magnitude or more (1 % left out at either end):
    of a narrower one, such as ages, Benford's law is not to be expected. Last digits are those that somebody wrote, of numbers of three digits or more; in a column
    that stays within about one order of magnitude and has hardly a number of one digit, as blood pressures do, of two or more. Those of fewer are not uniform by
    nature, nor are those of a column that spans fewer than 20 steps of its last place, such as months: none of these is counted. What a program
    made of a column's last digits is taken back first (`as_read_off`), and where most numbers have 15 digits or more, the last one is no reading: none is
    counted.

    Args:
        words: as they are written; an empty one counts for nothing.
        every: True: first and second digits count whatever the span is, and words stand for themselves, as those of running text.
    """
    counts = {name: np.zeros(size, dtype=np.int64) for name, size in PARTS.items()}
    found = []
    for word in words:
        if not word.strip():
            continue
        number = digits_of(word)
        if number is None:
            counts["others"][0] += 1
        elif not number:
            counts["zeros"][0] += 1
        else:
            found.append(number)
    if not every:
        found = as_read_off(found)
    orders = [number.adjusted() for number in found]
    leading = every or (bool(orders) and spanned(np.array(orders)) >= ORDERS)
    least = _least_of_text(orders) if every else _least_digits(found)
    most = _MACHINE - 1 if 2 * sum(len(number.as_tuple().digits) >= _MACHINE for number in found) <= len(found) else 0
    for number, order in zip(found, orders, strict=True):
        digits = number.as_tuple().digits
        significant = digits[next(i for i, d in enumerate(digits) if d) :]
        counts["numbers"][0] += 1
        if leading:
            counts["first"][significant[0] - 1] += 1
        if leading and len(significant) > 1:
            counts["second"][significant[1]] += 1
        if least <= len(digits) <= most:
            counts["last"][digits[-1]] += 1
        counts["magnitude"][min(max(order, LOWEST), HIGHEST) - LOWEST] += 1
    return Histogram(np.concatenate(list(counts.values())))


def _least_of_text(orders: Sequence[int]) -> int:
    return _SHORT if orders and max(orders) - min(orders) <= 1 else _LONG


def _least_digits(column: Sequence[Decimal]) -> int:
    """Fewest digits of a number whose last one counts; more than any number has where the column is too narrow for its last place."""
    if not column:
        return _LONG
    places = max(map(_decimals, column))
    steps = np.array([float(abs(number).scaleb(places)) for number in column])
    low, high = np.quantile(steps, [_EDGE, 1 - _EDGE], method="nearest")
    if len(column) >= _PLACES > high - low:
        return _MACHINE
    long_enough = sum(len(number.as_tuple().digits) >= _SHORT for number in column) >= _MOSTLY * len(column)
    return _least_of_text([number.adjusted() for number in column]) if long_enough else _LONG


def as_read_off(column: Sequence[Decimal]) -> list[Decimal]:
    """Take back what programs do to the zeros at the end of a column's numbers, which no hand does.

    Whole numbers in a column of floats come out as 142.0: where all numbers of one order of magnitude are whole, their decimals go. And 1.50 comes out as
    1.5: numbers with fewer decimals than most others of their order of magnitude get zeros up to that number. A column in which some number has a 0 as its
    second decimal, or a later one, keeps zeros, and is left as it is. Orders are taken apart because numbers rounded to three significant digits have
    another number of decimals in each.
    """
    if all(number == number.to_integral_value() for number in column):
        return [_with_decimals(number, 0) for number in column]
    if any(_decimals(number) > 1 and number.as_tuple().digits[-1] == 0 for number in column):
        return list(column)
    orders: dict[int, list[Decimal]] = {}
    for number in column:
        orders.setdefault(number.adjusted(), []).append(number)
    usual = {order: _usual_decimals(numbers) for order, numbers in orders.items()}
    return [_with_decimals(number, usual[number.adjusted()]) for number in column]


def _usual_decimals(numbers: Sequence[Decimal]) -> int | None:
    """How many decimals more than half of some numbers have, 0 where all are whole; None: no number of decimals is that common."""
    if all(number == number.to_integral_value() for number in numbers):
        return 0
    places, count = Counter(map(_decimals, numbers)).most_common(1)[0]
    return places if 2 * count > len(numbers) else None


def _with_decimals(number: Decimal, places: int | None) -> Decimal:
    """Write zeros behind a number up to so many decimals; of none, a whole number's go. None: it stays."""
    sign, digits, exponent = number.as_tuple()
    if places == 0 and number == number.to_integral_value():
        return Decimal(int(number)) if _decimals(number) else number
    if not places or not isinstance(exponent, int) or -exponent >= places:
        return number
    return Decimal((sign, (*digits, *[0] * (places + exponent)), -places))


def _decimals(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def spanned(orders: Ints) -> int:
    """Count the orders of magnitude between the ends of a column, 1 % of its numbers left out at either."""
    low, high = np.quantile(orders, [_EDGE, 1 - _EDGE], method="nearest")
    return int(high - low)


def numbers_in(text: str) -> list[str]:
    """Numbers in running text, as they are written; digits inside words are none."""
    return _IN_TEXT.findall(text)


def read_columns(path: Path, columns: Sequence[str] = ()) -> tuple[dict[str, list[str]], list[str]]:
    """Read columns of a table as text.

    Args:
        path: .csv, .tsv or .parquet. Values of a Parquet file that are floats are written as `words_of` does, whole numbers and decimals as they are.
        columns: their names; none: all that hold numbers and are no identifiers.

    Returns:
        Words of each column, and the names of those that were left out: without numbers, or whole numbers that are all distinct or all
        alike, dates such as 20240105, or a few codes.

    Raises:
        DataError: a file that cannot be read, a column that it does not have, or a name that stands twice.
    """
    table = _table(path)
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table)}")
    if columns:
        return {name: table[name] for name in columns}, []
    chosen = {name: words for name, words in table.items() if not _is_identifier(words)}
    return chosen, [name for name in table if name not in chosen]


def _table(path: Path) -> dict[str, list[str]]:
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            # Nullable types: a whole number beside a missing one stays whole.
            frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
            return {str(name): words_in(frame[name]) for name in frame.columns}
        sep = "\t" if path.suffix.lower() == ".tsv" else ","
        how = "save it with commas, or as .tsv with tabs"
        frame = read_separated(path, sep, how, dtype=str, keep_default_na=False)
        require_once(path, sep)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"cannot read the table {path}: {error}; expected .csv, .tsv or .parquet with a line of names"
        ) from error
    return {str(name): frame[name].tolist() for name in frame.columns}


def words_in(column: Any) -> list[str]:
    """Words of a column of a data frame of pandas; an empty one of what is missing."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column.dtype):
        return words_of(column.to_numpy(dtype=column.dtype.type, na_value=np.nan))
    return ["" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value) for value in column.tolist()]


def words_of(values: NDArray[np.floating[Any]]) -> list[str]:
    """Floats (n,) of any width as words, with the fewest digits that give them back; an empty one of NaN.

    A value that needs more digits than its type holds of any decimal was computed: it is written with 17, so that `histogram` takes none of them for
    one that somebody read off.
    """
    kind = np.finfo(values.dtype)
    whole = 2.0 ** (kind.nmant + 1)  # up to here every whole number has a float
    words = []
    for value in values:
        shortest = np.format_float_scientific(value, trim="-")
        digits = sum(letter.isdigit() for letter in shortest.split("e")[0])
        if np.isnan(value):
            words.append("")
        elif digits > kind.precision and not (value == np.rint(value) and abs(value) < whole):
            words.append(f"{float(value):.16e}")
        else:
            words.append(shortest if abs(value) >= whole else np.format_float_positional(value, trim="0"))
    return words


def _is_identifier(words: Sequence[str]) -> bool:
    numbers = [n for n in map(digits_of, words) if n is not None]
    whole = all(n == n.to_integral_value() for n in numbers)
    different = set(numbers)
    return (
        2 * len(numbers) <= len([w for w in words if w.strip()])
        or len(different) == 1
        or (whole and (len(different) == len(numbers) or _are_codes(different, len(numbers)) or _are_dates(different)))
    )


def _are_codes(different: set[Decimal], count: int) -> bool:
    """Whether so few whole numbers, each there so often, look chosen from a list: measurements rounded to tens are few as well, but lie on one step."""
    first, *rest = sorted(map(int, different))
    return (
        len(different) < _FEW
        and count >= _OFTEN * len(different)
        and math.gcd(*(number - first for number in rest)) == 1
    )


def _are_dates(different: set[Decimal]) -> bool:
    """Whether whole numbers are days, written as 20240105."""
    try:
        return all(_ANCIENT <= int(n) <= _FUTURE and bool(datetime.strptime(str(int(n)), "%Y%m%d")) for n in different)  # noqa: DTZ007 -- a day, no time
    except ValueError:
        return False


def read_numbers(path: Path) -> Histogram:
    """Read an institution's counts.

    Raises:
        ConfigError: not of this form.
        DataError: impossible counts.
    """
    try:
        return Numbers.model_validate_json(path.read_bytes()).histogram()
    except ValidationError as error:
        raise ConfigError(
            f"{path} holds no counts of digits; make it anew by `dictpfl audit numbers --data FILE --into FOLDER`"
        ) from error
