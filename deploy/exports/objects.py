"""`dictpfl.evaluate` and `dictpfl.export`: what the commands do, for a run as an object or its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.deploy import console
from dictpfl.deploy.exports.columns import write_columns
from dictpfl.deploy.exports.evaluation import Evaluation, evaluate_on, measured, of_dataset
from dictpfl.deploy.exports.exporter import load_exporter
from dictpfl.deploy.exports.finished import Checkpoint, Finished, require_checkpoint
from dictpfl.deploy.runs.census import classes_of
from dictpfl.deploy.runs.run import Run


def evaluate(run: Run | Path | str, data: Any = None, *, checkpoint: Checkpoint = "last") -> Evaluation:
    """Measure the model of a run on data of your own; nothing leaves this machine.

    Args:
        run: what `dictpfl.simulate` returned, its folder, or an institution's folder.
        data: `dictpfl.Samples`, a `dictpfl.Dataset`, a pair of features and labels (but where `data.preprocessing` prepares columns), an .npz
            file, or a file or folder of the federation's own `data.source`. None: the test split of a run, the validation split of an
            institution.
        checkpoint: `best` measures the model of the best round by validation.

    Raises:
        ConfigError, DataError, ModelError: run, data or both together cannot be used.
    """
    folder = _folder(run)
    if data is None or isinstance(data, (Path, str)):
        return evaluate_on(folder, None if data is None else Path(data), checkpoint=checkpoint)
    finished = Finished.load(folder, checkpoint)
    if isinstance(data, Dataset):
        return measured(finished, *of_dataset(finished, data, classes_of(finished.genesis, folder)))
    if isinstance(data, (tuple, list)) and len(data) == 2:  # noqa: PLR2004 -- features and labels
        if finished.genesis.config.data.preprocessing.on:
            raise DataError(
                "data: found features and labels, and this federation prepares columns (data.preprocessing): whether these are prepared, arrays do "
                "not say. Expected a file with the columns as they stand, or dictpfl.Samples of prepared ones"
            )
        data = Samples(*data)
    if not isinstance(data, Samples):
        raise ConfigError(
            f"data: expected dictpfl.Samples, a dictpfl.Dataset, (features, labels), a path or None, found {type(data).__name__}"
        )
    return measured(finished, data)


def export(
    run: Run | Path | str,
    output: Path | str,
    *,
    format: str = "safetensors",  # noqa: A002 -- as the command has it
    checkpoint: Checkpoint = "last",
) -> Path:
    """Write the model of a run for use without dictpfl, and beside it how its columns are prepared (`columns.json`), if they are.

    Args:
        run: what `dictpfl.simulate` returned, its folder, or an institution's folder.
        output: file (safetensors), or new folder.
        format: `safetensors`, `merged`, `peft`, `sparse`, `narrow`, a plug-in's name, or `package.module:name`.
        checkpoint: see `evaluate`.

    Returns:
        What was written.

    Raises:
        ConfigError: no finished round, an unknown format or checkpoint, or a place that cannot be written.
    """
    require_checkpoint(checkpoint)
    place = Path(output)
    console.require_place(place)
    load_exporter(format).export(_folder(run), place, checkpoint)
    write_columns(_folder(run), place, checkpoint)
    return place


def _folder(run: Run | Path | str) -> Path:
    if isinstance(run, Run):
        return run.folder
    if isinstance(run, (Path, str)):
        return Path(run)
    raise ConfigError(f"run: expected what dictpfl.simulate returned, or a folder, found {type(run).__name__}")
