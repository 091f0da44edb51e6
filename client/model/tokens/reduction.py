"""A reduction, which hangs on a model that reads fewer tokens: its reducer, when it acts, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dictpfl.client.model.tokens.seam import GONE, Before, Between, Tokens
from dictpfl.client.model.tokens.stack import Told
from dictpfl.common.errors import ConfigError


@dataclass
class Reduction:
    """A reducer at its place in a model; copied with the model.

    Attributes:
        reducer: chooses and merges.
        evaluating_only: act only where the model is measured or used, not while it is trained.
        told: what was done since `forget`.
    """

    reducer: Before | Between
    evaluating_only: bool = False
    told: Told = field(default_factory=Told)

    def acts(self, *, training: bool) -> bool:
        """Tell whether the model reads fewer tokens now."""
        return not (training and self.evaluating_only)

    def forget(self) -> None:
        """Begin to count anew."""
        self.told = Told()

    def read(self, samples: int, tokens: int) -> None:
        """Count what a whole stack reads, where all its layers read the same."""
        self.told.samples += samples
        self.told.read = [sum(self.told.read) + float(samples * tokens)]

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
