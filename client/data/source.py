"""Samples of an institution, and the data sets that a configuration can name (`[data]`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dictpfl.client.data.lazy import Chain, LazySamples, Reader, Source
from dictpfl.client.data.readers.files import FileReader, clip_files, image_files
from dictpfl.client.data.readers.own import OwnReader, is_own
from dictpfl.client.data.readers.rows import parquet_rows, saved_rows
from dictpfl.client.data.samples import TEST, TRAIN, Dataset, Samples, drawn, sites_of
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import expanded
from dictpfl.common.registry import Registry, require_bindable
from dictpfl.common.settings import Data

SOURCES: Registry[Callable[..., Dataset]] = Registry(
    "data source", key="data.source", group="dictpfl.sources", folder="dictpfl.client.data.sources"
)
"""This project's own take the section `[data]` and the seed; a plug-in's or a user's takes `data.options` by keyword."""


COLUMNS = ("csv", "parquet", "jsonl", "datasets")
"""Sources of files with columns."""
LAZY: Mapping[str, Callable[[Data], Source]] = {
    "imagefolder": image_files,
    "videofolder": clip_files,
    "datasets": saved_rows,
    "parquet": parquet_rows,
}
"""Readers of a source's samples one by one (`data.lazy`). A user's function returns a Dataset, which does so by itself."""
_FILES = ("imagefolder", "videofolder")
_OF_FILES = (*COLUMNS, *_FILES, "fashion_mnist")
"""Sources that read `data.path`, so that `data.test_path` can name another of its kind."""


def load_dataset(data: Data, seed: int) -> Dataset:
    """Read the source that the configuration names, at most `data.limit` samples of it, drawn by seed.

    With `data.test_path` both are one data set, whose `splits` say which samples are for the test; with
    `data.split_column` the rows say so themselves.

    Features are scaled by constants that are public, never by statistics of private data, which
    would tell about it unencrypted (and differ between institutions): see `dictpfl.client.data.tables`.

    Raises:
        ConfigError: unknown source or option, a missing path, or a test split that this source cannot have.
        DataError: unreadable, empty, or values that no model can learn from.
    """
    if data.preprocessing.pipeline:
        raise ConfigError(
            "data.preprocessing.pipeline is read when a federation is founded, and not here; say what it does in the section's other keys"
        )
    if data.test_path:
        return _with_test(data, seed)
    _require_columns_read(data)
    dataset = _read(data, seed)
    if data.split_column and dataset.splits is None:
        raise ConfigError(
            f"data.split_column is {data.split_column!r}, but data.source {data.source!r} has no columns; give test samples by "
            "data.test_path, or leave it empty"
        )
    _require_columns_read(data, has_groups=dataset.groups is not None)
    kept = drawn(len(dataset.samples), data, seed, dataset.splits)
    dataset = dataset if kept is None else dataset.take(kept)
    lazy = dataset.samples
    if isinstance(lazy, LazySamples) and isinstance(lazy.reader, FileReader):
        lazy.reader.make_ready(lazy.numbers, skip_broken=data.skip_broken)
    return dataset


def _require_columns_read(data: Data, *, has_groups: bool = True) -> None:
    """Refuse names of columns where no column is read; a source that knows the institution of each sample may have a word for it."""
    named = {
        "data.label": data.label if data.label != Data().label and data.source not in COLUMNS else "",
        "data.column": data.column if data.source in _FILES or not has_groups else "",
    }
    if said := " and ".join(f"{key} = {name!r}" for key, name in named.items() if name):
        instead = (
            "; here folders name the classes, and data.paths or data.options.sites the institutions"
            if data.source == "imagefolder"
            else ""
        )
        raise ConfigError(
            f"{said} names a column, and data.source {data.source!r} reads none, so that it would be ignored; leave it out, or set data.source "
            f"to one of {', '.join(COLUMNS)}{instead}"
        )


def of_other_source(data: Data, source: str) -> dict[str, Any]:
    """Return the overrides that leave out of a section what another kind of file than the agreed one does not have."""
    if source == data.source:
        return {}
    options = {key: value for key, value in data.options.items() if key not in ("delimiter", "split")}
    return {"data.options": options} | ({} if source in COLUMNS else {"data.label": Data().label, "data.column": ""})


def _with_test(data: Data, seed: int) -> Dataset:
    if data.source not in _OF_FILES:
        raise ConfigError(
            f"data.test_path is set, but data.source {data.source!r} reads no file; expected one of {', '.join(_OF_FILES)}"
        )
    if expanded(data.path).resolve() == expanded(data.test_path).resolve():
        raise ConfigError(f"data.test_path is data.path, {data.path!r}: the model would be tested on what it learned")
    first = load_dataset(data.model_copy(update={"test_path": ""}), seed)
    test = load_dataset(
        data.model_copy(
            update={
                "path": data.test_path,
                "paths": {},
                "test_path": "",
                "limit": data.test_limit,
                "features": list(first.feature_names),
            }
        ),
        seed,
    )
    return _joined(first, test, data)


