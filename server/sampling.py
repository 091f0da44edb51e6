"""Sampling: which of the institutions that are here a round asks, where a federation wants fewer than all.

The draw is public: it follows from federation id, round, attempt and names, so that a run can be repeated, on any engine,
and anybody may recompute whom it names. It is no secret from anybody, and no defence (docs/decisions/0035).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping


def ranked(names: Mapping[int, str], federation: bytes, number: int, attempt: int) -> list[int]:
    """Put nodes in the order in which a round asks them: by SHA-256 over federation id, round, attempt and name.

    Args:
        names: name of each node's institution.
        federation: federation id, 32 bytes.
        number: number of the round.
        attempt: number of the attempt at the round.

    Returns:
        All nodes; those of one name, copies of one institution, by their own numbers.
    """
    context = b"dictpfl sample 1" + federation + number.to_bytes(8, "little") + attempt.to_bytes(8, "little")
    return sorted(names, key=lambda node: (hashlib.sha256(context + names[node].encode()).digest(), node))


def chosen(order: list[int], count: int, failed: Collection[int]) -> list[int]:
    """Choose the first `count` of an order, those that failed in this round only if there are not enough others."""
    return [*(node for node in order if node not in failed), *(node for node in order if node in failed)][:count]
