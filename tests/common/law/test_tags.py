"""Tags: they add up as words do, and pass for exactly the uploads that are named, as they were sent, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.law import tags
from dictpfl.common.law.tags import TAGS, RoundTags
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Entry, Header
from dictpfl.common.words import WORD_BITS, Words, word_prime
from tests.support import oracle

PRIME = word_prime(54)
SEED = b"s" * 32
HEADER = Header(UPLOAD, RoundKind.UPDATE, 7, 2, b"f" * 32, b"k" * 32, b"t" * 32)
KEY = RoundTags.of(SEED, HEADER, PRIME)
ENTRIES = [Entry(n, bytes([n + 1]) * 16, bytes([n + 9]) * 32) for n in range(4)]
SIZE = 60


def clear_of(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


# As the specification says it, by Python's integers


def slow(
    seed: bytes, header: Header, prime: int, words: Sequence[int], clear: Sequence[int], entry: Entry
) -> list[int]:
    context = (header.federation, header.fingerprint, str(header.kind), header.round, header.attempt, header.state_tag)
    key = oracle.stream(64, seed, "tag", *context)
    pads = oracle.stream(32, key, "upload", entry.member, entry.upload_id, hashlib.sha256(entry.seed).digest())
    made = []
    for i in range(2):
        stream = Cipher(AES(key[32 * i : 32 * i + 32]), CTR(bytes(16))).encryptor()
        total = int.from_bytes(pads[16 * i : 16 * i + 16], "little")
        for word in (*words, *clear):
            total += int.from_bytes(stream.update(bytes(8)), "little") * word
        made.append(total % prime)
    return made


@settings(max_examples=80)
@given(
    st.sampled_from(WORD_BITS), st.data(), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9),
    st.sampled_from(RoundKind), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_tags_are_what_python_computes(
    bits: int, data: st.DataObject, clear: list[int], kind: RoundKind, number: int, attempt: int
) -> None:
    prime = word_prime(bits)
    values = data.draw(st.lists(st.integers(0, prime - 1) | st.just(prime - 1), max_size=40))
    entry = Entry(
        *data.draw(
            st.tuples(st.integers(0, 65_535), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
        )
    )
    header = replace(HEADER, kind=kind, round=number, attempt=attempt)
    made = RoundTags.of(SEED, header, prime).made(np.array(values, np.uint64), clear_of(*clear), entry)
    assert made.dtype == np.uint64
    assert made.tolist() == slow(SEED, header, prime, values, clear, entry)


def test_long_uploads_do_not_overflow() -> None:
    """Longer than what is multiplied at once, of the largest words; the clear section begins within a piece."""
    size = tags._CHUNK + 1_001
    words, clear = np.full(size, PRIME - 1, dtype=np.uint64), [2**31 - 1, -(2**31)] * (tags._CHUNK // 2)
    assert KEY.made(words, clear_of(*clear), ENTRIES[0]).tolist() == slow(
        SEED, HEADER, PRIME, words.tolist(), clear, ENTRIES[0]
    )


# Sums


class Uploads:
    """Uploads of some members, each with its tags, and their sum as the coordinator makes it."""

    def __init__(self, count: int = 3, size: int = SIZE, clear: int = 4) -> None:
        random = np.random.default_rng(5)
        self.entries = [Entry(n, bytes([n % 251 + 1]) * 16, random.bytes(32)) for n in range(count)]
        self.words = [random.integers(0, PRIME, size, dtype=np.uint64) for _ in range(count)]
        self.clear = [random.integers(-1000, 1000, clear) for _ in range(count)]
        self.tags = [KEY.made(w, clear_of(*c), e) for w, c, e in zip(self.words, self.clear, self.entries, strict=True)]

    def sum(self, *chosen: int) -> tuple[Words, np.ndarray, Words]:
        """Words, clear integers and tags of the sum of some of them; all without being asked."""
        adder = WordSum(PRIME)
        for n in chosen or range(len(self.words)):
            adder.add(adder.load(np.concatenate([self.words[n], self.tags[n]])))
        whole = adder.total()
        clear = np.sum([self.clear[n] for n in chosen or range(len(self.words))], axis=0)
        return whole[:-TAGS], clear, whole[-TAGS:]

    def pass_as(self, total: tuple[Words, np.ndarray, Words], entries: Sequence[Entry] | None = None) -> bool:
        words, clear, given_tags = total
        return KEY.fit(words, clear_of(*clear), given_tags, self.entries if entries is None else entries)


MADE = Uploads()


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1_000])
def test_a_sum_of_what_is_named_passes(count: int) -> None:
    made = Uploads(count, size=20)
    assert made.pass_as(made.sum())
    assert made.pass_as(made.sum(), made.entries[::-1]), "in whatever order they are named"


def test_any_part_of_the_uploads_passes_as_itself_only() -> None:
    for chosen in ((0,), (1,), (0, 2), (0, 1, 2)):
        for named in ((0,), (1,), (0, 2), (0, 1, 2), ()):
            assert MADE.pass_as(MADE.sum(*chosen), [MADE.entries[n] for n in named]) is (chosen == named)


def bent(place: int, by: int) -> Callable[[], tuple[Words, np.ndarray, Words]]:
    def made() -> tuple[Words, np.ndarray, Words]:
        words, clear, given_tags = MADE.sum()
        words[place] = (int(words[place]) + by) % PRIME
        return words, clear, given_tags

    return made


def swapped() -> tuple[Words, np.ndarray, Words]:
    words, clear, given_tags = MADE.sum()
    words[[3, 40]] = words[[40, 3]]
    return words, clear, given_tags


def rotated() -> tuple[Words, np.ndarray, Words]:
    words, clear, given_tags = MADE.sum()
    return np.roll(words, 1), clear, given_tags


def shifted() -> tuple[Words, np.ndarray, Words]:
    """All words by one constant, as F1 moves the first polynomial."""
    words, clear, given_tags = MADE.sum()
    return (words + np.uint64(12_345)) % np.uint64(PRIME), clear, given_tags


def doubled() -> tuple[Words, np.ndarray, Words]:
    words, clear, given_tags = MADE.sum()
    return words * np.uint64(2) % np.uint64(PRIME), clear * 2, given_tags * np.uint64(2) % np.uint64(PRIME)


def in_clear(place: int, by: int) -> Callable[[], tuple[Words, np.ndarray, Words]]:
    def made() -> tuple[Words, np.ndarray, Words]:
        words, clear, given_tags = MADE.sum()
        clear[place] += by
        return words, clear, given_tags

    return made


def moved_into_clear() -> tuple[Words, np.ndarray, Words]:
    """The last word as the first clear integer: one stream of coefficients runs over both, lengths are the plan's."""
    words, clear, given_tags = MADE.sum()
    words[-1] = 5
    return words, np.append([5], clear[1:]), given_tags


