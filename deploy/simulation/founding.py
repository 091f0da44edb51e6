"""Founding a simulated federation: data divided, W0 pretrained, dictionaries, key, and a folder for each party."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.data.classes import notes_on_classes
from dictpfl.client.data.opening import opened
from dictpfl.client.data.pipelines import with_pipeline
from dictpfl.client.data.preparing.preparation import as_samples, preparation_of
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.scales import notes_on
from dictpfl.client.data.source import COLUMNS, SOURCES, load_dataset
from dictpfl.client.defences.pairs import OwnKeys
from dictpfl.client.folder import GENESIS_WEIGHTS, KEY, PEER_KEY, PEERS, TEACHER, TRAIN, VALIDATION, InstitutionSettings
from dictpfl.client.keys.epochs import read_roster
from dictpfl.client.model.build import build_model
from dictpfl.client.model.tokens.install import is_unmeasured
from dictpfl.client.training.directions import gradients
from dictpfl.client.training.task import outputs_of, task_of
from dictpfl.common.ckks.keys import FederationKey, load_key, make_key, save_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer, IdentitySealer
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.files import in_shell, owner_only, write_private
from dictpfl.common.genesis import DOCUMENT, TENSORS, Genesis
from dictpfl.common.law.members import Roster
from dictpfl.common.law.seeds import expand
from dictpfl.common.law.state import SharedState
from dictpfl.common.settings import MADE_BY, Data, Narrow
from dictpfl.deploy.agreeing import agreement_of, draw_genesis, require_trainable, without_path
from dictpfl.deploy.calibrating import with_measured_tokens
from dictpfl.deploy.runs.census import CENSUS
from dictpfl.deploy.runs.run import CONFIG, INSTITUTIONS, first_institution
from dictpfl.deploy.simulation.counting import require_ordered, write_census
from dictpfl.deploy.simulation.groups import TEST_GROUPS, write_groups
from dictpfl.deploy.simulation.partition import Division, Regrouping, divide
from dictpfl.deploy.simulation.pretraining import pretrain
from dictpfl.deploy.teaching import with_teacher
from dictpfl.deploy.tensors import write_tensors
from dictpfl.deploy.units import counted
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT

COORDINATOR, TEST = "coordinator", "test.npz"
REGROUPED = "regrouped.json"
"""File in a baseline's folder with the number of institutions that its data were divided among, which its configuration does not have."""


@dataclass(frozen=True)
class Founded:
    """A federation ready to run.

    Attributes:
        genesis: the agreement.
        key: None in a federation that encrypts nothing.
        folder: with `coordinator/` and `institutions/`.
        test: samples kept outside.
        model_values: parameters of the plain model.
        notes: what the founder should know about its data.
    """

    genesis: Genesis
    key: FederationKey | None
    folder: Path
    test: Samples
    model_values: int
    notes: tuple[str, ...] = ()

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / COORDINATOR

    @property
    def institutions(self) -> Path:
        """The folder of all institutions' folders."""
        return self.folder / INSTITUTIONS

    def home(self, index: int) -> Path:
        """Return an institution's folder."""
        return self.institutions / f"institution-{index:03d}"


