"""Simple rules before the stack, which cleverer ones have to beat: whole frames, a grid, chance, merging, salience alone, density alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.model.tokens.reducers.autoprune import drawn
from dictpfl.client.model.tokens.reducers.fastvid import FastVid, of_mask, share
from dictpfl.client.model.tokens.seam import REDUCERS, Frames, Reduced, best, picked, require_keep


class _Budget:
    """As many tokens stay as of FastVID: floor(keep N) times F."""

    def __init__(self, keep: float) -> None:
        require_keep(keep)
        self._keep = keep

    def kept(self, frames: int, places: int) -> int:
        """See `Before.kept`."""
        return frames * share(self._keep, places)


class _Rule(_Budget, ABC):
    """A rule that merges nothing."""

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


@REDUCERS.register("tome")
class MergedPairs(_Budget):
    """Tokens of a frame merged two by two, the most alike first, until as few are left (bipartite matching of ToMe, arXiv 2210.09461).

    In each step every second token looks for the most alike of the others, and the pairs that are most alike become their mean, weighted by how
    many tokens each stands for; it stays where the other was.
    """

    def once(self, frames: Frames) -> Reduced:
        """See `Before.once`."""
        clips, count, places, width = frames.hidden.shape
        each = share(self._keep, places)
        hidden = frames.hidden.flatten(0, 1)
        where = torch.arange(places, device=hidden.device).expand(len(hidden), -1)
        weight = hidden.new_ones(len(hidden), places)
        while where.shape[1] > each:
            hidden, where, weight = _merged(hidden, where, weight, where.shape[1] - each)
        shift = places * torch.arange(count, device=hidden.device).view(1, count, 1)
        positions = (where.reshape(clips, count, each) + shift).flatten(1)
        return Reduced(hidden.reshape(clips, count * each, width), positions, weight.reshape(clips, -1) > 1)


def _merged(hidden: Tensor, where: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Merge at most so many pairs: tokens (M, T, D), their places and weights (M, T), to fewer, in the order of their places."""
    total = where.shape[1]
    ones, others = torch.arange(0, total, 2, device=where.device), torch.arange(1, total, 2, device=where.device)
    pairs = min(most, len(ones) if len(others) else 0)
    with torch.no_grad():
        directions = F.normalize(hidden.float(), dim=-1, eps=1e-12)
        alike, partner = (directions[:, ones] @ directions[:, others].mT).max(dim=2)
        going = best(alike, pairs)
        to = others[partner.gather(1, going)]
        going = ones[going]
        stays = torch.ones_like(where, dtype=torch.bool).scatter(1, going, value=False)
        left = torch.nonzero(stays)[:, 1].reshape(len(where), -1)
    moved = weight.gather(1, going)
    sums = (hidden * weight.unsqueeze(-1)).scatter_add(
        1, to.unsqueeze(-1).expand(-1, -1, hidden.shape[2]), picked(hidden, going) * moved.unsqueeze(-1)
    )
    weight = weight.scatter_add(1, to, moved)
    return picked(sums / weight.unsqueeze(-1), left), where.gather(1, left), weight.gather(1, left)


@REDUCERS.register("salient")
def salient(keep: float, *, salience: str = "contrast") -> FastVid:
    """The most salient tokens of each frame: FastVID's ATS alone."""
    return FastVid(keep, d=0.0, salience=salience)


@REDUCERS.register("dtm")
def dtm(keep: float, *, c: int = 8, tau: float = 0.9, p: int = 4, beta: float = 0.6, nearest: int = 4) -> FastVid:
    """Density peaks alone: FastVID's DTM."""
    return FastVid(keep, c=c, tau=tau, d=1.0, p=p, beta=beta, nearest=nearest)
