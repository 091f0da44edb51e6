"""A tag on what is packed, that adds up as it does: whoever alters a sum without knowing the tag's key is found out.

Two linear hashes modulo 2^31 - 1, with coefficients that are secret and new for every round, and a term for each upload.
A sum that was not made of exactly these uploads passes with a chance of about 2^-61. Coefficients are 31 bits of AES-256 in
counter mode; the residue 0 is twice as likely as others, a bias of 2^-31.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from common.errors import IntegrityError
from common.packing import Ints
from common.protocol import RoundKind
from common.seeds import expand

PRIME = 2**31 - 1
TAGS = 2
_LIMBS, _LIMB_BITS = 3, 16
_CHUNK = 2**15
"""Products of 31 and 16 bits, so many of them added: 62 bits."""


def tag_key(seed: bytes, fingerprint: bytes, kind: RoundKind, number: int) -> bytes:
    """Key of a round's tags, 32 bytes, from what institutions hold and the coordinator does not."""
    return expand(seed, "tag", fingerprint, str(kind), number, length=32)


def tagged(components: Ints, key: bytes, member: int, upload_id: bytes) -> Ints:
    """Components of one upload with its tags behind them: `TAGS` more, each from 0 to 2^31 - 2."""
    terms = zip(_hashes(components, key), _terms(key, member, upload_id), strict=True)
    return np.concatenate([components, np.array([(h + t) % PRIME for h, t in terms], dtype=np.int64)])


def require_tagged(components: Ints, key: bytes, uploads: Iterable[tuple[int, bytes]]) -> None:
    """Check a sum of tagged components against the uploads that are said to be in it, by member and id.

    Raises:
        IntegrityError: it was not made of exactly these.
    """
    expected = _hashes(components[:-TAGS], key)
    for member, upload_id in uploads:
        expected = [(h + t) % PRIME for h, t in zip(expected, _terms(key, member, upload_id), strict=True)]
    if [int(found) % PRIME for found in components[-TAGS:]] != expected:
        raise IntegrityError(
            "tag",
            "the sum's tags do not fit: it holds something other than the uploads that are named, as they were sent. Nothing "
            "was applied; show the evidence to the coordinator and to the other institutions",
        )


def _hashes(components: Ints, key: bytes) -> list[int]:
    """Sum of coefficient times component, modulo the prime, for each tag."""
    limbs = [(components >> (_LIMB_BITS * i)) & (2**_LIMB_BITS - 1) for i in range(_LIMBS - 1)]
    limbs.append(components >> (_LIMB_BITS * (_LIMBS - 1)))  # signed: what is left of a negative number
    return [_hash(limbs, row) for row in _coefficients(key, components.size)]


def _hash(limbs: list[Ints], row: Ints) -> int:
    total = 0
    for i, limb in enumerate(limbs):
        for at in range(0, row.size, _CHUNK):
            total += int(np.dot(row[at : at + _CHUNK], limb[at : at + _CHUNK])) << (_LIMB_BITS * i)
    return total % PRIME


def _coefficients(key: bytes, count: int) -> Ints:
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(4 * TAGS * count))
    return (np.frombuffer(stream, dtype="<u4") & np.uint32(PRIME)).astype(np.int64).reshape(TAGS, count)


def _terms(key: bytes, member: int, upload_id: bytes) -> list[int]:
    """What one upload adds to the tags of whatever it is in."""
    stream = expand(key, "upload", member, upload_id, length=8 * TAGS)
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") % PRIME for i in range(TAGS)]
