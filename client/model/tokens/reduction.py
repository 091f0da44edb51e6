"""A reduction, which hangs on a model that reads fewer tokens: its reducer, when it acts, and what it did."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.seam import GONE, Before, Between, Frames, Reduced, Tokens
from dictpfl.client.model.tokens.stack import Told, matrices_of, products
from dictpfl.common.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Report:
    """Report of what a model read since it was made to read fewer tokens, or since `Reduction.forget`.

    Attributes:
        samples: that were read.
        tokens: that each layer read, mean over samples; one figure where all layers read the same.
        levels: samples at each level of the curve; one level where the curve is fixed, none before a stack. Texts that are too short for
            the budget are at none.
        products: multiply-adds of the layers, as a share of those on all tokens.
        milliseconds: of choosing and merging, a sample; wall time, on a GPU that of the launches.
    """

    samples: int
    tokens: tuple[float, ...]
    levels: tuple[int, ...]
    products: float
    milliseconds: float


@dataclass
class Reduction:
    """A reducer at its place in a model; copied with the model.

    Attributes:
        reducer: chooses and merges.
        evaluating_only: act only where the model is measured or used, not while it is trained.
        told: what was done since `forget`.
        plain: class that the module had on which it hangs, where that has another one meanwhile.
    """

    reducer: Before | Between
    evaluating_only: bool = False
    told: Told = field(default_factory=Told)
    plain: type | None = None

    def hang(self, module: nn.Module, kind: type) -> None:
        """Hang on a module, whose class becomes another one until `take_down`."""
        self.plain, module.__class__ = type(module), kind
        module.reduction = self  # type: ignore[assignment] # found by its name

    def take_down(self, module: nn.Module) -> None:
        """Leave a module as it was without this."""
        if self.plain is None:  # a model with `take_reduction`
            module.reduction = None  # type: ignore[assignment]
            return
        module.__class__, self.plain = self.plain, None
        del module.reduction

    def acts(self, *, training: bool) -> bool:
        """Tell whether the model reads fewer tokens now."""
        return not (training and self.evaluating_only)

    def forget(self) -> None:
        """Begin to count anew."""
        self.told = Told()

    def once(self, frames: Frames) -> Reduced:
        """Reduce tokens before a stack, and note the time.

        Raises:
            ConfigError: the reducer works between layers.
        """
        if not isinstance(self.reducer, Before):
            raise ConfigError(
                f"tokens.reducer: a {type(self.reducer).__name__} works between layers; expected one that works before them, such as "
                '"fastvid" or "grid"'
            )
        began = time.perf_counter()
        reduced = self.reducer.once(frames)
        self.told.seconds += time.perf_counter() - began
        return reduced

    def read(self, layers: Iterable[nn.Module], hidden: Tensor, whole: int) -> None:
        """Count what a stack reads, all its layers the same: (B, T, D), in place of `whole` tokens a sample."""
        samples, tokens, width = hidden.shape
        self.told.samples += samples
        self.told.read = [sum(self.told.read) + float(samples * tokens)]
        for matrices in map(matrices_of, layers):
            self.told.products += products(matrices, samples, tokens, width)
            self.told.whole += products(matrices, samples, whole, width)

    def report(self) -> Report:
        """Sum up what the model read: tokens by layer, multiply-adds and milliseconds.

        Raises:
            ModelError: nothing was read yet.
        """
        told = self.told
        if not told.samples:
            raise ModelError("the model has read no sample with its reducer yet; run it first")
        return Report(
            told.samples,
            tuple(tokens / told.samples for tokens in told.read),
            tuple(told.levels),
            told.products / told.whole,
            1000 * told.seconds / told.samples,
        )

    def between(self, family: str) -> Between:
        """The reducer, between layers.

        Raises:
            ConfigError: it works before a stack, and this family has no frames.
        """
        if not isinstance(self.reducer, Between):
            raise ConfigError(
                f"tokens.reducer: a {type(self.reducer).__name__} works on patches or frames before the stack, {family} has none; "
                'expected one that works between layers, such as "autoprune"'
            )
        return self.reducer


def spread(places: int, rows: int) -> list[int]:
    """Number evenly spread places of a sequence, rows times rows of a square where the places make one."""
    side = round(places**0.5)
    if side * side != places:
        count = rows * rows
        return sorted({(2 * n + 1) * places // (2 * count) for n in range(count)})
    lines = [(2 * n + 1) * side // (2 * rows) for n in range(rows)]
    return [y * side + x for y in lines for x in lines]


def together(ended: Sequence[tuple[Tensor, Tokens]]) -> Tensor:
    """Put the samples of all levels in their order again, (B, T, D): T that of the longest, zeros behind shorter ones."""
    if len(ended) == 1:
        return ended[0][1].hidden
    longest = max(tokens.hidden.shape[1] for _, tokens in ended)
    padded = [
        torch.nn.functional.pad(tokens.hidden, (0, 0, 0, longest - tokens.hidden.shape[1])) for _, tokens in ended
    ]
    order = torch.cat([index for index, _ in ended])
    return torch.cat(padded)[order.argsort()]


def at_their_places(ended: Sequence[tuple[Tensor, Tokens]], length: int) -> Tensor:
    """Put tokens where they stood in the full sequence, (B, length, D); what was dropped is zero there."""
    out = []
    for _, tokens in ended:
        target = tokens.positions.masked_fill(tokens.positions == GONE, length)
        room = tokens.hidden.new_zeros(len(target), length + 1, tokens.hidden.shape[-1])
        out.append(room.scatter(1, target.unsqueeze(-1).expand_as(tokens.hidden), tokens.hidden)[:, :length])
    order = torch.cat([index for index, _ in ended])
    return torch.cat(out)[order.argsort()]