def found(config: FederationConfig, folder: Path, regrouping: Regrouping | None = None) -> Founded:
    """Write everything that a simulation needs; all errors that can come before round 1 come here.

    Seeds derive from `config.seed`, so that a simulation can be repeated; a deployment draws secrets. `regrouping`: the data are
    divided among others than those that take part.

    Raises:
        DictPFLError: data, model or parameters cannot be used.
    """
    torch.set_num_threads(config.training.threads)
    config = with_pipeline(config)
    dataset = load_dataset(config.data, config.seed)
    require_ordered(config, dataset)
    notes = (*notes_on(dataset), *notes_on_classes(dataset, config.data))
    named, config = bool(config.data.features) or config.data.preprocessing.on, with_names(config, dataset)
    sample_shape = shape_of(config, dataset)
    parties = config.federation.participants if regrouping is None else regrouping.participants
    division = of_skill(divide(dataset, config.data, parties, config.seed), config.narrow)
    division = division if regrouping is None else regrouping.of(division)
    outputs = outputs_of(task_of(config.measuring), dataset.outputs)
    model = build_model(config.model, sample_shape, outputs, config.seed)
    pretrain(model, division.public, config.model.pretrain, config.measuring, config.seed)
    trial = trial_of(division.institutions[0].train, sample_shape)
    require_trainable(model, [trial], config, outputs)
    config, teacher = with_teacher(config, model, [trial], outputs)
    config, measured = with_measured_tokens(config, model, [trial], division.public)
    parameters = CKKSParameters.choose(config.encryption, config.capacity, config.grid.value_bits)
    key = make_key(parameters) if config.encryption.sealer == "ckks" else None
    genesis, weights = draw_genesis(
        config,
        model,
        CKKSSealer(key) if key else IdentitySealer(parameters),
        seed=expand(config.seed.to_bytes(8, "little"), "simulation", length=32),
        sample_cap=config.federation.sample_cap
        or _next_power(
            max(len(institution.train.of_classes(config.narrow.classes)) for institution in division.institutions)
        ),
        sample_shape=sample_shape,
        outputs=outputs,
        gradients=gradients(model, division.public, task_of(config.measuring))
        if config.decomposition.enabled and config.decomposition.basis == "gradient"
        else None,
        names=named,
    )
    founded = Founded(genesis, key, folder, division.test, _values(model), (*notes, *measured))
    try:
        _write(founded, division, weights, teacher)
        write_census(config, dataset, division, folder)
        if regrouping is not None:
            write_private(folder / REGROUPED, json.dumps(regrouping.participants).encode())
    except OSError as error:
        raise ConfigError(f"cannot write the federation into {folder}: {error}") from error
    return founded


def with_names(config: FederationConfig, dataset: Dataset) -> FederationConfig:
    """The configuration with the names of a table's features and classes, by which other data are matched to the model.

    Of features of clips it names what makes them, so that nobody mixes in those of another encoder.
    """
    data = config.data
    if dataset.made_by:
        made = data.model_copy(update={"options": data.options | {MADE_BY: dataset.made_by}})
        return config.model_copy(update={"data": made})
    if not dataset.feature_names or data.source not in COLUMNS:
        return config
    classes = {"classes": list(dataset.class_names)} if dataset.class_names else {}
    recorded = data.model_copy(update={"features": list(dataset.feature_names), "options": classes | data.options})
    return config.model_copy(update={"data": recorded})


def shape_of(config: FederationConfig, dataset: Dataset) -> tuple[int, ...]:
    """Shape of a sample as the model takes it: of columns that are prepared, that of what becomes of them.

    Raises:
        ConfigError: images for a model of clips, which would take them for features of some; pictures of another shape than the model's.
    """
    if config.model.source == "vlm":
        _require_picture(dataset, config.model.options.get("image"))
    is_image = len(dataset.sample_shape) == 3 and not dataset.made_by  # noqa: PLR2004 -- channels, height, width
    if config.model.source == "video" and is_image and config.data.source in SOURCES.own():
        raise ConfigError(
            f'model.source "video" needs clips (F, C, H, W) or features of clips, and samples of data.source {config.data.source!r} are '
            f'{dataset.sample_shape}: use data.source = "videofolder", or model.source = "vit_tiny"'
        )
    made = preparation_of(config)
    return tuple(dataset.sample_shape) if made is None else (made.columns.width,)


def _require_picture(dataset: Dataset, told: Any) -> None:
    """Refuse samples whose pictures have another shape than the model was told: what is left over of one would be read as words."""
    if not isinstance(told, list) or not all(isinstance(side, int) for side in told):
        return  # the model says what it needs
    if dataset.picture:
        fits, here = tuple(told) == dataset.picture, f" is {list(dataset.picture)} (channels, height, width)"
    else:
        behind = np.asarray(dataset.samples.features[:1])[0].ravel()[math.prod(told) :]
        fits, here = bool((behind == behind.round()).all()), " has another shape"
    if not fits:
        raise ConfigError(
            f"model.options.image is {told}, but the picture of a sample of {dataset.name or 'the data'}{here}, and what is left over of it would "
            "be read as words; set model.options.image to the shape that data.options give pictures, or change those (size, mode)"
        )


