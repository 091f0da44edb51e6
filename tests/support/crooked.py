"""Parties that do not follow the protocol: institutions whose uploads are wrong, sums as a coordinator could make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

import dictpfl.client.uploading
import dictpfl.common.ckks.sealing
from dictpfl.client.memory.record import Pending
from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.keys import make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer, Sealed
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.tags import RoundTags
from dictpfl.common.messages.manifest import Manifest, joined
from dictpfl.common.messages.protocol import Aggregate
from dictpfl.common.messages.wire import AGGREGATE, Blob, Entry, Header, write
from dictpfl.common.words import Words, add_modulo, to_words

# Institutions; each is a `tests.support.harness.Point`


@contextmanager
def wrong_tag() -> Iterator[None]:
    """One of the tags is that of no upload."""
    real = RoundTags.made

    def made(tags: RoundTags, words: Words, clear: bytes, entry: Entry) -> Words:
        right = real(tags, words, clear, entry)
        right[0] = (int(right[0]) + 1) % tags.prime
        return right

    with mock.patch.object(RoundTags, "made", made):
        yield


@contextmanager
def wrong_seed() -> Iterator[None]:
    """The seed that travels is not the one that was sealed with, so that its tags are not this upload's."""
    real = RoundTags.made

    def made(tags: RoundTags, words: Words, clear: bytes, entry: Entry) -> Words:
        return real(tags, words, clear, replace(entry, seed=b"another seed than was sealed with"[:32]))

    with mock.patch.object(RoundTags, "made", made):
        yield


def _components(change: Callable[[Ints, CKKSParameters], None]) -> Callable[[], AbstractContextManager[None]]:
    """Other components than training gave, under right tags."""

    @contextmanager
    def point() -> Iterator[None]:
        real = dictpfl.client.uploading.padded

        def padded(genesis: Genesis, plan: Any, packed: Ints) -> Ints:
            components = real(genesis, plan, packed).copy()
            change(components, genesis.parameters)
            return components

        with (
            mock.patch.object(dictpfl.client.uploading, "padded", padded),
            mock.patch.object(dictpfl.common.ckks.sealing, "require_payload"),
        ):
            yield

    return point


def _words(change: Callable[[Words, CKKSParameters], None]) -> Callable[[], AbstractContextManager[None]]:
    """Other words than sealing gave, under right tags."""

    @contextmanager
    def point() -> Iterator[None]:
        real = CKKSSealer.seal

        def seal(sealer: CKKSSealer, components: Ints) -> Sealed:
            sealed = real(sealer, components)
            change(sealed.words, sealer.parameters)
            return sealed

        with mock.patch.object(CKKSSealer, "seal", seal):
            yield

    return point


@contextmanager
def foreign_key() -> Iterator[None]:
    """Sealed under a key that the others do not have."""

    def seal(sealer: CKKSSealer, components: Ints) -> Sealed:
        return real(CKKSSealer(make_key(sealer.parameters)), components)

    real = CKKSSealer.seal
    with mock.patch.object(CKKSSealer, "seal", seal):
        yield


def _set(place: int, value: Callable[[CKKSParameters], int]) -> Callable[[Ints, CKKSParameters], None]:
    def change(components: Ints, parameters: CKKSParameters) -> None:
        components[place] = value(parameters)

    return change


def _raised(place: int, part: float) -> Callable[[Words, CKKSParameters], None]:
    """A coefficient raised by a part of what stands for 1."""

    def change(words: Words, parameters: CKKSParameters) -> None:
        by = np.full(1, int(2**parameters.scale_bits * part), dtype=np.uint64)
        q = dictpfl.common.ckks.sealing.data_prime(parameters)
        add_modulo(words[place:][:1], to_words(by, q, parameters.word_prime), parameters.word_prime)

    return change


NONSENSE: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "negative samples": _components(_set(1, lambda p: -(2 ** (p.payload_bits - 2)))),
    "no samples that can be": _components(_set(1, lambda p: -1_000)),
    "more participants than one": _components(_set(0, lambda _: 2)),
    "a negative number of measured samples": _components(_set(2, lambda p: -(2 ** (p.payload_bits - 2)))),
    "a value beyond the payload": _components(_set(5, lambda p: 2 ** (p.payload_bits - 1) + 2**20)),
}
"""What an institution may seal under right tags, encrypted or not: the round is void for everybody."""

SEALED_NONSENSE = NONSENSE | {
    "a foreign key": foreign_key,
    "guards that are not zero": _words(_raised(-1, 3.0)),
    "half an integer": _words(_raised(2, 0.5)),
}
"""The same where uploads are encrypted."""


# Sums


@dataclass(frozen=True)
class Part:
    """An upload that a coordinator holds: how it is named, and its words."""

    entry: Entry
    words: Words
    manifest: Manifest | None = None

    @classmethod
    def of(cls, pending: Pending, word_bits: int) -> Part:
        blob = Blob.own(pending.blob, word_bits)
        (entry,) = blob.entries
        return cls(entry, blob.words(), Manifest.of_bytes(pending.manifest) if pending.manifest else None)


def total(parameters: CKKSParameters, parts: Sequence[Part]) -> Words:
    words = np.zeros_like(parts[0].words)
    for part in parts:
        add_modulo(words, part.words, parameters.word_prime)
    return words


def summed(
    header: Header, parameters: CKKSParameters, words: Words, named: Sequence[Part], manifests: Sequence[Manifest]
) -> Aggregate:
    """A sum of these words under these names; `header` is that of an upload of the round."""
    blob = write(replace(header, direction=AGGREGATE), [part.entry for part in named], words, parameters.word_bits)
    return Aggregate(header.round, blob, tuple(sorted(p.entry.upload_id for p in named)), joined(list(manifests)))
