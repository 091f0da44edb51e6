"""A stack of layers that is run with a reducer between them: batches are split by level and put together again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import structlog
import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.information import information
from dictpfl.client.model.tokens.merge import joined, merged
from dictpfl.client.model.tokens.seam import Between, Tokens, best
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.curve import Course, merging

LEAST_LAYERS = 3
_log = structlog.get_logger(__name__)


class Layer(Protocol):
    """A family's way to run one of its layers on tokens, and where that layer's queries and keys are seen."""

    def run(self, layer: nn.Module, tokens: Tokens) -> Tensor:
        """Hidden states after the layer, (B, T, D)."""
        ...

    def attention(self, layer: nn.Module, tokens: Tokens, seen: Sequence[Tensor]) -> Tensor:
        """Attention from the fixed tokens to the free ones, float32, (B, H, fixed, free).

        Args:
            layer: that has run.
            tokens: as they entered it.
            seen: outputs of `watched`, in their order.
        """
        ...

    def watched(self, layer: nn.Module) -> Sequence[nn.Module]:
        """Modules whose outputs are queries and keys."""
        ...


@dataclass
class Told:
    """Counts of what a stack did, for reports.

    Attributes:
        read: tokens that each layer read, summed over samples; one figure where all layers read the same.
        levels: samples at each level; those that are read whole are at none.
        samples: samples of the run.
        seconds: wall time of choosing and merging.
        products: multiply-adds of the layers.
        whole: those of the layers had they read all tokens.
    """

    read: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    products: float = 0.0
    whole: float = 0.0


def matrices_of(layer: nn.Module) -> int:
    """Count the entries of a layer's matrices."""
    return sum(p.numel() for p in layer.parameters() if p.ndim == 2)  # noqa: PLR2004 -- a matrix


def products(matrices: int, samples: int, tokens: int, width: int) -> float:
    """Count the multiply-adds of a layer: each token through its matrices, and 2 n n d for the attention of n tokens of width d."""
    return float(samples) * (tokens * matrices + 2 * tokens * tokens * width)


@cache
def say_one_row() -> None:
    """Log, once a process, that there are samples whose complexity nothing tells."""
    _log.warning(
        "of some samples one token asks, a text of 8 tokens or a question of one word: their mutual information is 0, and they are on the "
        "curve of k0 whatever they hold"
    )


@cache
def say_whole() -> None:
    """Log, once a process, that there are samples of which nothing can be dropped."""
    _log.info(
        "some texts are too short for tokens.keep: beside the tokens that always stay less than one of the others would; they are read whole"
    )


def read_whole(layers: Sequence[nn.Module], hidden: Tensor, told: Told) -> None:
    """Count samples that a stack reads without a reducer, (B, T, D)."""
    say_whole()
    samples, tokens, _ = hidden.shape
    told.samples += samples
    told.read = [read + float(samples * tokens) for read in told.read or [0.0] * len(layers)]
    work = sum(products(matrices_of(layer), *hidden.shape) for layer in layers)
    told.products += work
    told.whole += work


