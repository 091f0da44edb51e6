"""Text tables whose rows are as long as their line of names: pandas reads longer ones shifted, with the first column as row names."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictpfl.common.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_MORE = "behind the last name"
_OTHERS = (";", "\t", "|")
"""Delimiters that a file may have in place of the one that was expected."""


_MISSING = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
    "None", "n/a", "nan", "null",
))  # fmt: skip
"""Cells that pandas takes for missing values, as its documentation lists them."""


def with_words(path: Path, delimiter: str, words: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Options of `pandas.read_csv` by which words that a configuration names are no missing values, such as a drug that is "None".

    Args:
        path, delimiter: see `read_separated`.
        words: that are named, by column.
    """
    import pandas as pd

    if not any(_MISSING.intersection(named) for named in words.values()):
        return {}
    names = [str(name) for name in pd.read_csv(path, sep=delimiter, nrows=0, index_col=False).columns]
    missing = {name: sorted(_MISSING.difference(words.get(name, ()))) for name in names}
    return {"na_values": missing | {_MORE: sorted(_MISSING)}, "keep_default_na": False}


def require_once(path: Path, delimiter: str) -> None:
    """Refuse a line of names in which one stands twice: pandas calls the second "label.1", and labels would be a feature.

    Raises:
        DataError: which.
        OSError, ValueError: as pandas raises them.
    """
    import pandas as pd

    names = pd.read_csv(path, sep=delimiter, nrows=1, header=None, index_col=False, dtype=str).iloc[0].dropna()
    if len(twice := names[names.duplicated()]):
        raise DataError(
            f"{path} has the column {twice.iloc[0]!r} twice; columns are found by name, so expected each once: drop one, or give it another name"
        )


def read_separated(path: Path, delimiter: str, how: str, **options: Any) -> pd.DataFrame:
    """Read a text table with a line of names; a delimiter behind the last field of every row is none.

    Args:
        path: UTF-8, compressed or not.
        delimiter: between fields.
        how: what to do where it is another one, for the message.
        options: of `pandas.read_csv`.

    Raises:
        DataError: rows with more fields than names, or another delimiter.
        OSError, ValueError: as pandas raises them.
    """
    import pandas as pd

    names = [str(name) for name in pd.read_csv(path, sep=delimiter, nrows=0, index_col=False).columns]
    found = next((other for other in _OTHERS if len(names) == 1 and other != delimiter and other in names[0]), None)
    if found is not None:
        raise DataError(
            f"{path} has one column, {names[0]!r}: its fields seem to be separated by {found!r}, expected {delimiter!r}; {how}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            whole: pd.DataFrame = pd.read_csv(path, sep=delimiter, index_col=False, **options)
        except pd.errors.ParserWarning:
            pass  # rows are longer than the line of names
        else:
            return whole
        try:
            frame: pd.DataFrame | None = pd.read_csv(
                path, sep=delimiter, header=0, names=[*names, _MORE], index_col=False, **options
            )
        except pd.errors.ParserWarning:
            frame = None
    if frame is None or not (frame[_MORE].isna() | (frame[_MORE].astype(str) == "")).all():
        raise DataError(
            f"{path}: rows have more fields than the {len(names)} names of its first line ({', '.join(names[:5])}): is a name missing, or is "
            f"{delimiter!r} a decimal comma as well? Mend the file; {how}"
        )
    return frame.drop(columns=_MORE)
