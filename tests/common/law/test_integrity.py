"""Manifests that only their maker can write, and that a sum must name exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dictpfl.client.defences.pairs import OwnKeys
from dictpfl.common.errors import CorruptError, IntegrityError, WireError
from dictpfl.common.law.integrity import require_manifests
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.manifest import MANIFEST_BYTES, Manifest, joined, separated
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Entry, Header, write

OWN = Ed25519PrivateKey.generate()
PUBLIC = OWN.public_key().public_bytes_raw()
HEADER = Header(UPLOAD, RoundKind.UPDATE, 7, 0, b"f" * 32, b"k" * 32, b"t" * 32)


def upload(member: int, header: Header = HEADER, word: int = 5) -> bytes:
    entry = Entry(member, bytes([member]) * 16, b"s" * 32)
    return write(header, [entry], np.array([word, 1, 2], np.uint64), 47)


UPLOADED = upload(2)


def test_a_manifest_says_what_the_upload_is() -> None:
    manifest = Manifest.of(UPLOADED)
    assert (manifest.member, manifest.round, manifest.kind, manifest.upload_id) == (2, 7, 1, b"\x02" * 16)
    assert (manifest.federation, manifest.fingerprint) == (b"f" * 32, b"k" * 32)


def test_a_manifest_comes_back_and_is_its_makers() -> None:
    manifest = Manifest.of(UPLOADED).signed(OWN)
    assert len(manifest.to_bytes()) == MANIFEST_BYTES == 183
    assert Manifest.of_bytes(manifest.to_bytes()) == manifest
    assert manifest.signed_by(PUBLIC)
    assert not manifest.signed_by(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


def test_every_byte_of_a_manifest_is_signed() -> None:
    data = Manifest.of(UPLOADED).signed(OWN).to_bytes()
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        assert not Manifest.of_bytes(bytes(altered)).signed_by(PUBLIC)


def test_manifests_stand_by_member() -> None:
    made = [Manifest.of(upload(n)).signed(OWN) for n in (2, 0, 1)]
    assert [m.member for m in separated(joined(made))] == [0, 1, 2]
    assert separated(b"") == []
    for wrong in (b"x", joined(made)[:-1]):
        with pytest.raises(CorruptError):
            separated(wrong)


def test_what_is_no_upload_has_no_manifest() -> None:
    with pytest.raises(WireError):
        Manifest.of(b"nothing of the kind")


def test_a_digest_covers_the_whole_upload() -> None:
    assert Manifest.of(UPLOADED) != Manifest.of(UPLOADED + b"\x00")
    assert Manifest.of(UPLOADED) != Manifest.of(upload(2, word=6))
    assert replace(Manifest.of(UPLOADED), digest=bytes(32)) == replace(Manifest.of(upload(2, word=6)), digest=bytes(32))


# What a sum needs

KEYS = [OwnKeys.make(f"member {n}") for n in range(4)]
ROSTER = Roster(tuple(keys.public for keys in KEYS))
TOTAL = replace(HEADER, direction=AGGREGATE, contributors=3)
ENTRIES = [Entry(n, bytes([n]) * 16, b"s" * 32) for n in range(3)]


def signed(member: int, header: Header = HEADER, by: int | None = None, word: int = 5) -> Manifest:
    return Manifest.of(upload(member, header, word)).signed(KEYS[member if by is None else by].signing)


def test_manifests_of_exactly_the_named_uploads_pass() -> None:
    made = [signed(n) for n in range(3)]
    assert require_manifests(ROSTER, TOTAL, ENTRIES, joined(made)) == made
    assert require_manifests(ROSTER, TOTAL, ENTRIES[:2], joined(made[:2])) == made[:2]


CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "half a manifest": ("form", lambda: joined([signed(n) for n in range(3)])[:-1]),
    "one missing": ("count", lambda: joined([signed(n) for n in range(2)])),
    "one too many": ("count", lambda: joined([signed(n) for n in range(4)])),
    "none": ("count", lambda: b""),
    "one twice": ("count", lambda: joined([signed(0), signed(1), signed(1)])),
    "out of order": ("count", lambda: b"".join(signed(n).to_bytes() for n in (1, 0, 2))),
    "signed by another": ("invented", lambda: joined([signed(0), signed(1), signed(2, by=1)])),
    "of nobody": ("invented", lambda: joined([signed(0), signed(1), replace(signed(2), member=4)])),
    "of another round": ("cross-round", lambda: joined([signed(0), signed(1), signed(2, replace(HEADER, round=6))])),
    "of another kind": ("cross-round", lambda: joined([signed(0), signed(1), signed(2, replace(HEADER, kind=RoundKind.SCORE))])),
    "of another key": ("cross-round", lambda: joined([signed(0), signed(1), signed(2, replace(HEADER, fingerprint=b"l" * 32))])),
    "of another federation": (
        "cross-federation", lambda: joined([signed(0), signed(1), signed(2, replace(HEADER, federation=b"g" * 32))])
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_anything_else_is_refused_with_its_reason(what: str) -> None:
    reason, made = CASES[what]
    with pytest.raises(IntegrityError) as caught:
        require_manifests(ROSTER, TOTAL, ENTRIES, made())
    assert caught.value.reason == reason
