"""Tables about what institutions made of sums, those that they refused or passed over, and the attempts at rounds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from dictpfl.common.messages.protocol import RoundKind
from dictpfl.server.rows import Judged, closed_of, names_of
from dictpfl.server.tables import Tables


class VerdictTables(Tables):
    """Rows about rounds that did not become what they were meant to be; no round is ever taken back."""

    def give_up(self, number: int, attempt: int) -> None:
        """Note that uploads for this attempt at a round are no longer of use: the next one has other masks."""
        with self._transaction():
            # By the clock: after a journal was lost, its successor does not count through attempts that institutions know.
            self._replace("attempts", number, max(attempt + 1, int(time.time())))

    def attempt(self, number: int) -> int:
        """Number of the attempt that uploads of a round are for; 0 for the first."""
        return next((int(following) for known, following in self._rows("attempts") if known == number), 0)

    def dispute(self, number: int, at: float, told: Sequence[str]) -> None:
        """Note who refused the sum of a round; who did so earlier stays noted."""
        with self._transaction():
            before = next((names_of(names) for known, _, names in self._rows("disputed") if known == number), ())
            self._replace("disputed", number, at, json.dumps(sorted({*before, *told})))

    def disputed(self) -> Sequence[Judged]:
        """Read the sums of which rounds institutions refused, in order."""
        return self._judged("disputed")

    def void(self, number: int, at: float, told: Sequence[str]) -> None:
        """Note that institutions passed over a round."""
        self._note("voids", number, at, json.dumps(list(told)))

    def is_void(self, number: int) -> bool:
        """Tell whether `void` was called for this round."""
        return self._noted("voids", number)

    def voids(self) -> Sequence[Judged]:
        """Read which rounds are void, in order."""
        return self._judged("voids")

    def void_scores(self) -> int:
        """Count the void rounds that asked for scores."""
        return sum(row[1] == RoundKind.SCORE and self.is_void(row[0]) for row in self._rows("rounds"))

    def _judged(self, table: str) -> Sequence[Judged]:
        senders = {row[0]: closed_of(row).senders for row in self._rows("rounds")}
        return [Judged(number, at, names_of(told), senders.get(number, ())) for number, at, told in self._rows(table)]
