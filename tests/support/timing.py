"""Refusals compared as a coordinator would: by the bytes of the replies, and by how long they take."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from scipy.stats import mannwhitneyu

ALPHA = 0.01
"""Chance of a false alarm over all pairs together."""


@dataclass(frozen=True)
class Refused:
    """Refusals for each reason: seconds that they took, and the distinct replies."""

    seconds: Mapping[str, list[float]]
    replies: Mapping[str, set[bytes]]

    def told_apart(self) -> dict[tuple[str, str], float]:
        """Pairs of reasons whose times a rank test tells apart, with its p value; Bonferroni's correction for all pairs."""
        pairs = list(itertools.combinations(self.seconds, 2))
        values = {pair: float(mannwhitneyu(*(self.seconds[one] for one in pair)).pvalue) for pair in pairs}
        return {pair: value for pair, value in values.items() if value < ALPHA / len(pairs)}


Bring = Callable[[], bytes]
"""Brings a message that is refused, and returns the bytes of the whole reply; this is timed."""


def measure(refuse: Mapping[str, Callable[[], Bring]], times: int = 12, seed: int = 0) -> Refused:
    """Refuse `times` times for each reason, in a random order: what the machine does meanwhile falls on all alike.

    Args:
        refuse: for each reason, what prepares a refusal, and returns what is timed.
        times: at least 10, or the rank test cannot tell anything.
        seed: of the order.
    """
    assert times >= 10
    order = [reason for reason in refuse for _ in range(times)]
    random.Random(seed).shuffle(order)
    seconds: dict[str, list[float]] = {reason: [] for reason in refuse}
    replies: dict[str, set[bytes]] = {reason: set() for reason in refuse}
    for reason in order:
        bring = refuse[reason]()
        began = time.perf_counter()
        reply = bring()
        seconds[reason].append(time.perf_counter() - began)
        replies[reason].add(reply)
    return Refused(seconds, replies)


def require_alike(refused: Refused, *, public: Collection[str] = ()) -> None:
    """Fail where a reason shows in a reply or in its time.

    Args:
        refused: as measured.
        public: reasons that everybody knows, so that their replies may say so, such as a lock; times are compared all the
            same.
    """
    replies = {reply for reason, each in refused.replies.items() if reason not in public for reply in each}
    assert len(replies) == 1, f"the replies differ: {refused.replies}"
    assert all(len(each) == 1 for each in refused.replies.values()), f"a reason has two replies: {refused.replies}"
    assert not (apart := refused.told_apart()), f"times tell the reason: {apart}"
