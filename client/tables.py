"""Tables of numbers and the labels of any table (`data.source` = csv, parquet, jsonl, datasets)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.data import Dataset, Samples
from common.errors import ConfigError, DataError
from common.settings import Data

if TYPE_CHECKING:
    import pandas as pd


def numbers(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = ()) -> Dataset:
    """A table of numbers, one row a sample; every column but label and `data.column` is a feature.

    `data.options`:

    - `scale`: `{age = [50, 12]}`: subtract the first, divide by the second. Constants that all institutions
      agree on from public knowledge; columns not named stay as they are. Nothing is fitted to the data.
    - `classes`: the classes in their order. In a deployment set it: an institution sees only its own labels, and
      without it numbers those it sees (text sorted; integers as they are).
    - `target`: `classes` or `regression`; by default regression for labels that are not whole numbers.
    - `shape`: of one sample, for instance `[1, 8, 8]`; by default (features,).
    """
    options = data.options
    require_columns(data, frame, [data.label])
    features = frame.drop(columns=[data.label, *([data.column] if data.column else [])])
    values = _scaled(_numbers(features, data.path), tuple(map(str, features.columns)), options.get("scale", {}))
    labels, classes = labels_of(frame[data.label], data, known_classes)
    shape = [int(d) for d in options.get("shape", [values.shape[1]])]
    if math.prod(shape) != values.shape[1]:
        raise DataError(f"{data.path}: data.options.shape {shape} does not hold {values.shape[1]} feature columns")
    return Dataset(
        Samples(values.reshape(-1, *shape), labels),
        len(classes) or 1,
        groups_of(data, frame),
        name=Path(data.path).name,
        feature_names=tuple(map(str, features.columns)),
        class_names=classes,
    )


def _numbers(features: pd.DataFrame, path: str) -> NDArray[np.float64]:
    text = [str(c) for c in features.columns if features[c].dtype.kind not in "biuf"]
    if text:
        raise DataError(
            f"{path}: columns {', '.join(text)} are not numbers; encode them (everywhere in the same way) or drop them"
        )
    if not len(features.columns):
        raise DataError(f"{path}: no feature columns beside the label; expected at least one")
    values: NDArray[np.float64] = features.to_numpy(dtype=np.float64)
    bad = [str(c) for c, column in zip(features.columns, values.T, strict=True) if not np.isfinite(column).all()]
    if bad:
        raise DataError(f"{path}: missing or infinite values in {', '.join(bad)}; fill or drop those rows")
    return values


def _scaled(values: NDArray[np.float64], names: tuple[str, ...], scale: Mapping[str, Any]) -> NDArray[np.float64]:
    for name, pair in scale.items():
        if name not in names or len(pair) != 2 or not pair[1]:  # noqa: PLR2004 -- a pair
            raise ConfigError(
                f"data.options.scale.{name}: expected a feature column and [centre, spread], found {pair}"
            )
        values[:, names.index(name)] = (values[:, names.index(name)] - pair[0]) / pair[1]
    return values


def require_columns(data: Data, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a frame that lacks a column, or values in one.

    Raises:
        DataError: so.
    """
    for column in [*columns, *([data.column] if data.column else [])]:
        if column not in frame.columns:
            raise DataError(f"{data.path}: no column {column!r}; it has {', '.join(map(str, frame.columns))}")
        if frame[column].isna().any():
            raise DataError(f"{data.path}: column {column!r} has missing values; fill or drop those rows")


def groups_of(data: Data, frame: pd.DataFrame) -> NDArray[np.str_] | None:
    """The institution of each row, if `data.column` names it."""
    return frame[data.column].astype(str).to_numpy(dtype=np.str_) if data.column else None


def labels_of(
    column: pd.Series[Any], data: Data, known_classes: tuple[str, ...] = ()
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels and the names of the classes; no names for a regression.

    Args:
        column: labels. `data`: with the options `classes` and `target`.
        known_classes: names that the file gives to the numbers 0, 1, 2, ... of its labels.

    Raises:
        ConfigError, DataError: labels that the options do not fit.
    """
    options = data.options
    numeric = column.dtype.kind in "biuf"
    whole = numeric and bool((column == column.round()).all())
    target = options.get("target", "regression" if numeric and not whole else "classes")
    if target not in ("classes", "regression"):
        raise ConfigError(f"data.options.target is {target!r}; expected `classes` or `regression`")
    if target == "regression":
        if not numeric:
            raise DataError(f"{data.path}: label {data.label!r} is text; a regression needs numbers")
        return column.to_numpy(dtype=np.float32), ()
    if numeric and not whole:
        raise DataError(f"{data.path}: label {data.label!r} has fractions; classes are whole numbers or text")
    values = [str(int(v)) if numeric else str(v) for v in column]
    if "classes" in options:
        classes = tuple(str(c) for c in options["classes"])
    elif known_classes and numeric:
        return column.to_numpy(dtype=np.int64), known_classes
    elif numeric:
        if column.min() < 0:
            raise DataError(
                f"{data.path}: label {column.min()} is negative; classes count from 0, or set options.classes"
            )
        classes = tuple(str(c) for c in range(int(column.max()) + 1))
    else:
        classes = tuple(sorted(set(values)))
    unknown = sorted(set(values) - set(classes))
    if unknown:
        raise DataError(f"{data.path}: labels {', '.join(unknown[:5])} are not in data.options.classes")
    number = {c: i for i, c in enumerate(classes)}
    return np.array([number[v] for v in values], dtype=np.int64), classes
