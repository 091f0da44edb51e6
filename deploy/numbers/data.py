"""Digits of tables: an institution's own, and those that a federation's institutions have tallied together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dictpfl.client.data.digits import FILE, PARTS, Histogram, Numbers, histogram, read_columns
from dictpfl.client.tallies.numbers import NAME, opened
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import write_private
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.numbers.fit import fits


def of_file(path: Path, columns: Sequence[str]) -> tuple[Histogram, list[str], list[str]]:
    """Count the digits of a table's columns, each by itself.

    Returns:
        Counts of all of them, their names, and the names of columns that were left out.

    Raises:
        DataError: see `read_columns`, or no column with numbers.
    """
    words, left_out = read_columns(path, columns)
    if not words:
        raise DataError(
            f"{path} has no column of measurements: {', '.join(left_out)} hold no numbers, or whole ones that are all distinct, all alike, dates or a few codes; "
            "name some by --columns"
        )
    total = Histogram.empty()
    for column in words.values():
        total = total + histogram(column)
    return total, list(words), left_out


def leave_counts(found: Histogram, columns: Sequence[str], folder: Path) -> Path:
    """Write an institution's counts into its folder, mode 0600, for the tally `numbers`.

    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"--into {folder}: no such folder; name the institution's")
    path = folder / FILE
    counts = {name: found.part(name).tolist() for name in PARTS}
    write_private(path, (Numbers(columns=list(columns), counts=counts).model_dump_json(indent=1) + "\n").encode())
    return path


def tallied(finished: Finished) -> tuple[Histogram, int] | None:
    """Counts that a federation's institutions tallied together, and how many took part; None: they did not."""
    for one in finished.state.tallies:
        if one.name == NAME:
            return opened(one.sums), one.participants
    return None


def described(found: Histogram) -> dict[str, Any]:
    """Counts and tests as JSON values."""
    return {
        "numbers": int(found.part("numbers")[0]),
        "zeros": int(found.part("zeros")[0]),
        "others": int(found.part("others")[0]),
        "counts": {name: found.part(name).tolist() for name in PARTS},
        "tests": [fit.to_json() for fit in fits(found)],
    }
