"""Tags that add up as what they stand for does, and manifests that only their maker can write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CorruptError, IntegrityError, WireError
from common.manifest import MANIFEST_BYTES, Manifest, joined, separated
from common.protocol import RoundKind
from common.tagging import PRIME, TAGS, _coefficients, _terms, require_tagged, tag_key, tagged
from common.wire import UPLOAD, Header, write

KEY = tag_key(b"s" * 32, b"f" * 32, RoundKind.UPDATE, 7)
IDS = [bytes([n]) * 16 for n in range(4)]


def slow(components: np.ndarray, key: bytes, member: int, upload: bytes) -> list[int]:
    """Python's integers, one product after another."""
    rows, terms = _coefficients(key, components.size).tolist(), _terms(key, member, upload)
    return [
        (sum(r * int(c) for r, c in zip(row, components, strict=True)) + t) % PRIME
        for row, t in zip(rows, terms, strict=True)
    ]


@given(st.lists(st.integers(-(2**43), 2**43 - 1), max_size=60))
def test_tags_are_what_python_computes(values: list[int]) -> None:
    components = np.array(values, dtype=np.int64)
    assert tagged(components, KEY, 3, IDS[0])[-TAGS:].tolist() == slow(components, KEY, 3, IDS[0])


def test_long_vectors_do_not_overflow() -> None:
    components = np.full(100_001, -(2**43), dtype=np.int64)
    assert tagged(components, KEY, 3, IDS[0])[-TAGS:].tolist() == slow(components, KEY, 3, IDS[0])


def uploads(count: int = 3, size: int = 50) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [tagged(random.integers(-(2**30), 2**30, size), KEY, n, IDS[n]) for n in range(count)]


NAMED = [(n, IDS[n]) for n in range(3)]


def test_a_sum_of_what_is_named_passes() -> None:
    require_tagged(sum(uploads()), KEY, NAMED)


@pytest.mark.parametrize(
    ("what", "made"),
    [
        ("altered by one", lambda u: sum(u) + np.eye(1, u[0].size, 17, dtype=np.int64)[0]),
        ("dropped", lambda u: u[0] + u[1]),
        ("one twice in place of another", lambda u: u[0] + u[1] + u[1]),
        ("one twice", lambda u: sum(u) + u[2]),
        ("swapped components", lambda u: sum(u)[[1, 0, *range(2, u[0].size)]]),
        ("nothing", lambda u: np.zeros_like(u[0])),
        ("tags alone altered", lambda u: sum(u) + np.eye(1, u[0].size, u[0].size - 1, dtype=np.int64)[0]),
    ],
)
def test_anything_else_does_not(what: str, made) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IntegrityError) as caught:
        require_tagged(made(uploads()), KEY, NAMED)
    assert caught.value.reason == "tag"


def test_another_round_or_key_does_not_pass() -> None:
    for other in (
        tag_key(b"s" * 32, b"f" * 32, RoundKind.UPDATE, 8),
        tag_key(b"s" * 32, b"f" * 32, RoundKind.MEASURE, 7),
        tag_key(b"s" * 32, b"g" * 32, RoundKind.UPDATE, 7),
        tag_key(b"t" * 32, b"f" * 32, RoundKind.UPDATE, 7),
    ):
        with pytest.raises(IntegrityError):
            require_tagged(sum(uploads()), other, NAMED)


def test_the_uploads_that_are_named_must_be_these() -> None:
    for named in (NAMED[:2], [*NAMED, (3, IDS[3])], [(0, IDS[1]), (1, IDS[0]), NAMED[2]]):
        with pytest.raises(IntegrityError):
            require_tagged(sum(uploads()), KEY, named)


# Manifests

OWN = Ed25519PrivateKey.generate()
PUBLIC = OWN.public_key().public_bytes_raw()
UPLOADED = write(Header(UPLOAD, RoundKind.UPDATE, 7, b"f" * 32, b"k" * 32, b"t" * 32, b"u" * 16), [b"x" * 10])


def test_a_manifest_comes_back_and_is_its_makers() -> None:
    manifest = Manifest.of(2, UPLOADED).signed(OWN)
    assert len(manifest.to_bytes()) == MANIFEST_BYTES
    assert Manifest.of_bytes(manifest.to_bytes()) == manifest
    assert manifest.signed_by(PUBLIC)
    assert not manifest.signed_by(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


def test_every_byte_of_a_manifest_is_signed() -> None:
    data = Manifest.of(2, UPLOADED).signed(OWN).to_bytes()
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        assert not Manifest.of_bytes(bytes(altered)).signed_by(PUBLIC)


def test_manifests_stand_by_member() -> None:
    made = [Manifest.of(n, UPLOADED).signed(OWN) for n in (2, 0, 1)]
    assert [m.member for m in separated(joined(made))] == [0, 1, 2]
    assert separated(b"") == []
    for wrong in (b"x", joined(made)[:-1]):
        with pytest.raises(CorruptError):
            separated(wrong)


def test_what_is_no_upload_has_no_manifest() -> None:
    with pytest.raises(WireError):
        Manifest.of(1, b"nothing of the kind")


def test_a_digest_covers_the_whole_upload() -> None:
    assert Manifest.of(1, UPLOADED) != Manifest.of(1, UPLOADED + b"\x00")
    assert replace(Manifest.of(1, UPLOADED), member=2) == Manifest.of(2, UPLOADED)
