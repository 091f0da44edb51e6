"""Rows of Arrow and Parquet files: columns that say what a sample is are looked at once, the others when a row is asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data import hubs, images, questions, tables, texts
from dictpfl.client.data.lazy import Known, Numbers, Room
from dictpfl.client.data.samples import Dataset, TornError, path_of, require_options, spread
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

_LARGEST_GROUP = 256 << 20  # bytes of a row group: a sample is read by reading its group
_KEPT_GROUPS = 2
_LOOKED_AT = 8  # rows from which the form of samples is known


_OF_ALL = ("classes", "target")
_OF_SOURCE: Mapping[str, tuple[str, ...]] = {"csv": ("delimiter",), "datasets": ("split",)}


def require_row_options(data: Data) -> None:
    """Refuse options that the source, or the kind of sample which a section makes of its rows, does not take.

    Raises:
        ConfigError: an unknown option, one that another makes idle, or columns chosen where a sample is one or two of them.
    """
    of_source = _OF_SOURCE.get(data.source, ())
    known = (*_OF_ALL, *of_source)
    if {"text", "image"} <= data.options.keys():
        require_options(data, (*known, *questions.OPTIONS))
    elif "text" in data.options:
        require_options(data, (*known, *texts.OPTIONS))
    elif "image" in data.options:
        require_options(data, (*known, "image", *images.OPTIONS))
    else:
        require_options(data, ("scale", *_OF_ALL, "shape", *of_source, "event"))
    delimiter = data.options.get("delimiter", ",")
    # pandas reads several characters as a pattern, and "||" fits everywhere.
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ConfigError(f'data.options.delimiter is {delimiter!r}; expected a character, such as ";"')
    learnt = {"next": "each token is the label of the one before it", "regression": "labels are numbers"}
    if (said := learnt.get(str(data.options.get("target")))) and "classes" in data.options:
        raise ConfigError(
            f'data.options.classes would be ignored: with data.options.target = "{data.options["target"]}" {said}; leave it out'
        )
    if (data.features or data.exclude) and {"text", "image"} & data.options.keys():
        raise ConfigError(
            "data.features and data.exclude choose columns of numbers, and data.options makes samples of one column or two; leave them out"
        )


class Table(Protocol):
    """Rows in files."""

    columns: list[str]
    class_names: tuple[str, ...]
    """Names that the file itself gives to the classes."""
    digest: str

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def rows(self, numbers: Numbers | None, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of some rows, in this order; None: of all rows."""
        ...


