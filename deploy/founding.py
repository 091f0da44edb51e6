"""Founding a simulated federation: data divided, W0 pretrained, dictionaries, key, and a folder for each party."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from client.batches import forward
from client.data import Samples, load_dataset
from client.epochs import read_roster
from client.hub import architecture_of
from client.models import build_model, load_weights
from client.pairs import OwnKeys
from client.partition import Division, divide
from client.pretraining import pretrain
from client.privacy import noise_filled_in, require_privatable
from client.probing import require_tables_reached
from client.sealed import snapshot_bytes
from client.site import GENESIS_WEIGHTS, KEY, PEER_KEY, PEERS, TRAIN, VALIDATION, SiteSettings
from client.tasks import load_task
from client.training import evaluate, resolve_device
from client.twin import Twin, make_dictionaries
from common.adding import Adder, IntegerAdder, ckks_adder
from common.circle import Roster
from common.config import FederationConfig
from common.errors import ConfigError, ModelError
from common.files import write_private
from common.genesis import Genesis, tensors_digest
from common.keys import FederationKey, load_key, make_key, owner_only, save_key
from common.noise import Noise
from common.parameters import CKKSParameters
from common.schedule import schedule
from common.sealing import CKKSSealer, IdentitySealer, Sealer
from common.seeds import expand
from common.tagging import PRIME
from deploy.census import write_census
from server.agreement import Agreement
from server.coordinator import AGREEMENT

COORDINATOR, SITES, TEST = "coordinator", "sites", "test.npz"


@dataclass(frozen=True)
class Founded:
    """A federation ready to run.

    Attributes:
        genesis: the agreement. `key`: None in a federation that encrypts nothing.
        folder: with `coordinator/` and `sites/`. `test`: samples kept outside.
        model_values: parameters of the plain model.
    """

    genesis: Genesis
    key: FederationKey | None
    folder: Path
    test: Samples
    model_values: int

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / COORDINATOR

    @property
    def sites(self) -> Path:
        """The folder of all institutions' folders."""
        return self.folder / SITES

    def site(self, index: int) -> Path:
        """An institution's folder."""
        return self.sites / f"institution-{index:03d}"


def found(config: FederationConfig, folder: Path) -> Founded:
    """Write everything that a simulation needs; all errors that can come before round 1 come here.

    Seeds derive from `config.seed`, so that a simulation can be repeated; a deployment draws secrets.

    Raises:
        DictPFLError: data, model or parameters cannot be used.
    """
    torch.set_num_threads(config.training.threads)
    dataset = load_dataset(config.data, config.seed)
    division = divide(dataset, config.data, config.federation.participants, config.seed)
    model = build_model(config.model, dataset.sample_shape, dataset.outputs, config.seed)
    if config.model.weights:
        load_weights(model, config.model.weights)
    pretrain(model, division.public, config.model.pretrain, config.training, config.seed)
    require_trainable(model, [division.sites[0].train], config)
    parameters = CKKSParameters.choose(config.encryption, config.capacity)
    key = make_key(parameters) if config.encryption.sealer == "ckks" else None
    genesis, weights = draw_genesis(
        config,
        model,
        CKKSSealer(key) if key else IdentitySealer(parameters),
        seed=expand(config.seed.to_bytes(8, "little"), "simulation", length=32),
        sample_cap=config.federation.sample_cap or _next_power(max(len(site.train) for site in division.sites)),
        sample_shape=tuple(dataset.sample_shape),
        outputs=dataset.outputs,
    )
    founded = Founded(genesis, key, folder, division.test, _values(model))
    try:
        _write(founded, division, weights)
        write_census(dataset, division, folder)
    except OSError as error:
        raise ConfigError(f"cannot write the federation into {folder}: {error}") from error
    return founded


