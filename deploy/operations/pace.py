"""Pauses between looks for something that comes: short while it may come soon, long where it stays away."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

SHARE = 1 / 20
"""A pause, as a share of what was waited already: looking now and then makes no wait longer by more than that."""
FETCH_SECONDS = 0.1
"""Seconds before a part of a message is asked for again that was not there yet."""


class Pace:
    """Pauses from `least` to `most` seconds, each a twentieth of the time since something last happened."""

    def __init__(self, least: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin as if something had just happened."""
        self._least, self._most, self._clock = least, most, clock
        self._since = clock()

    def stirred(self) -> None:
        """Begin anew: something happened, and more may follow."""
        self._since = self._clock()

    def pause(self) -> float:
        """Return the seconds to wait now."""
        return min(max(self._least, SHARE * (self._clock() - self._since)), self._most)


def fetch_soon() -> None:
    """Have Flower ask again after a tenth of a second for the parts of a message that is still being handed over.

    It waits a second, and no option changes that; whoever is told of a message at once finds its parts on their way.
    """
    inflating = importlib.import_module("flwr.supercore.inflatable.inflatable_utils").__dict__
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        inflating[name].__kwdefaults__["initial_backoff"] = FETCH_SECONDS
