"""Division of one data set in a simulation: a test split, a public split, and a share for each institution."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.samples import TEST, TRAIN, VALIDATION, Dataset, Samples
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.registry import imported, require_bindable
from dictpfl.common.settings import Data
from dictpfl.deploy.simulation.equal import equal_parts

_OWN = ("iid", "dirichlet", "column")
"""Partitions that take no options; others are partitioners of flwr-datasets, or one's own."""

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

_WORTH_VALIDATING = 5  # samples from which on an institution keeps at least one for its own validation


@dataclass(frozen=True, eq=False)
class Share:
    """One institution's samples."""

    train: Samples
    validation: Samples
    """For the institution's own measurements; may be empty."""
    name: str


@dataclass(frozen=True, eq=False)
class Division:
    """A data set, divided; no sample is in two parts."""

    public: Samples
    """For pretraining W0; may be empty."""
    test: Samples
    """Kept outside of the federation."""
    test_groups: NDArray[np.str_] | None
    """Institution of each test sample, where the data name it; shape (len(test),)."""
    institutions: tuple[Share, ...]


@dataclass(frozen=True)
class Regrouping:
    """One institution in place of several: what baselines of a comparison train on (`dictpfl compare`, docs/decisions/0068).

    Attributes:
        participants: institutions that the data are divided among.
        only: number of the one that stays, from 0; None: the samples of all, pooled.
    """

    participants: int
    only: int | None = None

    def of(self, division: Division) -> Division:
        """Leave one institution; the test and public splits are as before."""
        shares = division.institutions
        if self.only is not None:
            return replace(division, institutions=(shares[self.only],))
        train, validation = _joined([s.train for s in shares]), _joined([s.validation for s in shares])
        return replace(division, institutions=(Share(train, validation, "pooled"),))


def _joined(parts: Sequence[Samples]) -> Samples:
    unread = [part for part in parts if isinstance(part, LazySamples)]
    if unread:  # of one reader, like all parts of a division: nothing is read
        first, numbers = unread[0], np.concatenate([part.numbers for part in unread])
        held = np.concatenate([part.labels for part in unread]) if first.holds_labels else None
        return LazySamples(first.reader, first.data, numbers, held, first.form)
    features, labels = ([getattr(part, name) for part in parts] for name in ("features", "labels"))
    return type(parts[0])(np.concatenate(features), np.concatenate(labels))


def divide(dataset: Dataset, data: Data, participants: int, seed: int) -> Division:
    """Divide a data set as the section `[data]` says; the same parts for the same seed, in any process.

    First the test split (stratified by class, or the samples that the data themselves mark), at most `data.test_limit`
    of it; then the public split (stratified likewise), then institutions:
    `iid` in equal parts, `dirichlet` by class in shares drawn with concentration alpha, `column` by the
    group of each sample; any partitioner of flwr-datasets by its class name, or a user's by `package.module:name`. Each institution keeps a validation split of its own (`split_share`).

    Raises:
        DataError: fewer samples than institutions, an institution without samples, or groups that do not fit `participants`.
        ConfigError: a partition that these data cannot have.
    """
    rng = np.random.default_rng(seed)
    labels = dataset.samples.labels
    rest = rng.permutation(len(labels))
    if dataset.splits is None:
        test, rest = _stratified(rest, labels, data.test_share, least=1)
        # Of all samples, not of what the test split left over.
        public, rest = _stratified(rest, labels, data.public_share / (1 - data.test_share), least=0)
    else:
        test, public, rest = _marked(dataset.splits, data, rest, labels)
    if data.test_limit and data.test_limit < len(test):
        test = test[np.sort(np.random.default_rng(seed).permutation(len(test))[: data.test_limit])]
    if len(rest) < participants:
        raise DataError(
            f"{len(rest)} samples are left for {participants} institutions beside {len(test)} for the test and "
            f"{len(public)} public ones; "
            "each needs at least one: lower participants, data.test_share or data.public_share"
        )
    parts = _parts(dataset, data, participants, rest, seed)
    validated = None if dataset.splits is None else np.asarray(dataset.splits == VALIDATION)
    take = dataset.samples.take
    institutions = tuple(
        split_share(take(indices), data.validation_share, seed + number, name)
        if validated is None or not validated.any()
        else _marked_share(dataset.samples, indices, validated[indices], name)
        for number, (name, indices) in enumerate(parts)
    )
    # Without a name where test samples are nobody's (`data.test_path`).
    test_groups = None if dataset.groups is None or "" in dataset.groups[test] else dataset.groups[test]
    return Division(take(public), take(test), test_groups, institutions)


