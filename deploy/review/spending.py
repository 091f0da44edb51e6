"""Differential privacy as a reviewer needs it: what is promised, how much of it is spent, and whether that is much."""

from __future__ import annotations

from pathlib import Path

from dictpfl.client.keys.epochs import home
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.deploy.review.judged import Mark
from dictpfl.deploy.review.parties import Parties

REASONABLE = 10.0
"""Epsilon up to which a promise is reasonable, as Ponomareva et al. (2023, "How to DP-fy ML") put it; up to 1 it is strong."""
SIZES = f"Up to 1 is a strong promise, up to {REASONABLE:g} a reasonable one, more is a weak one or none (Ponomareva et al. 2023)."


def spending(parties: Parties) -> float | None:
    """Find the largest epsilon of the accounts that are here; None without one, or where the extra `dp` is not installed.

    Raises:
        MemoryFileError: an account is damaged.
    """
    if parties.run is not None:
        account = parties.run.summary.get("privacy")  # runs of earlier releases have none
        return float(account["epsilon"]) if account else None
    found = [_of(place) for place in parties.institutions if (home(place) / DOCUMENT).exists()]
    return max((epsilon for epsilon in found if epsilon is not None), default=None)


def _of(place: Path) -> float | None:
    from dictpfl.client.memory.record import (
        Memory,
    )  # an account is an institution's, and this needs torch, which a coordinator has not
    from dictpfl.client.privacy.guard import account_of, spent

    genesis = Genesis.load(home(place))
    memory = Memory(place / "memory", genesis.federation).path
    if not account_of(memory).exists():
        return None  # before the first upload, or left out of what was copied here: that is not to have spent nothing
    try:
        account = spent(genesis.config, memory)
    except ConfigError:
        return None
    return float(account["epsilon"]) if account else None


def bounded(config: FederationConfig, epsilon: float | None) -> str:
    """Say by what everything is bounded: the limit that was agreed on, and what is spent of it."""
    privacy = config.privacy
    limit = f"epsilon {privacy.epsilon:g}" if privacy.epsilon else "no limit of epsilon"
    so_far = "what is spent is not known from this folder" if epsilon is None else f"{epsilon:.2f} is spent so far"
    return f"{limit} at delta {privacy.delta:g} ({so_far})"


def promise(config: FederationConfig, epsilon: float | None) -> Mark:
    """Mark a promise by its size: that of the limit, else that of what is spent; one that nobody knows wants a closer look."""
    most = config.privacy.epsilon or epsilon
    return "good" if most is not None and most <= REASONABLE else "caution"
