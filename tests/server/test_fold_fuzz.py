"""Whatever arrives, a Fold raises an error of our tree and the sum of the others still opens to the integer."""

from __future__ import annotations

import faulthandler
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adding import ckks_adder
from common.errors import (
    CorruptError,
    DictPFLError,
    DuplicateError,
    OversizedError,
    TruncatedError,
    WireError,
    WrongFederationError,
    WrongKeyError,
    WrongRoundError,
)
from common.keys import FederationKey, make_key
from common.opening import CKKSOpener
from common.packing import Ints
from common.parameters import CKKSParameters
from common.protocol import RoundKind
from common.sealing import CKKSSealer
from common.seeded import SEED_LENGTH
from common.settings import Encryption
from common.wire import AGGREGATE, HEADER_BYTES, UPLOAD, Blob, Header, Limits, write
from server.agreement import Agreement
from server.folding import Fold

FEDERATION, TAG, ROUND = b"f" * 32, b"t" * 32, 4
COMPONENTS = 5_000
BODY_AT = 26
CONSTANT = 123
"""Bytes of an item before its coefficients: SEAL's and zstd's framing, members, the nested array's header."""


@dataclass
class World:
    """A federation of three with real uploads, made once."""

    key: FederationKey
    agreement: Agreement
    vectors: list[Ints]
    blobs: list[bytes]
    opener: CKKSOpener

    def fold(self) -> Fold:
        return Fold(self.agreement, RoundKind.UPDATE, ROUND)

    def sealed(self, vector: Ints, **header: object) -> bytes:
        made = Header(UPLOAD, RoundKind.UPDATE, ROUND, FEDERATION, self.key.fingerprint, TAG, os.urandom(16))
        return write(replace(made, **header), CKKSSealer(self.key).seal(vector))  # type: ignore[arg-type]

    def require_sum(self, fold: Fold, whose: list[int]) -> None:
        blob, counted, items = fold.aggregate()
        limits = sums(self.agreement)
        parsed = Blob.parse(blob, limits, direction=AGGREGATE, kind=RoundKind.UPDATE, round=ROUND)
        assert parsed.header.contributors == len(whose) == len(counted) == fold.count
        assert items == 2
        opened = self.opener.open(parsed.sealed, parsed.header.item_length)
        assert (opened[:COMPONENTS] == sum(self.vectors[n] for n in whose)).all()


def sums(agreement: Agreement) -> Limits:
    """What an aggregate may be, as `Genesis.aggregates` says it."""
    return replace(agreement.uploads, item_length=agreement.sum_length, seed_length=SEED_LENGTH)


def made() -> World:
    parameters = CKKSParameters.choose(Encryption(), 3)
    key = make_key(parameters)
    rng = np.random.default_rng(0)
    vectors = [rng.integers(-(2**41), 2**41, COMPONENTS) for _ in range(3)]
    item = next(iter(CKKSSealer(key).seal(vectors[0])))
    adder = ckks_adder(parameters)
    adder.add(adder.load(memoryview(item), len(item)))
    limits = Limits(FEDERATION, key.fingerprint, len(item), 3, 0, 3)
    agreement = Agreement(parameters, True, limits, len(adder.total()[0]), 5, 0, 3, 60.0)
    world = World(key, agreement, vectors, [], CKKSOpener(key))
    world.blobs = [world.sealed(vector) for vector in vectors]
    return world


WORLD = made()


def redigested(data: bytes) -> bytes:
    return data[:148] + hashlib.sha256(data[:148] + data[HEADER_BYTES:]).digest() + data[180:]


def test_the_sum_of_three() -> None:
    for order in ([0, 1, 2], [2, 0, 1]):
        fold = WORLD.fold()
        for n in order:
            fold.add(n, WORLD.blobs[n])
        WORLD.require_sum(fold, [0, 1, 2])
        assert fold.drifted() == []


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"round": ROUND - 1}, WrongRoundError), ({"round": ROUND + 1}, WrongRoundError),
        ({"federation": b"g" * 32}, WrongFederationError), ({"fingerprint": b"x" * 32}, WrongKeyError),
        ({"contributors": 2}, OversizedError), ({"kind": RoundKind.SCORE}, WireError), ({"direction": AGGREGATE}, WireError),
    ],
    ids=str,
)  # fmt: skip
def test_what_belongs_elsewhere_is_not_folded(header: dict[str, object], error: type[WireError]) -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    with pytest.raises(error):
        fold.add(1, WORLD.sealed(WORLD.vectors[1], **header))
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


