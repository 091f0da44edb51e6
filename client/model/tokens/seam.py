"""The seam: what a reducer is given, what it gives back, and the door to it (`tokens.reducer`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dictpfl.common.errors import ConfigError
from dictpfl.common.law.curve import Course
from dictpfl.common.registry import Registry, require_bindable
from dictpfl.common.settings import Tokens as Settings

GONE = -1
"""Position of padding."""


@dataclass(frozen=True)
class Tokens:
    """Tokens on their way through a stack; those that always stay come first.

    Attributes:
        hidden: (B, T, D).
        positions: place of each in the full sequence, (B, T) int64; `GONE`: padding, behind everything else.
        weight: how many of the tokens that were there each stands for, (B, T) float32; 0 of padding.
        fixed: how many always stay: class token, and the rows that ask (`Between`).
    """

    hidden: Tensor
    positions: Tensor
    weight: Tensor
    fixed: int

    @property
    def free(self) -> int:
        """Number of tokens that may be dropped, padding included."""
        return self.hidden.shape[1] - self.fixed

    @property
    def real(self) -> Tensor:
        """Mask of what is no padding, bool, (B, T)."""
        return self.positions != GONE

    def take(self, index: Tensor) -> Tokens:
        """Select free tokens by their number among the free ones, (B, n); those that always stay are kept."""
        whole = torch.cat([self._firsts(len(index)), index + self.fixed], dim=1)
        return Tokens(
            picked(self.hidden, whole), self.positions.gather(1, whole), self.weight.gather(1, whole), self.fixed
        )

    def samples(self, index: Tensor) -> Tokens:
        """Select samples of the batch."""
        return Tokens(self.hidden[index], self.positions[index], self.weight[index], self.fixed)

    def _firsts(self, count: int) -> Tensor:
        return torch.arange(self.fixed, device=self.hidden.device).expand(count, -1)


def picked(values: Tensor, index: Tensor) -> Tensor:
    """Gather rows: (B, T, D) by (B, n) to (B, n, D)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def best(scores: Tensor, count: int) -> Tensor:
    """Number the largest scores, best first, ties by index: (..., T) to (..., count) int64."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count]


@runtime_checkable
class Between(Protocol):
    """A reducer between layers: from sizes it says how many tokens leave each layer, from attention which.

    Law: numbers depend on sizes and options alone, but for the level that a sample is at, of which there are few.
    """

    merge: bool
    """True where what leaves is merged into few (`dictpfl.client.model.tokens.merge`)."""
    normalised: bool
    """True where rows are divided by their sum before information is measured."""

    def courses(self, layers: int, free: int, rows: int) -> Sequence[Course]:
        """Course of the free tokens at each level.

        Args:
            layers: number of layers, at least 3.
            free: number of free tokens that enter layer 0.
            rows: tokens that count for the budget as well and always stay.

        Raises:
            ConfigError: a budget that leaves less than one free token; a text for which it does is read whole, all others are refused.
        """
        ...

    def level(self, information: Tensor) -> Tensor:
        """Level of each sample, int64, (B,), from its mutual information at layer 1, float32, (B,)."""
        ...

    def scores(self, layer: int, attention: Tensor, tokens: Tokens) -> Tensor:
        """Score of each free token after a layer, the highest stay, (B, V).

        Args:
            layer: number of the layer that has run.
            attention: from rows to free tokens in it, float32, (B, H, R, V).
            tokens: as they left the layer.
        """
        ...


@dataclass(frozen=True)
class Frames:
    """Tokens of frames, before the stack.

    Attributes:
        hidden: (B, F, N, D).
        features: one vector a frame, (B, F, E); None: the mean token serves.
        attention: weight of each token in its frame, (B, F, N); None: the cosine to the mean token serves.
    """

    hidden: Tensor
    features: Tensor | None = None
    attention: Tensor | None = None


@dataclass(frozen=True)
class Reduced:
    """Tokens that were kept of frames, in their order.

    Attributes:
        hidden: (B, K, D).
        positions: frame * N + place of each, (B, K) int64, rising.
        merged: True where a token stands for several, (B, K) bool.
        cuts: True at the first frame of each segment, (B, F) bool; None: nothing was cut.
    """

    hidden: Tensor
    positions: Tensor
    merged: Tensor
    cuts: Tensor | None = None


@runtime_checkable
class Before(Protocol):
    """A reducer before the stack. Law: `kept` depends on sizes alone, and every sample has as many."""

    def kept(self, frames: int, places: int) -> int:
        """Number of tokens that stay of so many frames of so many places.

        Raises:
            ConfigError: none would stay.
        """
        ...

    def once(self, frames: Frames) -> Reduced:
        """Choose and merge; gradients flow through what is kept."""
        ...


REDUCERS: Registry[Callable[..., Any]] = Registry(
    "reducer", key="tokens.reducer", group="dictpfl.reducers", folder="dictpfl.client.model.tokens.reducers"
)
"""Functions of (keep, **tokens.options) that return a `Before` or a `Between`."""


def require_keep(keep: Any) -> None:
    """Refuse a share of tokens that is none.

    Raises:
        ConfigError: no number, or not above 0 and at most 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, Real) or not 0.0 < float(keep) <= 1.0:
        raise ConfigError(f"tokens.keep = {keep!r}; expected a share above 0, at most 1, such as 0.25")


def make_reducer(settings: Settings) -> Before | Between | None:
    """Make the reducer that the section `[tokens]` names; None where nothing is reduced.

    Raises:
        ConfigError: unknown name or option, one of another kind or out of range, or a `keep` among the options.
    """
    if "keep" in settings.options:
        raise ConfigError(
            f"tokens.options: keep = {settings.options['keep']!r} stands beside tokens.keep = {settings.keep:g}, which says the share that is "
            "kept; leave it out of the options and set tokens.keep (--keep)"
        )
    if settings.reducer == "none" or settings.keep == 1.0:
        return None
    made_by = REDUCERS.load(settings.reducer)
    arguments = {"keep": settings.keep, **settings.options}
    require_bindable(made_by, arguments, f"tokens.options of {settings.reducer!r}", facts=("keep",))
    made = made_by(**arguments)
    if not isinstance(made, (Before, Between)):
        raise ConfigError(
            f"tokens.reducer {settings.reducer!r} made a {type(made).__name__}; expected `once` and `kept`, or `courses`, `level` and "
            "`scores`"
        )
    return made
