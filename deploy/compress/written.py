"""Models that stand without a federation: a library's, and folders that `dictpfl cut` and `dictpfl distil` wrote."""

from __future__ import annotations

from pathlib import Path

from dictpfl.client.model import hub
from dictpfl.common.documents import explained, parse_document
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model
from dictpfl.deploy.exports.columns import COLUMNS
from dictpfl.deploy.exports.folders import WEIGHTS

CUT, CUT_FORMAT = "cut.json", "dictpfl-cut-1"
DISTILLED, DISTILLED_FORMAT = "distil.json", "dictpfl-distil-1"
_RECORDS = {CUT: (CUT_FORMAT, "source"), DISTILLED: (DISTILLED_FORMAT, "student")}
"""Format of each record, and its key for what made the model."""


def standing(name: str) -> Model | None:
    """Return `[model]` of what a name leads to, if it is of no federation: a library's model, or a folder that `cut` or `distil` wrote.

    Args:
        name: SOURCE of the compression commands.

    Raises:
        ConfigError: such a folder, of which no model can be made: a damaged record, a network of a function of one's own, whose
            arguments for these sizes are not known, or one whose columns a federation prepared.
    """
    return Model(source=name) if hub.split(name)[0] else _written(Path(name))


def _written(folder: Path) -> Model | None:
    record = next((folder / name for name in _RECORDS if (folder / name).is_file()), None)
    if record is None:
        return None
    form, key = _RECORDS[record.name]
    try:
        said = parse_document(record.read_bytes(), form, record, ConfigError)
        made = Model(source=said[key], options=said["options"], weights=str(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{record} is damaged ({explained(error)}); write the folder anew") from error
    library, _ = hub.split(made.source)
    if (folder / COLUMNS).exists():
        raise ConfigError(
            f"{folder}: its columns were prepared by what a federation counted, which only the federation's own folder has; "
            "name that folder"
        )
    if library:
        return Model(source=f"{library}:{folder}")
    if not made.options:
        raise ConfigError(
            f"{folder} holds a model of {made.source}, a function of your own, and with which arguments it makes these sizes is not "
            f"known; name it by a configuration: model.source, model.options and model.weights = {str(folder / WEIGHTS)!r}"
        )
    return made
