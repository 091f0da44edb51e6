"""Writes the golden uploads: run `python tests/vectors/make_upload.py` only when the protocol's version changes.

`upload.bin` is a whole small blob, byte for byte; `upload.json` has the parts of a fixed upload that nothing encrypts,
from its integers to its tags, for who writes a second implementation (docs/specification.md).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import IdentitySealer
from dictpfl.common.law.packing import Digits, pack
from dictpfl.common.law.tags import RoundTags
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import UPLOAD, Entry, Header, write
from dictpfl.common.protection import Encryption

HERE = Path(__file__).parent
HEADER = Header(
    UPLOAD, RoundKind.SCORE, 0x01020304, 0x05060708090A0B0C, federation=bytes(range(32)), fingerprint=bytes(range(32, 64)),
    state_tag=bytes(range(64, 96)),
)  # fmt: skip
ENTRY = Entry(0x0D0E, bytes(range(96, 112)), bytes(range(112, 144)))
WORD_BITS = 45
WORDS = [1, 2**45 - 1, 0, 2**44 + 5, 3]
SEED = bytes(range(144, 176))
VALUES = [(-1) ** n * (n * n % 128) for n in range(9_000)]
"""Squares modulo 128 with alternating signs."""


def small() -> bytes:
    """Five words of 45 bits and three bytes in clear."""
    return write(HEADER, [ENTRY], np.array(WORDS, np.uint64), WORD_BITS, b"abc")


def identity() -> dict[str, Any]:
    """`VALUES` of eight bits, of three institutions: parameters, digits, components, words, tags and the upload's digest."""
    parameters = CKKSParameters.choose(Encryption(), 3)
    digits = Digits.fit(8, 3, parameters.payload_bits)
    components = pack(np.array(VALUES, np.int64), digits)
    sealed = IdentitySealer(parameters).seal(components)
    entry = Entry(ENTRY.member, ENTRY.upload_id, sealed.seed)
    tags = RoundTags.of(SEED, HEADER, parameters.word_prime).made(sealed.words, b"", entry)
    blob = write(HEADER, [entry], np.concatenate([sealed.words, tags]), parameters.word_bits)
    return {
        "parameters": parameters.to_json(),
        "parameters_digest": parameters.digest.hex(),
        "prime": parameters.word_prime,
        "digits": {"radix": digits.radix, "per_component": digits.per_component, "largest": digits.largest},
        "components": [int(n) for n in components[:4]],
        "words": [int(n) for n in sealed.words[:4]],
        "tags": tags.tolist(),
        "length": len(blob),
        "sha256": hashlib.sha256(blob).hexdigest(),
    }


def main() -> None:
    """Write both files."""
    (HERE / "upload.bin").write_bytes(small())
    (HERE / "upload.json").write_text(json.dumps(identity(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
