"""Merging of tokens that leave into few that stay behind the kept ones (AutoPrune; arXiv 2509.23931)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention

from dictpfl.client.model.tokens.density import distances, peaks
from dictpfl.client.model.tokens.seam import GONE, Tokens, picked


def merged(leaving: Tokens, clusters: int) -> Tokens:
    """Merge tokens into clusters around density peaks: a cluster's token is its mean, at its centre's position.

    Args:
        leaving: none of them fixed.
        clusters: number of tokens that come back, at most as many as there are.

    Returns:
        As many tokens as clusters for every sample, in the order of their centres' positions; a cluster of padding stays padding.
    """
    real = leaving.real
    apart = distances(leaving.hidden)
    centres = peaks(apart, real, clusters, nearest=clusters).sort(dim=1).values
    nearest = apart.gather(2, centres.unsqueeze(1).expand(-1, apart.shape[1], -1))
    counts = real.gather(1, centres)
    home = nearest.masked_fill(~counts.unsqueeze(1), torch.inf).argmin(dim=2)
    own = torch.arange(clusters, device=home.device).expand_as(centres)
    home = home.scatter(1, centres, own)  # a centre is its own cluster's, whatever token equals it
    member = F.one_hot(home, clusters).to(leaving.hidden.dtype) * real.unsqueeze(-1)
    size = member.sum(dim=1)
    mean = member.transpose(1, 2) @ leaving.hidden / size.clamp(min=1).unsqueeze(-1)
    single = size.unsqueeze(-1) == 1
    hidden = torch.where(single, picked(leaving.hidden, centres), mean)  # bit for bit where nothing was merged
    weight = (member.float() * leaving.weight.unsqueeze(-1)).sum(dim=1)
    positions = leaving.positions.gather(1, centres).masked_fill(~counts, GONE)
    return Tokens(hidden, positions, weight, 0)


def joined(kept: Tokens, clusters: Tokens) -> Tokens:
    """Put merged tokens behind kept ones."""
    return Tokens(
        torch.cat([kept.hidden, clusters.hidden], dim=1),
        torch.cat([kept.positions, clusters.positions], dim=1),
        torch.cat([kept.weight, clusters.weight], dim=1),
        kept.fixed,
    )
