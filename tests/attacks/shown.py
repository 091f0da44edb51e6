"""A round of the product whose true sum is still to be shown, and what a coordinator may show in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np

from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind
from dictpfl.common.messages.wire import Blob, Entry, write
from dictpfl.common.words import Words
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT
from dictpfl.server.folding import Fold
from tests.attacks.ring import Ints
from tests.support.harness import World

VICTIM = 2
"""Node that is shown what is not true."""
OUTSIDE = frozenset({"refused", "locked"})
"""All codes that a coordinator may hear about sums that are not true."""


@dataclass
class Shown:
    """A round that has its true sum, which nobody has been shown yet, and the coordinator that holds it.

    Attributes:
        world: the federation.
        requests: what an honest coordinator sends next, by node; the true sum is in each.
        opened: sums that were decrypted since.
    """

    world: World
    requests: dict[int, Request]
    opened: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, world: World) -> Shown:
        while world.coordinator._journal.next_round < 2:
            world.exchange()
        return cls(world, world.coordinator.begin(world.nodes))

    @property
    def parameters(self) -> CKKSParameters:
        return self.world.genesis.parameters

    @property
    def aggregate(self) -> Aggregate:
        return self.requests[VICTIM].aggregates[-1]

    @cached_property
    def true(self) -> Blob:
        return Blob.own(self.aggregate.blob, self.parameters.word_bits)

    def upload(self, node: int) -> Blob:
        pending = self.world.record(node).pending
        assert pending is not None
        return Blob.own(pending.blob, self.parameters.word_bits)

    def forged(self, words: Words, entries: Sequence[Entry] | None = None, attempt: int = 0) -> bytes:
        """A sum under the true one's header: everybody can make it."""
        true = self.true
        header = replace(true.header, attempt=attempt)
        return write(header, entries or true.entries, words, self.parameters.word_bits, bytes(true.clear))

    def moved(self, start: int, amounts: Sequence[int]) -> Words:
        """The true sum's words, with coefficients from `start` on moved by these amounts, as near as p / q allows."""
        p, q = self.parameters.word_prime, data_prime(self.parameters)
        steps = np.array([(amount * p + q // 2) // q % p for amount in amounts], np.uint64)
        words, place = self.true.words().copy(), slice(start, start + len(amounts))
        words[place] = (words[place] + steps) % np.uint64(p)
        return words

    def show(self, blob: bytes, node: int = VICTIM, **changes: Any) -> Reply:
        """Show an institution a sum in place of the true one."""
        request = self.requests[node]
        shown = replace(self.aggregate, blob=blob, **changes)
        with mock.patch.object(CKKSOpener, "open", self._counted):
            return self.world.institution(node).handle(replace(request, aggregates=(*request.aggregates[:-1], shown)))

    def _counted(self, *_: Any) -> Ints:
        self.opened.append(1)
        raise AssertionError("a sum that is not authentic was decrypted")

    def kept(self) -> bytes:
        """The victim's memory, to the byte: state, residual, waiting upload, acknowledgements."""
        return self.world.memory(VICTIM).path.read_bytes()

    def go_on(self) -> None:
        """Everybody is shown the true sum, and the federation runs to its end."""
        for node, request in self.requests.items():
            self.world.converse(node, request)
        self.world.close_exchange()
        self.world.run()


def summed(
    world: World, number: int, blobs: Mapping[int, bytes], kind: RoundKind = RoundKind.UPDATE, attempt: int = 0
) -> bytes:
    """What the coordinator's own code makes of some of the uploads."""
    fold = Fold(Agreement.load(world.coordinator_folder / AGREEMENT), kind, number, attempt)
    for node, blob in blobs.items():
        fold.add(node, blob)
    return fold.aggregate()[0]
