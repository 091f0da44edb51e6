"""The wire: golden bytes, a named error for every mutation, and nothing else whatever arrives."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import (
    CorruptError,
    NotABlobError,
    OversizedError,
    TruncatedError,
    VersionError,
    WireError,
    WrongFederationError,
    WrongKeyError,
    WrongKindError,
    WrongRoundError,
)
from common.protocol import RoundKind
from common.wire import AGGREGATE, HEADER_BYTES, UPLOAD, Blob, Header, Limits, read_kind, write

VECTORS = Path(__file__).parents[1] / "vectors"
FEDERATION, FINGERPRINT, TAG = b"f" * 32, b"k" * 32, b"t" * 32
LIMITS = Limits(FEDERATION, FINGERPRINT, item_length=10, max_items=4, max_clear=16, max_contributors=3)
HEADER = Header(UPLOAD, RoundKind.UPDATE, 7, FEDERATION, FINGERPRINT, TAG, b"u" * 16)
# Where fields lie, written out once more and not taken from common.wire.
FIELDS = {"magic": (0, 8), "version": (8, 2), "direction": (10, 1), "kind": (11, 1), "round": (12, 4), "federation": (16, 32),
          "fingerprint": (48, 32), "tag": (80, 32), "upload_id": (112, 16), "contributors": (128, 4), "items": (132, 4),
          "item_length": (136, 4), "clear_length": (140, 8), "digest": (148, 32), "reserved": (180, 52)}  # fmt: skip


def parse(data: bytes, limits: Limits = LIMITS) -> Blob:
    return Blob.parse(data, limits, direction=UPLOAD, kind=RoundKind.UPDATE, round=7)


def good(header: Header = HEADER, items: int = 2, clear: bytes = b"") -> bytes:
    return write(header, [bytes([n]) * 10 for n in range(items)], clear)


def redigested(data: bytes) -> bytes:
    """As an attacker writes it: the digest fits whatever the rest says."""
    return data[:148] + hashlib.sha256(data[:148] + data[HEADER_BYTES:]).digest() + data[180:]


def put(data: bytes, field: str, value: int | bytes) -> bytes:
    at, size = FIELDS[field]
    raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
    return redigested(data[:at] + raw + data[at + size :])


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_upload", VECTORS / "make_upload.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_golden_bytes(generator: ModuleType) -> None:
    golden = (VECTORS / "upload.bin").read_bytes()
    assert generator.small() == golden
    at = {field: golden[start : start + size] for field, (start, size) in FIELDS.items()}
    assert at["magic"] == b"DICTPFL\0"
    assert at["version"] + at["direction"] + at["kind"] + at["round"] == bytes.fromhex("0300 01 02 04030201")
    assert at["federation"] + at["fingerprint"] + at["tag"] + at["upload_id"] == bytes(range(112))
    assert struct.unpack("<IIIQ", golden[128:148]) == (1, 2, 5, 3)
    assert at["digest"] == hashlib.sha256(golden[:148] + golden[232:]).digest()
    assert at["reserved"] == bytes(52)
    assert golden[232:] == b"firstsecndabc"
    limits = Limits(bytes(range(32)), bytes(range(32, 64)), 5, 2, 3, 1)
    blob = Blob.parse(golden, limits, direction=UPLOAD, kind=RoundKind.SCORE, round=0x01020304)
    assert (bytes(blob.sealed), bytes(blob.clear)) == (b"firstsecnd", b"abc")


def test_golden_identity_upload(generator: ModuleType) -> None:
    blob, golden = generator.identity(), json.loads((VECTORS / "upload.json").read_text(encoding="utf-8"))
    assert {"length": len(blob), "sha256": hashlib.sha256(blob).hexdigest()} == golden


@given(st.integers(1, 4), st.binary(max_size=16), st.integers(1, 3), st.binary(min_size=16, max_size=16))
def test_written_and_parsed(items: int, clear: bytes, contributors: int, upload_id: bytes) -> None:
    header = replace(HEADER, contributors=contributors, upload_id=upload_id)
    data = good(header, items, clear)
    blob = parse(data)
    assert blob.header == replace(header, items=items, item_length=10, clear_length=len(clear))
    assert bytes(blob.sealed) == b"".join(bytes([n]) * 10 for n in range(items))
    assert bytes(blob.clear) == clear
    assert read_kind(data) == (7, RoundKind.UPDATE, TAG)


MUTATIONS: dict[str, tuple[Callable[[bytes], bytes], type[WireError]]] = {
    "empty": (lambda _: b"", NotABlobError),
    "another magic": (lambda d: b"X" + d[1:], NotABlobError),
    "half a magic": (lambda d: d[:5], NotABlobError),
    "half a header": (lambda d: d[:100], TruncatedError),
    "a byte short": (lambda d: d[:-1], TruncatedError),
    "header only": (lambda d: d[:HEADER_BYTES], TruncatedError),
    "a byte more": (lambda d: d + b"\0", OversizedError),
    "two blobs": (lambda d: d + d, OversizedError),
    "version 0": (lambda d: put(d, "version", 0), VersionError),
    "version 1": (lambda d: put(d, "version", 1), VersionError),
    "version 2": (lambda d: put(d, "version", 2), VersionError),
    "no kind": (lambda d: put(d, "kind", 0), WrongKindError),
    "unknown kind": (lambda d: put(d, "kind", 9), WrongKindError),
    "a score": (lambda d: put(d, "kind", 2), WrongKindError),
    "an aggregate": (lambda d: put(d, "direction", AGGREGATE), WrongKindError),
    "no direction": (lambda d: put(d, "direction", 77), WrongKindError),
    "federation": (lambda d: put(d, "federation", b"g" * 32), WrongFederationError),
    "round before": (lambda d: put(d, "round", 6), WrongRoundError),
    "round after": (lambda d: put(d, "round", 8), WrongRoundError),
    "key": (lambda d: put(d, "fingerprint", b"l" * 32), WrongKeyError),
    "nobody": (lambda d: put(d, "contributors", 0), OversizedError),
    "a crowd": (lambda d: put(d, "contributors", 4), OversizedError),
    "no items": (lambda d: put(d, "items", 0), OversizedError),
    "items": (lambda d: put(d, "items", 5), OversizedError),
    "2^32 items": (lambda d: put(d, "items", 2**32 - 1), OversizedError),
    "one item fewer": (lambda d: put(d, "items", 1), OversizedError),
    "one item more": (lambda d: put(d, "items", 3), TruncatedError),
    "item length": (lambda d: put(d, "item_length", 20), OversizedError),
    "no item length": (lambda d: put(d, "item_length", 0), OversizedError),
    "clear": (lambda d: put(d, "clear_length", 17), OversizedError),
    "2^64 clear": (lambda d: put(d, "clear_length", 2**64 - 1), OversizedError),
    "clear that is not there": (lambda d: put(d, "clear_length", 4), TruncatedError),
    "digest": (lambda d: d[:150] + bytes([d[150] ^ 1]) + d[151:], CorruptError),
    "tag": (lambda d: d[:80] + bytes([d[80] ^ 1]) + d[81:], CorruptError),
    "upload id": (lambda d: d[:112] + bytes([d[112] ^ 1]) + d[113:], CorruptError),
    "content": (lambda d: d[:-1] + bytes([d[-1] ^ 1]), CorruptError),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_has_its_own_error(name: str) -> None:
    mutate, error = MUTATIONS[name]
    with pytest.raises(WireError) as caught:
        parse(mutate(good()))
    assert caught.type is error


def test_a_message_names_no_more_than_it_must() -> None:
    """Errors at the coordinator go to its log: they hold no byte of a payload."""
    for mutate, _ in MUTATIONS.values():
        with pytest.raises(WireError) as caught:
            parse(mutate(write(HEADER, [b"s3cretS3cr"] * 2)))
        assert "s3cret" not in str(caught.value)


def test_no_flip_passes() -> None:
    data = good(clear=b"abcd")
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            parse(bytes(bad))


def test_no_flip_passes_outside_the_reserved_bytes() -> None:
    data = good(clear=b"abcd")
    for at in (*range(180), *range(232, len(data))):
        for bit in range(8):
            bad = bytearray(data)
            bad[at] ^= 1 << bit
            with pytest.raises(WireError):
                parse(bytes(bad))


@settings(max_examples=500)
@given(st.binary(max_size=400), st.booleans())
def test_noise_raises_a_wire_error(data: bytes, with_magic: bool) -> None:
    blob = b"DICTPFL\0" + data if with_magic else data
    for read in (parse, read_kind):
        try:
            read(blob)
        except WireError:
            continue
        assert read is read_kind
        assert len(blob) >= HEADER_BYTES


@settings(max_examples=500)
@given(st.sampled_from([f for f in FIELDS if f not in ("tag", "upload_id", "reserved", "digest")]), st.data())
def test_any_other_value_of_a_field_is_refused(field: str, data: st.DataObject) -> None:
    blob = good()
    at, size = FIELDS[field]
    value = data.draw(st.binary(min_size=size, max_size=size).filter(lambda raw: raw != blob[at : at + size]))
    if field == "contributors" and int.from_bytes(value, "little") in (2, 3):
        parse(put(blob, field, value))
        return
    with pytest.raises(WireError):
        parse(put(blob, field, value))


def test_unequal_items_are_not_written() -> None:
    with pytest.raises(WireError, match="unequal"):
        write(HEADER, [b"a", b"bc"])
