"""Sequences of transformers, encoders and decoders alike: sequences of several lengths, padded, of which every eighth token asks.

A text that is too short for the budget, so that less than one free token would stay beside those that ask, is read whole, by the model's own
code: at keep = 0.2 up to 8 tokens, at 0.127 up to 496. A budget that leaves nothing of 512 tokens is refused when a reducer is put in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.reduction import Reduction
from dictpfl.client.model.tokens.seam import GONE, Between, Tokens
from dictpfl.client.model.tokens.stack import require_deep
from dictpfl.common.errors import ConfigError

EVERY = 8
_HEADS = ("ForSequenceClassification", "Model")


def grouped(hidden: Tensor, real: Tensor, *, from_the_end: bool) -> Iterator[tuple[Tensor, Tokens]]:
    """Divide a batch by length, up to the next multiple of 8, so that what a sample reads depends on no other one.

    Rows are every eighth real token, counted from the first ([CLS]) or from the last one (which decoders answer at); padding is none.

    Args:
        hidden: (B, T, D).
        real: mask of what is no padding, bool, (B, T); one run of tokens in each row.
        from_the_end: count rows from the last real token.

    Yields:
        Numbers of the samples, and their tokens: rows first, as many as the length has eighths.
    """
    lengths, starts = real.sum(dim=1), real.int().argmax(dim=1)
    eighths = (lengths + EVERY - 1) // EVERY
    for eighth in sorted({max(1, int(n)) for n in eighths.tolist()}):
        index = torch.nonzero(eighths.clamp(min=1) == eighth).flatten()
        local = torch.arange(eighth * EVERY, device=hidden.device).expand(len(index), -1)
        length, start = lengths[index].clamp(min=1).unsqueeze(1), starts[index].unsqueeze(1)
        inside = local < length
        asks = inside & ((length - 1 - local if from_the_end else local) % EVERY == 0)
        order = (2 * (~asks).int() + (~inside).int()).argsort(dim=1, stable=True)
        places = (local + start).gather(1, order)
        positions = places.masked_fill(~inside.gather(1, order), GONE)
        safe = positions.clamp(min=0)
        taken = hidden[index].gather(1, safe.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        yield index, Tokens(taken, positions, (positions != GONE).float(), eighth)


def divided(
    hidden: Tensor, real: Tensor, layers: int, reducer: Between, *, from_the_end: bool
) -> tuple[list[tuple[Tensor, Tokens]], Tensor]:
    """Divide a batch into groups to reduce, as `grouped` does, and the numbers of samples that are too short for it, rising.

    Args:
        hidden: (B, T, D).
        real: mask of what is no padding, bool, (B, T).
        layers: number of layers that the reducer stands between.
        reducer: says what its budget leaves.
        from_the_end: count rows from the last real token.
    """
    groups, short = [], [hidden.new_zeros(0, dtype=torch.int64)]
    for index, tokens in grouped(hidden, real, from_the_end=from_the_end):
        try:
            reducer.courses(layers, tokens.free, tokens.fixed)
        except ConfigError:
            short.append(index)
        else:
            groups.append((index, tokens))
    return groups, torch.cat(short).sort().values


def unreduced(hidden: Tensor) -> Tokens:
    """Tokens of samples that were read whole, at their places, padding among them."""
    places = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
    return Tokens(hidden, places, hidden.new_ones(places.shape), 0)


def additive(tokens: Tokens, dtype: torch.dtype, *, causal: bool = False) -> Tensor | None:
    """Mask that is added to attention, (B, 1, T or 1, T); None where everything is seen."""
    seen = tokens.real.unsqueeze(1)
    if causal:
        # Padding sees itself: a row that sees nothing would be no number.
        eye = torch.eye(tokens.hidden.shape[1], dtype=torch.bool, device=tokens.hidden.device)
        seen = (seen & (tokens.positions.unsqueeze(1) <= tokens.positions.unsqueeze(2))) | eye
    elif bool(seen.all()):
        return None
    return (
        torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
    )


def put_between(model: nn.Module, stack: Any, layers: int, reduction: Reduction, reduced: Any, family: str) -> None:
    """Put a reduction between the layers of an encoder or decoder, in place.

    Args:
        model: that it is part of.
        stack: the encoder or decoder; its class gets `reduced` before it.
        layers: number of its layers.
        reduction: to put there.
        reduced: class whose `forward` reduces where the reduction acts.
        family: for messages.

    Raises:
        ConfigError: too shallow, or a head that reads every token.
    """
    _require_readable(model, family)
    require_deep(layers)
    reduction.between(family).courses(layers, 64 * EVERY - 64, 64)
    kind: Any = type(stack)
    reduction.hang(stack, _with(reduced, kind))


@lru_cache(maxsize=16)
def _with(reduced: Any, kind: Any) -> Any:
    return type(kind.__name__, (reduced, kind), {"__module__": kind.__module__})


def _require_readable(model: nn.Module, family: str) -> None:
    """Refuse a head that reads every token, since dropped ones have nothing to say.

    Raises:
        ConfigError: names the class.
    """
    if not type(model).__name__.endswith(_HEADS):
        raise ConfigError(
            f"tokens.reducer: {type(model).__name__} reads every token of {family}, and dropped ones have no output; expected a "
            'classifier of sequences (model.options.head = "sequence-classification")'
        )
