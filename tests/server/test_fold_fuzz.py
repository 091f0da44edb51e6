"""Whatever arrives, a Fold raises an error of our tree and the sum of the others still opens to the integer."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.errors import CorruptError, DictPFLError, WireError
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.manifest import Manifest
from dictpfl.common.messages.masks import SEALED_SHARE, Note, Partner
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import (
    AGGREGATE,
    ENTRY_BYTES,
    HEADER_BYTES,
    UPLOAD,
    Blob,
    Entry,
    Header,
    Limits,
    write,
)
from dictpfl.common.protection import Encryption
from dictpfl.common.words import pack_words, unpack_words
from dictpfl.server.agreement import Agreement
from dictpfl.server.folding import Fold

FEDERATION, TAG, ROUND, ATTEMPT = b"f" * 32, b"t" * 32, 4, 2
COMPONENTS = 5_000
WORDS_AT = HEADER_BYTES + ENTRY_BYTES


@dataclass
class World:
    """A federation of three with real uploads, made once."""

    key: FederationKey
    agreement: Agreement
    vectors: list[Ints]
    blobs: list[bytes]
    opener: CKKSOpener

    def fold(self) -> Fold:
        return Fold(self.agreement, RoundKind.UPDATE, ROUND, ATTEMPT)

    def sealed(
        self, vector: Ints, member: int = 0, upload_id: bytes = b"", clear: bytes = b"", **header: object
    ) -> bytes:
        """An upload; its tags are made up, since the coordinator cannot check them."""
        made = Header(UPLOAD, RoundKind.UPDATE, ROUND, ATTEMPT, FEDERATION, self.key.fingerprint, TAG)
        sealed = CKKSSealer(self.key).seal(vector)
        words = np.append(sealed.words, np.arange(TAGS, dtype=np.uint64))
        entry = Entry(member, upload_id or os.urandom(16), sealed.seed)
        return write(replace(made, **header), [entry], words, self.agreement.uploads.word_bits, clear)  # type: ignore[arg-type]

    def require_sum(self, fold: Fold, whose: list[int]) -> None:
        blob, counted, ciphertexts = fold.aggregate()
        parsed = Blob.parse(blob, self.agreement.uploads, direction=AGGREGATE, kind=RoundKind.UPDATE, round=ROUND)
        assert parsed.header.contributors == len(whose) == len(counted) == fold.count
        assert parsed.header.attempt == ATTEMPT
        assert ciphertexts == 2
        assert [entry.member for entry in parsed.entries] == sorted(whose)
        assert sorted(parsed.counted) == list(counted)
        assert parsed.words()[-TAGS:].tolist() == [len(whose) * i for i in range(TAGS)], (
            "tags are added as all words are"
        )
        assert (self.opened(parsed) == sum(self.vectors[n] for n in whose)).all()

    def opened(self, parsed: Blob) -> Ints:
        seeds = [entry.seed for entry in parsed.entries]
        return self.opener.open(parsed.words()[:-TAGS], seeds, COMPONENTS)


def made() -> World:
    parameters = CKKSParameters.choose(Encryption(), 3)
    key = make_key(parameters)
    rng = np.random.default_rng(0)
    most = 2 ** (parameters.payload_bits - 1) // 3
    vectors = [rng.integers(-most, most, COMPONENTS) for _ in range(3)]
    limits = Limits(FEDERATION, key.fingerprint, parameters.word_bits, parameters.words(3 * 4092), 0, 3)
    agreement = Agreement(parameters, True, limits, 5, 0, 3, 60.0, ())
    world = World(key, agreement, vectors, [], CKKSOpener(key))
    world.blobs = [world.sealed(vector, member) for member, vector in enumerate(vectors)]
    return world


WORLD = made()


def redigested(data: bytes) -> bytes:
    at = HEADER_BYTES - 32
    return data[:at] + hashlib.sha256(data[:at] + data[HEADER_BYTES:]).digest() + data[HEADER_BYTES:]


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
        ({"round": ROUND - 1}, (WireError, "wrong-round")),
        ({"round": ROUND + 1}, (WireError, "wrong-round")),
        ({"federation": b"g" * 32}, (WireError, "wrong-federation")),
        ({"fingerprint": b"x" * 32}, (WireError, "wrong-key")),
        ({"attempt": ATTEMPT - 1}, (WireError, "wrong-round")),
        ({"attempt": ATTEMPT + 1}, (WireError, "wrong-round")),
        ({"kind": RoundKind.SCORE}, (WireError, "wrong-kind")),
        ({"direction": AGGREGATE}, (WireError, "wrong-kind")),
    ],
    ids=str,
)
def test_what_belongs_elsewhere_is_not_folded(header: dict[str, object], error: tuple[type[WireError], str]) -> None:
    kind, code = error
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    with pytest.raises(kind, check=lambda e: e.code == code):
        fold.add(1, WORLD.sealed(WORLD.vectors[1], 1, **header))
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


def test_several_uploads_in_one_blob_are_not_folded() -> None:
    """The coordinator adds up by itself: what comes as an upload is of one institution."""
    raw = bytearray(WORLD.blobs[1])
    raw[HEADER_BYTES - 48 : HEADER_BYTES - 44] = (2).to_bytes(4, "little")
    fold = WORLD.fold()
    with pytest.raises(WireError, check=lambda e: e.code == "oversized"):
        fold.add(1, redigested(bytes(raw)))
    assert fold.count == 0


def test_one_member_is_counted_once_whatever_its_uploads_are_called() -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    with pytest.raises(WireError, check=lambda e: e.code == "duplicate"):
        fold.add(1, WORLD.sealed(WORLD.vectors[0], 0))
    mark = Blob.own(WORLD.blobs[0], WORLD.agreement.uploads.word_bits).counted[0][:8]
    with pytest.raises(WireError, check=lambda e: e.code == "duplicate"):
        fold.add(1, WORLD.sealed(WORLD.vectors[1], 1, mark + b"anything"))
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


def test_an_id_that_another_member_had_in_an_earlier_attempt_is_not_folded() -> None:
    (upload,) = Blob.own(WORLD.blobs[0], WORLD.agreement.uploads.word_bits).counted
    fold = Fold(WORLD.agreement, RoundKind.UPDATE, ROUND, ATTEMPT, {upload: 0})
    for taken in (upload, upload[:8] + b"anything"):
        with pytest.raises(
            WireError, match="member 1 under an id that member 0's had", check=lambda e: e.code == "duplicate"
        ):
            fold.add(1, WORLD.sealed(WORLD.vectors[1], 1, taken))
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    WORLD.require_sum(fold, [0, 1])


def test_twice_the_same_is_folded_once() -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    for node, blob in ((0, WORLD.blobs[0]), (1, WORLD.blobs[0]), (0, WORLD.blobs[1])):
        with pytest.raises(WireError, check=lambda e: e.code == "duplicate"):
            fold.add(node, blob)
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


KEYS = [Ed25519PrivateKey.generate() for _ in range(3)]
PARTNER = Partner(bytes(16), bytes(SEALED_SHARE))


def note(attempt: int = ATTEMPT, member: int = 0, partner: int = 1) -> bytes:
    return Note(attempt, member, bytes(16), {partner: PARTNER}).to_bytes()


def signed(upload: bytes, key: Ed25519PrivateKey = KEYS[0], **changes: object) -> bytes:
    return replace(Manifest.of(upload), **changes).signed(key).to_bytes()  # type: ignore[arg-type]


BESIDE = {
    "no note": (WORLD.blobs[0], b"", signed(WORLD.blobs[0])),
    "a note for another attempt": (WORLD.blobs[0], note(attempt=ATTEMPT + 1), signed(WORLD.blobs[0])),
    "a note of another member": (WORLD.blobs[0], note(member=2), signed(WORLD.blobs[0])),
    "a note on a partner who is nobody": (WORLD.blobs[0], note(partner=3), signed(WORLD.blobs[0])),
    "a note with more behind it": (WORLD.blobs[0], note() + b"x", signed(WORLD.blobs[0])),
    "no manifest": (WORLD.blobs[0], note(), b""),
    "a manifest of another upload": (WORLD.blobs[0], note(), signed(WORLD.blobs[1], KEYS[1])),
    "a manifest for another round": (WORLD.blobs[0], note(), signed(WORLD.blobs[0], round=ROUND + 1)),
    "a manifest that another member has signed": (WORLD.blobs[0], note(), signed(WORLD.blobs[0], KEYS[1])),
    "a manifest of an upload of nobody": (
        nobodys := WORLD.sealed(WORLD.vectors[0], 3),
        note(member=3),
        signed(nobodys),
    ),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_comes_beside_an_upload_has_to_be_its_own(what: str) -> None:
    """With masks and manifests: nothing is folded, and the honest ones still are."""
    keys = tuple(key.public_key().public_bytes_raw().hex() for key in KEYS)
    agreement = replace(WORLD.agreement, masks=True, signers=keys, members=("berlin", "kyoto", "oslo"))
    fold = Fold(agreement, RoundKind.UPDATE, ROUND, ATTEMPT)
    with pytest.raises(WireError):
        fold.add(0, *BESIDE[what])
    for member, upload in enumerate(WORLD.blobs):
        fold.add(member, upload, note(member=member, partner=(member + 1) % 3), signed(upload, KEYS[member]))
    WORLD.require_sum(fold, [0, 1, 2])


def test_a_fourth_does_not_fit_the_digits() -> None:
    fold = WORLD.fold()
    for n in range(3):
        fold.add(n, WORLD.blobs[n])
    with pytest.raises(WireError, check=lambda e: e.code == "oversized"):
        fold.add(3, WORLD.sealed(WORLD.vectors[0], 3))
    WORLD.require_sum(fold, [0, 1, 2])


def test_another_plan_is_not_folded() -> None:
    fold = WORLD.fold()
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    fold.add(2, WORLD.sealed(np.zeros(100, np.int64), 2))
    with pytest.raises(WireError, check=lambda e: e.code == "oversized"):
        fold.add(3, WORLD.sealed(np.zeros(20_000, np.int64), 3))
    assert fold.drifted() == [2]
    WORLD.require_sum(fold, [0, 1])


def test_neither_section_is_added_when_the_clear_one_is_refused() -> None:
    """In a federation that sends a part in clear: the ciphertexts load, the clear sum leaves int32, nothing is folded."""
    limits = replace(WORLD.agreement.uploads, max_clear=8)
    fold = Fold(replace(WORLD.agreement, uploads=limits), RoundKind.UPDATE, ROUND, ATTEMPT)

    def with_clear(n: int, value: int) -> bytes:
        return WORLD.sealed(WORLD.vectors[n], n, clear=np.array([value, -value], "<i4").tobytes())

    fold.add(0, with_clear(0, 2**31 - 1))
    with pytest.raises(CorruptError, match="integer range"):
        fold.add(1, with_clear(1, 1))
    assert fold.count == 1
    fold.add(1, with_clear(1, -5))
    blob, counted, _ = fold.aggregate()
    parsed = Blob.parse(blob, limits, direction=AGGREGATE, kind=RoundKind.UPDATE, round=ROUND)
    assert np.frombuffer(parsed.clear, "<i4").tolist() == [2**31 - 6, 6 - 2**31]
    assert (WORLD.opened(parsed) == WORLD.vectors[0] + WORLD.vectors[1]).all()
    assert len(counted) == 2


def test_one_with_another_plan_spoils_nothing_even_if_first() -> None:
    fold = WORLD.fold()
    fold.add(9, WORLD.sealed(np.zeros(100, np.int64), 9))
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    assert fold.drifted() == [9]
    WORLD.require_sum(fold, [0, 1])


def test_who_drifted_is_kept_apart_whoever_comes_first() -> None:
    fold = WORLD.fold()
    fold.add(9, WORLD.sealed(WORLD.vectors[2], 9, state_tag=b"d" * 32))
    for n in (0, 1):
        fold.add(n, WORLD.blobs[n])
    assert fold.drifted() == [9]
    WORLD.require_sum(fold, [0, 1])


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, tuple[type[DictPFLError], str]]:
    """A mutation without the attacker's care for the digest, and what it must raise at least."""
    blob = WORLD.blobs[1]
    way = draw(st.sampled_from(["cut", "flip", "flips", "longer", "noise", "splice", "swap"]))
    if way == "cut":
        return blob[: draw(st.integers(0, len(blob) - 1))], (WireError, "")
    if way in ("flip", "flips"):
        raw = bytearray(blob)
        places = st.one_of(
            st.integers(0, HEADER_BYTES - 1),
            st.integers(HEADER_BYTES, len(blob) - 1),
            st.integers(HEADER_BYTES, HEADER_BYTES + 200),
        )
        for at in draw(st.sets(places, min_size=1, max_size=1 if way == "flip" else 6)):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(raw), (WireError, "")
    if way == "longer":
        return blob + draw(st.binary(min_size=1, max_size=40)), (WireError, "oversized")
    if way == "noise":
        return draw(st.sampled_from([b"", b"DICTPFL\0"])) + draw(st.binary(max_size=300)), (WireError, "")
    if way == "splice":
        at = draw(st.integers(HEADER_BYTES, len(blob) - 1))
        spliced = blob[:at] + WORLD.blobs[2][at:]
        assume(spliced != blob)  # the last bytes may be alike
        return spliced, (CorruptError, "corrupt")
    at = draw(st.integers(WORDS_AT + 1, len(blob) - 1))
    return blob[:WORDS_AT] + blob[at:] + blob[WORDS_AT:at], (CorruptError, "corrupt")


