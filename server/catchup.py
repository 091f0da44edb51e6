"""Requests to institutions that are behind: with the aggregates they lack, or a snapshot and the rounds since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import structlog

from dictpfl.common.messages.protocol import Aggregate, Request, Wish
from dictpfl.server.journal import Journal

_log = structlog.get_logger(__name__)
REQUEST_BYTES = 64 * 2**20
"""Aggregates in one request, at most, unless a single one is longer; whoever lacks more asks again."""

_KEPT = 4
"""Requests kept for others at the same position; each may hold `REQUEST_BYTES`, and who lies has as many positions as there are rounds."""


@dataclass(frozen=True, slots=True)
class Provision:
    """Content of a request that brings an institution up to the open round."""

    aggregates: tuple[Aggregate, ...] = ()
    """Closed rounds, in order."""
    snapshot: bytes = b""
    """Sealed snapshot to apply first; empty: none."""
    start: int | None = None
    """Round before which the snapshot's state stands; None without one."""


def recent(journal: Journal) -> Provision:
    """Provide for an institution of which nothing is known: most likely it lacks the last aggregate only."""
    start = max(journal.oldest, journal.next_round - 1)
    return Provision(tuple(journal.aggregates(start, REQUEST_BYTES)))


def provision(
    journal: Journal, position: int, *, newcomer: bool = False, avoid: Collection[int] = ()
) -> Provision | None:
    """Choose the way with the fewest bytes from `position` to the open round; None where rounds are missing for good.

    Args:
        position: first round that the institution has not applied.
        newcomer: it owes nothing, and needs no acknowledgements.
        avoid: rounds of snapshots that it refused.
    """
    oldest, open_round = journal.oldest, journal.next_round
    ways = {
        number: length + journal.length(number)
        for number, length in journal.snapshots().items()
        # What the last sum leads to, after a restart, that sum brings, since institutions check it.
        if number > position and number >= oldest and number not in avoid and (number < open_round or position < oldest)
    }
    best = min(ways, key=lambda number: ways[number], default=None)
    if position >= oldest and (best is None or journal.length(position) <= ways[best]):
        return Provision(tuple(journal.aggregates(position, REQUEST_BYTES)))
    if best is None:
        return None
    known = () if newcomer else tuple(journal.acknowledgements(position, best))
    return Provision((*known, *journal.aggregates(best, REQUEST_BYTES)), journal.snapshot(best), best)


class CatchUp:
    """Position of each institution, and the requests that bring it up to the open round."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._bare: Request | None = None
        self._provisions: dict[tuple[int | None, bool], Provision | None] = {}
        self._requests: dict[tuple[int | None, bool, Wish], Request] = {}
        self._positions: dict[int, int] = {}
        self._wishes: dict[int, Wish] = {}
        self._given: dict[int, int] = {}
        self._refused: dict[int, set[int]] = {}

    def open(self, request: Request, wishes: dict[int, Wish]) -> None:
        """Begin a new exchange.

        Args:
            request: what all nodes are asked, without anything to apply.
            wishes: what each node is to send of a snapshot.
        """
        self._bare, self._wishes = request, wishes
        self._provisions, self._requests = {}, {}

    def stands(self, node: int, position: int) -> None:
        """Note how far a node is."""
        self._positions[node] = position

    def in_step(self, node: int) -> bool:
        """Tell whether a node lacks the last aggregate at most, as far as is known."""
        return self._positions.get(node, -1) >= self._journal.next_round - 1

    def first(self, node: int) -> Request:
        """Make the request that opens an exchange with a node."""
        if node not in self._positions:
            # Never a snapshot on a guess: whoever needs one says so.
            return self._carrying((None, False), recent(self._journal), self._wishes.get(node, Wish.NOTHING))
        return self.further(node, self._positions[node]) or self._carrying(
            (None, True), Provision(), self._wishes.get(node, Wish.NOTHING)
        )

    def further(self, node: int, position: int, *, newcomer: bool = False) -> Request | None:
        """Make a request with what a node at `position` lacks; None where that is not kept and no snapshot helps."""
        wish, avoid = self._wishes.get(node, Wish.NOTHING), self._refused.get(node)
        key = (position, newcomer)
        if avoid:
            provided = provision(self._journal, position, newcomer=newcomer, avoid=avoid)
            # When it has refused all there are, it is asked again: it may have been mended meanwhile.
            provided = provided or provision(self._journal, position, newcomer=newcomer)
        else:
            if key not in self._provisions:
                _make_room(self._provisions)
                self._provisions[key] = provision(self._journal, position, newcomer=newcomer)
            provided = self._provisions[key]
        if provided is None:
            _log.error(
                "an institution lacks rounds that are not kept, and no snapshot helps it: install the bundle of a new "
                "epoch there (dictpfl authority rotate)",
                node=node, first=position, oldest_kept=self._journal.oldest, snapshots=sorted(self._journal.snapshots()),
            )  # fmt: skip
            return None
        if provided.start is not None:
            self._given[node] = provided.start
        return self._dressed(provided, wish) if avoid else self._carrying(key, provided, wish)

    def refused(self, node: int, position: int) -> bool:
        """Note that a node refused what it was sent: it is not sent the same snapshot again.

        Returns:
            True if it stands elsewhere than was known, as after its memory was restored: what it was sent left rounds out that it lacks, and
            with these it may take the snapshot.
        """
        if node not in self._given:
            return False
        number = self._given.pop(node)
        if self._positions.get(node) != position:
            self.stands(node, position)
            return True
        self._refused.setdefault(node, set()).add(number)
        _log.warning("a snapshot was refused; another way is tried next", node=node, round=number)
        return False

    def took(self, node: int) -> None:
        """Note that a node could use what it was sent."""
        self._given.pop(node, None)

    def _carrying(self, key: tuple[int | None, bool], provided: Provision, wish: Wish) -> Request:
        """Make one object for all institutions at the same position: aggregates are large, and read once."""
        if (*key, wish) not in self._requests:
            _make_room(self._requests)
            self._requests[*key, wish] = self._dressed(provided, wish)
        return self._requests[*key, wish]

    def _dressed(self, provided: Provision, wish: Wish) -> Request:
        assert self._bare is not None  # noqa: S101  an exchange is open
        return replace(self._bare, aggregates=provided.aggregates, snapshot=provided.snapshot, wish=wish)


def _make_room(kept: dict[Any, Any]) -> None:
    """Drop what was made first, so that there is room for another one."""
    while len(kept) >= _KEPT:
        del kept[next(iter(kept))]
