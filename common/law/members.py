"""Members of an epoch in order, and the graph of the pairs among them that share masks (docs/decisions/0019)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from dictpfl.common.documents import parse_document
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.seeds import expand

_FORMAT = "dictpfl-peers-1"
_KEY = 32


@dataclass(frozen=True, slots=True)
class Peer:
    """Member as the others know it.

    Attributes:
        name: name of the institution.
        receiving: X25519 public key, 32 bytes.
        signing: Ed25519 public key, 32 bytes.
    """

    name: str
    receiving: bytes
    signing: bytes


@dataclass(frozen=True)
class Roster:
    """List of all members of an epoch, sorted by name; public, and the same at every institution.

    A member's number is its place in `peers`.
    """

    peers: tuple[Peer, ...]

    def __post_init__(self) -> None:
        """Check that names rise and keys are distinct.

        Raises:
            ConfigError: they do not, or are not.
        """
        names = [peer.name for peer in self.peers]
        keys = [key for peer in self.peers for key in (peer.receiving, peer.signing)]
        if names != sorted(set(names)) or len(set(keys)) < len(keys) or any(len(key) != _KEY for key in keys):
            raise ConfigError("a list of members whose names or keys are not distinct, or out of order; join again")

    def number(self, name: str, receiving: bytes) -> int:
        """Find a member's number.

        Raises:
            ConfigError: no member of that name, or one with another key.
        """
        for number, peer in enumerate(self.peers):
            if peer.name == name and peer.receiving == receiving:
                return number
        raise ConfigError(f"{name!r} is no member of this epoch, or has another key there; join again with the bundle")

    def to_bytes(self) -> bytes:
        """Encode as JSON, with a digest: most flipped bits would make another name or key, which looks like any other."""
        peers = [[peer.name, peer.receiving.hex(), peer.signing.hex()] for peer in self.peers]
        document = {"format": _FORMAT, "peers": peers, "sha256": _digest(peers)}
        return (json.dumps(document, indent=1) + "\n").encode()

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Decode what `to_bytes` made; `origin` is for messages.

        Raises:
            ConfigError: damaged, or of another release.
        """
        try:
            document = parse_document(data, _FORMAT, origin, ConfigError)
            peers = document["peers"]
            if document["sha256"] != _digest(peers):
                raise ConfigError(
                    f"{origin} is damaged: its digest is another one; restore it, or join again with the bundle"
                )
            return cls(tuple(Peer(str(name), bytes.fromhex(r), bytes.fromhex(s)) for name, r, s in peers))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{origin} is no list of members ({type(error).__name__}); join again") from error


def _digest(peers: list[list[str]]) -> str:
    return hashlib.sha256(json.dumps(peers, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class PairGraph:
    """Graph of the pairs that share masks, over members 0 to `members` - 1.

    Every two members are a pair as long as nobody has more than `most` partners. Beyond, members stand in a circle,
    in a secret order, and each is paired with the `most` / 2 on either side: a Harary graph, which stays connected
    whichever `most` - 1 members are missing.

    Attributes:
        members: number of members.
        most: most partners of a member; even.
        seed: agreed seed that the order is drawn from, which the coordinator does not have.
        context: bytes that separate the draws of federations and epochs.
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
        partners = {
            one: sorted(order[(place + step) % self.members] for step in near) for place, one in enumerate(order)
        }
        return tuple(tuple(partners[one]) for one in everybody)

    def partners(self, member: int) -> tuple[int, ...]:
        """Return the numbers of a member's partners, rising."""
        return self._partners[member]

    def connected(self, members: Collection[int]) -> bool:
        """Tell whether the pairs among these members link them all; if not, parts of their sum could be told apart."""
        left = set(members)
        reached = [left.pop()] if left else []
        while reached:
            next_ones = left.intersection(self.partners(reached.pop()))
            left -= next_ones
            reached += next_ones
        return not left
