"""AutoPrune between layers: a budgeted curve over depth, fixed or by the complexity of a sample (arXiv 2509.23931)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dictpfl.client.model.tokens.seam import REDUCERS, Tokens, require_keep
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.curve import Course, logistic, stepped

MEASURED, MOST_SLOPE = "measured", 5.0
_MOST_CENTRE = 1000.0  # far beyond any depth; the curve is then flat to the last digit
_ADAPT = ("none", "own", "shuffled", "reversed")
_CURVES = ("logistic", "pyramid", "early")
_PICKS = ("attention", "random")
_QUARTERS = (1.0, 0.5, 0.25, 0.125)


@REDUCERS.register("autoprune")
class AutoPrune:
    """A curve of counts over the layers, and the tokens that rows attend to most.

    Args:
        keep: mean share of the tokens over the layers, those that always stay included.
        k: slope of the curve while `adapt` is "none"; 0: prune at once, then keep; 0.4: many early, few late. Stated for 32 layers.
        adapt: "none": every sample on the curve of `k`. "own": slope k0 - gamma MI by the sample's own mutual information. Arms that
            show what that is worth: "shuffled" (of the next sample of the batch), "reversed" (k0 minus it).
        levels: number of slopes that adapting chooses from.
        k0, gamma: slope without information, and how fast it falls with it. gamma = "measured": so that one sample in ten is on the flat
            curve; the number is found when a federation is founded, or by `reduce_tokens` with `calibration`.
        x0: centre of the curve.
        first: tokens that layer 0 leaves, in mean counts; caps later ones, too.
        merge: merge some of what leaves (`dictpfl.client.model.tokens.merge`).
        mi: "paper": attention as it is; "normalised": rows divided by their sum first.
        curve: "logistic"; "pyramid": keep 1, 1/2, 1/4, 1/8 at the quarters of depth (PyramidDrop), "early": all at layer 1 (FastV), both
            scaled to the budget.
        pick: "attention", or "random": drawn from the sample's own numbers.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self,
        keep: float,
        *,
        k: float = 0.1,
        adapt: str = "none",
        levels: int = 4,
        k0: float = 0.4,
        gamma: float | str = 0.2,
        x0: float = 14.9,
        first: float = 2.5,
        merge: bool = True,
        mi: str = "paper",
        curve: str = "logistic",
        pick: str = "attention",
    ) -> None:
        require_keep(keep)
        self.keep, self.merge, self.normalised = float(keep), merge, mi == "normalised"
        self._k, self._adapt, self._levels = float(k), adapt, levels
        if isinstance(gamma, str):
            raise ConfigError(
                f"tokens.options of 'autoprune': gamma = {gamma!r}; expected a number here. "
                + (
                    "It is measured when a federation is founded; from Python, give `reduce_tokens` samples to measure it on (calibration)"
                    if gamma == MEASURED
                    else f'Or "{MEASURED}", and it is measured when a federation is founded'
                )
            )
        self.k0, self._gamma, self._x0, self._first = float(k0), float(gamma), float(x0), float(first)
        self._curve, self._pick = curve, pick
        wrong = {
            f"adapt = {adapt!r}; expected one of {', '.join(_ADAPT)}": adapt not in _ADAPT,
            f"curve = {curve!r}; expected one of {', '.join(_CURVES)}": curve not in _CURVES,
            f"pick = {pick!r}; expected one of {', '.join(_PICKS)}": pick not in _PICKS,
            f"mi = {mi!r}; expected paper or normalised": mi not in ("paper", "normalised"),
            f"levels = {levels}; expected 2 to 16": not 2 <= levels <= 16,  # noqa: PLR2004 -- each is a batch of its own
            f"k = {k}, k0 = {k0}, gamma = {gamma}; expected 0 to {MOST_SLOPE:g}": not all(
                0 <= v <= MOST_SLOPE
                for v in (k, k0, gamma)  # steeper is a step
            ),
            f"x0 = {x0}; expected {-_MOST_CENTRE:g} to {_MOST_CENTRE:g}": not abs(x0) <= _MOST_CENTRE,
            f"first = {first}; expected a finite number, at least 1": not 1 <= first < math.inf,
            f"adapt = {adapt!r} with curve = {curve!r}: only the logistic curve has slopes": adapt != "none"
            and curve != "logistic",
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"tokens.options of 'autoprune': {why}")

    def courses(self, layers: int, free: int, rows: int) -> Sequence[Course]:
        """See `Between.courses`."""
        if free < 1:
            raise ConfigError(
                f"tokens.reducer = 'autoprune': of {free + rows} tokens {rows} always stay, so that none is left to drop; expected larger "
                "pictures or texts, or no reducer"
            )
        mean = self.keep * (free + rows) - rows
        if mean < 1:
            least = (rows + 1) / (free + rows)
            raise ConfigError(
                f"tokens.keep = {self.keep:g} leaves less than one of {free} free tokens beside {rows} that always stay; the least "
                f"here is {math.ceil(least * 1000) / 1000:g}"
            )
        first = int(min(self._first * mean, free))
        total = min(math.ceil(layers * mean), layers * first)
        if self._curve == "pyramid":
            shares = tuple(_QUARTERS[min(3, 4 * number // layers)] for number in range(1, layers))
            return (stepped(shares, first, total, merge=self.merge),)
        if self._curve == "early":
            return (stepped((0.5,) * (layers - 1), first, total, merge=self.merge),)
        slopes = [self._k] if self._adapt == "none" else [self.k0 * n / (self._levels - 1) for n in range(self._levels)]
        return tuple(
            logistic(first, layers, total, slope, centre=self._x0, most=first, merge=self.merge) for slope in slopes
        )

    def level(self, information: Tensor) -> Tensor:
        """See `Between.level`."""
        slope = (self.k0 - self._gamma * information).clamp(min=0.0, max=self.k0)
        if self._adapt == "reversed":
            slope = self.k0 - slope
        level = torch.round(slope / max(self.k0, 1e-12) * (self._levels - 1)).long()
        return level.roll(1) if self._adapt == "shuffled" else level

    def scores(self, layer: int, attention: Tensor, tokens: Tokens) -> Tensor:
        """See `Between.scores`."""
        if self._pick == "random":
            return drawn(tokens.hidden[:, tokens.fixed :], layer)
        return attention.mean(dim=(1, 2))


_GRAIN = 0.05
"""Step to which a token's values are rounded for a draw: far coarser than what the size of a batch changes in them."""


def drawn(hidden: Tensor, salt: int) -> Tensor:
    """Draw numbers from 0 to 1 for tokens from their own values and places, whatever else is in the batch: (..., T, D) to (..., T)."""
    weights = torch.tensor(
        [math.sin(n + 1.0) for n in range(hidden.shape[-1])], dtype=torch.float64, device=hidden.device
    )
    own = torch.round(hidden.detach().double() @ weights / _GRAIN)
    # Equal tokens would draw alike: the place is mixed in.
    place = torch.arange(1, hidden.shape[-2] + 1, dtype=torch.float64, device=hidden.device)
    mixed = torch.sin(own * 12.9898 + place * 43.917 + salt * 78.233) * 43758.5453
    return mixed - mixed.floor()
