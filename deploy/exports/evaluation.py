"""`dictpfl evaluate`: a federation's model on data of one's own, at home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.preparing.preparation import as_samples
from dictpfl.client.data.samples import TEST as TEST_SPLIT
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset, of_other_source
from dictpfl.client.data.sources.columns import columns_in
from dictpfl.client.folder import VALIDATION
from dictpfl.client.training.measuring import agreed_metrics, means
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import evaluate, resolve_device
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError, ModelError
from dictpfl.common.settings import Data, Training
from dictpfl.deploy.exports.finished import Checkpoint, Finished
from dictpfl.deploy.exports.reduced import reducer_words
from dictpfl.deploy.runs.census import classes_of, read_census
from dictpfl.deploy.runs.predictions import outputs_of
from dictpfl.deploy.simulation.founding import TEST, read_samples

_AT_ONCE = 64
"""Samples that are read at a time, since they may be on disk."""


@dataclass(frozen=True)
class Evaluation:
    """Result of a model on some samples.

    Attributes:
        samples: their number.
        metric_name: the task's.
        metric: mean over samples.
        loss: mean over samples.
        recall: of each class its number of samples and the share of them that was recognised; empty without classes.
        names: of the classes, where the data name them.
        figures: of each metric in `training.metrics`, by name.
        reducer: of tokens, with which the model was measured, and its settings; empty where it read all.
        without: settings of arithmetic that rounds have and this figure has not, such as `training.autocast = auto`; empty where there are none.
    """

    samples: int
    metric_name: str
    metric: float
    loss: float
    recall: Mapping[int, tuple[int, float]]
    names: tuple[str, ...] = ()
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reducer: str = ""
    without: str = ""


def evaluate_on(
    folder: Path,
    data: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint = "last",
) -> Evaluation:
    """Measure the model of a run folder, or of an institution's folder.

    Args:
        folder, checkpoint: see `Finished.load`.
        data: an .npz that `Samples.save` wrote, or what `data.path` may be for the federation's own `data.source`. None:
            the test split of a run, the validation split of an institution.
        changes: dotted overrides of `[data]`, such as `{"data.source": "csv"}`.

    Raises:
        ConfigError, DataError, ModelError: folder, data or both together cannot be used.
    """
    finished = Finished.load(folder, checkpoint)
    samples, names = _samples(finished, folder, data, changes or {})
    return measured(finished, samples, names)


def measured(finished: Finished, samples: Samples, names: tuple[str, ...] = ()) -> Evaluation:
    """Measure a federation's model on samples.

    Args:
        finished: the federation.
        samples: prepared, or the table that its statistics prepare.
        names: of the classes.

    Raises:
        DataError, ModelError: samples that the model does not take.
    """
    if not len(samples):
        raise DataError("no samples to measure the model on; expected at least one")
    config = finished.genesis.config
    samples = as_samples(samples, config, finished.state)
    expected = tuple(finished.genesis.sample_shape)
    if samples.features.shape[1:] != expected:
        raise DataError(
            f"samples of shape {samples.features.shape[1:]}, the model takes {expected}; prepare the data as the federation "
            "did, with the same options"
        )
    task, model = task_of(config.measuring), finished.merged()
    device, metrics = resolve_device(config.training.device), agreed_metrics(finished.genesis)
    batch = config.training.evaluation_batch
    try:
        totals = evaluate(
            model, samples, task, batch_size=batch, device=device, metrics=metrics, workers=config.training.workers
        )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"the model cannot be measured on this data: {error}") from error
    loss, metric = means(totals)
    classes = samples.labels.dtype == np.int64 and samples.labels.ndim == 1
    said = _said(model, samples) if classes else None
    recall = {} if said is None else _recall(*said)
    return Evaluation(
        totals.count, task.metric_name, metric, loss, recall, names,
        metrics.figures(totals.sums), reducer_words(config.tokens), _arithmetic(config.training),
    )  # fmt: skip


def _arithmetic(training: Training) -> str:
    """Settings by which rounds measure narrower than the merged model is, as whoever loads it has it."""
    said = {
        "autocast": (training.autocast, "none"),
        "frozen": (training.frozen, "full"),
        "tf32": (training.tf32, False),
    }
    return ", ".join(f"training.{key} = {value}".lower() for key, (value, off) in said.items() if value != off)


def _samples(
    finished: Finished, folder: Path, data: Path | None, changes: Mapping[str, Any]
) -> tuple[Samples, tuple[str, ...]]:
    if data is None and not changes:
        own = own_samples(folder)
        if own is None:
            raise ConfigError(f"{folder} holds no samples of its own; name some with --data")
        data = own
        census = read_census(folder) or read_census(folder.parent.parent)  # an institution's, in a run that keeps it
        names = census.classes if census else classes_of(finished.genesis, folder)
    else:
        names = ()
    _require_used(finished.genesis.config.data, data, changes)
    if data is not None and data.suffix == ".npz":
        samples = read_samples(data, finished.genesis.config)
    else:
        overrides = dict(changes) | ({} if data is None else {"data.path": str(data)})
        agreed = finished.genesis.config
        raw = agreed.model_dump(mode="json") | {"toy_insecure": True}
        overrides = of_other_source(agreed.data, str(changes.get("data.source", agreed.data.source))) | overrides
        if data is not None or "data.path" in changes:
            # The federation's test samples are not these, and its limits are of its own.
            overrides = {"data.test_path": "", "data.paths": {}, "data.limit": 0, "data.test_limit": 0} | overrides
            overrides = _without_sites(FederationConfig.of(raw, overrides).data, changes) | overrides
        classes = classes_of(finished.genesis, folder)
        dataset = load_numbered(FederationConfig.of(raw, overrides).data, agreed.seed, classes)
        if dataset.splits is not None:
            dataset = dataset.take(np.flatnonzero(dataset.splits == TEST_SPLIT))
        samples, names = of_dataset(finished, dataset, classes)
    return samples, names


def _without_sites(section: Data, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides for a table that does not say which institution has a row, as new data seldom do.

    Raises:
        DataError: it does not say what its rows are for: those of training may be among them.
    """
    marks = [name for name in (section.column, section.split_column) if name]
    names = columns_in(section) if marks else None
    if names is None:
        return {}
    if section.split_column and section.split_column not in names:
        raise DataError(
            f"{section.path}: no column {section.split_column!r} says which rows are for the test; if none of them trained the model, measure all "
            "by --set data.split_column="
        )
    if not section.column or section.column in names or "data.column" in changes:
        return {}
    return {"data.column": "", "data.partition": "iid"}  # nothing is divided here


