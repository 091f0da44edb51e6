"""The wire: golden bytes, a named error for every mutation, and nothing else whatever arrives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import CorruptError, WireError
from dictpfl.common.messages.protocol import PROTOCOL, RoundKind
from dictpfl.common.messages.wire import (
    AGGREGATE,
    ENTRY_BYTES,
    HEADER_BYTES,
    UPLOAD,
    Blob,
    Entry,
    Header,
    Limits,
    kind_number,
    read_entries,
    read_header,
    with_words,
    write,
)
from dictpfl.common.words import Words
from tests.support import ROOT
from tests.vectors import make_upload

VECTORS = ROOT / "tests" / "vectors"
FEDERATION, FINGERPRINT, TAG = b"f" * 32, b"k" * 32, b"t" * 32
BITS = 47
LIMITS = Limits(FEDERATION, FINGERPRINT, BITS, max_words=12, max_clear=16, max_contributors=3)
HEADER = Header(UPLOAD, RoundKind.UPDATE, 7, 3, FEDERATION, FINGERPRINT, TAG)
ENTRY = Entry(5, b"u" * 16, b"s" * 32)
# Where fields lie, written out once more and not taken from dictpfl.common.messages.wire.
FIELDS = {"magic": (0, 8), "version": (8, 2), "direction": (10, 1), "kind": (11, 1), "round": (12, 4), "attempt": (16, 8),
          "federation": (24, 32), "fingerprint": (56, 32), "tag": (88, 32), "contributors": (120, 4), "words": (124, 4),
          "clear_length": (128, 8), "digest": (136, 32)}  # fmt: skip
ENTRY_FIELDS = {"member": (168, 2), "upload_id": (170, 16), "seed": (186, 32)}


def words_of(*values: int) -> Words:
    return np.array(values, dtype=np.uint64)


def parse(data: bytes, limits: Limits = LIMITS, direction: int = UPLOAD) -> Blob:
    return Blob.parse(data, limits, direction=direction, kind=RoundKind.UPDATE, round=7)


def good(header: Header = HEADER, words: int = 9, clear: bytes = b"") -> bytes:
    """Nine words: 53 bytes, the last bit of which is beyond them."""
    return write(header, [ENTRY], words_of(*range(2**40, 2**40 + words)), BITS, clear)


def total(members: list[int]) -> bytes:
    """A sum as an attacker may write it: entries in the order given."""
    entries = [Entry(member, bytes([n + 1]) * 16, bytes([n]) * 32) for n, member in enumerate(members)]
    data = write(replace(HEADER, direction=AGGREGATE), entries, words_of(1, 2), BITS)
    listed = b"".join(
        member.to_bytes(2, "little") + e.upload_id + e.seed for member, e in zip(members, entries, strict=True)
    )
    return redigested(data[:HEADER_BYTES] + listed + data[HEADER_BYTES + len(listed) :])


def redigested(data: bytes) -> bytes:
    """As an attacker writes it: the digest fits whatever the rest says."""
    return data[:136] + hashlib.sha256(data[:136] + data[168:]).digest() + data[168:]


def put(data: bytes, field: str, value: int | bytes) -> bytes:
    at, size = (FIELDS | ENTRY_FIELDS)[field]
    raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
    return redigested(data[:at] + raw + data[at + size :])


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    bad = bytearray(data)
    bad[at] ^= 1 << bit
    return bytes(bad)


def test_golden_bytes() -> None:
    golden = (VECTORS / "upload.bin").read_bytes()
    assert make_upload.small() == golden
    assert (HEADER_BYTES, ENTRY_BYTES, PROTOCOL) == (168, 50, 4)
    at = {field: golden[start : start + size] for field, (start, size) in (FIELDS | ENTRY_FIELDS).items()}
    assert at["magic"] == b"DICTPFL\0"
    assert at["version"] + at["direction"] + at["kind"] + at["round"] == bytes.fromhex("0400 01 02 04030201")
    assert at["attempt"] == bytes.fromhex("0c0b0a0908070605")
    assert at["federation"] + at["fingerprint"] + at["tag"] == bytes(range(96))
    assert at["contributors"] + at["words"] + at["clear_length"] == bytes.fromhex("01000000 05000000 0300000000000000")
    assert at["member"] + at["upload_id"] + at["seed"] == bytes.fromhex("0e0d") + bytes(range(96, 144))
    assert at["digest"] == hashlib.sha256(golden[:136] + golden[168:]).digest()
    whole = sum(word << (45 * i) for i, word in enumerate(make_upload.WORDS))
    assert golden[218:] == whole.to_bytes(29, "little") + b"abc", "225 bits in 29 bytes, and what crosses in clear"
    limits = Limits(bytes(range(32)), bytes(range(32, 64)), 45, 5, 3, 1)
    blob = Blob.parse(golden, limits, direction=UPLOAD, kind=RoundKind.SCORE, round=0x01020304)
    assert blob.words().tolist() == make_upload.WORDS
    assert (bytes(blob.clear), blob.entries, blob.counted) == (b"abc", (make_upload.ENTRY,), (bytes(range(96, 112)),))


def test_golden_identity_upload() -> None:
    golden = json.loads((VECTORS / "upload.json").read_text(encoding="utf-8"))
    assert make_upload.identity() == golden
    # By Python's integers: nine thousand values as five planes of digits in radix R, the first of them.
    radix, count = golden["digits"]["radix"], -(-9_000 // golden["digits"]["per_component"])
    planes = [make_upload.VALUES[n * count : n * count + 4] for n in range(golden["digits"]["per_component"])]
    components = [sum(plane[i] * radix**n for n, plane in enumerate(planes)) for i in range(4)]
    assert golden["components"] == components
    assert golden["words"] == [component % golden["prime"] for component in components]
    bits = golden["parameters"]["word_bits"]
    assert golden["length"] == 168 + 50 + -(-(count + 2) * bits // 8)


@given(st.integers(1, 12), st.binary(max_size=16), st.integers(1, 3), st.data())
def test_written_and_parsed(count: int, clear: bytes, contributors: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 65_535), min_size=contributors, max_size=contributors, unique=True))
    entries = [
        Entry(n, data.draw(st.binary(min_size=16, max_size=16)), data.draw(st.binary(min_size=32, max_size=32)))
        for n in numbers
    ]
    values = data.draw(st.lists(st.integers(0, 2**BITS - 1), min_size=count, max_size=count))
    direction = AGGREGATE if contributors > 1 else UPLOAD
    header = replace(HEADER, direction=direction)
    written = write(header, entries, words_of(*values), BITS, clear)
    assert written == write(header, entries[::-1], words_of(*values), BITS, clear), "one encoding, however entries came"
    blob = parse(written, direction=direction)
    assert blob.header == replace(header, contributors=contributors, words=count, clear_length=len(clear))
    assert list(blob.entries) == sorted(entries, key=lambda entry: entry.member) == list(read_entries(written))
    assert blob.words().tolist() == values
    assert bytes(blob.clear) == clear
    assert read_header(written) == blob.header
    assert len(written) == HEADER_BYTES + contributors * ENTRY_BYTES + len(blob.packed) + len(clear)


def test_ones_own_blob_is_read_and_written_with_other_words() -> None:
    data = good(clear=b"abcd")
    blob = Blob.own(data, BITS)
    assert with_words(blob, blob.words()) == data
    other = Blob.own(with_words(blob, words_of(*range(9)), replace(blob.header, attempt=4)), BITS)
    assert (other.header, other.entries, bytes(other.clear)) == (replace(blob.header, attempt=4), blob.entries, b"abcd")
    assert other.words().tolist() == list(range(9))
    for at in (20, 140, 180, len(data) - 1):
        with pytest.raises(CorruptError):
            Blob.own(flipped(data, at), BITS)


MUTATIONS: dict[str, tuple[Callable[[bytes], bytes], tuple[type[WireError], str] | type[WireError]]] = {
    "empty": (lambda _: b"", (WireError, "not-a-blob")),
    "another magic": (lambda d: b"X" + d[1:], (WireError, "not-a-blob")),
    "half a magic": (lambda d: d[:5], (WireError, "not-a-blob")),
    "half a header": (lambda d: d[:100], (WireError, "truncated")),
    "a byte short": (lambda d: d[:-1], (WireError, "truncated")),
    "header only": (lambda d: d[:HEADER_BYTES], (WireError, "truncated")),
    "half an entry": (lambda d: d[: HEADER_BYTES + 20], (WireError, "truncated")),
    "a byte more": (lambda d: d + b"\0", (WireError, "oversized")),
    "two blobs": (lambda d: d + d, (WireError, "oversized")),
    "version 0": (lambda d: put(d, "version", 0), (WireError, "version")),
    "version 1": (lambda d: put(d, "version", 1), (WireError, "version")),
    "version 2": (lambda d: put(d, "version", 2), (WireError, "version")),
    "version 3": (lambda d: put(d, "version", 3), (WireError, "version")),
    "version 5": (lambda d: put(d, "version", 5), (WireError, "version")),
    "no kind": (lambda d: put(d, "kind", 0), (WireError, "wrong-kind")),
    "unknown kind": (lambda d: put(d, "kind", 9), (WireError, "wrong-kind")),
    "a score": (lambda d: put(d, "kind", 2), (WireError, "wrong-kind")),
    "an aggregate": (lambda d: put(d, "direction", AGGREGATE), (WireError, "wrong-kind")),
    "no direction": (lambda d: put(d, "direction", 77), (WireError, "wrong-kind")),
    "federation": (lambda d: put(d, "federation", b"g" * 32), (WireError, "wrong-federation")),
    "round before": (lambda d: put(d, "round", 6), (WireError, "wrong-round")),
    "round after": (lambda d: put(d, "round", 8), (WireError, "wrong-round")),
    "key": (lambda d: put(d, "fingerprint", b"l" * 32), (WireError, "wrong-key")),
    "nobody": (lambda d: put(d, "contributors", 0), (WireError, "oversized")),
    "two in an upload": (lambda d: put(d, "contributors", 2), (WireError, "oversized")),
    "2^32 uploads": (lambda d: put(d, "contributors", 2**32 - 1), (WireError, "oversized")),
    "no words": (lambda d: put(d, "words", 0), (WireError, "oversized")),
    "words": (lambda d: put(d, "words", 13), (WireError, "oversized")),
    "2^32 words": (lambda d: put(d, "words", 2**32 - 1), (WireError, "oversized")),
    "one word fewer": (lambda d: put(d, "words", 8), (WireError, "oversized")),
    "one word more": (lambda d: put(d, "words", 10), (WireError, "truncated")),
    "clear": (lambda d: put(d, "clear_length", 17), (WireError, "oversized")),
    "2^64 clear": (lambda d: put(d, "clear_length", 2**64 - 1), (WireError, "oversized")),
    "clear that is not there": (lambda d: put(d, "clear_length", 4), (WireError, "truncated")),
    "digest": (lambda d: flipped(d, 150), CorruptError),
    "attempt": (lambda d: flipped(d, 16), CorruptError),
    "tag": (lambda d: flipped(d, 90), CorruptError),
    "member": (lambda d: flipped(d, 168), CorruptError),
    "upload id": (lambda d: flipped(d, 170), CorruptError),
    "seed": (lambda d: flipped(d, 200), CorruptError),
    "content": (lambda d: flipped(d, len(d) - 2), CorruptError),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_has_its_own_error(name: str) -> None:
    mutate, expected = MUTATIONS[name]
    with pytest.raises(WireError) as caught:
        parse(mutate(good()))
    assert (caught.type, caught.value.code) == (expected if isinstance(expected, tuple) else (expected, expected.code))


def test_sums_name_each_member_once_and_in_order() -> None:
    assert [entry.member for entry in parse(total([0, 3, 65_535]), direction=AGGREGATE).entries] == [0, 3, 65_535]
    for members in ([1, 1], [2, 1], [0, 1, 1], [0, 2, 1], [5, 5, 5]):
        with pytest.raises(WireError, match="do not rise", check=lambda e: e.code == "duplicate"):
            parse(total(members), direction=AGGREGATE)
    with pytest.raises(WireError, check=lambda e: e.code == "oversized"):
        parse(total([0, 1, 2, 3]), direction=AGGREGATE)


@pytest.mark.parametrize(("entries", "words"), [([], 9), ([ENTRY], 0)], ids=["nobody", "no words"])
def test_an_empty_blob_of_the_right_length_is_refused(entries: list[Entry], words: int) -> None:
    data = write(HEADER, entries, words_of(*range(words)), BITS)
    with pytest.raises(WireError, match=r"expected (1|at least one)", check=lambda e: e.code == "oversized"):
        parse(data)


def test_a_list_that_ends_early_is_refused() -> None:
    data = total([0, 1, 2])
    assert len(read_entries(data)) == 3
    for end in (HEADER_BYTES, HEADER_BYTES + 149):
        with pytest.raises(WireError, check=lambda e: e.code == "truncated"):
            read_entries(data[:end])


def test_bits_beyond_the_last_word_are_refused_when_words_are_read() -> None:
    """A blob has one encoding only; the digest cannot say so, for who alters makes it anew."""
    data = redigested(flipped(good(), len(good()) - 1, 7))
    with pytest.raises(CorruptError, match="beyond the last word"):
        parse(data).words()


def test_kinds_have_numbers_of_their_own() -> None:
    assert [kind_number(kind) for kind in (RoundKind.UPDATE, RoundKind.SCORE, RoundKind.MEASURE)] == [1, 2, 3]


def test_a_message_names_no_more_than_it_must() -> None:
    """Errors at the coordinator go to its log: they hold no byte of a payload, seed or id."""
    secret = b"s3cretS3cr"
    word = int.from_bytes(secret[:5], "little")
    for mutate, _ in MUTATIONS.values():
        data = write(HEADER, [Entry(5, secret + b"ids123", secret * 3 + b"sd")], words_of(*[word] * 9), BITS)
        with pytest.raises(WireError) as caught:
            parse(mutate(data))
        assert "s3cret" not in str(caught.value)
        assert secret.hex()[:10] not in str(caught.value)
        assert str(word) not in str(caught.value)


def test_no_flip_passes() -> None:
    data = good(clear=b"abcd")
    for bit in range(8 * len(data)):
        with pytest.raises(WireError):
            parse(flipped(data, bit // 8, bit % 8))


@settings(max_examples=500)
@given(st.binary(max_size=400), st.booleans())
def test_noise_raises_a_wire_error(data: bytes, with_magic: bool) -> None:
    blob = b"DICTPFL\0" + data if with_magic else data
    for read in (parse, read_header):
        try:
            read(blob)
        except WireError:
            continue
        assert read is read_header
        assert len(blob) >= HEADER_BYTES


@settings(max_examples=500)
@given(st.sampled_from([f for f in FIELDS if f not in ("tag", "attempt", "digest")]), st.data())
def test_any_other_value_of_a_field_is_refused(field: str, data: st.DataObject) -> None:
    """State tag, attempt and entries are for who knows the round; tags bind them (`dictpfl.common.law.tags`)."""
    blob = good()
    at, size = FIELDS[field]
    value = data.draw(st.binary(min_size=size, max_size=size).filter(lambda raw: raw != blob[at : at + size]))
    with pytest.raises(WireError):
        parse(put(blob, field, value))
