"""Tables of numbers and the labels of any table (`data.source` = csv, parquet, jsonl, datasets)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.classes import require_shared
from dictpfl.client.data.columns import Columns, as_numbers, is_list, is_no_number, numbers_of, word_of
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Dataset, Samples, classes_said, sites_of
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd


_MOST_CLASSES = 100_000
"""Whole numbers from here on are amounts or identifiers, not the numbers of classes: a model would get an output for each number below."""


def numbers(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = ()) -> Dataset:
    """Read a table of numbers, one row a sample; features are the columns that `feature_columns` finds.

    `data.options`:

    - `scale`: `{age = [50, 12]}` subtracts the first number and divides by the second. Constants that all institutions
      agree on from public knowledge; columns not named stay as they are. Nothing is fitted to the data.
    - `classes`: the classes in their order. In a deployment set it: an institution sees only its own labels, and
      without it numbers those it sees (text sorted; integers as they are).
    - `target`: `classes` or `regression`; by default regression for labels that are not whole numbers.
    - `event`: column that is 1 where the event was seen, 0 where the sample was censored. Then the label is a time, and
      labels are float32 (n, 2) of time and event, for the task `cox`; one output.
    - `shape`: of one sample, for instance `[1, 8, 8]`; by default (features,).
    """
    options = data.options
    event = [str(options["event"])] if "event" in options else []
    require_columns(data, frame, [data.label, *event])
    names = feature_columns(data, frame)
    if data.preprocessing.on:
        return _columns(data, frame, tuple(names), known_classes)
    values = _scaled(_numbers(data, frame, names), tuple(names), options.get("scale", {}))
    classes: tuple[str, ...] = ()
    if event:
        labels = survival_of(frame, data)
    else:
        labels, classes = labels_of(frame, data, known_classes)
    shape = options.get("shape", [values.shape[1]])
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ConfigError(f"data.options.shape is {shape!r}; expected the sizes of one sample, such as [1, 8, 8]")
    if math.prod(shape) != values.shape[1]:
        raise DataError(f"{data.path}: data.options.shape {shape} does not hold {values.shape[1]} feature columns")
    return Dataset(
        Samples(values.reshape(-1, *shape), labels),
        len(classes) or 1,
        groups_of(data, frame),
        splits_of(data, frame),
        name=Path(data.path).name,
        feature_names=tuple(names),
        class_names=classes,
    )


def _columns(data: Data, frame: pd.DataFrame, names: tuple[str, ...], known_classes: tuple[str, ...]) -> Dataset:
    """Read columns as they stand, to be prepared by what all institutions have together."""
    if odd := sorted({"scale", "shape", "event"} & data.options.keys()):
        raise ConfigError(f"data.options.{odd[0]} and data.preprocessing exclude each other; leave one of them out")
    labels, classes = labels_of(frame, data, known_classes)
    table = Table(Columns.of(data, names).encode(frame, lambda bad: place_of(data, frame, bad)), labels)
    return Dataset(
        table, len(classes) or 1, groups_of(data, frame), splits_of(data, frame), Path(data.path).name, names, classes
    )


def feature_columns(data: Data, frame: pd.DataFrame) -> list[str]:
    """Names of the columns that are features: `data.features` in its order, or all that the section does not name, as they stand.

    Raises:
        DataError: a column of `data.features` is missing, another one is neither there nor in `data.exclude`, or the columns to
            exclude are not there.
    """
    taken = {data.label, data.column, data.split_column, str(data.options.get("event", ""))}
    there = [str(name) for name in frame.columns if str(name) not in taken]
    left = [name for name in there if name not in data.exclude]
    if not data.features:
        if unknown := [name for name in data.exclude if name not in there]:
            raise DataError(f"{data.path}: no column {unknown[0]!r} to exclude{_near(unknown[0], there)}")
        return left
    if missing := [name for name in data.features if name not in there]:
        raise DataError(
            f"{data.path}: no column {missing[0]!r}{_near(missing[0], left)}; data.features wants {len(data.features)} columns, "
            f"{len(missing)} of them are missing: {', '.join(missing[:10])}"
        )
    if extra := [name for name in left if name not in data.features]:
        raise DataError(
            f"{data.path}: columns {', '.join(extra[:10])} are no features of this federation (data.features); add them to data.exclude, "
            "or drop them"
        )
    return list(data.features)


def _near(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f" (the nearest is {found[0]!r})" if found else ""


def survival_of(frame: pd.DataFrame, data: Data) -> NDArray[np.float32]:
    """Read (time, event) of each row, float32 (n, 2), as `data.options.event` says.

    Raises:
        ConfigError, DataError: options or columns that say no survival.
    """
    event = str(data.options["event"])
    if odd := sorted({"classes", "target"} & data.options.keys()):
        raise ConfigError(f"data.options.event makes labels of time and event; drop data.options.{odd[0]}")
    time, seen = as_numbers(frame[data.label]), as_numbers(frame[event])
    for column, values in ((data.label, time), (event, seen)):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{data.path}: column {column!r} is text; survival needs a time, and an event of 0 or 1")
    times, events = time.to_numpy(np.float64), seen.to_numpy(np.float64)
    if not np.isfinite(times).all() or times.min() < 0:
        raise DataError(
            f"{data.path}: times in {data.label!r} go from {times.min()} to {times.max()}; expected 0 or later"
        )
    if wrong := sorted(set(events.tolist()) - {0.0, 1.0}):
        raise DataError(
            f"{data.path}: column {event!r} has {wrong[0]:g}; expected 1 for a seen event, 0 for a censored one"
        )
    return np.stack([times, events], axis=1).astype(np.float32)


def _numbers(data: Data, frame: pd.DataFrame, names: list[str]) -> NDArray[np.float64]:
    features = {name: as_numbers(frame[name]) for name in names}
    text = [name for name, column in features.items() if column.dtype.kind not in "biuf"]
    if text:
        words = features[text[0]].map(is_no_number).to_numpy(dtype=bool)
        first = f"; {features[text[0]].iloc[int(words.argmax())]!r} is the first that is none" if words.any() else ""
        raise DataError(
            f"{place_of(data, frame, words)}: columns {', '.join(text)} are not numbers{first}; encode them (everywhere in the same way) or drop them"
        )
    if not names:
        raise DataError(f"{data.path}: no feature columns beside the label; expected at least one")
    values = np.stack([column.to_numpy(np.float64) for column in features.values()], axis=1)
    finite = np.isfinite(values)
    bad = [name for name, column in zip(names, finite.T, strict=True) if not column.all()]
    if bad:
        raise DataError(
            f"{place_of(data, frame, np.any(~finite, axis=1))}: missing or infinite values in {', '.join(bad)}; fill or drop those rows"
        )
    return values


def place_of(data: Data, frame: pd.DataFrame, bad: NDArray[np.bool_]) -> str:
    """Name the place of the first of some rows: the file, of one for each institution, and the row's number behind the line of names."""
    row, path = int(bad.argmax()), data.path
    if (sites := sites_of(data)) and data.column in frame:
        named = frame[data.column].astype(str).to_numpy()
        path, row = str(sites[named[row]]), int((named[:row] == named[row]).sum())
    return path if data.lazy or not bad.any() else f"{path}, row {row + 1}"


