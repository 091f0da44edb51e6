"""Who masks with whom: the members of an epoch in order, and the graph of pairs (docs/decisions/0019)."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from common.errors import ConfigError
from common.seeds import expand

_FORMAT = "dictpfl-peers-1"
_KEY = 32


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as the others know it: `receiving` X25519 and `signing` Ed25519 public keys, 32 bytes each."""

    name: str
    receiving: bytes
    signing: bytes


@dataclass(frozen=True)
class Roster:
    """All members of an epoch, by name; a member's number is its place in it. Public, the same at every institution."""

    peers: tuple[Peer, ...]

    def __post_init__(self) -> None:
        """Names rise and keys are distinct.

        Raises:
            ConfigError: not so.
        """
        names = [peer.name for peer in self.peers]
        keys = [key for peer in self.peers for key in (peer.receiving, peer.signing)]
        if names != sorted(set(names)) or len(set(keys)) < len(keys) or any(len(key) != _KEY for key in keys):
            raise ConfigError("a list of members whose names or keys are not distinct, or out of order; join again")

    def number(self, name: str, receiving: bytes) -> int:
        """Place of a member.

        Raises:
            ConfigError: it is none, or is listed with another key.
        """
        for number, peer in enumerate(self.peers):
            if peer.name == name and peer.receiving == receiving:
                return number
        raise ConfigError(f"{name!r} is no member of this epoch, or has another key there; join again with the bundle")

    def to_bytes(self) -> bytes:
        """As JSON."""
        peers = [[peer.name, peer.receiving.hex(), peer.signing.hex()] for peer in self.peers]
        return (json.dumps({"format": _FORMAT, "peers": peers}, indent=1) + "\n").encode()

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Inverse of `to_bytes`; `origin` is for messages.

        Raises:
            ConfigError: damaged, or of another release.
        """
        try:
            document = json.loads(data)
            if document["format"] != _FORMAT:
                raise ConfigError(f"{origin} is of format {document['format']!r}, expected {_FORMAT!r}")
            return cls(tuple(Peer(str(name), bytes.fromhex(r), bytes.fromhex(s)) for name, r, s in document["peers"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{origin} is no list of members ({type(error).__name__}); join again") from error


@dataclass(frozen=True)
class Circle:
    """The graph of pairs over members 0 to `members` - 1.

    Every two are a pair up to `most` partners each. Beyond, members stand in a circle, in an order drawn from `seed` (which
    the coordinator does not have) and `context`, and each is paired with the `most` / 2 on either side: a Harary graph,
    which stays connected whichever `most` - 1 members are missing.
    """

    members: int
    most: int
    seed: bytes
    context: bytes

    @cached_property
    def _partners(self) -> tuple[tuple[int, ...], ...]:
        everybody = range(self.members)
        if self.members - 1 <= self.most:
            return tuple(tuple(other for other in everybody if other != one) for one in everybody)
        order = sorted(everybody, key=lambda one: expand(self.seed, "circle", self.context, one, length=16))
        near = [step for step in range(-(self.most // 2), self.most // 2 + 1) if step]
        found = {one: sorted(order[(place + step) % self.members] for step in near) for place, one in enumerate(order)}
        return tuple(tuple(found[one]) for one in everybody)

    def partners(self, member: int) -> tuple[int, ...]:
        """Whom a member is paired with, in rising order."""
        return self._partners[member]

    def connected(self, members: Collection[int]) -> bool:
        """Whether the pairs among these members link them all: if not, parts of their sum could be told apart."""
        left = set(members)
        reached = [left.pop()] if left else []
        while reached:
            found = left.intersection(self.partners(reached.pop()))
            left -= found
            reached += found
        return not left