def draw_genesis(
    config: FederationConfig,
    model: nn.Module,
    sealer: Sealer,
    *,
    seed: bytes,
    sample_cap: int,
    sample_shape: tuple[int, ...],
    outputs: int,
) -> tuple[Genesis, dict[str, torch.Tensor]]:
    """The agreement on a model with W0, and W0 itself by name; the same for a simulation and a deployment.

    Raises:
        ConfigError: a sample cap that the ledger cannot hold.
        ModelError, LayoutError: weights that cannot be decomposed.
    """
    config = _recorded(config, model)
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    dictionaries = make_dictionaries(model, config.decomposition, seed)
    twin = Twin(model, config.decomposition, dictionaries)
    require_privatable(config, twin)
    config = _with_noise(config, twin.layout.size)
    upload_length, sum_length = item_lengths(sealer, sealer.parameters)
    genesis = Genesis(
        config=config,
        layout=twin.layout,
        values=twin.read(),
        dictionaries=dictionaries,
        weights_digest=tensors_digest({name: tensor.numpy() for name, tensor in weights.items()}),
        seed=seed,
        sample_cap=sample_cap,
        parameters=sealer.parameters,
        fingerprint=sealer.fingerprint,
        upload_length=upload_length,
        sum_length=sum_length,
        outputs=outputs,
        sample_shape=sample_shape,
    )
    if genesis.sample_cap > genesis.law.bound:
        raise ConfigError(
            f"federation.sample_cap {genesis.sample_cap} is beyond what the ledger holds, {genesis.law.bound}; lower it"
        )
    if config.defences.integrity and genesis.law.bound < PRIME:
        raise ConfigError(
            f"defences.integrity needs components for {PRIME}, {genesis.parameters.capacity} participants leave "
            f"{genesis.law.bound}; lower federation.max_participants"
        )
    genesis.start()  # refuses noise that no digit holds
    return genesis, weights


def _recorded(config: FederationConfig, model: nn.Module) -> FederationConfig:
    """The configuration with what only the authority's code knows: a hub's architecture, and which way a metric points."""
    architecture = config.model.architecture or architecture_of(model, config.model.source)
    higher = load_task(config.training.task).higher_is_better
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"architecture": architecture}),
            "selection": config.selection.model_copy(update={"higher": higher}),
        }
    )


def _with_noise(config: FederationConfig, size: int) -> FederationConfig:
    """With the noise that all institutions must agree on, where the configuration only wants an epsilon."""

    def noise(multiplier: float) -> Noise:
        found = Noise.of(
            config.privacy.model_copy(update={"noise_multiplier": multiplier}), config.federation.min_participants
        )
        assert found is not None  # noqa: S101 -- asked of this mechanism alone
        return found

    return config.model_copy(update={"privacy": noise_filled_in(config, noise, size)})


def require_trainable(
    model: nn.Module, trials: Sequence[Samples], config: FederationConfig, *, loss: bool = True, data: str = "this data"
) -> None:
    """One forward pass and one loss, so that what cannot be trained is refused before round 1.

    Args:
        trials: samples to try, at least one of which the model must take; two of each are looked at.
        loss: False: the forward pass alone, where nobody knows what labels the task wants.
        data: what the trials stand for, for the message.

    Raises:
        ModelError: the model takes none of them, or the task does not take its outputs.
        ConfigError: unknown task, device or schedule.
    """
    resolve_device(config.training.device)
    schedule(config.pruning.schedule)
    task = load_task(config.training.task)
    reasons: list[Exception] = []
    for samples in trials:
        few, tried = samples.take(np.arange(min(2, len(samples)))), copy.deepcopy(model)
        try:
            if loss:
                evaluate(tried, few, task)
            else:
                forward(tried.eval(), torch.from_numpy(few.features))
            require_tables_reached(model, config.decomposition, few)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reasons.append(error)
        else:
            return
    raise ModelError(
        f"model {config.model.source!r} with task {config.training.task!r} cannot be trained on {data}: {reasons[0]}"
    ) from reasons[0]


