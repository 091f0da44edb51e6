"""Preparing an institution's own data at home: from its file or folder to what its deployment reads, by the federation's own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.client.data.pipelines import with_pipeline
from dictpfl.client.data.samples import TEST, VALIDATION, Dataset, Samples
from dictpfl.client.data.scales import notes_on
from dictpfl.client.data.source import COLUMNS, load_dataset, of_other_source
from dictpfl.client.data.sources.columns import columns_in
from dictpfl.client.folder import TRAIN
from dictpfl.client.folder import VALIDATION as VALIDATION_FILE
from dictpfl.client.keys.epochs import home
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import owner_only, remove_leftovers, sync_folder
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.common.settings import MADE_BY, Data
from dictpfl.deploy.simulation.founding import shape_of
from dictpfl.deploy.simulation.partition import Share, split_share

TEST_FILE = "test.npz"


@dataclass(frozen=True)
class Prepared:
    """Files that were written, and what is in them.

    Attributes:
        files: path and number of samples of each.
        sample_shape: shape of one sample.
        outputs: classes, or targets of a regression.
        features: names of the features, where the data have columns.
        classes: names of the classes, where there are any.
        counts: samples of each class in all files together; empty without classes.
        notes: what its operator should know about the data.
    """

    files: Mapping[Path, int]
    sample_shape: tuple[int, ...]
    outputs: int
    features: tuple[str, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...] = ()


def prepare(
    folder: Path,
    path: Path | None,
    *,
    config: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Prepared:
    """Write `train.npz` and `validation.npz` (mode 0600) into an institution's folder; nothing leaves this machine.

    Rows that `data.split_column` marks `test` go into `test.npz`, for `dictpfl evaluate`. An image's labels, a table's columns and
    classes are found by the names that the federation agreed on.

    Args:
        folder: the institution's; made if missing.
        path: file or folder with its samples; None: `data.path`.
        config: configuration of the federation; None: the one in the folder's genesis, once a bundle was installed.
        changes: dotted overrides of `[data]`, which say how the file here differs, such as `{"data.label": "outcome"}`.
        replace: write over files that are there.

    Raises:
        ConfigError: no agreement to go by, keys that are not of `[data]`, or files that are there already.
        DataError: the data do not fit the agreement.
    """
    genesis = _genesis(folder)
    agreed = _agreed(genesis, config)
    data = _section(agreed, path, changes or {})
    dataset = load_dataset(data, agreed.seed)
    sample_shape = shape_of(
        agreed.model_copy(update={"data": data.model_copy(update={"features": list(dataset.feature_names)})}), dataset
    )
    _require_agreed(dataset, data, genesis, sample_shape)
    shares = _shares(dataset, data, agreed.seed)
    files = {folder / name: samples for name, samples in shares.items()}
    # A test file of before would be beside samples that it has nothing to do with: `evaluate` might measure what trains now.
    stale = {folder / TEST_FILE} - files.keys()
    if there := [str(file) for file in (*files, *stale) if file.exists() and not replace]:
        raise ConfigError(
            f"{', '.join(there)} would be written over; what an institution weighs, and the privacy it spends, go by its samples: say "
            "--replace if that is meant"
        )
    owner_only(folder)
    _replace(files, stale)
    labels = dataset.samples.labels
    counts = np.bincount(labels, minlength=dataset.outputs) if labels.dtype == np.int64 and labels.ndim == 1 else ()
    return Prepared(
        {file: len(samples) for file, samples in files.items()}, sample_shape, dataset.outputs, dataset.feature_names,
        dataset.class_names, tuple(map(int, counts)),
        notes_on(dataset),
    )  # fmt: skip


def _replace(files: Mapping[Path, Samples], stale: set[Path]) -> None:
    """Write files in place of those of before: all of the new ones, or, where the disk is full, none and the old ones stay.

    Whoever kills it in between finds a file missing, never files of two preparations: validation samples of before may train now.
    """
    drafts = {file: file.with_name(f".{file.name}.draft") for file in (*files, *stale)}

    def remove_drafts() -> None:
        for name in (*drafts.values(), *drafts):
            remove_leftovers(name)

    remove_drafts()  # of a try that was killed: samples under names that nobody looks for
    try:
        for file, samples in files.items():
            samples.save(drafts[file])
    except BaseException:
        remove_drafts()
        raise
    for file in drafts:
        file.unlink(missing_ok=True)
    for file in files:
        drafts[file].replace(file)
    for folder in {file.parent for file in files}:
        sync_folder(folder)


def _genesis(folder: Path) -> Genesis | None:
    """Genesis of the epoch that a folder lives by; None before a bundle was installed."""
    place = home(folder)
    return Genesis.load(place) if (place / DOCUMENT).exists() else None


def _agreed(genesis: Genesis | None, config: Path | None) -> FederationConfig:
    if genesis is not None:
        if config is not None:
            raise ConfigError(
                f"{config} would be ignored: this folder has a genesis, which is what all agreed on; leave --config away"
            )
        return genesis.config
    if config is None:
        raise ConfigError(
            "nothing says how the federation reads data: name its configuration with --config, or prepare after `dictpfl institution "
            "join`, whose genesis has it"
        )
    return with_pipeline(FederationConfig.load(config))


def _section(agreed: FederationConfig, path: Path | None, changes: Mapping[str, Any]) -> Data:
    """The section `[data]` of one institution by itself."""
    if wrong := next((key for key in changes if not key.startswith("data.")), ""):
        raise ConfigError(f"--set {wrong}: only keys of [data] can be changed here; the rest is agreed on by all")
    said = agreed.data
    other = of_other_source(said, str(changes.get("data.source", said.source)))
    options = other.pop("data.options", said.options)
    own: dict[str, Any] = {
        "data.path": said.path if path is None else str(path),
        "data.paths": {},
        "data.test_path": "",
        "data.partition": "iid",
        "data.column": "",
        "data.options": {key: value for key, value in options.items() if key != "sites"},
    }
    if said.column and said.source in COLUMNS and not {"text", "image"} & said.options.keys():
        # The column that names institutions where all lie in one file: here it may be there, and is no feature.
        own["data.exclude"] = [*said.exclude, said.column]
    raw = agreed.model_dump(mode="json") | {"toy_insecure": True}
    data = FederationConfig.of(raw, other | own | dict(changes)).data
    if data.exclude == own.get("data.exclude") and said.column not in (columns_in(data) or [said.column]):
        return data.model_copy(update={"exclude": said.exclude})
    return data


def _require_agreed(dataset: Dataset, data: Data, genesis: Genesis | None, sample_shape: tuple[int, ...]) -> None:
    """Refuse samples that the agreed model does not take, and classes and encoders that nobody agreed on.

    Raises:
        DataError: the message says what was agreed on.
    """
    numbered = dataset.class_names == tuple(
        map(str, range(len(dataset.class_names)))
    )  # class k has number k, whoever reads them
    if dataset.class_names and "classes" not in data.options and not numbered:
        raise DataError(
            f"the classes here are {', '.join(dataset.class_names[:10])}, and nobody agreed on their numbers: an institution sees its own "
            "labels only. All set data.options.classes to the same list, before genesis"
        )
    if dataset.made_by and not data.made_by:
        raise DataError(
            f"the features here are made by {data.options['features']!r}, and nobody agreed on it: those of another encoder would have the same "
            f'shape. All set data.options.{MADE_BY} = "{dataset.made_by}", before genesis'
        )
    if genesis is None:
        return
    if genesis.config.data.made_by != data.made_by:
        raise DataError(
            f"data.options.{MADE_BY} is {data.made_by!r}, the federation agreed on {genesis.config.data.made_by!r}; use its encoder and options"
        )
    if sample_shape != tuple(genesis.sample_shape):
        raise DataError(
            f"samples of shape {sample_shape}, the federation agreed on {tuple(genesis.sample_shape)}; prepare the data as the others "
            "do, with the same columns and options"
        )
    if dataset.outputs > genesis.outputs:
        labels = dataset.samples.labels
        where = ""
        if isinstance(labels, np.ndarray) and not data.limit and (bad := labels >= genesis.outputs).any():
            where = f", row {int(bad.argmax()) + 1}: label {labels[bad][0]}"
        raise DataError(
            f"{data.path}{where}: {dataset.outputs} classes, the federation agreed on {genesis.outputs} outputs. Drop rows whose label is no class; "
            'whole numbers of a regression are read as numbers with data.options.target = "regression"'
        )
    for what, key, here, there in (
        ("features", "data.features", dataset.feature_names, genesis.features),
        ("classes", "data.options.classes", dataset.class_names, genesis.classes),
    ):
        if there and here != there:
            raise DataError(
                f"{what} {', '.join(here[:10])}, the federation agreed on {', '.join(there[:10])}; set {key} back"
            )


def _shares(dataset: Dataset, data: Data, seed: int) -> dict[str, Samples]:
    """Samples of each file by its name."""
    splits = dataset.splits
    if splits is None:
        share = split_share(dataset.samples, data.validation_share, seed)
        return {TRAIN: share.train, VALIDATION_FILE: share.validation}
    own, test = (
        dataset.samples.take(np.flatnonzero(splits != TEST)),
        dataset.samples.take(np.flatnonzero(splits == TEST)),
    )
    validated = splits[splits != TEST] == VALIDATION
    if validated.all():
        raise DataError(f"the column {data.split_column!r} leaves no sample to train on; mark some of the rows `train`")
    share = (
        Share(own.take(np.flatnonzero(~validated)), own.take(np.flatnonzero(validated)), "")
        if validated.any()
        else split_share(own, data.validation_share, seed)
    )
    return {TRAIN: share.train, VALIDATION_FILE: share.validation} | ({TEST_FILE: test} if len(test) else {})