@settings(max_examples=1_500)
@given(damaged())
def test_damage_is_named_and_not_folded(case: tuple[bytes, tuple[type[DictPFLError], str]]) -> None:
    data, (error, code) = case
    fold = SHARED_FOLD
    with pytest.raises(error, check=lambda e: code in ("", e.code)):
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
        with pytest.raises(WireError, check=lambda e: e.code == "truncated"):
            fold.add(1, WORLD.blobs[1][: int(rng.integers(HEADER_BYTES, len(raw)))])
    fold.add(1, WORLD.blobs[1])
    fold.add(2, WORLD.blobs[2])
    WORLD.require_sum(fold, [0, 1, 2])


def said(data: bytes) -> str:
    """What becomes of an upload beside another one: counted, kept apart, or refused, and by which error."""
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    try:
        fold.add(1, data)
    except DictPFLError as error:
        assert fold.count == 1
        assert fold.drifted() == []
        return type(error).__name__
    assert (fold.count, len(fold.drifted())) in ((2, 0), (1, 1))
    return "counted" if fold.count == 2 else "kept apart"


def flipped(place: int, bit: int) -> bytes:
    """A bit flipped, and the digest made to fit."""
    raw = bytearray(WORLD.blobs[1])
    raw[place] ^= 1 << bit
    return redigested(bytes(raw))