def tag(place: int) -> Callable[[], tuple[Words, np.ndarray, Words]]:
    def made() -> tuple[Words, np.ndarray, Words]:
        words, clear, given_tags = MADE.sum()
        given_tags[place] = (int(given_tags[place]) + 1) % PRIME
        return words, clear, given_tags

    return made


ALTERED: dict[str, Callable[[], tuple[Words, np.ndarray, Words]]] = {
    "a word by one": bent(17, 1), "a word by minus one": bent(0, -1), "the last word": bent(SIZE - 1, 1),
    **{f"a word by {n} times 2^31 - 1": bent(17, n * (2**31 - 1)) for n in (1, 2, 2**20)},
    "a word by 2^32": bent(5, 2**32), "a word by 2^53": bent(5, 2**53),
    "two words exchanged": swapped, "all words moved by one place": rotated, "all words shifted": shifted,
    "everything doubled": doubled, "an upload dropped": lambda: MADE.sum(0, 1),
    "an upload twice in place of another": lambda: MADE.sum(0, 1, 1), "an upload twice": lambda: MADE.sum(0, 1, 2, 2),
    "a clear integer by one": in_clear(0, 1), "the last clear integer": in_clear(3, -1), "a clear integer by 2^20": in_clear(2, 2**20),
    "a word in clear": moved_into_clear, "the first tag": tag(0), "the second tag": tag(1),
    "nothing": lambda: (np.zeros(SIZE, np.uint64), np.zeros(4, np.int64), np.zeros(TAGS, np.uint64)),
}  # fmt: skip


@pytest.mark.parametrize("what", ALTERED)
def test_anything_else_does_not(what: str) -> None:
    assert not MADE.pass_as(ALTERED[what]())
    assert MADE.pass_as(MADE.sum()), "and nothing was altered here"


def test_a_constant_added_to_one_upload_before_it_was_tagged_is_that_upload() -> None:
    """What a member does before it makes its tags is the upload; a tag says who sent what, not what it should be."""
    made = Uploads()
    made.words[1] = (made.words[1] + np.uint64(9)) % np.uint64(PRIME)
    made.tags[1] = KEY.made(made.words[1], clear_of(*made.clear[1]), made.entries[1])
    assert made.pass_as(made.sum())