def test_twice_the_same_is_folded_once() -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    for node, blob in ((0, WORLD.blobs[0]), (1, WORLD.blobs[0]), (0, WORLD.blobs[1])):
        with pytest.raises(DuplicateError):
            fold.add(node, blob)
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


def test_a_fourth_does_not_fit_the_digits() -> None:
    fold = WORLD.fold()
    for n in range(3):
        fold.add(n, WORLD.blobs[n])
    with pytest.raises(OversizedError):
        fold.add(3, WORLD.sealed(WORLD.vectors[0]))
    WORLD.require_sum(fold, [0, 1, 2])


def test_another_plan_is_not_folded() -> None:
    fold = WORLD.fold()
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    fold.add(2, WORLD.sealed(np.zeros(100, np.int64)))
    with pytest.raises(OversizedError):
        fold.add(3, WORLD.sealed(np.zeros(20_000, np.int64)))
    assert fold.drifted() == [2]
    WORLD.require_sum(fold, [0, 1])


def test_neither_section_is_added_when_the_clear_one_is_refused() -> None:
    """In a federation that sends a part in clear: the ciphertexts load, the clear sum leaves int32, nothing is folded."""
    limits = replace(WORLD.agreement.uploads, max_clear=8)
    fold = Fold(replace(WORLD.agreement, uploads=limits), RoundKind.UPDATE, ROUND)

    def with_clear(n: int, value: int) -> bytes:
        header = Header(UPLOAD, RoundKind.UPDATE, ROUND, FEDERATION, WORLD.key.fingerprint, TAG, os.urandom(16))
        sealed = CKKSSealer(WORLD.key).seal(WORLD.vectors[n])
        return write(header, sealed, np.array([value, -value], "<i4").tobytes())

    fold.add(0, with_clear(0, 2**31 - 1))
    with pytest.raises(CorruptError, match="integer range"):
        fold.add(1, with_clear(1, 1))
    assert fold.count == 1
    fold.add(1, with_clear(1, -5))
    blob, counted, _ = fold.aggregate()
    aggregates = replace(sums(WORLD.agreement), max_clear=limits.max_clear)
    parsed = Blob.parse(blob, aggregates, direction=AGGREGATE, kind=RoundKind.UPDATE, round=ROUND)
    assert np.frombuffer(parsed.clear, "<i4").tolist() == [2**31 - 6, 6 - 2**31]
    opened = WORLD.opener.open(parsed.sealed, parsed.header.item_length)
    assert (opened[:COMPONENTS] == WORLD.vectors[0] + WORLD.vectors[1]).all()
    assert len(counted) == 2


def test_one_with_another_plan_spoils_nothing_even_if_first() -> None:
    fold = WORLD.fold()
    fold.add(9, WORLD.sealed(np.zeros(100, np.int64)))
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    assert fold.drifted() == [9]
    WORLD.require_sum(fold, [0, 1])


def test_who_drifted_is_kept_apart_whoever_comes_first() -> None:
    fold = WORLD.fold()
    fold.add(9, WORLD.sealed(WORLD.vectors[2], tag=b"d" * 32))
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    assert fold.drifted() == [9]
    WORLD.require_sum(fold, [0, 1])


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, type[DictPFLError]]:
    """A mutation without the attacker's care for the digest, and what it must raise at least."""
    blob = WORLD.blobs[1]
    way = draw(st.sampled_from(["cut", "flip", "flips", "longer", "noise", "splice", "swap"]))
    if way == "cut":
        return blob[: draw(st.integers(0, len(blob) - 1))], WireError
    if way in ("flip", "flips"):
        raw = bytearray(blob)
        # The reserved bytes are a case of their own (tests/common/test_wire.py).
        places = st.one_of(
            st.integers(0, 179), st.integers(HEADER_BYTES, len(blob) - 1), st.integers(HEADER_BYTES, HEADER_BYTES + 200)
        )
        for at in draw(st.sets(places, min_size=1, max_size=1 if way == "flip" else 6)):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(raw), WireError
    if way == "longer":
        return blob + draw(st.binary(min_size=1, max_size=40)), OversizedError
    if way == "noise":
        return draw(st.sampled_from([b"", b"DICTPFL\0"])) + draw(st.binary(max_size=300)), WireError
    if way == "splice":
        at = draw(st.integers(HEADER_BYTES, len(blob) - 1))
        return blob[:at] + WORLD.blobs[2][at:], CorruptError
    length = WORLD.agreement.uploads.item_length
    first, second = blob[HEADER_BYTES : HEADER_BYTES + length], blob[HEADER_BYTES + length :]
    return blob[:HEADER_BYTES] + second + first, CorruptError