def _scaled(values: NDArray[np.float64], names: tuple[str, ...], scale: Mapping[str, Any]) -> NDArray[np.float64]:
    if not isinstance(scale, Mapping):
        raise ConfigError(f"data.options.scale is {scale!r}; expected a table, such as {{ age = [50, 12] }}")
    for name, pair in scale.items():
        known = name in names and isinstance(pair, list) and len(pair) == 2  # noqa: PLR2004 -- a pair
        if not known or not all(type(one) in (int, float) and math.isfinite(one) for one in pair) or not pair[1]:
            raise ConfigError(
                f"data.options.scale.{name}: expected a feature column and [centre, spread], found {pair}"
            )
        values[:, names.index(name)] = (values[:, names.index(name)] - pair[0]) / pair[1]
    return values


def require_named(data: Data, there: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: which one, and those that it has.
    """
    for column in [*columns, *(name for name in (data.column, data.split_column) if name)]:
        if column not in there:
            raise DataError(f"{data.path}: no column {column!r}; it has {', '.join(there)}")


def require_columns(data: Data, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a frame that lacks a column, or values in one.

    Raises:
        DataError: a column or a value is missing.
    """
    require_named(data, list(map(str, frame.columns)), columns)
    for column in [*columns, *(name for name in (data.column, data.split_column) if name)]:
        if (missing := frame[column].isna().to_numpy(dtype=bool)).any():
            raise DataError(
                f"{place_of(data, frame, missing)}: column {column!r} has missing values; fill or drop those rows"
            )


def groups_of(data: Data, frame: pd.DataFrame) -> NDArray[np.str_] | None:
    """Read the institution of each row, if `data.column` names it, shape (n,)."""
    return frame[data.column].astype(str).to_numpy(dtype=np.str_) if data.column else None


def splits_of(data: Data, frame: pd.DataFrame) -> NDArray[np.str_] | None:
    """Read what each row is for, if `data.split_column` names it, shape (n,)."""
    return frame[data.split_column].astype(str).to_numpy(dtype=np.str_) if data.split_column else None


def labels_of(
    frame: pd.DataFrame, data: Data, known_classes: tuple[str, ...] = ()
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read labels and the names of the classes; no names for a regression.

    Words are the classes that `data.options.classes` names, or those that every site of the frame shows.

    Args:
        frame: rows, with the column of labels, and that of institutions where there is one.
        data: section with the options `classes` and `target`.
        known_classes: names that the file gives to the numbers 0, 1, 2, ... of its labels.

    Raises:
        ConfigError, DataError: labels that the options do not fit; words that are no agreed classes.
    """
    options, column = data.options, as_numbers(frame[data.label])
    numeric = column.dtype.kind in "biuf"
    if numeric and np.isinf(column.to_numpy(np.float64)).any():
        raise DataError(f"{data.path}: label {data.label!r} has infinite values; mend or drop those rows")
    whole = numeric and bool((column == column.round()).all())
    target = options.get("target", "classes" if not numeric or whole or "classes" in options else "regression")
    if target not in ("classes", "regression"):
        raise ConfigError(f"data.options.target is {target!r}; expected `classes` or `regression`")
    if target == "regression":
        if not numeric:
            raise DataError(f"{data.path}: label {data.label!r} is text; a regression needs numbers")
        return column.to_numpy(dtype=np.float32), ()
    if numeric and not whole:
        raise DataError(f"{data.path}: label {data.label!r} has fractions; classes are whole numbers or text")
    _require_single(column, data)
    values = [str(int(v)) if numeric else word_of(v) for v in column]
    said = classes_said(data)
    if known_classes and numeric and (said or known_classes) == known_classes:
        return column.to_numpy(dtype=np.int64), known_classes
    if "classes" in options:
        classes = said
    elif numeric:
        classes = _counted(column, data)
    else:
        require_shared(values, groups_of(data, frame), lambda bad: place_of(data, frame, bad))
        classes = tuple(sorted(set(values)))
    number = numbers_of(classes) if numeric else {name: place for place, name in enumerate(classes)}
    unknown = np.array([value not in number for value in values])
    if unknown.any():
        raise DataError(
            f"{place_of(data, frame, unknown)}: label {values[int(unknown.argmax())]!r} is not in data.options.classes. Expected one of "
            f"{', '.join(map(repr, classes[:10]))}, as all agreed. Mend or drop those rows ({int(unknown.sum())} of {len(values)})"
        )
    return np.array([number[v] for v in values], dtype=np.int64), classes


def _require_single(column: pd.Series[Any], data: Data) -> None:
    """Refuse lists, each of which would be a class of its own."""
    if (cell := next((value for value in column if is_list(value)), None)) is not None:
        raise DataError(
            f"{data.path}: label {data.label!r} has lists in its cells, such as {cell!r}; expected a word or a number in each. Labels that do not "
            "exclude each other come from a data.source of your own, as floats of 0 and 1"
        )


def _counted(column: pd.Series[Any], data: Data) -> tuple[str, ...]:
    """Classes of whole numbers that nobody named: all from 0 to the largest."""
    if column.min() < 0:
        raise DataError(
            f'{data.path}: label {column.min()} is negative; classes count from 0, or set options.classes; a regression sets options.target = "regression"'
        )
    if column.max() >= _MOST_CLASSES:
        raise DataError(
            f"{data.path}: label {data.label!r} goes up to {int(column.max())}, and the model would have an output for each number below; "
            'for a regression set data.options.target = "regression", or number the classes from 0, or list them in data.options.classes'
        )
    return tuple(str(c) for c in range(int(column.max()) + 1))
