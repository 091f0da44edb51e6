"""Files of samples, whatever they hold: samples themselves, a table to be prepared, or an index of samples that are read when they are needed."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from dictpfl.client.data.lazy import INDEX_FORMAT, Form, LazySamples
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import NUMBERS, UNREADABLE, Samples, arrays_in
from dictpfl.client.data.source import SOURCES, reader_of
from dictpfl.common.documents import explained
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data


def opened(path: Path, data: Data) -> Samples:
    """Read samples, or a table where the section prepares columns, or open an index; of an index's data nothing is read.

    Args:
        path: an .npz that `Samples.save` or `LazySamples.save` wrote.
        data: section of the federation's configuration. A file is no place to name code: an index of a user's own source is opened
            where this section names it, too.

    Raises:
        DataError: missing, damaged, or an index of other data than there are now.
    """
    if not is_index(path):
        return Table.load(path) if data.preprocessing.on else Samples.load(path)
    try:
        with arrays_in(path) as file:
            numbers, labels = file[NUMBERS], file.get("labels")
            about = json.loads(str(file["about"]))
            own = Data.model_validate(about["data"])
            form = Form(tuple(about["shape"]), about["dtype"], tuple(about["label_shape"]), about["label_dtype"])
            written, digest = about["format"], about["digest"]
    except (*UNREADABLE, ValidationError) as error:
        raise DataError(
            f"cannot read the index {path}: {explained(error)}; write it again with `dictpfl data prepare`"
        ) from error
    if written != INDEX_FORMAT:
        raise DataError(f"{path} has the form {written!r}, this version reads {INDEX_FORMAT!r}; prepare the data again")
    if own.source not in SOURCES.own() and own.source != data.source:
        raise DataError(
            f"{path} names the code {own.source!r}, and the configuration has data.source {data.source!r}; a file of samples is not run: "
            "prepare the data by the configuration's own source"
        )
    reader = reader_of(own)
    if reader.digest != digest or (len(numbers) and int(numbers.max()) >= len(reader)):
        raise DataError(
            f"{path} is an index of data that have changed since ({own.path or own.source}: {len(reader)} samples now); what an institution "
            "weighs and what privacy it spends go by them. Restore them, or write the index again with `dictpfl data prepare --replace`"
        )
    return LazySamples(reader, own, numbers, labels, form)


def is_index(path: Path) -> bool:
    """Tell whether a file is an index; False of one that cannot be read."""
    try:
        with arrays_in(path) as file:
            return NUMBERS in file
    except UNREADABLE:
        return False  # whoever reads it next says what is wrong
