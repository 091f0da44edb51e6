"""Genesis, and the coordinator's half of it: agreed on before round 1, in simulations and deployments alike."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dictpfl.client.compress.narrow.federating import gate_norms
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.memory.snapshots import snapshot_bytes
from dictpfl.client.model.build import weights_digest
from dictpfl.client.model.covering import own_buffers
from dictpfl.client.model.gates import Gates
from dictpfl.client.model.hub import architecture_of
from dictpfl.client.model.rules import is_frozen_buffer
from dictpfl.client.model.scored import recorded
from dictpfl.client.model.sparse.federated import threshold_twin
from dictpfl.client.model.tokens.install import install
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.client.privacy.guard import noise_filled_in, require_privatable
from dictpfl.client.training.calling import forward
from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.reached import require_tables_reached
from dictpfl.client.training.scorer import SCORERS
from dictpfl.client.training.speed import Precision
from dictpfl.client.training.tally import Subject, tallies_of
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import evaluate, resolve_device
from dictpfl.common.ckks.sealing import Sealer
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.decision import decision
from dictpfl.common.law.members import Roster
from dictpfl.common.law.noise import Noise
from dictpfl.common.law.round import facts
from dictpfl.common.law.schedule import schedule
from dictpfl.server.agreement import Agreement

_TRIED = 32


def draw_genesis(
    config: FederationConfig,
    model: nn.Module,
    sealer: Sealer,
    *,
    seed: bytes,
    sample_cap: int,
    sample_shape: tuple[int, ...],
    outputs: int,
    gradients: nn.Module | None = None,
    names: bool = False,
) -> tuple[Genesis, dict[str, torch.Tensor]]:
    """The agreement on a model with W0, and W0 itself by name; the same for a simulation and a deployment.

    `gradients`: see `make_dictionaries`. `names`: the names of features and classes are part of what is agreed.

    Raises:
        ConfigError: a sample cap that the ledger cannot hold, or dictionaries of gradients that nobody has.
        ModelError, LayoutError: weights that cannot be decomposed.
    """
    _require_categories(config)
    config = _recorded(config, model)
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    masked = threshold_twin(model, config)
    dictionaries = {} if masked else make_dictionaries(model, config.decomposition, seed, gradients=gradients)
    config = without_path(config)
    norms = gate_norms(model, config.narrow)
    twin = masked or Twin(model, config.decomposition, dictionaries, Gates.of(norms, config.narrow))
    require_privatable(config, twin)
    install(twin.module, config.tokens)  # refuses what no family of models knows, and budgets that leave nothing
    config = _with_noise(config, twin.layout.size)
    tallies = tallies_of(Subject(twin, config, outputs, sample_shape))
    measures = Metrics.of(config.measuring, outputs).measures
    genesis = Genesis(
        config=config,
        layout=twin.layout,
        values=twin.read(),
        dictionaries=dictionaries,
        weights_digest=weights_digest(weights),
        seed=seed,
        sample_cap=sample_cap,
        parameters=sealer.parameters,
        fingerprint=sealer.fingerprint,
        outputs=outputs,
        sample_shape=sample_shape,
        tallies=tallies,
        gates=norms,
        measures=measures,
        features=tuple(config.data.features) if names else (),
        classes=tuple(map(str, config.data.options.get("classes", ()))) if names else (),
    )
    capacity, bits = sealer.parameters.capacity, sealer.parameters.payload_bits
    for tally in tallies:
        tally.digits(capacity, bits)  # refuses what no component holds
    for measure in measures:
        measure.digits(capacity, bits)  # likewise
    if genesis.sample_cap > genesis.law.bound:
        raise ConfigError(
            f"federation.sample_cap {genesis.sample_cap} is beyond what the ledger holds, {genesis.law.bound}; lower it"
        )
    start = genesis.start()  # refuses noise that no digit holds
    schedule(config.pruning.schedule).at(
        facts(genesis.law, start), config.pruning
    )  # and a budget that rounds cannot spend
    return genesis, weights


def _recorded(config: FederationConfig, model: nn.Module) -> FederationConfig:
    """The configuration with what only the authority's code knows: a hub's architecture, and which way a metric points."""
    architecture = config.model.architecture or architecture_of(model, config.model.source)
    higher = task_of(config.measuring).higher_is_better
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"architecture": architecture}),
            "selection": config.selection.model_copy(update={"higher": higher}),
        }
    )


def _require_categories(config: FederationConfig) -> None:
    """Refuse columns of no category, and words that stand for two: a reader of the exported model would set both features."""
    for name, said in config.data.preprocessing.categories.items():
        if isinstance(said, list) and (not said or len(set(said)) < len(said)):
            raise ConfigError(
                f"data.preprocessing.categories.{name} is {said}; expected at least one word, each once, or a number of buckets"
            )


def without_path(config: FederationConfig) -> FederationConfig:
    """The configuration with the digest of the scores that ranks were divided by, in place of a path of this machine."""
    d = config.decomposition
    return (
        config.model_copy(update={"decomposition": d.model_copy(update={"scores": recorded(d.scores)})})
        if d.scores
        else config
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
    model: nn.Module,
    trials: Sequence[Samples],
    config: FederationConfig,
    outputs: int,
    *,
    loss: bool = True,
    data: str = "this data",
) -> None:
    """One forward pass, one loss and each metric once, so that what cannot be trained or measured is refused before round 1.

    Args:
        outputs: number of the model's outputs, as genesis says it.
        trials: samples to try, at least one of which the model must take; 32 of each are looked at, so that a metric's parts can be compared.
        loss: False: the forward pass alone, where nobody knows what labels the task wants.
        data: what the trials stand for, for the message.

    Raises:
        ModelError: the model takes none of them, the task does not take its outputs, or training moves what nobody shares.
        ConfigError: unknown task, device or schedule.
    """
    resolve_device(config.training.device)
    schedule(config.pruning.schedule)
    if config.decision:
        decision(config.decision)
        SCORERS.load(config.scores.measure)
    task = task_of(config.measuring)
    # Weights of few bits serve linear layers alone: a model whose layers look at values is found here.
    held = Precision(config.training.model_copy(update={"autocast": "none"}), torch.device("cpu"))
    reasons: list[Exception] = []
    for samples in trials:
        few, tried = samples.take(np.arange(min(_TRIED, len(samples)))), copy.deepcopy(model).requires_grad_(False)
        # Never more at a time than training and measuring take: of a language model, 32 texts' outputs alone are gigabytes.
        batch = few.take(np.arange(min(config.training.batch_size, len(few))))
        try:
            with held.at_work(tried):
                if loss:
                    size, metrics = config.training.evaluation_batch, Metrics.of(config.measuring, outputs)
                    evaluate(tried, few, task, batch_size=size, metrics=metrics)
                else:
                    forward(tried.eval(), torch.from_numpy(np.asarray(batch.features)))
                require_longest(tried, few)
            if config.sparsity.method == "none":
                require_tables_reached(model, config.decomposition, batch)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reasons.append(error)
        else:
            _require_still(model, batch, config)
            return
    are_ids = all(np.issubdtype(samples.features.dtype, np.integer) for samples in trials)
    raise ModelError(
        f"model {config.model.source!r} with task {config.training.task!r} cannot be trained on {data}: {reasons[0]}"
        + (". Features of whole numbers are token ids; give floats for pixels and other values" if are_ids else "")
    ) from reasons[0]


@torch.no_grad()
def _require_still(model: nn.Module, batch: Samples, config: FederationConfig) -> None:
    """Refuse a model whose own buffers training moves: each institution would have its own, and an export that of W0.

    Raises:
        ModelError: which one; `decomposition.frozen` says that W0's is meant.
    """
    asked = [name for name in own_buffers(model) if not is_frozen_buffer(name, config.decomposition)]
    if not asked:
        return
    features = torch.from_numpy(np.asarray(batch.features))
    with torch.random.fork_rng(devices=[]):
        if features.is_floating_point():
            features = features + torch.randn_like(features)  # zeros may stand for data that nobody has here
        tried = copy.deepcopy(model).train()
        try:
            forward(tried, features)
        except (RuntimeError, ValueError):  # a batch too small to train on, say
            return
    after, before = dict(tried.named_buffers()), own_buffers(model)
    if moved := [name for name in asked if not torch.equal(after[name].nan_to_num(), before[name].nan_to_num())]:
        raise ModelError(
            f"training moves the buffer {moved[0]!r} of model {config.model.source!r}, which is no running statistic of a norm layer of torch. "
            "Nobody would share it, and an exported model would have that of the start. Use a norm layer of torch (decomposition.batch_norm), or "
            f'say that it stays: decomposition.frozen = ["{moved[0]}"]'
        )


@torch.no_grad()
def require_longest(model: nn.Module, samples: Samples) -> None:
    """Run a model on a text as long as texts may be: those that are tried may all be short.

    Raises:
        ValueError: it does not read so many tokens.
    """
    tokens = np.asarray(samples.features[:1])
    if tokens.dtype != np.int64 or tokens.ndim != 2:  # noqa: PLR2004 -- samples, tokens
        return
    longest = np.where(tokens == PADDING, max(0, int(tokens[0, 0])), tokens)
    try:
        forward(model.eval(), torch.from_numpy(longest))
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"a sample may have {tokens.shape[1]} tokens (data.options.max_tokens), and the model does not read so many: lower it ({error})"
        ) from error


def agreement_of(genesis: Genesis, roster: Roster | None = None) -> Agreement:
    """The coordinator's half: nothing secret. `roster`: members of the epoch, by number."""
    config = genesis.config
    length, growth = snapshot_bytes(genesis)
    keys = tuple(peer.signing.hex() for peer in roster.peers) if roster else ()
    return Agreement(
        parameters=genesis.parameters,
        encrypted=config.encryption.sealer == "ckks",
        uploads=genesis.limits,
        rounds=config.federation.rounds,
        score_rounds=len(genesis.law.opening),
        rescore_every=genesis.law.rescore_every,
        min_participants=config.federation.min_participants,
        deadline_seconds=config.federation.deadline_seconds,
        insecurities=config.insecurities,
        snapshot_every=config.federation.snapshot_every,
        snapshots_kept=config.federation.snapshots_kept,
        snapshot_length=length,
        snapshot_growth=growth,
        masks=config.defences.masks,
        reveal_seconds=config.defences.reveal_seconds,
        signers=keys if config.defences.integrity else (),
        keys=keys if config.defences.masks else (),
        members=tuple(peer.name for peer in roster.peers) if roster else (),
        sample=config.federation.sample,
        closing_rounds=len(genesis.law.closing),
        closing_from=config.federation.rounds if genesis.law.closing else 0,
    )
