"""A curve of tokens at the founding of a federation: what `[tokens]` leaves to be measured (`gamma = "measured"`) becomes a number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import nn

from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.tokens.install import is_unmeasured, with_gamma
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ModelError

_SAMPLES = 64


def with_measured_tokens(
    config: FederationConfig, model: nn.Module, trials: Sequence[Samples], public: Samples | None = None
) -> tuple[FederationConfig, tuple[str, ...]]:
    """Measure gamma of `autoprune` on public samples, or on noise where there are none.

    No institution's samples are read: what is found stands in the agreement, which everybody reads.

    Args:
        config: checked.
        model: with W0.
        trials: samples of one shape, at least one of which the model takes; their shape and type say what noise looks like.
        public: samples that nobody holds back; up to 64 are read.

    Returns:
        The configuration with a number in `tokens.options.gamma`, and a sentence that says on what it was measured; the same
        configuration and nothing where nothing is to be measured.

    Raises:
        ConfigError: gamma with a fixed curve, or a model whose tokens cannot be reduced. ModelError: no sample that the model takes.
    """
    if not is_unmeasured(config.tokens):
        return config, ()
    if public is not None and len(public) and not isinstance(public, Table):
        tried, of = [public.take(np.arange(min(_SAMPLES, len(public))))], "public samples"
    else:
        tried, of = (
            [_noise(model, trial, config.seed) for trial in trials],
            "samples of noise, since there are no public ones",
        )
    reasons: list[Exception] = []
    for samples in tried:
        try:
            tokens = with_gamma(model, config.tokens, partial(_read, samples))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reasons.append(error)
        else:
            said = f"tokens.options.gamma is {tokens.options['gamma']:.4g}, measured on {len(samples)} {of}"
            return config.model_copy(update={"tokens": tokens}), (said,)
    raise ModelError(f"tokens.options.gamma cannot be measured: {reasons[0]}") from reasons[0]


def _read(samples: Samples, model: nn.Module) -> None:
    forward(model, tensors_of(model, samples)[0])


def _noise(model: nn.Module, like: Samples, seed: int) -> Samples:
    """Numbers drawn from a normal distribution, or words drawn evenly: as many samples as are measured on, of the shape of others."""
    draw, shape = np.random.default_rng(seed), (_SAMPLES, *like.features.shape[1:])
    labels = np.resize(like.labels, (_SAMPLES, *like.labels.shape[1:]))
    if np.issubdtype(like.features.dtype, np.floating):
        return Samples(draw.normal(size=shape).astype(np.float32), labels)
    words = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 2)
    return Samples(draw.integers(0, words, size=shape), labels)