@pytest.mark.parametrize(
    "change", [{"member": 3}, {"upload_id": b"x" * 16}, {"seed": b"x" * 32}, {"seed": bytes(32)}], ids=str
)
@pytest.mark.parametrize("which", range(3))
def test_the_uploads_that_are_named_must_be_these(which: int, change: dict[str, object]) -> None:
    named = list(MADE.entries)
    named[which] = replace(named[which], **change)  # type: ignore[arg-type]
    assert not MADE.pass_as(MADE.sum(), named)


def test_what_belongs_to_two_uploads_cannot_be_exchanged() -> None:
    first, second, third = MADE.entries
    for field in ("member", "upload_id", "seed"):
        named = [
            replace(first, **{field: getattr(second, field)}),
            replace(second, **{field: getattr(first, field)}),
            third,
        ]
        assert not MADE.pass_as(MADE.sum(), named), field
    for named in ([*MADE.entries, ENTRIES[3]], [first, first, third], MADE.entries[:2], []):
        assert not MADE.pass_as(MADE.sum(), named)


@pytest.mark.parametrize(
    ("seed", "change"),
    [
        (SEED, {"round": 8}), (SEED, {"round": 6}), (SEED, {"kind": RoundKind.MEASURE}), (SEED, {"kind": RoundKind.SCORE}),
        (SEED, {"attempt": 3}), (SEED, {"attempt": 0}), (SEED, {"federation": b"g" * 32}), (SEED, {"fingerprint": b"l" * 32}),
        (SEED, {"state_tag": b"u" * 32}), (b"r" * 32, {}),
    ],
    ids=str,
)  # fmt: skip
def test_tags_of_another_round_federation_or_key_do_not_pass(seed: bytes, change: dict[str, object]) -> None:
    other = RoundTags.of(seed, replace(HEADER, **change), PRIME)  # type: ignore[arg-type]
    words, clear, given_tags = MADE.sum()
    assert KEY.fit(words, clear_of(*clear), given_tags, MADE.entries)
    assert not other.fit(words, clear_of(*clear), given_tags, MADE.entries)


def test_the_key_is_that_of_uploads_and_of_their_sum() -> None:
    total = replace(HEADER, direction=AGGREGATE, contributors=3, words=99, clear_length=12)
    assert RoundTags.of(SEED, total, PRIME) == KEY
    assert repr(KEY.key)[2:12] not in repr(KEY)
    assert KEY.key.hex()[:12] not in repr(KEY)


def test_two_rounds_share_no_coefficient() -> None:
    """With one, differences of tags of both would tell about it."""
    one, zero = Entry(0, bytes(16), bytes(32)), np.zeros(4, np.uint64)
    rows = []
    for number in (7, 8):
        key = RoundTags.of(SEED, replace(HEADER, round=number), PRIME)
        pads = key.made(zero, b"", one)
        for place in range(4):
            unit = zero.copy()
            unit[place] = 1
            rows += [(int(made) - int(pad)) % PRIME for made, pad in zip(key.made(unit, b"", one), pads, strict=True)]
    assert len(set(rows)) == 16


@settings(max_examples=100)
@given(st.data())
def test_no_sum_passes_but_that_of_the_named(data: st.DataObject) -> None:
    """Any number of uploads, any alteration of a word, a tag, a clear integer or an entry."""
    count = data.draw(st.integers(1, 5))
    made = Uploads(count, size=data.draw(st.integers(1, 9)), clear=data.draw(st.integers(0, 3)))
    words, clear, given_tags = made.sum()
    named = list(made.entries)
    assert made.pass_as((words, clear, given_tags), named)
    whole = np.concatenate([words, given_tags])
    place = data.draw(st.integers(0, whole.size + clear.size + count - 1))
    if place < whole.size:
        whole[place] = (int(whole[place]) + data.draw(st.integers(1, PRIME - 1))) % PRIME
    elif (place := place - whole.size) < clear.size:
        clear[place] += data.draw(st.integers(-(2**20), 2**20).filter(bool))
    else:
        entry = named[place - clear.size]
        byte = st.binary(min_size=16, max_size=16).filter(lambda raw: raw != entry.upload_id)
        named[place - clear.size] = replace(entry, upload_id=data.draw(byte))
    assert not made.pass_as((whole[:-TAGS], clear, whole[-TAGS:]), named)


def test_tags_look_random_to_who_has_no_key() -> None:
    """Of uploads of nothing but zeros, too: high and low bits of a thousand of them."""
    zeros = np.zeros(8, np.uint64)
    made = [KEY.made(zeros, b"", Entry(0, n.to_bytes(16, "little"), bytes(32))).tolist() for n in range(1_000)]
    for column in zip(*made, strict=True):
        assert len(set(column)) == 1_000
        for bit in (0, 1, 30, 52):
            ones = sum(value >> bit & 1 for value in column)
            assert abs(ones - 500) < 6.2 * np.sqrt(250)
