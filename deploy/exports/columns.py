"""Preparation of columns beside an exported model: the agreed one in numbers, for programs that do not have dictpfl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private

if TYPE_CHECKING:
    from dictpfl.client.data.preparing.preparation import Preparation
    from dictpfl.common.law.state import SharedState
    from dictpfl.deploy.exports.finished import Checkpoint, Finished

COLUMNS = "columns.json"


def write_columns(folder: Path, output: Path, checkpoint: Checkpoint = "last") -> Path | None:
    """Write the preparation of a federation's columns beside its exported model; None where samples are ready as they are.

    Args:
        folder: of a run or an institution, which was exported.
        output: what was written: a file, whose name gets the ending `.columns.json` (in place of `.safetensors`), or a folder.
        checkpoint: that was exported; statistics are the same in all.

    Raises:
        ConfigError: the file cannot be written.
    """
    from dictpfl.deploy.runs.run import SUMMARY, Run

    if (folder / SUMMARY).exists() and not Run.load(folder).config.data.preprocessing.on:
        return None  # before torch is loaded, which a copy of a run's own model does without
    from dictpfl.deploy.exports.finished import Finished

    return write_preparation(Finished.load(folder, checkpoint), output)


def write_preparation(finished: Finished | None, output: Path) -> Path | None:
    """Write what `write_columns` writes, of a federation that is loaded; nothing where there is none (None).

    Raises:
        ConfigError: the file cannot be written.
    """
    from dictpfl.client.data.preparing.preparation import preparation_of

    made = None if finished is None else preparation_of(finished.genesis.config)
    if finished is None or made is None:
        return None
    # Of "model-0.1" and "model-0.2" what is behind the dot is no ending: both would have one file.
    name = output.stem if output.suffix == ".safetensors" else output.name
    path = output / COLUMNS if output.is_dir() else output.with_name(f"{name}.{COLUMNS}")
    said = described(made, finished.state)
    try:
        write_private(path, (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return path


def described(made: Preparation, state: SharedState) -> dict[str, Any]:
    """Preparation as JSON values: `columns` in their order, and the names of the `features` that they make.

    A column of numbers has `fill`, `low`, `high` (null: not cut), `centre` and `spread`: x becomes (clip(x or fill) - centre) / spread. One of
    categories has `categories`, or the number of `buckets` (`dictpfl.client.data.columns.bucket`), and for each of them whether enough
    samples have it (`kept`); it makes a feature for each and one for all others.
    """
    scalings, kept = made.scalings(state), made.kept(state)
    columns: list[dict[str, Any]] = []
    for name in made.columns.names:
        if name in scalings:
            one = scalings[name]
            ends = {key: value if np.isfinite(value) else None for key, value in (("low", one.low), ("high", one.high))}
            columns.append({"name": name, "fill": one.fill, **ends, "centre": one.centre, "spread": one.spread})
        else:
            said = made.columns.said.categories[name]
            words = {"buckets": said} if isinstance(said, int) else {"categories": list(said)}
            columns.append({"name": name, **words, "kept": [bool(k) for k in kept[name]]})
    return {"columns": columns, "features": list(made.columns.features)}
