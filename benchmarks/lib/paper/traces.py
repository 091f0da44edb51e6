"""What every round changed, read from a finished run by replay: the size of updates, and the history of single coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.folder import PEERS
from dictpfl.client.keys.epochs import read_roster
from dictpfl.client.replay import replay
from dictpfl.common.ckks.opening import opener_for
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.server.coordinator import JOURNAL
from dictpfl.server.journal import Journal

if TYPE_CHECKING:
    from dictpfl.deploy.simulation.founding import Founded

QUANTILES = (0.1, 0.5, 0.7, 0.9)


def trace(founded: Founded) -> dict[str, Any]:
    """Sizes of updates by round, how many quiet coordinates stay quiet, and three coordinates' histories.

    Args:
        founded: a federation whose run has finished, with its key and all its sums.

    Returns:
        `size`: by round, quantiles of the magnitude of what the sum changed, over the coordinates that were sent.
        `quiet_again`: by round from the second on, the share of coordinates under the threshold that were under it the last time that
        they were sent; s of them would be, were it chance.
        `coordinates`: by a word, `changes` by round, and whether it was `sent`.
    """
    changes, masks = changed(founded)
    share = founded.genesis.config.pruning.s
    quiet = [inactive(change, mask, share) for change, mask in zip(changes, masks, strict=True)]
    return {
        "quantiles": list(QUANTILES),
        "size": [
            [float(f"{value:.4g}") for value in np.quantile(np.abs(change[mask]), QUANTILES)]
            for change, mask in zip(changes, masks, strict=True)
        ],
        "share": share,
        "quiet_again": _again(quiet, masks),
        "coordinates": {
            word: {"changes": [float(f"{change[at]:.4g}") for change in changes], "sent": [bool(mask[at]) for mask in masks]}
            for word, at in chosen(changes, masks).items()
        },
    }  # fmt: skip


def changed(founded: Founded) -> tuple[list[NDArray[np.float64]], list[NDArray[np.bool_]]]:
    """What each update round added to the shared vector, shape (size,), and which coordinates were sent."""
    genesis = founded.genesis
    opener, roster = opener_for(genesis.parameters, founded.key), read_roster(founded.home(0) / PEERS)
    journal = Journal(founded.coordinator / JOURNAL, genesis.federation, genesis.fingerprint)
    state, changes, masks = genesis.start(), [], []
    try:
        for aggregate in journal.aggregates(0):
            done = replay(genesis, opener, state, aggregate, 1, roster)
            if done.plan.kind is RoundKind.UPDATE and not done.void:
                changes.append(done.state.values - state.values)
                masks.append(done.plan.mask)
            state = done.state
    finally:
        journal.close()
    return changes, masks


def inactive(change: NDArray[np.float64], mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Which of the coordinates that were sent are among the floor(s n) that changed least, ties by index."""
    sent = np.flatnonzero(mask)
    order = np.argsort(np.abs(change[sent]), kind="stable")
    found = np.zeros(mask.shape, dtype=bool)
    found[sent[order[: int(share * sent.size)]]] = True
    return found


def _again(quiet: list[NDArray[np.bool_]], masks: list[NDArray[np.bool_]]) -> list[float]:
    last, found = quiet[0], []
    for now, mask in zip(quiet[1:], masks[1:], strict=True):
        asked = last & mask
        found.append(round(float(now[asked].mean()), 4) if asked.any() else 0.0)
        last = np.where(mask, now, last)
    return found


def chosen(changes: list[NDArray[np.float64]], masks: list[NDArray[np.bool_]]) -> dict[str, int]:
    """Three coordinates that tell something: one that moves most, one that is pruned and comes back, one pruned soonest.

    A kind that the run has no coordinate of is left out; of several, the first by index.
    """
    sent = np.stack(masks)
    total = np.abs(np.stack(changes)).sum(axis=0)
    found = {"moves most": int(np.argmax(total))}
    away = ~sent
    fell = away[1:] & sent[:-1]
    rose = sent[1:] & away[:-1]
    first_away = np.where(away.any(axis=0), away.argmax(axis=0), len(masks))
    back = rose.sum(axis=0)
    if back.any():
        found["pruned, and back most often"] = int(np.argmax(back))
    for_good = (first_away < len(masks)) & (back == 0) & (fell.sum(axis=0) == 1)
    if for_good.any():
        soonest = np.where(for_good, first_away, len(masks))
        found["pruned, and never back"] = int(np.argmin(soonest))
    return found
