"""Tables about institutions: names and members' numbers of nodes, and who is excluded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from dictpfl.server.rows import Excluded
from dictpfl.server.tables import Tables


class PartyTables(Tables):
    """Rows about who takes part; a process that runs rounds sees at once what another one writes here."""

    def name_nodes(self, names: Mapping[int, str]) -> None:
        """Note by which names the deployment admitted nodes; nodes that it does not name are forgotten."""
        if names == self.node_names():
            return
        with self._transaction():
            for node, _ in list(self._rows("nodes")):
                self._delete("nodes", node)
            for number, name in names.items():
                self._insert("nodes", number, name)

    def node_names(self) -> Mapping[int, str]:
        """Names of nodes, as the deployment admitted them."""
        return {int(node): name for node, name in self._rows("nodes")}

    def bind(self, members: Mapping[int, int], epoch: int) -> None:
        """Note which node uploads as which member of an epoch; who had the number before has it no more."""
        with self._transaction():
            for node, known, member, _ in list(self._rows("bindings")):
                if known != epoch or member in members.values():
                    self._delete("bindings", node)
            for number, member in members.items():
                self._replace("bindings", str(number), epoch, member, time.time())

    def bound(self, epoch: int) -> Mapping[int, int]:
        """Number of the member by node, of those that have uploaded in an epoch."""
        return {int(node): member for node, known, member, _ in self._rows("bindings") if known == epoch}

    def exclude(self, name: str, reason: str) -> None:
        """Note that an institution is neither asked nor heard, from the next exchange on."""
        with self._transaction():
            self._replace("excluded", name, reason, time.time())

    def readmit(self, name: str) -> None:
        """Note that an institution takes part again."""
        with self._transaction():
            self._delete("excluded", name)

    def excluded(self) -> Sequence[Excluded]:
        """Read who is excluded, by name."""
        return [Excluded(*row) for row in self._rows("excluded")]
