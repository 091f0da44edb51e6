"""Charter that an authority fixes without data: W0, dictionaries, layout, parameters, seed. The key comes apart from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from dictpfl.client.data.pipelines import with_pipeline
from dictpfl.client.data.preparing.preparation import preparation_of
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model, load_weights
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ParameterError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.seeds import SEED_BYTES, new_seed
from dictpfl.deploy.agreeing import draw_genesis, require_trainable
from dictpfl.deploy.calibrating import with_measured_tokens
from dictpfl.deploy.teaching import with_teacher

_MOST_VALUES = 1 << 28
"""Values of a sample, and outputs, beyond which a size is a slip of the hand: a sample of 1 GiB."""


@dataclass(frozen=True)
class Charter:
    """Genesis, W0 as safetensors, the first epoch's key, and the teacher as safetensors; empty: there is none."""

    genesis: Genesis
    weights: bytes
    key: FederationKey
    teacher: bytes = b""


def draw_up(
    config: FederationConfig,
    sample_shape: tuple[int, ...],
    outputs: int,
    *,
    weights: Path | None = None,
    seed: bytes | None = None,
) -> Charter:
    """Fix everything; the same arguments give the same genesis, but for the key and the seeds.

    Args:
        config: checked.
        sample_shape, outputs: what the model is built for; the authority has no data to see it from.
        weights: safetensors with W0, in place of `model.weights`.
        seed: of genesis, 32 bytes; None draws one. Give one only to compare a deployment with a simulation: the federation id
            is then the same. What the epoch's seed decides, such as draws of pruning, is not.

    Raises:
        DictPFLError: config, model or parameters cannot be used in a deployment.
    """
    require_sizes(sample_shape, outputs)
    config = with_pipeline(config)
    require_deployable(config, weights)
    require_width(config, sample_shape)
    torch.set_num_threads(config.training.threads)
    model = build_model(config.model, sample_shape, outputs, config.seed)
    if weights:
        load_weights(model, weights)
    require_accepts(model, sample_shape, outputs, config)
    shaped = trials(sample_shape, outputs, config)
    config, teacher = with_teacher(config, model, shaped, outputs)
    config, _ = with_measured_tokens(config, model, shaped)  # `describe` shows the number
    seed = new_seed() if seed is None else seed
    if len(seed) != SEED_BYTES:
        raise ConfigError(f"a seed of {len(seed)} bytes, expected {SEED_BYTES}")
    # The epoch's seed is never the one above: that lies in genesis.json, in clear, at every institution.
    key = make_key(CKKSParameters.choose(config.encryption, config.capacity, config.grid.value_bits), new_seed())
    genesis, state = draw_genesis(
        config,
        model,
        CKKSSealer(key),
        seed=seed,
        sample_cap=config.federation.sample_cap,
        sample_shape=sample_shape,
        outputs=outputs,
        names=bool(config.data.features),
    )
    return Charter(genesis, save(state), key, teacher)


def require_sizes(sample_shape: tuple[int, ...], outputs: int) -> None:
    """Refuse sizes that are a slip of the hand, before a model or a sample of them is made, which could take hours or all memory.

    Raises:
        ConfigError: it names the size.
    """
    for option, text, values in (
        ("--sample-shape", "x".join(map(str, sample_shape)), math.prod(sample_shape)),
        ("--outputs", str(outputs), outputs),
    ):
        if values > _MOST_VALUES:
            raise ConfigError(f"{option} {text}: {values:,} values, expected at most {_MOST_VALUES:,}; type it again")


def require_deployable(config: FederationConfig, weights: Path | None) -> None:
    """Refuse what only a simulation can do.

    Raises:
        ParameterError (insecure): nothing would be encrypted. ConfigError: something would need the data.
    """
    if config.encryption.sealer != "ckks":
        raise ParameterError(
            f"encryption.sealer is {config.encryption.sealer!r}: a federation that encrypts nothing has no key to hand "
            "out. Use `dictpfl simulate` to compare with it",
            code="insecure",
        )
    if not config.federation.sample_cap:
        raise ConfigError(
            "federation.sample_cap is 0, which a simulation fills in from its largest institution; the authority sees no "
            "data and must not learn sample counts. Agree on a number, such as the next power of two above the largest "
            "institution's training samples"
        )
    if config.decomposition.enabled and config.decomposition.basis == "gradient":
        raise ConfigError(
            'decomposition.basis = "gradient" makes dictionaries of public samples; members of a deployment could not make them again '
            'from W0 and the seed, and so not tell one that was planted. Set it to "weights"'
        )
    if config.model.pretrain.epochs and not (weights or config.model.weights):
        raise ConfigError(
            "model.pretrain trains W0 on data, which the authority does not have. Pretrain elsewhere and give the result "
            "by --weights or model.weights"
        )


def require_width(config: FederationConfig, sample_shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not that of the columns that the configuration names, as they are or prepared.

    Raises:
        ConfigError: the message says what the shape would be.
    """
    made, named = preparation_of(config), len(config.data.features)
    width = made.columns.width if made else named
    if width and sample_shape != (width,) and (made or "shape" not in config.data.options):
        raise ConfigError(
            f"--sample-shape is {'x'.join(map(str, sample_shape))}, but the {named} columns of data.features make {width} features; set it "
            f"to {width}"
        )


def require_accepts(model: nn.Module, sample_shape: tuple[int, ...], outputs: int, config: FederationConfig) -> None:
    """Check as `deploy.agreeing.require_trainable` does, on zeros of the given shape; of an own task only the forward pass.

    Raises:
        ModelError: the model does not take such samples. ConfigError: unknown task, device or schedule.
    """
    known = config.measuring.task in ("classification", "regression")
    asked = f"samples of shape {sample_shape} with {outputs} outputs (--sample-shape, --outputs)"
    require_trainable(model, trials(sample_shape, outputs, config), config, outputs, loss=known, data=asked)


def trials(sample_shape: tuple[int, ...], outputs: int, config: FederationConfig) -> list[Samples]:
    """Make zeros of a shape, as numbers and as tokens: which of the two, only the model knows."""
    labels = np.zeros(2, np.int64) if config.measuring.task == "classification" else np.zeros((2, outputs), np.float32)
    return [Samples(np.zeros((2, *sample_shape), kind), labels) for kind in (np.float32, np.int64)]
