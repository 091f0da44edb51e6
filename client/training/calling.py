"""Calls of a model: its arguments for a batch (plain tensors, or token ids with a mask), and its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.common.errors import ModelError


def tensors_of(module: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
    """Copy features and labels to the module's device; floats in its dtype."""
    first = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    tensors = torch.tensor(np.asarray(samples.features)), torch.tensor(np.asarray(samples.labels))
    cast = [t.to(first.device, first.dtype if t.is_floating_point() else t.dtype) for t in tensors]
    return cast[0], cast[1]


def arguments(module: nn.Module, features: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Make positional and named arguments of the module's forward for a batch of features.

    Integers (batch, tokens) for a module whose forward takes `attention_mask` are token ids: the batch is cut behind its
    last real token, `PADDING` is masked and replaced by an id that exists. Everything else is the one argument.

    Raises:
        ModelError: padded token ids for a module without `attention_mask`; a token that the module's embeddings do not have.
    """
    if features.is_floating_point() or features.dim() != 2:  # noqa: PLR2004 -- batch, tokens
        return (features,), {}
    real = features != PADDING
    if not _takes_mask(type(module).forward):
        if bool(real.all()):
            return (features,), {}
        raise ModelError(
            f"these samples are padded token ids, which {type(module).__name__}.forward cannot tell from tokens; expected "
            "forward(input_ids, attention_mask)"
        )
    longest = length_of(real)
    ids, real = features[:, :longest], real[:, :longest]
    padding = getattr(getattr(module, "config", None), "pad_token_id", None) or 0
    ids = ids.masked_fill(~real, padding)
    _require_known(module, ids)
    return (), {"input_ids": ids, "attention_mask": real.long()}


def _require_known(module: nn.Module, ids: Tensor) -> None:
    """Refuse a token without an embedding: a processor calls that an index out of range, and a GPU ends the process at it."""
    find = getattr(module, "get_input_embeddings", None)
    known = getattr(find() if find else None, "num_embeddings", None)
    if known is not None and ids.numel() and (largest := int(ids.max())) >= known:
        raise ModelError(
            f"a text's token is {largest}, and the model knows {known} (0 to {known - 1}): its tokenizer is another model's, or tokens were added "
            "to it; name the model's own in data.options.tokenizer"
        )


def length_of(real: Tensor) -> int:
    """Number of tokens that a batch is cut to: up to its last real one, at least 1.

    Not the most that a row has: padding may stand in front, and real tokens must not be cut off for it.

    Args:
        real: bool (batch, tokens), false for padding.
    """
    places = torch.arange(1, real.shape[1] + 1, device=real.device)
    return max(1, int((real.any(dim=0) * places).max())) if real.numel() else 1


def forward(module: nn.Module, features: Tensor) -> Tensor:
    """Compute the module's outputs for a batch of features."""
    positional, named = arguments(module, features)
    return logits(module(*positional, **named))


def logits(answer: Any) -> Tensor:
    """Return a module's output as a tensor: itself, or its `logits` where transformers' classes wrap them.

    Raises:
        ModelError: neither.
    """
    outputs: Any = getattr(answer, "logits", answer)
    if not isinstance(outputs, Tensor):
        raise ModelError(
            f"the model returned {type(answer).__name__}; expected a tensor of outputs, or an object whose `logits` are one: let its forward "
            "return that alone"
        )
    return outputs


@lru_cache(maxsize=64)
def _takes_mask(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters
    return "attention_mask" in parameters and "input_ids" in parameters