def own_samples(folder: Path) -> Path | None:
    """File of the test split of a run, or of the validation split of an institution; None where a folder has neither."""
    return next((path for path in (folder / TEST, folder / VALIDATION) if path.exists()), None)


def load_numbered(data: Data, seed: int, classes: tuple[str, ...]) -> Dataset:
    """Load a data set whose classes have a model's numbers: by itself it numbers those that it has.

    Args:
        data, seed: see `load_dataset`.
        classes: of the model, by their numbers; empty: not known, and the data set is as it is.

    Raises:
        ConfigError, DataError: as `load_dataset`, or other classes than those.
    """
    dataset = load_dataset(data, seed)
    if not classes or not dataset.class_names or dataset.class_names == classes:
        return dataset
    if type(dataset.samples) is not Samples and set(dataset.class_names) <= set(classes):
        return load_dataset(data.model_copy(update={"options": {**data.options, "classes": list(classes)}}), seed)
    samples = _renumbered(dataset, classes)
    return replace(dataset, samples=samples, class_names=classes, outputs=max(dataset.outputs, len(classes)))


def of_dataset(finished: Finished, dataset: Dataset, classes: tuple[str, ...] = ()) -> tuple[Samples, tuple[str, ...]]:
    """Samples of a data set, labelled by the federation's numbers, and the names of its classes.

    A data set without samples of some class numbers those that it has by itself: such labels are given the federation's numbers.

    Args:
        finished: the federation.
        dataset: to measure on.
        classes: of the federation, by their numbers, where they are known.

    Raises:
        DataError: more classes than the model has, or others.
    """
    if classes and dataset.class_names and dataset.class_names != classes:
        return _renumbered(dataset, classes), classes
    if dataset.outputs > finished.genesis.outputs:
        raise DataError(
            f"the data have {dataset.outputs} classes, the model {finished.genesis.outputs}; set data.options.classes to "
            'those of the federation, in their order; whole numbers of a regression are read as numbers with data.options.target = "regression"'
        )
    return dataset.samples, dataset.class_names