def trial_of(samples: Samples, sample_shape: tuple[int, ...]) -> Samples:
    """Samples to try a model on: themselves, or zeros in place of columns that nobody can prepare yet."""
    return (
        Samples(np.zeros((len(samples), *sample_shape), np.float32), samples.labels)
        if isinstance(samples, Table)
        else samples
    )


def of_skill(division: Division, narrow: Narrow) -> Division:
    """Leave the test samples of the skill; institutions keep all of theirs, and look at the skill's alone.

    Raises:
        DataError: nobody has a sample to train on, or there is none to test on.
    """
    if not narrow.classes:
        return division
    chosen = np.flatnonzero(np.isin(division.test.labels, narrow.classes))
    trained = sum(len(institution.train.of_classes(narrow.classes)) for institution in division.institutions)
    if not trained or not len(chosen):
        raise DataError(
            f"narrow.classes = {list(narrow.classes)}: {trained} training and {len(chosen)} test samples are of these classes; "
            "expected some of each"
        )
    groups = None if division.test_groups is None else division.test_groups[chosen]
    return replace(division, test=division.test.take(chosen), test_groups=groups)


def found_again(config: FederationConfig, folder: Path) -> Founded:
    """Return a federation founded earlier, to be resumed.

    Raises:
        ConfigError: nothing to resume, or the configuration is another one; the message names the keys.
    """
    institution, config = first_institution(folder), with_pipeline(config)
    genesis = Genesis.load(institution)
    left: dict[str, Any] = {
        "federation": True,
        "data": True,
        "resources": True,  # another machine, or another share of it
        "model": {"architecture"},
        "selection": {"higher"},
        "privacy": {"noise_multiplier"},
        "distillation": {"recorded", "sha256"},
    }
    agreed, wanted = genesis.config, without_path(config)
    if is_unmeasured(wanted.tokens) and "gamma" in agreed.tokens.options:
        options = wanted.tokens.options | {"gamma": agreed.tokens.options["gamma"]}
        wanted = wanted.model_copy(update={"tokens": wanted.tokens.model_copy(update={"options": options})})
    changed = list(_differing(agreed.model_dump(exclude=left), wanted.model_dump(exclude=left)))
    changed += _differing(_filled(agreed.data, wanted.data).model_dump(), wanted.data.model_dump(), "data.")
    # All that is agreed but the rounds: of another deadline or cap the run that lies there would take no notice.
    changed += _differing(
        agreed.federation.model_dump(exclude={"rounds"}),
        wanted.federation.model_dump(exclude={"rounds"}),
        "federation.",
    )
    if changed:
        raise ConfigError(
            f"{folder} holds a run of another configuration: {'; '.join(changed)}. Resume with the same (`dictpfl simulate {in_shell(folder)} "
            "--resume` takes the one that lies there), or choose another folder"
        )
    model = build_model(genesis.config.model, genesis.sample_shape, genesis.outputs, config.seed)
    key = load_key(institution / KEY) if config.encryption.sealer == "ckks" else None
    notes = (
        ()
        if agreed.federation.rounds == wanted.federation.rounds
        else (
            f"the run was founded for {counted(agreed.federation.rounds, 'round')}; its draws, schedules and budgets follow that number, so that it "
            f"will not be, bit for bit, a run of {counted(wanted.federation.rounds, 'round')} from the start",
        )
    )
    return Founded(genesis, key, folder, read_samples(folder / TEST, config), _values(model), notes)


def require_regrouped(folder: Path, regrouping: Regrouping) -> None:
    """Refuse to resume a baseline whose data were divided among another number of institutions; of earlier releases nobody knows.

    Raises:
        ConfigError: they were.
    """
    if not (folder / REGROUPED).exists():
        return
    there = (folder / REGROUPED).read_text(encoding="utf-8", errors="replace")
    if there != json.dumps(regrouping.participants):
        raise ConfigError(
            f"{folder} holds a baseline of a federation of another configuration: federation.participants is {there} there and "
            f"{regrouping.participants} here. Resume with the same, or choose another folder"
        )


def read_samples(path: Path, config: FederationConfig) -> Samples:
    """Read samples of a federation, or its table; an index is opened."""
    return opened(path, config.data)