class RowReader:
    """Samples of rows: made of a few rows at a time by what makes them of all (`dictpfl.client.data.sources.columns`)."""

    steady = True

    def __init__(self, data: Data, table: Table) -> None:
        """Take a table.

        Raises:
            ConfigError: samples that cannot be made of a few rows alone.
            DataError: columns missing.
        """
        options = data.options
        if not len(table):
            raise DataError(f"{data.path}: no rows; expected at least one sample")
        if data.preprocessing.on or options.get("long", "cut") != "cut":
            key = "data.preprocessing" if data.preprocessing.on else "data.options.long"
            raise ConfigError(
                f"{key} looks at all rows before the first sample, and data.lazy reads a few at a time; leave one of them out"
            )
        if "text" in options:
            # The tokenizer's own threads do not survive a fork into workers, and it says so at length.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._table, self._data = table, data
        sample = texts.columns_of(options)
        sample += [str(options[key]) for key in ("image", "prompt") if key in options]
        self._learnt = options.get("target") != "next"
        beside = [data.label, *([str(options["event"])] if "event" in options else [])] if self._learnt else []
        marks = [name for name in (data.column, data.split_column) if name]
        tables.require_named(data, table.columns, [*sample, *beside])
        self._beside, self._marks = beside, marks
        # Of numbers, every column may be a feature; of a text or an image, no other is read.
        self._columns = [
            c for c in table.columns if (c not in marks or c in beside) and (not sample or c in (*sample, *beside))
        ]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._table)

    @property
    def digest(self) -> str:
        """See `dictpfl.client.data.lazy.Reader`."""
        return self._table.digest

    def read(
        self,
        numbers: Numbers,
        seed: int = 0,  # noqa: ARG002 -- nothing is drawn
        room: Room | None = None,  # noqa: ARG002 -- a batch is made at once
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """See `dictpfl.client.data.lazy.Reader`."""
        try:
            made = self._made(self._table.rows(numbers, self._columns))
        except DataError as error:
            raise self._named(error, numbers) from error
        except (OSError, ValueError) as error:  # pyarrow's own are among these
            raise DataError(
                f"{self._data.path}, row {numbers[0] + 1}: {error}; mend the file, or set data.skip_broken = true"
            ) from error
        return made.samples.features, made.samples.labels

    def known(self) -> Known:
        """See `dictpfl.client.data.lazy.Reader`."""
        require_row_options(self._data)  # when data are divided, not of an index that lies there
        few = self._few()
        labels, classes = self._labels if self._learnt else (None, few.class_names)
        marks = self._table.rows(None, self._marks) if self._marks else None
        return Known(
            len(classes) or few.outputs,
            labels,
            None if marks is None else tables.groups_of(self._data, marks),
            None if marks is None else tables.splits_of(self._data, marks),
            name=Path(self._data.path).name,
            feature_names=few.feature_names,
            class_names=classes,
            picture=few.picture,
        )

    def _few(self) -> Dataset:
        """The first rows, by which the form of all is known; where they cannot be read and `skip_broken` is set, the first that can."""
        looked_at, _ = np.arange(min(_LOOKED_AT, len(self))), self._section  # errors of labels name their own rows
        try:
            return self._made(self._table.rows(looked_at, self._columns))
        except DataError as error:
            for number in spread(len(self)) if self._data.skip_broken else ():
                with suppress(DataError):
                    return self._made(self._table.rows(number[None], self._columns))
            raise self._named(error, looked_at) from error

    def _named(self, error: DataError, numbers: Numbers) -> DataError:
        """Return an error with the table's name in front, and the row's where it is one alone, as `dictpfl.client.data.tables.place_of` counts."""
        path = self._data.path
        where = f"{path}, row {numbers[0] + 1}" if len(numbers) == 1 else path
        return DataError(f"{where}: {str(error).removeprefix(f'{path}: ')}")

    @cached_property
    def _labels(self) -> tuple[NDArray[Any], tuple[str, ...]]:
        """Labels of all rows, and the names of the classes."""
        data = self._data.model_copy(update={"lazy": False})  # all rows are here, so that errors can name theirs
        # Of classes that nobody named, each site's are compared.
        compared = () if "classes" in data.options else self._marks
        frame = self._table.rows(None, list(dict.fromkeys((*self._beside, *compared))))
        tables.require_columns(data.model_copy(update={"column": "", "split_column": ""}), frame, self._beside)
        if "event" in data.options:
            return tables.survival_of(frame, data), ()
        return tables.labels_of(frame, data, self._table.class_names)

    @cached_property
    def _section(self) -> Data:
        """The section with what a few rows do not say by themselves: whether labels are classes, and which there are."""
        options = dict(self._data.options)
        if self._learnt and "event" not in options:
            labels, classes = self._labels
            options["target"] = "classes" if labels.dtype == np.int64 else "regression"
            options |= {"classes": list(classes)} if classes else {}
        changed = {"options": options, "limit": 0, "test_limit": 0, "column": "", "split_column": ""}
        return self._data.model_copy(update=changed)

    def _made(self, frame: pd.DataFrame) -> Dataset:
        data, names = self._section, self._table.class_names
        if {"text", "image"} <= data.options.keys():
            return questions.asked(data, frame, names, seed=0)
        if "text" in data.options:
            return texts.tokens(data, frame, names, seed=0)
        if "image" in data.options:
            return images.pixels(data, frame, names, seed=0)
        return tables.numbers(data, frame, names)


class SavedTable:
    """A folder that Hugging Face's `save_to_disk` wrote, or one .arrow file: mapped into memory, so that the system reads what is looked at."""

    def __init__(self, path: Path, data: Data) -> None:
        """Open; nothing is fetched, no loading script is run.

        Raises:
            ConfigError: the library is not installed.
            DataError: unreadable, or a split that there is not.
        """
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(
                f"data.source {data.source!r} needs the library that wrote the folder ({error}); run `pip install datasets`, which the extra "
                "`simulation` brings, too, or write Parquet"
            ) from error
        try:
            table: Any = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_file(str(path))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path} as {data.source}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:  # as of another library's folder
            raise DataError(
                f"cannot read {path} as {data.source}: its description is damaged ({error!r}); write it anew by save_to_disk"
            ) from error
        if isinstance(table, datasets.DatasetDict):
            split = data.options.get("split", "train" if "train" in table else "")
            if not isinstance(split, str) or split not in table:
                raise DataError(f"{path} has the splits {', '.join(table)}; set data.options.split")
            table = table[split]
        self.class_names = tuple(map(str, getattr(table.features.get(data.label), "names", None) or ()))
        # Images stay encoded: `dictpfl.client.data.images` decodes the column that is wanted, and no other.
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
        self.frames, self.columns = table.with_format("pandas"), list(map(str, table.column_names))
        files = sorted((Path(one["filename"]).name, Path(one["filename"]).stat().st_size) for one in table.cache_files)
        self.digest = hashlib.sha256(json.dumps([files, len(table)]).encode()).hexdigest()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frames)

    def rows(self, numbers: Numbers | None, columns: Sequence[str]) -> pd.DataFrame:
        """See `Table`."""
        chosen = self.frames.select_columns(list(columns))
        frame: pd.DataFrame = chosen[:] if numbers is None else chosen[numbers]
        return frame


