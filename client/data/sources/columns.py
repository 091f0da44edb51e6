"""Files with columns: csv, parquet, json lines, and data sets that Hugging Face `datasets` wrote to disk."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictpfl.client.data import hubs, images, questions, tables, texts
from dictpfl.client.data.readers.rows import SavedTable, names_in_parquet, parquet_files, require_row_options
from dictpfl.client.data.readers.separated import read_separated, require_once, with_words
from dictpfl.client.data.samples import Dataset, classes_said, path_of, sites_of
from dictpfl.client.data.source import COLUMNS, SOURCES
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd


@SOURCES.register("csv")
@SOURCES.register("parquet")
@SOURCES.register("jsonl")
@SOURCES.register("datasets")
def read_columns(data: Data, seed: int) -> Dataset:
    """Read rows as samples: tokens of `data.options.text`, images of `data.options.image`, both, or numbers of all columns.

    `data.options` for all of them: `classes`, `target` (see `dictpfl.client.data.tables`); for csv alone `delimiter`;
    for a `datasets` folder with several alone `split`.

    Args:
        data: section of the configuration.
        seed: seed of the draw of the rows that `data.limit` keeps, where preparing all of them is slow.

    Raises:
        ConfigError: an option that this kind of sample does not take.
        DataError: unreadable, empty, columns missing.
    """
    require_row_options(data)
    data, frame, names = _sites(data, sites) if (sites := sites_of(data)) else (data, *_read(data))
    if {"text", "image"} <= data.options.keys():
        return questions.asked(data, frame, names, seed=seed)
    if "text" in data.options:
        return texts.tokens(data, frame, names, seed=seed)
    if "image" in data.options:
        return images.pixels(data, frame, names, seed=seed)
    return tables.numbers(data, frame, names)


def columns_in(data: Data) -> list[str] | None:
    """Names of a table's columns; None for a source that reads no table, or one table for each institution.

    Raises:
        DataError: unreadable, or empty.
    """
    if data.source not in COLUMNS or sites_of(data):
        return None
    if data.source == "parquet" and not hubs.is_hub(data.path, data.source):
        import pyarrow as pa
        import pyarrow.dataset

        path = path_of(data)
        parquet_files(path)
        try:
            return list(map(str, pyarrow.dataset.dataset(path, partitioning="hive").schema.names))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {path} as {data.source}: {error}") from error
    few = {"nrows": 1} if data.source == "csv" else {}
    return list(map(str, _read(data, **few)[0].columns))


_SITE = "dictpfl site"
"""Column that names the institution of each row, where each has a file of its own."""


def _sites(data: Data, sites: dict[str, Path]) -> tuple[Data, pd.DataFrame, tuple[str, ...]]:
    """Read each institution's file: the section that describes them together, all rows, and the names of the classes.

    Columns are matched by name; their order is that of the first file.
    """
    import pandas as pd

    if data.column:
        raise ConfigError(
            f"data.column is {data.column!r}, but each institution has a file of its own, which names it; leave data.column empty"
        )
    frames, names = [], set[tuple[str, ...]]()
    for site, path in sites.items():
        frame, own = _read(data.model_copy(update={"path": str(path), "paths": {}}))
        column = data.options.get("image")
        if column in frame.columns:  # paths of images are meant from the file that has them
            frame[column] = [
                str(path.parent.resolve() / cell) if isinstance(cell, str) else cell for cell in frame[column]
            ]
        frames.append(frame.assign(**{_SITE: site}))
        names.add(own)
    classes = _one_naming(names, "data.paths")
    whole = data.model_copy(update={"column": _SITE, "path": data.path or next(iter(sites.values())).as_posix()})
    return whole, pd.concat(_alike(frames, list(map(str, sites.values()))), ignore_index=True), classes


def _one_naming(names: set[tuple[str, ...]], whose: str) -> tuple[str, ...]:
    """Return what all files name their classes; nothing of none.

    Raises:
        DataError: they name other ones.
    """
    if len(names) > 1:
        said = " and ".join(", ".join(one[:5]) for one in sorted(names))
        raise DataError(f"the files of {whose} name other classes: {said}")
    return next(iter(names), ())


def _alike(frames: Sequence[pd.DataFrame], origins: Sequence[str]) -> list[pd.DataFrame]:
    """Frames with the columns of the first, by name.

    Raises:
        DataError: one lacks a column, or has one more.
    """
    first = list(frames[0].columns)
    for frame, origin in zip(frames, origins, strict=True):
        missing, extra = [c for c in first if c not in frame], [c for c in frame if c not in first]
        if missing or extra:
            parts = [
                f"{what} {', '.join(map(str, some[:10]))}"
                for what, some in (("lacks", missing), ("has also", extra))
                if some
            ]
            raise DataError(
                f"{origin} {' and '.join(parts)}, unlike {origins[0]}; expected the same columns, in any order"
            )
    return [frame[first] for frame in frames]


def _read(data: Data, **options: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read the frame, and the names that the file itself gives to its classes; `options` are of `pandas.read_csv`."""
    import pandas as pd

    paths = hubs.local_files(data.path) if hubs.is_hub(data.path, data.source) else _files(path_of(data), data.source)
    frames: list[pd.DataFrame] = []
    names = set[tuple[str, ...]]()
    for path in paths:
        if not path.exists():
            raise DataError(
                f"no file {path}, seen from {Path.cwd()}; expected one of data.source {data.source!r}: mend data.path or data.paths"
            )
        try:
            frame, own = _frame(path, data, **options)
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise DataError(f"cannot read {path} as {data.source}: {error}") from error
        frames.append(frame)
        names |= {own} - {()}
    classes = _one_naming(names, data.path)
    frame = frames[0] if len(frames) == 1 else pd.concat(_alike(frames, [*map(str, paths)]), ignore_index=True)
    if frame.empty:
        raise DataError(f"{data.path}: no rows; expected at least one sample")
    return frame, classes


