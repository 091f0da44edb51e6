"""Files with columns: csv, parquet, json lines, and data sets that Hugging Face `datasets` wrote to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import images, tables, texts
from client.data import Dataset, path_of, require_options
from common.errors import DataError
from common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

_OPTIONS = ("scale", "classes", "target", "shape", "delimiter", "split")


def read_columns(data: Data, seed: int) -> Dataset:
    """Rows as samples: tokens of `data.options.text`, images of `data.options.image`, or numbers of every other column.

    `data.options` for all of them: `classes`, `target` (see `client.tables`); `delimiter` of csv; `split` of a
    `datasets` folder with several. `seed`: of the rows that `data.limit` keeps, where preparing all of them is slow.

    Raises:
        ConfigError: an option that this kind of sample does not take.
        DataError: unreadable, empty, columns missing.
    """
    if "text" in data.options:
        require_options(data, (*_OPTIONS[1:3], *_OPTIONS[4:], *texts.OPTIONS))
        frame, names = _read(data)
        return texts.tokens(data, frame, names, seed=seed)
    if "image" in data.options:
        require_options(data, (*_OPTIONS[1:3], *_OPTIONS[4:], "image", *images.OPTIONS))
        frame, names = _read(data)
        return images.pixels(data, frame, names)
    require_options(data, _OPTIONS)
    frame, names = _read(data)
    return tables.numbers(data, frame, names)


def _read(data: Data) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The frame, and the names that the file itself gives to its classes."""
    import pandas as pd

    path = path_of(data)
    names: tuple[str, ...] = ()
    try:
        if data.source == "csv":
            frame = pd.read_csv(path, sep=data.options.get("delimiter", ","))
        elif data.source == "parquet":
            frame, names = pd.read_parquet(path), _names_in_parquet(path, data.label)
        elif data.source == "jsonl":
            frame = pd.read_json(path, lines=True)
        else:
            frame, names = _saved(path, data)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"cannot read {path} as {data.source}: {error}") from error
    if frame.empty:
        raise DataError(f"{path}: no rows; expected at least one sample")
    return frame, names


def _names_in_parquet(path: Path, label: str) -> tuple[str, ...]:
    """Names of classes that `datasets` left in the file's metadata."""
    import pyarrow.parquet

    if not path.is_file():
        return ()
    try:
        found = json.loads((pyarrow.parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, found["info"]["features"][label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()


def _saved(path: Path, data: Data) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A folder of `save_to_disk`, or one .arrow file; nothing is fetched and no loading script is run."""
    import datasets

    found: Any = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_file(str(path))
    if isinstance(found, datasets.DatasetDict):
        split = data.options.get("split", "train" if "train" in found else "")
        if split not in found:
            raise DataError(f"{path} has the splits {', '.join(found)}; set data.options.split")
        found = found[split]
    names = tuple(map(str, getattr(found.features.get(data.label), "names", None) or ()))
    # As bytes: `client.images` decodes what it needs and nothing else.
    for name, feature in found.features.items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(name, datasets.Image(decode=False))
    return found.to_pandas(), names