def _joined(first: Dataset, test: Dataset, data: Data) -> Dataset:
    """One data set of both, whose classes have the same numbers."""
    shorter, longer = sorted((first.class_names, test.class_names), key=len)
    if longer[: len(shorter)] != shorter:
        raise DataError(
            f"{data.path} has the classes {', '.join(first.class_names[:10])}, {data.test_path} has "
            f"{', '.join(test.class_names[:10])}: their numbers would differ; set data.options.classes to all of them"
        )
    one, other = first.samples, test.samples
    if isinstance(one, LazySamples) != isinstance(other, LazySamples):
        raise DataError(
            f"{data.path} and {data.test_path} are not both read when they are needed; expected both, or none"
        )
    alike = one.features.shape[1:] == other.features.shape[1:] and one.labels.shape[1:] == other.labels.shape[1:]
    if not alike or one.features.dtype != other.features.dtype or one.labels.dtype != other.labels.dtype:
        raise DataError(
            f"samples of {data.path} are {one.features.dtype} {one.features.shape[1:]} with labels {one.labels.dtype}, those of "
            f"{data.test_path} {other.features.dtype} {other.features.shape[1:]} with labels {other.labels.dtype}; expected the "
            "same form"
        )
    both = None
    if first.groups is not None:  # test samples may be nobody's
        both = np.concatenate([first.groups, np.full(len(other), "") if test.groups is None else test.groups])
    return replace(
        first,
        samples=_both(one, other, data),
        outputs=max(first.outputs, test.outputs),
        groups=both,
        splits=np.array([TRAIN] * len(one) + [TEST] * len(other)),
        class_names=longer,
    )


def _both(one: Samples, other: Samples, data: Data) -> Samples:
    """Samples of both, one behind the other."""
    if isinstance(one, LazySamples) and isinstance(other, LazySamples):
        labels = np.concatenate([one.labels, other.labels]) if one.holds_labels and other.holds_labels else None
        numbers = np.concatenate([one.numbers, other.numbers + len(one.reader)])
        return LazySamples(Chain([one.reader, other.reader]), data, numbers, labels, one.form)
    return type(one)(np.concatenate([one.features, other.features]), np.concatenate([one.labels, other.labels]))


def reader_of(data: Data) -> Reader:
    """Make what reads a section's samples one by one, those of its test path after the others.

    Raises:
        ConfigError, DataError: as `load_dataset`.
    """
    if not data.test_path:
        return _source(data)
    place = {"path": data.test_path, "paths": {}, "test_path": ""}
    return Chain([_source(data.model_copy(update=one)) for one in ({"test_path": ""}, place)])


def _source(data: Data) -> Source:
    if data.source in LAZY and data.source not in _FILES and sites_of(data):
        raise ConfigError(
            "data.lazy reads one data set of columns, and data.path or data.paths names several; put them into one, with a column that names "
            "the institution (data.column), or leave data.lazy out"
        )
    if data.source in LAZY:
        return LAZY[data.source](data)
    if data.source in SOURCES.own():
        raise ConfigError(
            f"data.lazy is set, and data.source {data.source!r} reads all its samples at the start; leave it out, or use one of "
            f"{', '.join(LAZY)}, or a function that returns a torch Dataset"
        )
    found = _called(data)
    if not is_own(found):
        raise DataError(
            f"data.source {data.source!r} returned {type(found).__name__}; expected a torch.utils.data.Dataset, as when the data were divided"
        )
    return OwnReader(found, data)


def _called(data: Data) -> Any:
    """What a plug-in's or a user's function returns."""
    load = SOURCES.load(data.source)
    require_bindable(load, data.options, f"data.options of {data.source!r}")
    return load(**data.options)


def _lazily(reader: Source, data: Data) -> Dataset:
    """All samples of a reader."""
    known = reader.known()
    numbers = np.arange(len(reader)) if known.kept is None else known.kept

    def kept(values: Any) -> Any:
        return values if values is None or known.kept is None else values[known.kept]

    return Dataset(
        LazySamples(reader, data, numbers, kept(known.labels)), known.outputs, kept(known.groups), kept(known.splits), known.name,
        known.feature_names, known.class_names, known.made_by, known.picture,
    )  # fmt: skip


def _read(data: Data, seed: int) -> Dataset:
    load = SOURCES.load(data.source)
    if data.paths and (data.path or data.source not in (*COLUMNS, "imagefolder")):
        raise ConfigError(
            f"data.paths names a file or folder for each institution, but data.path is {data.path!r} and data.source {data.source!r}; "
            f"leave data.path empty, and set data.source to one of {', '.join((*COLUMNS, 'imagefolder'))}"
        )
    if (data.features or data.exclude) and data.source not in COLUMNS:
        raise ConfigError(
            f"data.features and data.exclude choose columns of a table, and data.source {data.source!r} has none; leave them empty"
        )
    if data.preprocessing.on and (data.source not in COLUMNS or {"text", "image"} & data.options.keys()):
        raise ConfigError(
            f"data.preprocessing prepares columns of a table, and data.source {data.source!r} with these options has none; leave it out"
        )
    if data.path and data.source not in _OF_FILES:
        takes = "takes its place from data.options" if data.source not in SOURCES.own() else "reads no file"
        raise ConfigError(
            f"data.path is {data.path!r}, but data.source {data.source!r} {takes}, so it would be ignored; leave data.path empty, or set "
            f"data.source to one of {', '.join(_OF_FILES)}"
        )
    if data.skip_broken and not data.lazy and data.source in SOURCES.own() and data.source not in _FILES:
        raise ConfigError(
            f"data.skip_broken leaves out files that cannot be read, and data.source {data.source!r} has its samples in one; leave it out, or "
            "set data.lazy where the source can"
        )
    if data.source in SOURCES.own():
        return _lazily(_source(data), data) if data.lazy else load(data, seed)
    found = _called(data)
    if not isinstance(found, Dataset) and is_own(found):
        return _lazily(OwnReader(found, data), data)
    if not isinstance(found, Dataset):
        raise DataError(
            f"data.source {data.source!r} returned {type(found).__name__}; expected a dictpfl.Dataset, or a torch.utils.data.Dataset whose "
            "items are pairs of a sample and its label"
        )
    if data.lazy or data.skip_broken:
        raise ConfigError(
            f"data.source {data.source!r} returned samples in memory, so that data.lazy and data.skip_broken would be ignored; return a "
            "torch.utils.data.Dataset, or leave them out"
        )
    return found