def found_again(config: FederationConfig, folder: Path) -> Founded:
    """A federation founded earlier, to be resumed.

    Raises:
        ConfigError: nothing to resume, or the configuration is another one.
    """
    site = folder / SITES / "institution-000"
    genesis = Genesis.load(site)
    left: dict[str, Any] = {
        "federation": True,
        "model": {"architecture"},
        "selection": {"higher"},
        "privacy": {"noise_multiplier"},
    }
    changed = genesis.config.model_dump(exclude=left) != config.model_dump(exclude=left)
    if changed or genesis.config.federation.participants != config.federation.participants:
        raise ConfigError(
            f"{folder} holds a run of another configuration; resume with the same, or choose another folder"
        )
    model = build_model(genesis.config.model, genesis.sample_shape, genesis.outputs, config.seed)
    key = load_key(site / KEY) if config.encryption.sealer == "ckks" else None
    return Founded(genesis, key, folder, Samples.load(folder / TEST), _values(model))


def item_lengths(sealer: Sealer, parameters: CKKSParameters) -> tuple[int, int]:
    """Bytes of a sealed item and of a summed one, measured: they depend on parameters and SEAL's build only."""
    (item,) = sealer.seal(np.zeros(1, dtype=np.int64))
    adder: Adder = ckks_adder(parameters) if isinstance(sealer, CKKSSealer) else IntegerAdder("<i8")
    adder.add(adder.load(memoryview(item), len(item)))
    (total,) = adder.total()
    return len(item), len(total)


def agreement_of(genesis: Genesis, roster: Roster | None = None) -> Agreement:
    """The coordinator's half: nothing secret. `roster`: of the epoch, where institutions sign what they send."""
    config = genesis.config
    length, growth = snapshot_bytes(genesis)
    return Agreement(
        parameters=genesis.parameters,
        encrypted=config.encryption.sealer == "ckks",
        uploads=genesis.uploads,
        sum_length=genesis.sum_length,
        rounds=config.federation.rounds,
        score_rounds=genesis.law.score_rounds,
        min_participants=config.federation.min_participants,
        deadline_seconds=config.federation.deadline_seconds,
        insecurities=config.insecurities,
        snapshot_every=config.federation.snapshot_every,
        snapshots_kept=config.federation.snapshots_kept,
        snapshot_length=length,
        snapshot_growth=growth,
        masks=config.defences.masks,
        reveal_seconds=config.defences.reveal_seconds,
        signers=tuple(peer.signing.hex() for peer in roster.peers) if roster and config.defences.integrity else (),
    )


def simulated_agreement(founded: Founded) -> Agreement:
    """The coordinator's half in a simulation: its report replays every round, so that no aggregate may be dropped."""
    roster = read_roster(founded.site(0) / PEERS) if founded.genesis.config.defences.any else None
    return replace(agreement_of(founded.genesis, roster), snapshots_kept=0)


def _write(founded: Founded, division: Division, weights: dict[str, torch.Tensor]) -> None:
    config = founded.genesis.config
    for part in (founded.coordinator, founded.sites):
        if (founded.sites / "institution-000" / "memory").exists():
            raise ConfigError(f"{founded.folder} holds a federation that has begun; it is not overwritten")
        shutil.rmtree(part, ignore_errors=True)
        owner_only(part)
    division.test.save(founded.folder / TEST)
    if config.defences.any:
        _introduce(founded, [site.name for site in division.sites])
    simulated_agreement(founded).save(founded.coordinator / AGREEMENT)
    for index, site in enumerate(division.sites):
        folder = owner_only(founded.site(index))
        SiteSettings(
            name=site.name,
            min_participants=config.federation.min_participants,
            toy_insecure=config.toy_insecure,
        ).save(folder)
        founded.genesis.save(folder)
        if founded.key:
            save_key(founded.key, folder / KEY)
        save_file(weights, folder / GENESIS_WEIGHTS)
        site.train.save(folder / TRAIN)
        site.validation.save(folder / VALIDATION)


def _introduce(founded: Founded, names: Sequence[str]) -> None:
    """Give each institution keys of its own and the list of all; the coordinator is told public keys at most."""
    own = [OwnKeys.make(name) for name in names]
    roster = Roster(tuple(sorted((keys.public for keys in own), key=lambda peer: peer.name)))
    for index, keys in enumerate(own):
        folder = owner_only(founded.site(index))
        write_private(folder / PEERS, roster.to_bytes())
        write_private(folder / PEER_KEY, keys.to_bytes())


def _values(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _next_power(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()