def _renumbered(dataset: Dataset, classes: tuple[str, ...]) -> Samples:
    labels, own = dataset.samples.labels, dataset.class_names
    if unknown := [name for name in own if name not in classes]:
        raise DataError(
            f"the data have classes {', '.join(unknown[:10])}, the federation {', '.join(classes[:10])}; expected some of those, by the same names"
        )
    if type(dataset.samples) is not Samples or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"the data have {', '.join(own[:10])}, the federation {', '.join(classes[:10])}, and labels that cannot be numbered anew; set "
            "data.options.classes to the latter"
        )
    numbers = np.array([classes.index(name) for name in own])
    return Samples(dataset.samples.features, numbers[labels])


def are_elsewhere(federation: Data, changes: Mapping[str, Any]) -> bool:
    """Tell whether changes name other data than the federation's own, which a path or source that is the same does not."""
    own = {f"data.{key}": str(getattr(federation, key)) for key in ("path", "source")}
    return any(str(changes.get(key, value)) != value for key, value in own.items())


def _require_used(federation: Data, data: Path | None, changes: Mapping[str, Any]) -> None:
    """Refuse settings that would be ignored, or that mean data which the model was trained on.

    Raises:
        ConfigError: the message says which.
    """
    wrong = next((key for key in changes if not key.startswith("data.")), None)
    if wrong is not None:
        raise ConfigError(f"--set {wrong}: only keys of [data] can be changed for an evaluation")
    if data is not None and data.suffix == ".npz" and changes:
        raise ConfigError(
            f"{data} holds samples as they are, so that {next(iter(changes))} would be ignored; leave --set away"
        )
    has_test = any(changes.get(f"data.{key}", getattr(federation, key)) for key in ("test_path", "split_column"))
    # A path that is set stands for all of what is there, so that a test file beside it is left out.
    if data is None and changes and not are_elsewhere(federation, changes) and ("data.path" in changes or not has_test):
        raise ConfigError(
            "these settings would measure all of the federation's own data, samples that it was trained on included; name other data "
            "with --data (or `--set data.path=...`), or leave --set away for the test split"
        )


def _said(model: torch.nn.Module, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Classes that the model says, and labels, of the samples that can be read; None where its outputs are not one for each class."""
    said, labels = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for start in range(0, len(samples), _AT_ONCE):
        places = np.arange(start, min(start + _AT_ONCE, len(samples)))
        if isinstance(samples, LazySamples):
            found = samples.read(places)  # leaves out those that `data.skip_broken` lets it
            part = Samples(found.features, found.labels)
        else:
            part = samples.take(places)
        # The largest of outputs that are NaN is none: -1 is no class.
        for outputs in outputs_of(model, part) if len(part) else ():
            if outputs.ndim != 2 or outputs.shape[1] < 2:  # noqa: PLR2004 -- samples, classes
                return None
            said.append(outputs.argmax(dim=1).where(~outputs.isnan().any(dim=1), -1).cpu().numpy())
        labels.append(part.labels)
    return np.concatenate(said), np.concatenate(labels)


def _recall(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[int, tuple[int, float]]:
    classes, counts = np.unique(labels, return_counts=True)
    return {int(c): (int(n), float((predicted[labels == c] == c).mean())) for c, n in zip(classes, counts, strict=True)}
