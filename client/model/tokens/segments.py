"""Frames that belong together: runs that show one scene (DySeg of FastVID; arXiv 2503.11187), even runs, and clusters."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.common.errors import ConfigError


@torch.no_grad()
def segments(frames: Tensor, c: int = 8, tau: float = 0.9) -> Tensor:
    """Mark the first frame of each segment: cut after f where cos(g_f, g_f+1) is among the c - 1 lowest, ties by index, or below tau.

    Args:
        frames: one feature a frame, (F, E) or (B, F, E); of a zero vector the cosine is 0.
        c: least number of segments; at most F of them are made.
        tau: threshold of the cosine.

    Returns:
        Bool, (F,) or (B, F), True at frame 0.

    Raises:
        ConfigError: c below 1, or frames of another shape.
    """
    if not isinstance(c, int) or c < 1 or frames.dim() not in (2, 3):  # (clips,) frames, features
        raise ConfigError(
            f"segments: expected a whole c of at least 1 and frames (frames, features) of a clip or of several, found {c} and {tuple(frames.shape)}"
        )
    if frames.dim() == 2:  # noqa: PLR2004 -- frames, features
        one: Tensor = segments(frames[None], c, tau)[0]
        return one
    wide = frames.float()
    alike = F.cosine_similarity(wide[:, :-1], wide[:, 1:], dim=-1)
    order = alike.argsort(dim=1, stable=True)[:, : c - 1]
    cut = (alike < tau).scatter(1, order, value=True)
    return F.pad(cut, (1, 0), value=True)


def evenly(clips: int, frames: int, c: int, device: torch.device) -> Tensor:
    """Mark the first frames of c segments of even length, whatever is in them: (clips, frames) bool."""
    starts = torch.zeros(frames, dtype=torch.bool, device=device)
    starts[[n * frames // min(c, frames) for n in range(min(c, frames))]] = True
    return starts.expand(clips, -1)


@torch.no_grad()
def clusters(frames: Tensor, c: int, rounds: int = 10) -> Tensor:
    """Group like frames wherever they are in the clip (k-means of directions), which loses their order: the rival of segments.

    Centres begin at frame 0 and then at the frame that is farthest from all centres, ties by index, so that the same clip gives the same groups.

    Args:
        frames: one feature a frame, (B, F, E).
        c: number of groups; at most F.
        rounds: of Lloyd's steps.

    Returns:
        Number of each frame's group, int64, (B, F).
    """
    wide = F.normalize(frames.float(), dim=-1, eps=1e-12)
    centres = wide[:, :1]
    for _ in range(min(c, wide.shape[1]) - 1):
        near = (wide @ centres.mT).amax(dim=2)
        farthest = near.argsort(dim=1, stable=True)[:, :1]
        centres = torch.cat([centres, wide.gather(1, farthest.unsqueeze(-1).expand(-1, -1, wide.shape[2]))], dim=1)
    for _ in range(rounds):
        member = F.one_hot((wide @ centres.mT).argmax(dim=2), centres.shape[1]).to(wide.dtype)
        sums = member.mT @ wide
        empty = (member.sum(dim=1) == 0).unsqueeze(-1)
        centres = torch.where(empty, centres, F.normalize(sums, dim=-1, eps=1e-12))
    return (wide @ centres.mT).argmax(dim=2)