@contextmanager
def watching(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """List the outputs of modules while they run inside."""
    seen: dict[int, Tensor] = {}

    def noted(number: int) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[number] = output.detach()

        return note

    handles = [module.register_forward_hook(noted(number)) for number, module in enumerate(modules)]
    found: list[Tensor] = []
    try:
        yield found
        found += [seen[number] for number in range(len(modules))]
    finally:
        for handle in handles:
            handle.remove()


def require_deep(layers: int) -> None:
    """Refuse a stack in which there is nothing to prune between.

    Raises:
        ConfigError: fewer than 3 layers.
    """
    if layers < LEAST_LAYERS:
        raise ConfigError(
            f"tokens.reducer: a model of {layers} layers has no room between them; expected at least {LEAST_LAYERS}"
        )


def run(
    layers: Sequence[nn.Module], how: Layer, tokens: Tokens, rows: int, reducer: Between, told: Told
) -> list[tuple[Tensor, Tokens]]:
    """Run a stack with a reducer between its layers.

    Args:
        layers: at least 3.
        how: how the family runs one.
        tokens: with which layer 0 is entered.
        rows: fixed tokens that count for the budget (a class token does not).
        reducer: says how many leave, and which.
        told: filled in; counts are added to what is there.

    Returns:
        Samples of the batch that ended alike, and their tokens, for each level that has any.
    """
    courses = reducer.courses(len(layers), tokens.free, rows)
    told.samples += len(tokens.hidden)
    told.whole += sum(products(matrices_of(layer), *tokens.hidden.shape) for layer in layers)
    told.levels = told.levels or [0] * len(courses)
    told.read = told.read or [0.0] * len(layers)
    everybody = torch.arange(len(tokens.hidden), device=tokens.hidden.device)
    first = courses[0].left[0]
    tokens, attention = _layer(layers, 0, how, tokens, told)
    if first < tokens.free:
        began = time.perf_counter()
        order = best(_scored(reducer, 0, attention, tokens), first).sort(dim=1).values
        tokens = tokens.take(order)
        told.seconds += time.perf_counter() - began
    tokens, attention = _layer(layers, 1, how, tokens, told)
    began = time.perf_counter()
    if len(courses) > 1:
        if tokens.fixed < 2:  # noqa: PLR2004 -- see `information`
            say_one_row()
        level = reducer.level(information(attention, normalised=reducer.normalised)).to(tokens.hidden.device)
    else:
        level = torch.zeros(len(tokens.hidden), dtype=torch.int64, device=tokens.hidden.device)
    told.seconds += time.perf_counter() - began
    ended = []
    for number, course in enumerate(courses):
        index = everybody if len(courses) == 1 else everybody[level == number]
        if len(index):
            told.levels[number] += len(index)
            group = tokens if len(index) == len(everybody) else tokens.samples(index)
            asked = attention if len(index) == len(everybody) else attention[index]
            ended.append((index, _rest(layers, how, group, asked, course, reducer, told)))
    return ended


def _rest(
    layers: Sequence[nn.Module],
    how: Layer,
    tokens: Tokens,
    attention: Tensor,
    course: Course,
    reducer: Between,
    told: Told,
) -> Tokens:
    """Prune after layer 1 and run all others; after the last nothing is left to save, and nothing is pruned."""
    for number in range(1, len(layers) - 1):
        tokens = _pruned(tokens, attention, course.kept[number], number, reducer, told)
        tokens, attention = _layer(layers, number + 1, how, tokens, told)
    return tokens


def _pruned(tokens: Tokens, attention: Tensor, stay: int, layer: int, reducer: Between, told: Told) -> Tokens:
    leaving = tokens.free - stay
    if leaving <= 0:
        return tokens
    began = time.perf_counter()
    order = best(_scored(reducer, layer, attention, tokens), tokens.free)
    kept = tokens.take(order[:, :stay].sort(dim=1).values)
    if reducer.merge:
        count, clusters = merging(leaving)
        goes = order[:, stay : stay + count]
        part = tokens.take(goes)
        alone = Tokens(part.hidden[:, part.fixed :], part.positions[:, part.fixed :], part.weight[:, part.fixed :], 0)
        kept = joined(kept, merged(alone, clusters))
    told.seconds += time.perf_counter() - began
    return kept


def _layer(layers: Sequence[nn.Module], number: int, how: Layer, tokens: Tokens, told: Told) -> tuple[Tokens, Tensor]:
    told.read[number] += float(tokens.hidden.shape[0] * tokens.hidden.shape[1])
    told.products += products(matrices_of(layers[number]), *tokens.hidden.shape)
    last = number == len(layers) - 1
    with watching([] if last else how.watched(layers[number])) as seen:
        hidden = how.run(layers[number], tokens)
    left = Tokens(hidden, tokens.positions, tokens.weight, tokens.fixed)
    if last:
        return left, hidden.new_zeros(0)
    with torch.no_grad():
        attention = how.attention(layers[number], tokens, seen)
        if not bool(torch.isfinite(attention).all()):
            raise ModelError(f"attention of layer {number} is not finite; check weights and samples")
    return left, attention


def _scored(reducer: Between, layer: int, attention: Tensor, tokens: Tokens) -> Tensor:
    """Scores with padding last, and what stands for nothing never before a real token."""
    with torch.no_grad():
        scores = reducer.scores(layer, attention, tokens).float()
        return scores.masked_fill(~tokens.real[:, tokens.fixed :], -torch.inf)


def rows_to_columns(queries: Tensor, keys: Tensor, tokens: Tokens, scale: float, *, causal: bool = False) -> Tensor:
    """Attention of the fixed tokens over all, and of that the free columns: never the whole matrix.

    Args:
        queries: of all tokens, (B, H, T, E).
        keys: of all tokens, (B, H, T, E).
        tokens: as they entered the layer.
        scale: factor of the products.
        causal: a row sees what stands at or before its position only.
    """
    logits = queries[:, :, : tokens.fixed].float() @ keys.float().transpose(-2, -1) * scale
    seen = tokens.real.unsqueeze(1)
    if causal:
        seen = seen & (tokens.positions.unsqueeze(1) <= tokens.positions[:, : tokens.fixed].unsqueeze(2))
    return logits.masked_fill(~seen.unsqueeze(1), -torch.inf).softmax(dim=-1)[..., tokens.fixed :]
