"""Members behind nodes: which institution a node is, and which of them are excluded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from dictpfl.common.errors import WireError
from dictpfl.common.messages.wire import read_entries
from dictpfl.server.agreement import Agreement
from dictpfl.server.journal import Journal

_log = structlog.get_logger(__name__)
EXCLUDED = "excluded"
"""Reason of an institution that the operator has excluded."""
WRONG_MEMBER = "wrong-member"
"""Reason of an upload that names another member than its node is."""


def member_of(blob: bytes) -> int | None:
    """Read, unverified, the number of the member that an upload names; None where it is no upload."""
    try:
        return read_entries(blob)[0].member
    except (WireError, IndexError):
        return None


class Members:
    """Names and numbers of nodes, and who of them may take part.

    A node's name is the one under which the deployment admitted its key; its uploads must name the member of that
    name. Where the deployment names no node (a simulation), the first upload binds node and number: from then on the
    node keeps its number, and no other takes it as long as that node is there.
    """

    def __init__(self, agreement: Agreement, journal: Journal) -> None:
        self._members, self._epoch = agreement.members, agreement.epoch
        self._journal = journal
        self._here: frozenset[int] = frozenset()
        """Nodes that could be asked in the exchange now open, excluded ones too."""
        self._said: set[str] = set()
        """Names of those who were excluded when that was logged last."""
        self._new: dict[int, int] = {}
        """Numbers by node that are not journalled yet."""

    def welcome(self, nodes: Iterable[int]) -> list[int]:
        """Leave out nodes of excluded institutions."""
        self._here = frozenset(nodes)
        excluded = self._excluded
        if excluded != self._said:
            _log.warning("who is excluded is neither asked nor heard", institutions=sorted(excluded))
            self._said = excluded
        return sorted(node for node in self._here if excluded.isdisjoint(self._names(node)))

    def objection(self, node: int, member: int | None) -> str:
        """Tell why an upload that names this member may not come from this node; empty if it may."""
        excluded = self._excluded
        if not excluded.isdisjoint(self._names(node)):
            return EXCLUDED
        if member is None:
            return ""
        if self._members and not 0 <= member < len(self._members):
            return WRONG_MEMBER
        if self._members and self._members[member] in excluded:
            return EXCLUDED
        return "" if self._is(node, member) else WRONG_MEMBER

    def _is(self, node: int, member: int) -> bool:
        admitted = self._journal.node_names().get(node)
        if admitted in self._members:
            return self._members[member] == admitted
        bound = self._bound
        if bound.get(node, member) != member:
            return False
        others = [other for other, number in bound.items() if number == member and other != node]
        return self._here.isdisjoint(others)

    def took(self, node: int, member: int | None) -> None:
        """Note that an upload of a node was added under this number."""
        if member is not None and self._bound.get(node) != member:
            self._new[node] = member

    def keep(self) -> None:
        """Journal the numbers that are new.

        Raises:
            JournalError: the disk refuses; they are tried again.
        """
        if self._new:
            self._journal.bind(self._new, self._epoch)
            self._new = {}

    def name(self, node: int) -> str:
        """Name of a node's institution; the node's own number where no name is known."""
        return next(iter(self._names(node)), f"node {node}")

    def names(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Names of nodes' institutions, sorted."""
        return tuple(sorted(self.name(node) for node in nodes))

    def _names(self, node: int) -> Sequence[str]:
        """Names that a node is known by: the one that it was admitted under, and that of the member it uploads as."""
        admitted, member = self._journal.node_names().get(node), self._bound.get(node)
        known = [] if admitted is None else [admitted]
        if member is not None and member < len(self._members):
            known.append(self._members[member])
        return known

    @property
    def _bound(self) -> dict[int, int]:
        return {**self._journal.bound(self._epoch), **self._new}

    @property
    def _excluded(self) -> set[str]:
        return {one.name for one in self._journal.excluded()}