def with_word(place: int, value: int) -> bytes:
    """A word put in another's place, and the digest made to fit."""
    bits = WORLD.agreement.uploads.word_bits
    words = unpack_words(WORLD.blobs[1][WORDS_AT:], words_of(WORLD.blobs[1]), bits)
    words[place] = value
    return redigested(WORLD.blobs[1][:WORDS_AT] + pack_words(words, bits))


def words_of(data: bytes) -> int:
    return Blob.own(data, WORLD.agreement.uploads.word_bits).header.words


def test_words_altered_with_a_fitting_digest() -> None:
    """An upload of something else, or none: nothing in between. Whether it is the maker's, tags tell institutions."""
    rng = np.random.default_rng(3)
    size = len(WORLD.blobs[1])
    assert {said(flipped(int(rng.integers(WORDS_AT, size)), int(rng.integers(8)))) for _ in range(400)} == {"counted"}


def test_a_word_that_is_no_residue_is_refused_wherever_it_is() -> None:
    prime, count = WORLD.agreement.parameters.word_prime, words_of(WORLD.blobs[1])
    for place in (0, 1, 4095, 4096, count - TAGS, count - 1):
        assert said(with_word(place, prime - 1)) == "counted"
        for value in (prime, prime + 1, (1 << WORLD.agreement.uploads.word_bits) - 1):
            assert said(with_word(place, value)) == "CorruptError"