def _files(path: Path, source: str) -> list[Path]:
    """List what is read for a path: of a folder of Parquet files each, so that none's columns are lost; of one divided by `column=value`, all at once."""
    if source != "parquet" or not path.is_dir():
        return [path]
    paths = parquet_files(path)
    return [path] if any("=" in part for one in paths for part in one.relative_to(path).parts[:-1]) else paths


def _frame(path: Path, data: Data, **options: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    import pandas as pd

    if data.source == "csv":
        how = 'name the delimiter by data.options.delimiter, such as ";"'
        delimiter = data.options.get("delimiter", ",")
        frame = read_separated(path, delimiter, how, **with_words(path, delimiter, _words(data)), **options)
        require_once(path, delimiter)
        return frame, ()
    if data.source == "parquet":
        # Columns that pandas names by whole numbers are matched by words, as the configuration has them.
        return pd.read_parquet(path).rename(columns=str), names_in_parquet(path, data.label)
    if data.source == "jsonl":
        return pd.read_json(path, lines=True, **_as_written()), ()
    saved = SavedTable(path, data)
    return saved.rows(None, saved.columns), saved.class_names


def _words(data: Data) -> dict[str, list[str]]:
    """Words that the section names, by column: classes, and categories."""
    categories = {name: said for name, said in data.preprocessing.categories.items() if isinstance(said, list)}
    return categories | {data.label: list(classes_said(data))}


def _as_written() -> dict[str, Any]:
    """Options of `pandas.read_json` by which a text stays one: "01" is no number, and "2024-01-01" no date."""
    import pandas as pd

    dates = inspect.signature(pd.read_json).parameters.get("convert_dates")
    # Up to pandas 3.0 dates are an option of their own, which later ones warn of.
    own = {"convert_dates": False} if dates is not None and dates.default is True else {}
    return {"dtype": False, "convert_axes": False, **own}
