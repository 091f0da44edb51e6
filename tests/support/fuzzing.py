"""Damage to blobs, drawn from a seed: bits, cuts, swaps, replays, foreign ids; with the digest left as it was, or made to fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dictpfl.common.messages.wire import ENTRY_BYTES, HEADER_BYTES

DIGEST = slice(HEADER_BYTES - 32, HEADER_BYTES)
IDS = {
    "round": slice(12, 16), "attempt": slice(16, 24), "federation": slice(24, 56), "fingerprint": slice(56, 88),
    "state tag": slice(88, 120), "contributors": slice(120, 124), "words": slice(124, 128), "clear length": slice(128, 136),
    "member": slice(HEADER_BYTES, HEADER_BYTES + 2), "upload id": slice(HEADER_BYTES + 2, HEADER_BYTES + 18),
    "seed": slice(HEADER_BYTES + 18, HEADER_BYTES + ENTRY_BYTES),
}  # fmt: skip
"""Where names and numbers lie in a blob's header and in its first entry (docs/specification.md)."""
Random = np.random.Generator


def redigested(data: bytes) -> bytes:
    """The same blob under a digest that fits, as everybody can make it."""
    body = data[: DIGEST.start] + data[DIGEST.stop :]
    return data[: DIGEST.start] + hashlib.sha256(body).digest() + data[DIGEST.stop :]


def _bits(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    out = bytearray(blob)
    places = (random.integers(len(out)), random.integers(min(len(out), HEADER_BYTES + 200)))
    for _ in range(random.integers(1, 7)):
        out[random.choice(places) if random.random() < 0.5 else random.integers(len(out))] ^= 1 << random.integers(8)
    return bytes(out)


def _cut(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    return blob[: random.integers(len(blob))]


def _longer(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    return blob + random.bytes(int(random.integers(1, 60)))


def _swap(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    """Two stretches of it in each other's place."""
    length = int(random.integers(1, 40))
    first, second = sorted(int(v) for v in random.integers(0, len(blob) - 2 * length, 2))
    second += length
    return b"".join([
        blob[:first], blob[second : second + length], blob[first + length : second], blob[first : first + length],
        blob[second + length :],
    ])  # fmt: skip


def _splice(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    at = int(random.integers(len(blob)))
    return blob[:at] + others[random.integers(len(others))][at:]


def _replay(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    """Another one, as it was, or with this one's header."""
    other = others[random.integers(len(others))]
    return other if random.random() < 0.5 else blob[:HEADER_BYTES] + other[HEADER_BYTES:]


def _foreign(random: Random, blob: bytes, others: Sequence[bytes]) -> bytes:
    """A name or number of somebody else's, or of nobody's, in place of the right one."""
    place = IDS[str(random.choice(list(IDS)))]
    size = place.stop - place.start
    other = others[random.integers(len(others))][place] if random.random() < 0.3 else random.bytes(size)
    if size <= 8 and random.random() < 0.5:
        other = int(random.integers(0, 8)).to_bytes(size, "little")
    return blob[: place.start] + other + blob[place.stop :]


WAYS: Mapping[str, Callable[[Random, bytes, Sequence[bytes]], bytes]] = {
    "bits": _bits, "cut": _cut, "longer": _longer, "swap": _swap, "splice": _splice, "replay": _replay, "foreign": _foreign,
}  # fmt: skip


def damaged(random: Random, blob: bytes, others: Sequence[bytes], count: int) -> Iterator[tuple[str, bytes]]:
    """`count` blobs that are not `blob`, and the way that each was damaged; every other one under a digest that fits.

    Args:
        random: where it is drawn from.
        blob: what is damaged.
        others: other blobs, of other makers or rounds, as long or longer than a header.
        count: number of blobs.
    """
    made = 0
    while made < count:
        way = str(random.choice(list(WAYS)))
        out = WAYS[way](random, blob, others)
        if len(out) > HEADER_BYTES and random.random() < 0.5:
            way, out = f"{way}, digest fits", redigested(out)
        if out != blob:
            made += 1
            yield way, out
