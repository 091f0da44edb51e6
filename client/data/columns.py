"""Columns of a table: which are numbers, which are categories, and what features become of them."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data, Preprocessing, Recipe

if TYPE_CHECKING:
    import pandas as pd

Origin = Callable[[NDArray[np.bool_]], str]
"""Place of the first of some rows, for a message."""
LARGEST = 2.0**60
"""Numbers are below this, by magnitude, so that their sums fit what a tally holds (`dictpfl.client.data.preparing.wide`)."""


@dataclass(frozen=True)
class Columns:
    """Columns of a federation's tables, in their agreed order.

    Attributes:
        names: of all columns.
        said: the section.
    """

    names: tuple[str, ...]
    said: Preprocessing

    @classmethod
    def of(cls, data: Data, names: tuple[str, ...] = ()) -> Columns:
        """Columns of a section; `names` are those of its file, where the section does not say them.

        Raises:
            ConfigError: nobody knows the names, or one that is prepared is not there.
        """
        made = cls(names or tuple(data.features), data.preprocessing)
        if not made.names:
            raise ConfigError(
                "data.preprocessing prepares columns, and data.features does not say which there are; name them, so that all institutions "
                "mean the same"
            )
        for name in (*made.said.columns, *made.said.categories):
            if name not in made.names:
                (near,) = difflib.get_close_matches(name, made.names, n=1, cutoff=0.0)
                raise ConfigError(f"data.preprocessing: no feature {name!r}; the nearest is {near!r}")
        return made

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of numbers."""
        return tuple(name for name in self.names if name not in self.said.categories)

    @property
    def ranked(self) -> tuple[str, ...]:
        """Columns of numbers of which a quantile is wanted."""
        return tuple(name for name in self.numbers if _wants_quantiles(self.recipe(name)))

    def recipe(self, name: str) -> Recipe:
        """Recipe of a column of numbers."""
        return self.said.columns.get(name, self.said.default)

    def many(self, name: str) -> int:
        """Number of categories, or buckets, of a column; the others not counted."""
        said = self.said.categories[name]
        return said if isinstance(said, int) else len(said)

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(1 if name in self.numbers else self.many(name) + 1 for name in self.names)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        found: list[str] = []
        for name in self.names:
            said = self.said.categories.get(name)
            if said is None:
                found.append(name)
            else:
                words = [str(n) for n in range(said)] if isinstance(said, int) else said
                found += [f"{name}={word}" for word in (*words, "other")]
        return tuple(found)

    def encode(self, frame: pd.DataFrame, origin: str | Origin) -> NDArray[np.float64]:
        """Columns of a frame as numbers: NaN where one is missing, the number of a category, -1 for others.

        Args:
            frame: rows.
            origin: what errors call the frame, or the place of the first of some rows of it.

        Raises:
            DataError: a column of numbers that holds text, is infinite or out of range, or lacks values that nothing stands in for.
        """
        at = origin if callable(origin) else lambda _: origin
        return np.stack([self._encoded(name, frame[name], at) for name in self.names], axis=1)

    def _encoded(self, name: str, column: pd.Series[Any], at: Origin) -> NDArray[np.float64]:
        if name in self.said.categories:
            if (lists := np.array([is_list(cell) for cell in column], dtype=bool)).any():
                raise DataError(
                    f"{at(lists)}: column {name!r} has lists in its cells; expected a word or a number in each"
                )
            return self._numbered(name, column)
        column = as_numbers(column)
        if column.dtype.kind not in "biuf":
            words = column.map(is_no_number).to_numpy(dtype=bool)
            first = f"; {column.iloc[int(words.argmax())]!r} is the first that is none" if words.any() else ""
            raise DataError(
                f"{at(words)}: column {name!r} is not numbers{first}; name its categories in data.preprocessing.categories, or exclude it"
            )
        values = column.to_numpy(np.float64)
        missing, large = np.isnan(values), np.abs(values) >= LARGEST
        if large.any():
            raise DataError(
                f"{at(large)}: column {name!r} has values that are infinite or beyond {LARGEST:g}; mend those rows"
            )
        if missing.any() and self.recipe(name).impute == "none":
            raise DataError(
                f"{at(missing)}: missing values in {name!r}; set data.preprocessing.impute to `mean` or `median`, or drop those rows"
            )
        return values

    def _numbered(self, name: str, column: pd.Series[Any]) -> NDArray[np.float64]:
        said = self.said.categories[name]
        words = {word: number for number, word in enumerate(said)} if isinstance(said, list) else {}
        read = numbers_of(said) if isinstance(said, list) else {}
        codes: dict[Any, float] = {}
        for value in column.dropna().unique():
            word, known = word_of(value), words if isinstance(value, str) else read
            codes[value] = known.get(word, -1) if isinstance(said, list) else bucket(word, said)
        return column.map(codes).fillna(-1).to_numpy(np.float64)


def as_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Cells that are all numbers, truth values or missing, of whatever types (a database's decimals, say), as floats; any other column as it is."""
    kinds = bool | np.bool_ | int | float | np.number | Decimal | None
    if column.dtype.kind != "O" or not all(isinstance(cell, kinds) for cell in column):
        return column
    return column.astype(float)


def is_list(cell: Any) -> bool:
    """Tell whether a cell holds several values, as those of Parquet and JSON may."""
    return isinstance(cell, list | tuple | dict | np.ndarray)


def is_no_number(value: Any) -> bool:
    """Tell whether a cell cannot be read as a number; one that is missing can."""
    try:
        float(0.0 if value is None else value)
    except (TypeError, ValueError):
        return True
    return False


def word_of(value: Any) -> str:
    """Word of a cell, the same whatever type the file has: 1, 1.0 in 32 or 64 bits, a decimal 1.00, true."""
    value = float(value) if isinstance(value, Decimal) else value
    whole = isinstance(value, bool | np.bool_) or (isinstance(value, float | np.floating) and value.is_integer())
    return str(int(value)) if whole else str(value)


def numbers_of(named: Sequence[str]) -> dict[str, int]:
    """Number of each name by the words of cells that are no text: a text table's "01" was read as 1, its "True" as true."""
    number = {name: place for place, name in enumerate(named)}
    return {word_of(_as_read(name)): place for name, place in number.items()} | number


def _as_read(name: str) -> Any:
    if name.lower() in ("true", "false"):
        return name.lower() == "true"
    for kind in (int, float):
        try:
            return kind(name)
        except ValueError:
            continue
    return name


def bucket(word: str, many: int) -> int:
    """Bucket of a category: SHA-256 of its text, modulo their number; the same at every institution."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little") % many


def _wants_quantiles(recipe: Recipe) -> bool:
    return bool(recipe.impute == "median" or recipe.clip or recipe.scale in ("minmax", "robust"))
