"""Digits of numbers as they are written: counts that say how numbers look, and nothing of any one of them.

Numbers are read as exact decimal text, never as floats: "0.10" has the last digit 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

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
ORDERS = 3
"""Orders of magnitude that a column must span for Benford's law to be expected of it."""
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
    of a narrower one, such as ages, Benford's law is not to be expected. Last digits are as they are written, of numbers of three digits or more; in a column
    that stays within about one order of magnitude, as blood pressures do, of two or more. Those of fewer are not uniform by nature.

    Args:
        words: as they are written; an empty one counts for nothing.
        every: True: first and second digits count whatever the span is, as those of running text.
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
    orders = [number.adjusted() for number in found]
    leading = every or (bool(orders) and spanned(np.array(orders)) >= ORDERS)
    least = _SHORT if found and max(orders) - min(orders) <= 1 else _LONG
    for number, order in zip(found, orders, strict=True):
        digits = number.as_tuple().digits
        significant = digits[next(i for i, d in enumerate(digits) if d) :]
        counts["numbers"][0] += 1
        if leading:
            counts["first"][significant[0] - 1] += 1
        if leading and len(significant) > 1:
            counts["second"][significant[1]] += 1
        if len(digits) >= least:
            counts["last"][digits[-1]] += 1
        counts["magnitude"][min(max(order, LOWEST), HIGHEST) - LOWEST] += 1
    return Histogram(np.concatenate(list(counts.values())))


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
        path: .csv, .tsv or .parquet. Values of a Parquet file that are floats are written with the fewest digits that give them back.
        columns: their names; none: all that hold numbers and are no identifiers.

    Returns:
        Words of each column, and the names of those that were left out: without numbers, or whole numbers that are all distinct or all
        alike.

    Raises:
        DataError: a file that cannot be read, or a column that it does not have.
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
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            return {str(name): ["" if pd.isna(v) else str(v) for v in frame[name].tolist()] for name in frame.columns}
        frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"cannot read the table {path}: {error}; expected .csv, .tsv or .parquet with a line of names"
        ) from error
    return {str(name): frame[name].tolist() for name in frame.columns}


def _is_identifier(words: Sequence[str]) -> bool:
    numbers = [n for n in map(digits_of, words) if n is not None]
    whole = all(n == n.to_integral_value() for n in numbers)
    distinct = len(set(numbers))
    return (
        2 * len(numbers) <= len([w for w in words if w.strip()])
        or distinct == 1
        or (whole and distinct == len(numbers))
    )


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