def test_a_word_of_the_second_ciphertext_is_bad_and_the_first_is_not_added() -> None:
    fold = WORLD.fold()
    fold.add(0, WORLD.blobs[0])
    with pytest.raises(CorruptError):
        fold.add(1, with_word(4500, WORLD.agreement.parameters.word_prime))
    fold.add(1, WORLD.blobs[1])
    WORLD.require_sum(fold, [0, 1])


def test_bits_beyond_the_last_word() -> None:
    """Of a number of words whose bits fill no byte; words of whole bytes leave none."""
    data = WORLD.sealed(WORLD.vectors[1], 1)
    bits = WORLD.agreement.uploads.word_bits
    spare = -words_of(data) * bits % 8
    for bit in range(8 - spare, 8):
        raw = bytearray(data)
        raw[-1] ^= 1 << bit
        assert said(redigested(bytes(raw))) == "CorruptError"


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 24, {"WireError"}),  # magic, protocol, direction, kind, round, attempt
        (24, 88, {"WireError"}),  # federation, fingerprint
        (88, 120, {"kept apart"}),  # another shared state
        (120, 136, {"WireError"}),  # contributors, words, clear bytes
        (HEADER_BYTES, HEADER_BYTES + 2, {"counted", "WireError"}),  # another member; that of the other upload is taken
        (HEADER_BYTES + 2, WORDS_AT, {"counted"}),  # upload id, seed
    ],
)
def test_each_bit_before_the_words_altered_with_a_fitting_digest(first: int, last: int, expected: set[str]) -> None:
    assert {said(flipped(place, bit)) for place in range(first, last) for bit in range(8)} == expected
