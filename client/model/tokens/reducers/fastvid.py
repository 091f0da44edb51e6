"""FastVID: in every segment of a clip the most salient tokens, and density peaks that take up the rest (arXiv 2503.11187)."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import structlog
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.model.tokens.density import distances, peaks
from dictpfl.client.model.tokens.seam import REDUCERS, Frames, Reduced, best, picked, require_keep
from dictpfl.client.model.tokens.segments import clusters, evenly, segments
from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import require_bindable

_SEGMENTS = ("dyseg", "fixed", "clusters")
_SALIENCE = ("contrast", "mean")
_log = structlog.get_logger(__name__)


@REDUCERS.register("fastvid")
class FastVid:
    """Keep R = floor(keep N) tokens a frame in the mean: floor(d R) by density (DTM), the others by salience (ATS).

    Args:
        keep: share of the tokens that stay, r.
        c: least number of segments of a clip.
        tau: neighbours less alike than this are cut, too.
        d: share of the kept tokens that density chooses; 0: salience alone, 1: density alone.
        p: every p-th frame of a segment, counted from its last, holds its density peaks.
        beta: least weight of a peak against the mean of the tokens that join it.
        nearest: neighbours that density is measured by.
        segments: "dyseg"; "fixed": c even ones; "clusters": c groups of like frames, wherever they are.
        salience: of clips without attention: "contrast", the distance to the frame's mean token; "mean", the cosine to it.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self,
        keep: float,
        *,
        c: int = 8,
        tau: float = 0.9,
        d: float = 0.4,
        p: int = 4,
        beta: float = 0.6,
        nearest: int = 4,
        segments: str = "dyseg",
        salience: str = "contrast",
    ) -> None:
        require_keep(keep)
        self._keep, self._c, self._tau, self._d = keep, c, tau, d
        self._p, self._beta, self._nearest = p, beta, nearest
        self._segments, self._salience = segments, salience
        wrong = {
            f"c = {c}, p = {p}, nearest = {nearest}; expected at least 1": min(c, p, nearest) < 1,
            f"d = {d}, beta = {beta}; expected 0 to 1": not (0 <= d <= 1 and 0 <= beta <= 1),
            f"segments = {segments!r}; expected one of {', '.join(_SEGMENTS)}": segments not in _SEGMENTS,
            f"salience = {salience!r}; expected one of {', '.join(_SALIENCE)}": salience not in _SALIENCE,
        }
        for why, is_so in wrong.items():
            if is_so:
                raise ConfigError(f"tokens.options of 'fastvid': {why}")

    def kept(self, frames: int, places: int) -> int:
        """See `Before.kept`."""
        return frames * share(self._keep, places)

    def once(self, frames: Frames) -> Reduced:
        """See `Before.once`."""
        hidden = frames.hidden
        clips, count, places, _ = hidden.shape
        each = share(self._keep, places)
        if each == places:
            return everything(hidden)
        dense = int(Fraction(str(self._d)) * each)
        features = hidden.mean(dim=2) if frames.features is None else frames.features
        attention = frames.attention
        if attention is None:
            attention = salience(hidden, self._salience)
            if dense < each:
                say_without_attention(self._salience)
        if self._segments == "clusters":
            group = clusters(features, self._c)
            order = group.argsort(dim=1, stable=True)
            group = group.gather(1, order)
            cuts = F.pad(group[:, 1:] != group[:, :-1], (1, 0), value=True)
            at = torch.arange(clips, device=hidden.device).unsqueeze(1)
            return _put_back(self._reduced(hidden[at, order], attention[at, order], cuts, dense, each), order, places)
        cuts = (
            evenly(clips, count, self._c, hidden.device)
            if self._segments == "fixed"
            else segments(features, self._c, self._tau)
        )
        return self._reduced(hidden, attention, cuts, dense, each)

    def _reduced(self, hidden: Tensor, attention: Tensor, cuts: Tensor, dense: int, each: int) -> Reduced:
        """Reduce clips whose segments are runs of frames."""
        stays = torch.zeros(hidden.shape[:3], dtype=torch.bool, device=hidden.device)
        stays = stays.scatter(2, best(attention.detach(), each - dense), value=True)
        if not dense:
            return of_mask(hidden, stays, torch.zeros_like(stays), cuts)
        return self._with_peaks(hidden, stays, cuts, dense, each)

    def _with_peaks(self, hidden: Tensor, salient: Tensor, cuts: Tensor, dense: int, each: int) -> Reduced:
        """Add the density peaks of every anchor frame, with what joins them."""
        clips, count, places, _ = hidden.shape
        # Fewer frames between anchors where one frame has not tokens enough for all of them: counts stay exact.
        every = max(1, min(self._p, (places - each + dense) // dense))
        segment = Segments.of(cuts, every)
        quota = segment.quotas(dense)
        anchors = torch.nonzero(segment.anchor)  # (M, 2): clip, frame
        own, budget = hidden[anchors[:, 0], anchors[:, 1]], quota[anchors[:, 0], anchors[:, 1]]
        free = ~salient[anchors[:, 0], anchors[:, 1]]
        most = int(budget.max())
        chosen = peaks(distances(own), free, most, self._nearest)  # (M, most)
        counts = torch.arange(most, device=hidden.device) < budget.unsqueeze(1)
        peak = torch.zeros(clips, count, places, dtype=torch.bool, device=hidden.device)
        at = (anchors[:, 0:1].expand_as(chosen)[counts], anchors[:, 1:2].expand_as(chosen)[counts], chosen[counts])
        peak[at] = True
        found = picked(own, chosen)
        merged = torch.zeros_like(found)
        lengths = segment.length[anchors[:, 0], anchors[:, 1]]
        for length in sorted({*lengths.tolist()}):  # few: one product a length of segments, not one a segment
            group = torch.nonzero(lengths == length).flatten()
            merged = merged.index_put(
                (group,), self._joined(hidden, ~salient, segment, anchors[group], chosen[group], counts[group], length)
            )
        out = hidden.index_put(at, merged[counts])
        return of_mask(out, salient | peak, peak, cuts)

    def _joined(
        self,
        hidden: Tensor,
        free: Tensor,
        segment: Segments,
        anchors: Tensor,
        chosen: Tensor,
        counts: Tensor,
        length: int,
    ) -> Tensor:
        """Merge all free tokens of segments of one length into each of their anchor frames' peaks, (M, most, D)."""
        places = hidden.shape[2]
        first = segment.start[anchors[:, 0], anchors[:, 1]]
        run = first.unsqueeze(1) + torch.arange(length, device=hidden.device)  # (M, length)
        tokens = hidden[anchors[:, 0:1], run].flatten(1, 2)
        member = free[anchors[:, 0:1], run].flatten(1, 2)
        place = (anchors[:, 1] - first).unsqueeze(1) * places + chosen  # among the segment's tokens
        found = picked(tokens, place)
        with torch.no_grad():
            # By the cosine, but for the token's own length, which all peaks share.
            alike = tokens.float() @ F.normalize(found.float(), dim=-1, eps=1e-12).mT
            home = alike.masked_fill(~counts.unsqueeze(1), -torch.inf).argmax(dim=2)
            numbers = torch.arange(chosen.shape[1], device=hidden.device).expand_as(chosen)
            kept_home = home.gather(1, place)
            home = home.scatter(1, place, torch.where(counts, numbers, kept_home))  # a peak joins itself
            joins = F.one_hot(home, chosen.shape[1]).to(hidden.dtype) * member.unsqueeze(-1)
            size = joins.sum(dim=1)
            weight = (1 / (size + 1)).clamp(min=self._beta).unsqueeze(-1)
        mean = joins.mT @ tokens / size.clamp(min=1).unsqueeze(-1)
        return weight * found + (1 - weight) * mean


class Segments:
    """Segments of clips, frame by frame; all (B, F).

    Attributes:
        start: first frame of its segment.
        length: frames of it.
        behind: frames of it that follow.
        anchor: True where density peaks are chosen.
    """

    def __init__(self, start: Tensor, length: Tensor, behind: Tensor, every: int) -> None:
        self.start, self.length, self.behind = start, length, behind
        self._every = every
        self.anchor = behind % every == 0

    @classmethod
    def of(cls, cuts: Tensor, every: int) -> Segments:
        """Derive them from the first frames of segments; every so many frames, counted from the last, is an anchor."""
        frames = cuts.shape[1]
        number = torch.arange(frames, device=cuts.device).expand_as(cuts)
        start = torch.where(cuts, number, torch.zeros_like(number)).cummax(dim=1).values
        last = F.pad(cuts[:, 1:], (0, 1), value=True)
        end = torch.where(last, number, torch.full_like(number, frames)).flip(1).cummin(dim=1).values.flip(1)
        return cls(start, end - start + 1, end - number, every)

    def quotas(self, each: int) -> Tensor:
        """Divide a segment's budget, `each` a frame, among its anchors; the remainder goes to the last frames first."""
        anchors = (self.length + self._every - 1) // self._every
        total = self.length * each
        spare = (self.behind // self._every) < total % anchors
        return torch.where(self.anchor, total // anchors + spare, torch.zeros_like(total))


def share(keep: float, places: int) -> int:
    """Count the tokens that stay of so many places: floor(keep N), of the decimal that was written.

    Raises:
        ConfigError: none would stay.
    """
    each = int(Fraction(str(keep)) * places)
    if each < 1:
        raise ConfigError(
            f"tokens.keep = {keep:g} leaves none of {places} tokens a frame; the least here is {math.ceil(1000 / places) / 1000:g}"
        )
    return each


def _put_back(found: Reduced, order: Tensor, places: int) -> Reduced:
    """Give tokens of frames that were put in another order their places in the clip, and sort them by these."""
    there = order.gather(1, found.positions // places) * places + found.positions % places
    positions, back = there.sort(dim=1)
    return Reduced(picked(found.hidden, back), positions, found.merged.gather(1, back))


@cache
def say_without_attention(kind: str) -> None:
    """Log, once a process, that salience is a stand-in: these tokens come without attention."""
    _log.info(
        "tokens come without attention, and which of them are salient is told by their frame's mean token instead",
        salience=kind,
    )


@torch.no_grad()
def salience(hidden: Tensor, kind: str) -> Tensor:
    """Compare tokens with their frame's mean token, (B, F, N): for encoders that give no attention."""
    wide = hidden.float()
    mean = wide.mean(dim=2, keepdim=True)
    return F.cosine_similarity(wide, mean, dim=-1) if kind == "mean" else (wide - mean).square_().sum(dim=-1).sqrt_()


def of_mask(hidden: Tensor, stays: Tensor, merged: Tensor, cuts: Tensor | None) -> Reduced:
    """Collect the tokens of a mask in their order; every clip has as many."""
    clips = len(hidden)
    positions = torch.nonzero(stays.flatten(1))[:, 1].reshape(clips, -1)
    return Reduced(picked(hidden.flatten(1, 2), positions), positions, merged.flatten(1).gather(1, positions), cuts)


def everything(hidden: Tensor) -> Reduced:
    """All tokens, bit for bit."""
    whole = torch.ones(hidden.shape[:3], dtype=torch.bool, device=hidden.device)
    return of_mask(hidden, whole, torch.zeros_like(whole), None)


def fastvid(
    hidden: Tensor,
    frames: Tensor | None = None,
    attention: Tensor | None = None,
    *,
    keep: float = 0.1,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """Reduce the tokens of one clip, or of a batch of clips, in front of any model that reads them.

    Args:
        hidden: (F, N, D), or (B, F, N, D).
        frames: a feature for each frame, (F, E) or (B, F, E); None: the mean token.
        attention: weight of each token in its frame, (F, N) or (B, F, N); None: its contrast to the mean token.
        keep: share that stays.
        options: of `FastVid`.

    Returns:
        Tokens (K, D) or (B, K, D), and their places in the clip, frame * N + place, rising.

    Raises:
        ConfigError: an option unknown or out of range, an empty clip, or features or attention of another one.
    """
    _require_fitting(hidden, frames, attention)
    require_bindable(FastVid, {"keep": keep, **options}, "fastvid")
    one = hidden.dim() == 3  # noqa: PLR2004 -- frames, places, width
    if one:
        hidden, frames, attention = hidden[None], *(None if t is None else t[None] for t in (frames, attention))
    made = FastVid(keep, **options).once(Frames(hidden, frames, attention))  # type: ignore[arg-type] # held against its signature
    return (made.hidden[0], made.positions[0]) if one else (made.hidden, made.positions)


def _require_fitting(hidden: Tensor, frames: Tensor | None, attention: Tensor | None) -> None:
    found = tuple(hidden.shape)
    if hidden.dim() not in (3, 4) or not hidden.numel():  # (clips,) frames, places, width
        raise ConfigError(
            f"fastvid: expected tokens (frames, places, width) of a clip or of several, at least 1 of each, found {found}"
        )
    if not hidden.is_floating_point():
        raise ConfigError(f"fastvid: expected tokens of floating point, found {hidden.dtype}; `.float()` makes them so")
    if attention is not None and attention.shape != hidden.shape[:-1]:
        raise ConfigError(
            f"fastvid: attention {tuple(attention.shape)} is not of the tokens {found}; expected {found[:-1]}, one weight for each token, or "
            "leave it out"
        )
    if frames is not None and (frames.shape[:-1] != hidden.shape[:-2] or not frames.numel()):
        raise ConfigError(
            f"fastvid: features of frames {tuple(frames.shape)} are not of the tokens {found}; expected {found[:-2]} and their width, one row "
            "for each frame, or leave them out"
        )