@settings(max_examples=1_500)
@given(damaged())
def test_damage_is_named_and_not_folded(case: tuple[bytes, type[DictPFLError]]) -> None:
    data, error = case
    fold = SHARED_FOLD
    with pytest.raises(error):
        fold.add(1, data)
    assert fold.count == 1
    assert fold.drifted() == []


SHARED_FOLD = WORLD.fold()
SHARED_FOLD.add(0, WORLD.blobs[0])


def test_after_all_that_damage_the_sum_still_opens() -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    rng = np.random.default_rng(7)
    for _ in range(200):
        raw = bytearray(WORLD.blobs[1])
        raw[int(rng.integers(HEADER_BYTES, len(raw)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptError):
            fold.add(1, bytes(raw))
        with pytest.raises(TruncatedError):
            fold.add(1, WORLD.blobs[1][: int(rng.integers(HEADER_BYTES, len(raw)))])
    fold.add(1, WORLD.blobs[1])
    fold.add(2, WORLD.blobs[2])
    WORLD.require_sum(fold, [0, 1, 2])


FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the child only computes


def in_child(datas: list[bytes]) -> Iterator[str]:
    """What Fold.add says to each, from a child process: some bytes make SEAL abort whoever parses them."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            faulthandler.disable()  # pytest's would print the expected abort
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            for data in datas:
                fold = WORLD.fold()
                fold.add(0, WORLD.blobs[0])
                try:
                    fold.add(1, data)
                    word = "accepted"
                except DictPFLError as error:
                    word = type(error).__name__
                except BaseException as error:  # noqa: BLE001 -- the finding
                    word = f"escaped {type(error).__name__}"
                if fold.count != (2 if word == "accepted" else 1):
                    word += " but counted wrongly"
                os.write(said.fileno(), f"{word}\n".encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        yield from said.read().decode().splitlines()
        if not os.WIFEXITED(status):
            yield "died"


def forged(at: list[tuple[int, int]], item: int = 0) -> bytes:
    """Bits of one ciphertext flipped, digest made to fit."""
    raw = bytearray(WORLD.blobs[1])
    start = HEADER_BYTES + item * WORLD.agreement.uploads.item_length
    for place, bit in at:
        raw[start + place] ^= 1 << bit
    return redigested(bytes(raw))


@FORKS
def test_coefficients_altered_with_a_fitting_digest() -> None:
    """A valid ciphertext of something else, or none: nothing in between, and nobody dies."""
    rng = np.random.default_rng(3)
    length = WORLD.agreement.uploads.item_length
    cases = [
        forged([(int(rng.integers(CONSTANT, length)), int(rng.integers(8)))], int(rng.integers(2))) for _ in range(400)
    ]
    words = list(in_child(cases))
    assert len(words) == len(cases)
    assert set(words) == {"accepted", "CorruptError"}


def test_the_second_ciphertext_is_bad_and_the_first_is_not_added() -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    # The top byte of a coefficient of the second item: not below the prime.
    with pytest.raises(CorruptError):
        fold.add(1, forged([(CONSTANT + 7, 7)], item=1))
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


@FORKS
def test_framing_altered_with_a_fitting_digest() -> None:
    cases = [forged([(8, 7), (104, 1)]), forged([(59, 1)])]
    cases += [forged([(place, bit)]) for place in range(CONSTANT) for bit in range(8)]
    words = list(in_child(cases))
    assert len(words) == len(cases)
    assert set(words) == {"CorruptError"}


@pytest.mark.parametrize("scale", [2.0**7, 2.0**9, -(2.0**8), float("nan")])
def test_another_scale(scale: float) -> None:
    raw = bytearray(WORLD.blobs[1])
    at = HEADER_BYTES + BODY_AT + 57
    assert struct.unpack_from("<d", raw, at) == (2.0**8,)
    struct.pack_into("<d", raw, at, scale)
    fold = WORLD.fold()
    with pytest.raises(CorruptError):
        fold.add(0, redigested(bytes(raw)))
    assert fold.count == 0