def samples_of(path: Path, config: FederationConfig, state: SharedState) -> Samples:
    """Read samples of a federation as its model takes them: a table is prepared by the statistics in shared state.

    Raises:
        DictPFLError: whatever an institution that reads them would raise.
    """
    return as_samples(read_samples(path, config), config, state)


def _differing(agreed: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Say of each key that has another value what it is in a run and what it is now."""
    for key in sorted(agreed.keys() | wanted.keys()):
        one, other = agreed.get(key), wanted.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{path}{key}.")
        elif one != other:
            yield f"{path}{key} is {one!r} there and {other!r} here"


def _filled(agreed: Data, wanted: Data) -> Data:
    """The section of a run without the names that founding filled in, which are none of its own."""
    own: dict[str, Any] = {} if wanted.features else {"features": []}
    if "classes" in agreed.options and "classes" not in wanted.options:
        own["options"] = {name: value for name, value in agreed.options.items() if name != "classes"}
    return agreed.model_copy(update=own)


def simulated_agreement(founded: Founded) -> Agreement:
    """Return the coordinator's half in a simulation, which keeps every aggregate: the report replays all rounds."""
    return replace(agreement_of(founded.genesis, read_roster(founded.home(0) / PEERS)), snapshots_kept=0)


def is_of_founding(name: str) -> bool:
    """Tell whether a founding writes a file or folder of this name into a run's folder, or a part of it under a name for the time being."""
    files = (TEST, TEST_GROUPS, CENSUS, REGROUPED, CONFIG)
    return name in (COORDINATOR, INSTITUTIONS, *files) or name.startswith(tuple(f".{file}." for file in files))


def _write(founded: Founded, division: Division, weights: dict[str, torch.Tensor], teacher: bytes) -> None:
    config = founded.genesis.config
    for part in (founded.coordinator, founded.institutions):
        if (founded.institutions / "institution-000" / "memory").exists():
            raise ConfigError(f"{founded.folder} holds a federation that has begun; it is not overwritten")
        shutil.rmtree(part, ignore_errors=True)
        owner_only(part)
    for path in list(founded.folder.iterdir()):
        if path.is_file() and is_of_founding(path.name):
            path.unlink()  # of a founding that was killed; not every federation writes each of them, and would take it for its own
    division.test.save(founded.folder / TEST)
    write_groups(division.test_groups, founded.folder)
    _introduce(founded, [institution.name for institution in division.institutions])
    simulated_agreement(founded).save(founded.coordinator / AGREEMENT)
    files, first = founded.genesis.files(), founded.home(0)
    for index, institution in enumerate(division.institutions):
        folder = owner_only(founded.home(index))
        InstitutionSettings(
            name=institution.name,
            min_participants=config.federation.min_participants,
            toy_insecure=config.toy_insecure,
        ).save(folder)
        # As large as the model, and the same for all: one file each, which nobody ever writes into.
        if folder == first:
            write_private(folder / TENSORS, files[TENSORS])
            write_tensors(folder / GENESIS_WEIGHTS, weights)
            if teacher:
                write_private(folder / TEACHER, teacher)
        else:
            _link(first / TENSORS, folder / TENSORS)
            _link(first / GENESIS_WEIGHTS, folder / GENESIS_WEIGHTS)
            if teacher:
                _link(first / TEACHER, folder / TEACHER)
        write_private(folder / DOCUMENT, files[DOCUMENT])
        if founded.key:
            save_key(founded.key, folder / KEY)
        institution.train.save(folder / TRAIN)
        institution.validation.save(folder / VALIDATION)


def _link(file: Path, name: Path) -> None:
    """Give a file another name, or copy it where the file system has no links."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copy2(file, name)


def _introduce(founded: Founded, names: Sequence[str]) -> None:
    """Give each institution keys of its own and the list of all; the coordinator is told public keys at most."""
    own = [OwnKeys.make(name) for name in names]
    roster = Roster(tuple(sorted((keys.public for keys in own), key=lambda peer: peer.name)))
    for index, keys in enumerate(own):
        folder = owner_only(founded.home(index))
        write_private(folder / PEERS, roster.to_bytes())
        write_private(folder / PEER_KEY, keys.to_bytes())


def _values(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _next_power(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()
