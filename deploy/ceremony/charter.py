"""What an authority fixes without any data: W0, dictionaries, layout, parameters, seed. The key comes apart from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from client.data import Samples
from client.models import build_model, load_weights
from common.config import FederationConfig
from common.errors import ConfigError, InsecureParametersError
from common.genesis import Genesis
from common.keys import FederationKey, make_key
from common.parameters import CKKSParameters
from common.sealing import CKKSSealer
from common.seeds import SEED_BYTES, new_seed
from deploy.founding import draw_genesis, require_trainable


@dataclass(frozen=True)
class Charter:
    """Genesis, W0 as safetensors, and the first epoch's key."""

    genesis: Genesis
    weights: bytes
    key: FederationKey


def draw_up(
    config: FederationConfig,
    sample_shape: tuple[int, ...],
    outputs: int,
    *,
    weights: Path | None = None,
    seed: bytes | None = None,
) -> Charter:
    """Fix everything; the same arguments give the same genesis, but for key and seed.

    Args:
        config: checked. `sample_shape`, `outputs`: what the model is built for; the authority has no data to see it from.
        weights: safetensors with W0, in place of `model.weights`.
        seed: 32 bytes; None draws a secret one. Give one only to compare a deployment with a simulation.

    Raises:
        DictPFLError: config, model or parameters cannot be used in a deployment.
    """
    require_deployable(config, weights)
    torch.set_num_threads(config.training.threads)
    model = build_model(config.model, sample_shape, outputs, config.seed)
    if weights or config.model.weights:
        load_weights(model, weights or config.model.weights)
    require_accepts(model, sample_shape, outputs, config)
    seed = new_seed() if seed is None else seed
    if len(seed) != SEED_BYTES:
        raise ConfigError(f"a seed of {len(seed)} bytes, expected {SEED_BYTES}")
    key = make_key(CKKSParameters.choose(config.encryption, config.capacity))
    genesis, state = draw_genesis(
        config,
        model,
        CKKSSealer(key),
        seed=seed,
        sample_cap=config.federation.sample_cap,
        sample_shape=sample_shape,
        outputs=outputs,
    )
    return Charter(genesis, save(state), key)


def require_deployable(config: FederationConfig, weights: Path | None) -> None:
    """Refuse what only a simulation can do.

    Raises:
        InsecureParametersError: nothing would be encrypted. ConfigError: something would need the data.
    """
    if config.encryption.sealer != "ckks":
        raise InsecureParametersError(
            f"encryption.sealer is {config.encryption.sealer!r}: a federation that encrypts nothing has no key to hand "
            "out. Use `dictpfl simulate` to compare with it"
        )
    if not config.federation.sample_cap:
        raise ConfigError(
            "federation.sample_cap is 0, which a simulation fills in from its largest institution; the authority sees no "
            "data and must not learn sample counts. Agree on a number, such as the next power of two above the largest "
            "institution's training samples"
        )
    if config.model.pretrain.epochs and not (weights or config.model.weights):
        raise ConfigError(
            "model.pretrain trains W0 on data, which the authority does not have. Pretrain elsewhere and give the result "
            "by --weights or model.weights"
        )


def require_accepts(model: nn.Module, sample_shape: tuple[int, ...], outputs: int, config: FederationConfig) -> None:
    """As `deploy.founding.require_trainable`, on zeros of the given shape; of an own task only the forward pass.

    Raises:
        ModelError: the model does not take such samples. ConfigError: unknown task, device or schedule.
    """
    labels = np.zeros(2, np.int64) if config.training.task == "classification" else np.zeros((2, outputs), np.float32)
    # Numbers or tokens: which of the two, only the model knows.
    trials = [Samples(np.zeros((2, *sample_shape), kind), labels) for kind in (np.float32, np.int64)]
    known = config.training.task in ("classification", "regression")
    asked = f"samples of shape {sample_shape} with {outputs} outputs (--sample-shape, --outputs)"
    require_trainable(model, trials, config, loss=known, data=asked)
