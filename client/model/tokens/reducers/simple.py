"""Simple rules before the stack, which cleverer ones have to beat: whole frames, a grid, chance, salience alone, density alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dictpfl.client.model.tokens.reducers.autoprune import drawn
from dictpfl.client.model.tokens.reducers.fastvid import FastVid, of_mask, share
from dictpfl.client.model.tokens.seam import REDUCERS, Frames, Reduced, best


class _Rule(ABC):
    """A rule that merges nothing. As many tokens stay as of FastVID: floor(keep N) times F."""

    def __init__(self, keep: float) -> None:
        self._keep = keep

    def kept(self, frames: int, places: int) -> int:
        """See `Before.kept`."""
        return frames * share(self._keep, places)

    def once(self, frames: Frames) -> Reduced:
        """See `Before.once`."""
        hidden = frames.hidden
        stays = self._stays(hidden, share(self._keep, hidden.shape[2]))
        return of_mask(hidden, stays, torch.zeros_like(stays), None)

    @abstractmethod
    def _stays(self, hidden: Tensor, each: int) -> Tensor: ...


@REDUCERS.register("random")
class RandomTokens(_Rule):
    """Tokens drawn from the whole clip, by the tokens' own values."""

    def _stays(self, hidden: Tensor, each: int) -> Tensor:
        clips, frames, places = hidden.shape[:3]
        chosen = best(drawn(hidden.flatten(1, 2), 0), frames * each)
        empty = torch.zeros(clips, frames * places, dtype=torch.bool, device=hidden.device)
        return empty.scatter(1, chosen, value=True).reshape(clips, frames, places)


@REDUCERS.register("frames")
class WholeFrames(_Rule):
    """Evenly spaced whole frames; of the last of them only what the budget has left."""

    def _stays(self, hidden: Tensor, each: int) -> Tensor:
        clips, frames, places = hidden.shape[:3]
        total = frames * each
        count = math.ceil(total / places)
        stays = torch.zeros(frames, places, dtype=torch.bool, device=hidden.device)
        chosen = [(2 * n + 1) * frames // (2 * count) for n in range(count)]
        stays[chosen] = True
        stays[chosen[-1], total - (count - 1) * places :] = False
        return stays.expand(clips, -1, -1)


@REDUCERS.register("grid")
class Grid(_Rule):
    """Evenly spaced places, the same in every frame."""

    def _stays(self, hidden: Tensor, each: int) -> Tensor:
        clips, frames, places = hidden.shape[:3]
        stays = torch.zeros(places, dtype=torch.bool, device=hidden.device)
        stays[[(2 * n + 1) * places // (2 * each) for n in range(each)]] = True
        return stays.expand(clips, frames, -1)


@REDUCERS.register("salient")
def salient(keep: float, *, salience: str = "contrast") -> FastVid:
    """The most salient tokens of each frame: FastVID's ATS alone."""
    return FastVid(keep, d=0.0, salience=salience)


@REDUCERS.register("dtm")
def dtm(keep: float, *, c: int = 8, tau: float = 0.9, p: int = 4, beta: float = 0.6, nearest: int = 4) -> FastVid:
    """Density peaks alone: FastVID's DTM."""
    return FastVid(keep, c=c, tau=tau, d=1.0, p=p, beta=beta, nearest=nearest)