def _marked(
    splits: NDArray[np.str_], data: Data, order: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Take the test samples, a public share of those that train, and what is left, as the data mark them."""
    marks = splits[order]
    test, train, validation = (order[marks == name] for name in (TEST, TRAIN, VALIDATION))
    if not len(test) or not len(train):
        where = (
            f"the column {data.split_column!r}"
            if data.split_column
            else "data.test_path"
            if data.test_path
            else f"data.source {data.source!r}"
        )
        raise DataError(
            f"{where} leaves {len(train)} samples to train and {len(test)} to test; expected at least one of each"
        )
    public, train = _stratified(train, labels, data.public_share, least=0)
    return test, public, np.concatenate([train, validation])


def _marked_share(samples: Samples, indices: NDArray[Any], validated: NDArray[np.bool_], name: str) -> Share:
    if validated.all():
        raise DataError(f"{name} has no training samples, only validation; mark some of its rows `train`")
    return Share(samples.take(indices[~validated]), samples.take(indices[validated]), name)


def split_share(samples: Samples, validation_share: float, seed: int, name: str = "") -> Share:
    """Split one institution's samples into training and validation, stratified by class.

    With a share above zero and five samples or more, at least one is for validation; one always trains.

    Raises:
        DataError: no samples.
    """
    if not len(samples):
        raise DataError(f"{name or 'this institution'} has no training samples; expected at least one")
    order = np.random.default_rng(seed).permutation(len(samples))
    least = int(validation_share > 0 and len(samples) >= _WORTH_VALIDATING)
    validation, train = _stratified(order, samples.labels, validation_share, least)
    return Share(samples.take(train), samples.take(validation), name)


def _stratified(
    indices: NDArray[Any], labels: NDArray[Any], share: float, least: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take a share of shuffled indices, at every so-many-th place of their order by class; also what is left."""
    count = min(max(round(share * len(indices)), least), len(indices) - 1)
    if labels.dtype == np.int64 and labels.ndim == 1:
        indices = indices[np.argsort(labels[indices], kind="stable")]
    taken = np.zeros(len(indices), dtype=bool)
    taken[((np.arange(count) + 0.5) * len(indices) / max(count, 1)).astype(int)] = True
    return indices[taken], indices[~taken]


def _parts(
    dataset: Dataset, data: Data, participants: int, rest: NDArray[Any], seed: int
) -> list[tuple[str, NDArray[Any]]]:
    """(name, indices) of each institution."""
    columns: dict[str, list[Any]] = {}
    if data.partition in _OWN and data.partition_options:
        raise ConfigError(
            f"data.partition_options has {', '.join(data.partition_options)}, and data.partition {data.partition!r} takes none, so that they "
            "would be ignored; leave them out, or name a partitioner of flwr-datasets"
        )
    if data.partition == "dirichlet":
        labels = _classes(dataset, rest)
        if data.sizes == "equal":
            equal = equal_parts(labels, participants, data.alpha, seed)
            return [(f"site-{i + 1}", rest[part]) for i, part in enumerate(equal)]
        columns["label"] = labels.tolist()
    elif data.partition == "column":
        columns["group"] = _groups(dataset, data, participants, rest)
    else:
        # IID shards are contiguous: undo the order by class that stratification left.
        rest = np.random.default_rng(seed + 1).permutation(rest)
        if data.partition != "iid" and _has_classes(dataset):
            columns["label"] = dataset.samples.labels[rest].tolist()
    columns["index"] = rest.tolist()
    partitioner = _partitioner(data, participants, seed)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            # Warnings of draws that are repeated, and a progress bar that cannot be switched off.
            warnings.simplefilter("ignore")
            partitioner.dataset = _table(columns)
            loaded = [np.array(partitioner.load_partition(i)["index"], dtype=np.int64) for i in range(participants)]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        if data.partition == "dirichlet":
            raise DataError(
                f"no draw of alpha = {data.alpha} gives each of {participants} institutions a sample; "
                "raise data.alpha, lower participants, or take another seed"
            ) from error
        raise ConfigError(
            f"data.partition {data.partition!r} with {data.partition_options} cannot divide {len(rest)} samples among "
            f"{participants} institutions: {error}"
        ) from error
    names = (
        # A name is part of an institution's training seed: with another word here, every recorded run would differ.
        sorted(set(columns["group"])) if "group" in columns else [f"site-{i + 1}" for i in range(participants)]
    )
    for name, indices in zip(names, loaded, strict=True):
        if not len(indices):
            raise DataError(f"{name} has no training samples; lower participants or raise data.alpha")
    return list(zip(names, loaded, strict=True))


def _classes(dataset: Dataset, rest: NDArray[Any]) -> NDArray[Any]:
    if not _has_classes(dataset):
        raise ConfigError(
            "data.partition = `dirichlet` divides by class; for a regression or a language model use `iid` or `column`"
        )
    labels: NDArray[Any] = dataset.samples.labels[rest]
    return labels


def _has_classes(dataset: Dataset) -> bool:
    labels = dataset.samples.labels
    return labels.dtype == np.int64 and labels.ndim == 1


def _groups(dataset: Dataset, data: Data, participants: int, rest: NDArray[Any]) -> list[str]:
    if dataset.groups is None:
        raise ConfigError(
            "data.partition = `column` needs data.column, the column that names the institution, or a file for each (data.paths)"
        )
    every, left = sorted(set(dataset.groups.tolist()) - {""}), set(dataset.groups[rest].tolist())
    if "" in left:
        raise DataError(
            f"{int((dataset.groups[rest] == '').sum())} samples to train on name no institution; name it in each row, or drop those rows"
        )
    if len(every) != participants:
        origin = f"column {data.column!r} names" if data.column else "the files of data.path or data.paths are of"
        raise DataError(
            f"{origin} {len(every)} institutions ({', '.join(every[:5])}), "
            f"but federation.participants is {participants}; make them equal"
        )
    empty = [name for name in every if name not in left]
    if empty:
        raise DataError(
            f"{', '.join(empty)} has no training samples left beside the test split; give it more, or drop it"
        )
    return [str(g) for g in dataset.groups[rest]]


def _quiet() -> None:
    # Read when flwr_datasets and datasets are first imported. Nothing here asks a hub; a model by name may.
    for name, value in (("FLWR_TELEMETRY_ENABLED", "0"), ("HF_HUB_DISABLE_TELEMETRY", "1")):
        os.environ.setdefault(name, value)


def _partitioner(data: Data, participants: int, seed: int) -> Partitioner:
    _quiet()
    from flwr_datasets import partitioner as known
    from flwr_datasets.partitioner import (
        DirichletPartitioner,
        IidPartitioner,
        NaturalIdPartitioner,
    )

    if data.partition not in _OWN:
        return _by_name(known, data, participants, seed)
    if data.partition == "dirichlet":
        return DirichletPartitioner(
            participants, "label", data.alpha, min_partition_size=1, self_balancing=False, seed=seed
        )
    return NaturalIdPartitioner("group") if data.partition == "column" else IidPartitioner(participants)


def _by_name(known: Any, data: Data, participants: int, seed: int) -> Partitioner:
    """Return a partitioner of flwr-datasets by its class name, or a user's by `package.module:name`, over the columns `label` and `index`."""
    names = sorted(set(known.__all__) - {"Partitioner"})
    if ":" not in data.partition and data.partition not in names:
        near = difflib.get_close_matches(data.partition, ["iid", "dirichlet", "column", *names], n=1)
        raise ConfigError(
            f"data.partition is {data.partition!r}; known: iid, dirichlet, column, {', '.join(names)}, or `package.module:name`"
            + "".join(f"; did you mean {name!r}?" for name in near)
        )
    kind = imported(data.partition, "data.partition") if ":" in data.partition else getattr(known, data.partition)
    if not (isinstance(kind, type) and issubclass(kind, known.Partitioner)) or inspect.isabstract(kind):
        raise ConfigError(
            f"data.partition {data.partition!r}: expected a class that derives from flwr_datasets.partitioner.Partitioner, with load_partition and "
            f'num_partitions, found {kind!r}; or group samples in a source of your own, and set data.partition = "column"'
        )
    taken = inspect.signature(kind).parameters
    facts = {"num_partitions": participants, "partition_by": "label", "seed": seed}
    options = {name: value for name, value in facts.items() if name in taken} | data.partition_options
    require_bindable(kind, options, f"data.partition_options of {data.partition}")
    try:
        made: Partitioner = kind(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"data.partition {data.partition!r} with {data.partition_options}: {error}") from error
    return made


def _table(columns: dict[str, list[Any]]) -> Any:
    _quiet()
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(columns)
