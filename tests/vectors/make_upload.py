"""Writes the golden upload: run `python tests/vectors/make_upload.py` only when the protocol's version changes.

`upload.bin` is a whole small blob, byte for byte; `upload.json` the digests of a fixed identity-sealed upload.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from common.parameters import CKKSParameters
from common.protocol import RoundKind
from common.sealing import IdentitySealer
from common.settings import Encryption
from common.wire import UPLOAD, Header, write

HERE = Path(__file__).parent
HEADER = Header(
    UPLOAD, RoundKind.SCORE, 0x01020304, federation=bytes(range(32)), fingerprint=bytes(range(32, 64)),
    tag=bytes(range(64, 96)), upload_id=bytes(range(96, 112)), contributors=1,
)  # fmt: skip


def small() -> bytes:
    """Two items of five bytes and three bytes in clear."""
    return write(HEADER, [b"first", b"secnd"], b"abc")


def identity() -> bytes:
    """9,000 squares with alternating signs, in items of 64."""
    values = np.arange(9_000, dtype=np.int64) ** 2 * (1 - 2 * (np.arange(9_000) % 2))
    return write(HEADER, IdentitySealer(CKKSParameters.choose(Encryption(), 3)).seal(values))


def main() -> None:
    """Write both files."""
    (HERE / "upload.bin").write_bytes(small())
    blob = identity()
    document = {"length": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    (HERE / "upload.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