class ParquetTable:
    """Parquet files: a row is read with its row group, of which the last two are kept."""

    def __init__(self, paths: Sequence[Path], label: str) -> None:
        """Read the files' footers.

        Raises:
            DataError: unreadable, other columns, or row groups too large to be read for a sample.
        """
        self._paths, self._open = list(paths), dict[int, Any]()
        self._groups: list[tuple[int, int]] = []
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        ends, said, columns = [0], [], list[list[str]]()
        for place, path in enumerate(self._paths):
            try:
                footer = self._file(place).metadata
            except (OSError, ValueError) as error:
                raise DataError(f"cannot read {path} as parquet: {error}") from error
            columns.append(list(self._file(place).schema_arrow.names))
            said.append((path.name, footer.num_rows, path.stat().st_size))
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group)
                if rows.total_byte_size > _LARGEST_GROUP:
                    raise DataError(
                        f"{path}: a row group of {rows.total_byte_size / 1e6:.0f} MB would be read for each of its {rows.num_rows} samples; write "
                        "it with small ones (`to_parquet(path, row_group_size=256)`), or as Arrow (`datasets`, save_to_disk)"
                    )
                self._groups.append((place, group))
                ends.append(ends[-1] + rows.num_rows)
        if any(names != columns[0] for names in columns):
            raise DataError(
                f"the files {', '.join(path.name for path in self._paths[:5])} have other columns; expected the same"
            )
        if twice := sorted({name for name in columns[0] if columns[0].count(name) > 1}):
            raise DataError(
                f"{self._paths[0]} has the column {twice[0]!r} twice; columns are found by name, so expected each once: drop one, or give it "
                "another name"
            )
        self.columns, self._ends = columns[0], np.array(ends)
        self.class_names = names_in_parquet(self._paths[0], label)
        self.digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        self._process = os.getpid()

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends[-1])

    def rows(self, numbers: Numbers | None, columns: Sequence[str]) -> pd.DataFrame:
        """See `Table`."""
        import pandas as pd

        if self._process != os.getpid():  # files of the parent: a worker opens its own
            self._open, self._process = {}, os.getpid()
            self._kept.clear()
        if numbers is None:
            parts = [self._read(place, list(columns)).to_pandas() for place in range(len(self._groups))]
            whole: pd.DataFrame = pd.concat(parts, ignore_index=True)
            return whole.rename(columns=str)
        which = np.searchsorted(self._ends, numbers, side="right") - 1
        parts, order = [], []
        for place in np.unique(which):
            wanted = np.flatnonzero(which == place)
            parts.append(self._group(int(place), tuple(columns)).take(numbers[wanted] - self._ends[place]).to_pandas())
            order.append(wanted)
        frame: pd.DataFrame = pd.concat(parts, ignore_index=True)
        sorted_back: pd.DataFrame = frame.iloc[np.argsort(np.concatenate(order), kind="stable")].reset_index(drop=True)
        return sorted_back.rename(columns=str)  # pandas turns names back into whole numbers

    def _group(self, place: int, columns: tuple[str, ...]) -> Any:
        """Columns of a row group, from memory if it is one of the last."""
        key = (place, columns)
        if key not in self._kept:
            self._kept[key] = self._read(place, list(columns))
            while len(self._kept) > _KEPT_GROUPS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read(self, place: int, columns: list[str]) -> Any:
        file, group = self._groups[place]
        try:
            return self._file(file).read_row_group(group, columns=columns, use_threads=False)
        except (OSError, ValueError) as error:
            raise TornError(
                f"{self._paths[file]}: row group {group} cannot be read as parquet: {' '.join(str(error).split())}; mend or drop it, or set data.skip_broken = true"
            ) from error

    def _file(self, place: int) -> Any:
        import pyarrow.parquet

        if place not in self._open:
            self._open[place] = pyarrow.parquet.ParquetFile(self._paths[place], memory_map=True)
        return self._open[place]


def saved_rows(data: Data) -> RowReader:
    """Rows of a section whose source is `datasets`."""
    return RowReader(data, SavedTable(path_of(data), data))


def parquet_rows(data: Data) -> RowReader:
    """Rows of a section whose source is `parquet`: of a file, of all in a folder, or of a data set of the hub."""
    if hubs.is_hub(data.path, data.source):
        return RowReader(data, ParquetTable(hubs.local_files(data.path), data.label))
    return RowReader(data, ParquetTable(parquet_files(path_of(data)), data.label))


def parquet_files(path: Path) -> list[Path]:
    """Files of a data set: the file itself, or all below a folder, in the order of their names.

    Raises:
        DataError: there is none.
    """
    paths = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise DataError(f"no file {path}; expected a Parquet file, or a folder of some")
    return paths


def names_in_parquet(path: Path, label: str) -> tuple[str, ...]:
    """Read the names of classes that `datasets` left in the file's metadata."""
    import pyarrow.parquet

    if not path.is_file():
        return ()
    try:
        written = json.loads((pyarrow.parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, written["info"]["features"][label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()
