"""SOURCE of the compression commands: a run, an institution's folder, or a model of transformers or timm, with its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.data.opening import is_index, opened
from dictpfl.client.data.preparing.preparation import as_samples
from dictpfl.client.data.samples import TEST as TEST_ROWS
from dictpfl.client.data.samples import TRAIN as TRAIN_ROWS
from dictpfl.client.data.samples import VALIDATION as VALIDATION_ROWS
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.data.sources.columns import columns_in
from dictpfl.client.folder import SETTINGS, TRAIN, VALIDATION
from dictpfl.client.model import hub
from dictpfl.client.model.build import build_model
from dictpfl.client.training.task import Task, outputs_of, task_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import expanded
from dictpfl.common.settings import Data, Model, Training
from dictpfl.deploy.compress.written import standing
from dictpfl.deploy.exports.evaluation import are_elsewhere, load_numbered
from dictpfl.deploy.exports.finished import Checkpoint, Finished
from dictpfl.deploy.exports.reduced import reducer_notes
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.runs.census import classes_of
from dictpfl.deploy.simulation.founding import TEST
from dictpfl.deploy.simulation.partition import divide

_CHANGEABLE = ("data.", "training.")
_ASIDE = 5
"""One in so many calibration samples is set aside, where models are chosen between and no samples are there for it."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model to be made smaller, and what it takes to decide what may go.

    Attributes:
        model: plain, of the original class, in evaluation mode, on the CPU.
        config: of the run, or the file that was named; `config.model.source` is what made the model.
        task: loss and metric of `config.measuring`.
        calibration: samples to decide by; never those that `measure` holds.
        measure: samples to measure before and after; at least one.
        validation: samples to choose between models by, neither in `calibration` nor in `measure`; None: there are none
            (`with_validation` sets some aside).
        set_aside: `validation` was taken from `calibration`.
        tokenizer_folder: folder with the tokenizer of `data.options.tokenizer`; None where there is none, or a hub's name.
        finished: the federation that the model is of; None for a model of a library.
        outputs: classes, targets or tokens that the model was made for.
        classes: names of them, by the model's numbers; empty where they are not known.
        arrays: `calibration` is of an .npz, which names neither classes nor groups; else it is what `config.data` says.
    """

    model: nn.Module
    config: FederationConfig
    task: Task
    calibration: Samples
    measure: Samples
    validation: Samples | None = None
    set_aside: bool = False
    tokenizer_folder: Path | None = None
    finished: Finished | None = None
    outputs: int = 1
    classes: tuple[str, ...] = ()
    arrays: bool = False

    @property
    def reducer_notes(self) -> list[str]:
        """Sentences on the reducer of tokens that the model was trained with, for cards; a model of a library has none."""
        return reducer_notes(self.config.tokens) if self.finished else []

    def prepared(self, samples: Samples) -> Samples:
        """Samples as the model takes them: a table of a federation that prepares columns is prepared by its statistics, as institutions did."""
        own = self.finished
        return samples if own is None else as_samples(samples, own.genesis.config, own.state)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(int(d) for d in self.measure.features.shape[1:])

    @property
    def training(self) -> Training:
        """Settings of steps that train every parameter as it is: those of `config`, at the rate of dense parameters.

        Their task is the one that is measured: a model that a federation distilled is taught anew by the task behind it.
        """
        own = self.config.measuring
        return own.model_copy(update={"learning_rate": own.dense_learning_rate or own.learning_rate})


def read_source(
    source: str,
    *,
    config: Path | None = None,
    data: Path | None = None,
    settings: Sequence[str] | None = None,
    calibration: int = 0,
    seed: int = 1,
    measure: Path | None = None,
    checkpoint: Checkpoint = "last",
    max_tokens: int = 0,
    deciding: bool = True,
) -> Source:
    """Read what SOURCE names, and the samples that go with it.

    | SOURCE | calibration | measure |
    |---|---|---|
    | a run's folder | the run's public share | its test split |
    | an institution's folder | its training samples | its validation samples |
    | `transformers:FOLDER`, `timm:NAME`, or a folder of `cut` or `distil` | what `[data]` leaves beside the test split | the test split |

    `data` takes the place of the first column; for a model of a library it takes the place of `data.path`, and both columns are
    drawn from it. `measure` takes the place of the second. Rows that the data mark for validation are in neither, and neither are an
    institution's validation samples once `measure` names others.

    Args:
        source: a folder, or a model as `model.source` names it.
        config: file with `[data]` and `[training]`; needed for a model of the table's last row, refused for others, which have their own.
        data: an .npz that `Samples.save` wrote, or a file or folder of `data.source`.
        settings: `KEY=VALUE` overrides of `[data]` and `[training]`.
        calibration: number of samples, drawn by seed; all where there are fewer. 0: all.
        seed: of the draw.
        measure: an .npz, or a file or folder of `data.source`, whose samples are measured.
        checkpoint: of a federation.
        max_tokens: of a calibration sample; what is longer is cut. 0: as they are.
        deciding: something is decided by samples. If not, a run without public ones is read all the same, with none to calibrate with.

    Raises:
        ConfigError: nothing of that name, a configuration missing or refused, or no samples to calibrate with.
        DataError: samples that the model does not take.
    """
    changes = overrides(settings)
    if wrong := [key for key in changes if not key.startswith(_CHANGEABLE)]:
        raise ConfigError(f"--set {wrong[0]}: only keys of [data] and [training] can be changed here")
    made = standing(source)
    if made is not None:
        whole = _of_model(source, made, config, data, changes)
    else:
        whole = _of_folder(source, config, data, changes, checkpoint, deciding=deciding)
    if measure is not None:
        whole = replace(whole, measure=_file(measure, whole.config, whole.classes))
    elif whole.validation is whole.measure:
        whole = replace(whole, validation=None)
    whole = replace(
        whole, calibration=whole.prepared(whole.calibration), measure=whole.prepared(whole.measure),
        validation=None if whole.validation is None else whole.prepared(whole.validation),
    )  # fmt: skip
    _require_alike(whole, deciding=deciding)
    return replace(whole, calibration=cut_samples(drawn_samples(whole.calibration, calibration, seed), max_tokens))


def with_validation(source: Source, seed: int) -> Source:
    """Give a source samples to choose between models by: its own, or a fifth of those that calibrate, which then do so no longer.

    Args:
        source: to choose for.
        seed: of the draw.

    Raises:
        ConfigError: a single sample.
    """
    count = len(source.calibration)
    if source.validation is not None:
        return source
    if count < 2:  # noqa: PLR2004 -- one to decide by, and one to choose by
        raise ConfigError(
            f"{count} sample to decide by: none can be set aside to choose between models by; name more by --data, or by --calibration"
        )
    order, aside = np.random.default_rng([seed, count]).permutation(count), max(1, count // _ASIDE)
    chosen, rest = np.sort(order[:aside]), np.sort(order[aside:])
    return replace(
        source, calibration=source.calibration.take(rest), validation=source.calibration.take(chosen), set_aside=True
    )


def drawn_samples(samples: Samples, count: int, seed: int) -> Samples:
    """Draw so many samples by seed, in their order; all of them for 0 or where there are fewer."""
    if not count or count >= len(samples):
        return samples
    return samples.take(np.sort(np.random.default_rng(seed).permutation(len(samples))[:count]))


def cut_samples(samples: Samples, most: int) -> Samples:
    """Cut texts to at most so many tokens, and labels that go with tokens; 0 cuts nothing.

    Raises:
        ConfigError: samples that are no tokens.
    """
    if not most:
        return samples
    if samples.features.dtype != np.int64 or samples.features.ndim != 2:  # noqa: PLR2004 -- samples, tokens
        raise ConfigError(f"--max-tokens {most}: these samples are no texts; leave it out")
    labels = samples.labels
    aligned = labels.shape == samples.features.shape
    return Samples(samples.features[:, :most], labels[:, :most] if aligned else labels)


def _of_model(source: str, made: Model, path: Path | None, data: Path | None, changes: Mapping[str, Any]) -> Source:
    if path is None:
        raise ConfigError(f"{source} says nothing of data and task; name a file with [data] and [training] by --config")
    config = FederationConfig.load(path, changes)
    section = config.model
    if made.weights:
        section = made
    elif section.source != made.source:
        same = hub.split(section.source)[0] == hub.split(made.source)[0]
        section = made.model_copy(update={"options": section.options if same else {}})
    config = _reading(data, config.model_copy(update={"model": section}))
    torch.set_num_threads(config.training.threads)
    dataset = _dataset(data, config, ())
    # One institution: what a federation would divide is the user's own here.
    alone = config.data.model_copy(
        update={
            "partition": "iid",
            "partition_options": {},
            "public_share": 0.0,
            "validation_share": 0.0,
            "sizes": "drawn",
        }
    )
    parts = divide(dataset, alone, 1, config.seed)
    task = task_of(config.measuring)
    outputs = outputs_of(task, dataset.outputs)
    if _is_npz(data) and dataset.samples.labels.dtype == np.int64 and dataset.samples.labels.ndim == 1:
        # Its highest label is a least number of classes: a model of more keeps the head that it has.
        outputs = max(outputs, hub.classes_of(made.source))
    model = build_model(section, dataset.sample_shape, outputs, config.seed).eval()
    own = parts.institutions[0]
    return Source(
        model, config, task, own.train, parts.test, own.validation if len(own.validation) else None,
        tokenizer_folder=_tokenizer(config), outputs=outputs, classes=dataset.class_names, arrays=_is_npz(data),
    )  # fmt: skip


def _of_folder(
    source: str,
    path: Path | None,
    data: Path | None,
    changes: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    deciding: bool,
) -> Source:
    folder = Path(source)
    if not folder.is_dir():
        raise ConfigError(
            f"no folder {source!r}; expected a folder of a run or an institution, or with --config a folder of `cut` or `distil`, transformers:FOLDER or timm:NAME"
        )
    if path is not None:
        raise ConfigError(f"{source} has a configuration of its own; leave --config out, or change keys by --set")
    finished = Finished.load(folder, checkpoint)
    agreed = finished.genesis.config
    if data is None:
        _require_other_data(source, agreed.data, changes)
    raw = agreed.model_dump(mode="json") | {"toy_insecure": True}
    changed = dict(changes)
    if data is not None or "data.path" in changes:
        changed = {"data.test_path": "", "data.paths": {}} | changed  # the federation's test samples are not these
    config = _reading(data, FederationConfig.of(raw, changed).model_copy(update={"toy_insecure": agreed.toy_insecure}))
    is_institution = (folder / SETTINGS).exists()
    measure = opened(folder / (VALIDATION if is_institution else TEST), agreed.data)
    validation = measure if is_institution and len(measure) else None
    classes = classes_of(finished.genesis, folder)
    if data is not None or any(key.startswith("data.") for key in changes):
        calibration, marked = _calibrating(_dataset(data, config, classes))
        validation = validation if marked is None else marked
    elif is_institution:
        calibration = opened(folder / TRAIN, agreed.data)
    elif config.data.public_share or deciding:
        calibration = _public(folder, config)
    else:
        calibration = measure.take(np.arange(0))
    return Source(
        finished.merged(),
        config,
        task_of(config.measuring),
        calibration,
        measure,
        validation,
        tokenizer_folder=_tokenizer(config),
        finished=finished,
        outputs=finished.genesis.outputs,
        classes=classes,
        arrays=_is_npz(data),
    )


def _require_other_data(source: str, federation: Data, changes: Mapping[str, Any]) -> None:
    """Refuse settings by which a federation would decide by all of its own data, the measured samples included.

    Raises:
        ConfigError: the message says which.
    """
    wrong = next((key for key in changes if key.startswith("data.")), None)
    if wrong is not None and not are_elsewhere(federation, changes):
        raise ConfigError(
            f"--set {wrong}: with it, all data of {source} would be read anew, samples that it is measured on included; name other "
            "data by --data (or `--set data.path=...`), or leave --set out for the samples that are there"
        )


def _is_npz(data: Path | None) -> bool:
    return data is not None and data.suffix == ".npz"


def _read(path: Path, config: FederationConfig) -> Samples:
    """Samples of a file, or those of an index."""
    return opened(path, config.data) if is_index(path) else Samples.load(path)


def _public(folder: Path, config: FederationConfig) -> Samples:
    if not config.data.public_share:
        raise ConfigError(
            f"{folder} is a run without public samples (data.public_share = 0), and its institutions' are not for it to use; name "
            f"samples by --data, or the folder of an institution, such as {folder / 'institutions' / 'institution-000'}"
        )
    dataset = load_dataset(config.data, config.seed)
    return divide(dataset, config.data, config.federation.participants, config.seed).public


def _dataset(data: Path | None, config: FederationConfig, classes: tuple[str, ...]) -> Dataset:
    """Samples of a file, or of `[data]`; those for the test are marked, where the data say which they are."""
    if data is not None and _is_npz(data):
        samples = _read(data, config)
        if not len(samples):
            raise DataError(f"{data} holds no sample; expected at least one")
        labels = samples.labels
        outputs = int(labels.max()) + 1 if labels.dtype == np.int64 else int(np.prod(labels.shape[1:], dtype=np.int64))
        return Dataset(samples, max(1, outputs), name=data.name)
    return load_numbered(config.data, config.seed, classes)


def _reading(data: Path | None, config: FederationConfig) -> FederationConfig:
    """A configuration whose data are a named file or folder; an .npz is read beside it."""
    if data is None or _is_npz(data):
        return config
    section = config.data.model_copy(update={"path": str(data), "paths": {}})
    return config.model_copy(update={"data": _undivided(section)})


def _undivided(section: Data) -> Data:
    """The section for a named table that does not say which institution has a row, as new data seldom do: nothing is divided here."""
    names = columns_in(section) if section.column else None
    if names is None or section.column in names:
        return section
    return section.model_copy(update={"column": "", "partition": "iid"})


def _calibrating(dataset: Dataset) -> tuple[Samples, Samples | None]:
    """Samples to decide by, and those that the data mark for validation, if they do."""
    if dataset.splits is None:
        return dataset.samples, None
    train, held = (np.flatnonzero(dataset.splits == word) for word in (TRAIN_ROWS, VALIDATION_ROWS))
    return dataset.samples.take(train), dataset.samples.take(held) if len(held) else None


def _file(path: Path, config: FederationConfig, classes: tuple[str, ...]) -> Samples:
    """Samples to measure: of a file whose rows are marked, those for the test."""
    if path.suffix == ".npz":
        return _read(path, config)
    section = config.data.model_copy(
        update={"path": str(path), "paths": {}, "test_path": "", "limit": config.data.test_limit}
    )
    dataset = load_numbered(_undivided(section), config.seed, classes)
    if dataset.splits is None:
        return dataset.samples
    return dataset.samples.take(np.flatnonzero(dataset.splits == TEST_ROWS))


def _require_alike(source: Source, *, deciding: bool) -> None:
    if deciding and not len(source.calibration):
        raise DataError("no samples to decide by; expected at least one: name some with --data")
    if not len(source.measure):
        raise DataError("no samples to measure the model on; expected at least one: name some with --measure")
    expected = source.sample_shape if source.finished is None else tuple(source.finished.genesis.sample_shape)
    for what, samples in (("--data", source.calibration), ("--data", source.validation), ("--measure", source.measure)):
        if samples is not None and samples.features.shape[1:] != expected:
            raise DataError(
                f"{what}: samples of shape {samples.features.shape[1:]}, the model takes {expected}; prepare them with the "
                "same options"
            )


def _tokenizer(config: FederationConfig) -> Path | None:
    name = str(config.data.options.get("tokenizer", ""))
    folder = expanded(name)
    return folder if name and folder.is_dir() else None
