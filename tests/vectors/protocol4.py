"""Writes the test vectors of protocol 4: `python tests/vectors/protocol4.py`, only when the protocol's version changes.

They are computed by the audit's implementation (`dictpfl.deploy.audit`), and a test holds the product to them. They stand
in protocol4.json and, the same, at the end of docs/specification.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.deploy.audit.cipher.masks import Masker, pair_secret
from dictpfl.deploy.audit.cipher.ring import ring_prime, wire_prime
from dictpfl.deploy.audit.cipher.sealed import Box, Parameters
from dictpfl.deploy.audit.cipher.tags import tag_key
from dictpfl.deploy.audit.checks.opened import item_mark, mark
from dictpfl.deploy.audit.formats.blobs import UPLOAD, Blob, Entry
from dictpfl.deploy.audit.formats.digits import Digits
from dictpfl.deploy.audit.formats.streams import expand, uniform
from dictpfl.deploy.audit.formats.words import cut, packed, widened
from dictpfl.deploy.audit.replay.agreement import Agreement, Tensor
from dictpfl.deploy.audit.replay.pruning import thresholds
from dictpfl.deploy.audit.replay.rules import first_moments, moved
from dictpfl.deploy.audit.replay.state import State

HERE = Path(__file__).parent
SPECIFICATION = HERE.parents[1] / "docs" / "specification.md"
BEGIN, END = "<!-- vectors begin -->\n", "<!-- vectors end -->\n"
PARAMETERS = Parameters(4096, 60, 11, 48, 54, 3)
SEED, SECRET = bytes(range(32)), bytes(range(32, 64))
FEDERATION, FINGERPRINT = bytes(range(64, 96)), bytes(range(96, 128))
VALUES = [0, 1, -1, 127, -127, 100, -3]


def strings(numbers: Any) -> list[str]:
    """Numbers in decimal: those of 64 bits are more than what many readers of JSON keep."""
    return [str(int(number)) for number in numbers]


def ternary_key() -> np.ndarray:
    """s_i = byte i of expand(SEED, "key") modulo 3, less 1."""
    return np.frombuffer(expand(SEED, "key", length=4096), np.uint8).astype(np.int64) % 3 - 1


def error() -> list[int]:
    """e_i = byte i of expand(SEED, "error") modulo 7, less 3."""
    return (np.frombuffer(expand(SEED, "error", length=11), np.uint8).astype(np.int64) % 7 - 3).tolist()


def upload() -> tuple[Blob, np.ndarray]:
    """The blob of the vectors, and its words without tags."""
    p = PARAMETERS
    box = Box(p, p.ring.transformed(p.ring.residues(ternary_key())))
    bare = box.sealed(np.array(VALUES, dtype=np.int64), SEED, error())
    blob = Blob(
        UPLOAD, "update", 5, 2, FEDERATION, FINGERPRINT, bytes(range(128, 160)),
        [Entry(1, bytes(16), SEED)], bare, np.zeros(0, np.int64),
    )  # fmt: skip
    upload_id = mark(SECRET, 5) + item_mark(SECRET, blob, bare, p.word_bits)
    blob = Blob(**{**vars(blob), "entries": [Entry(1, upload_id, SEED)]})
    tags = tag_key(SEED, blob, p.p).tags(bare, [], blob.entries)
    return Blob(**{**vars(blob), "words": np.concatenate([bare, np.array(tags, np.uint64)])}), bare


def vectors() -> dict[str, Any]:
    """Compute all vectors."""
    p = PARAMETERS
    ring, blob, bare = p.ring, *upload()
    one = np.zeros(4096, np.uint64)
    one[1] = 1
    residues = [0, 1, 31, 32, 33, 95, 96, p.q // 2, p.q - 33, p.q - 32, p.q - 1, 123456789012345678]
    words = cut(residues, p.q, p.p)
    digits = Digits.widest(Digits.most(127, 3, 48).per_component, 3, 48)
    context = FEDERATION + FINGERPRINT
    pair = pair_secret(SEED, PUBLIC, (1, 4), context)
    plus, minus = Masker(1, context, SECRET, {4: pair}).seeds(blob)
    state = State(
        3, 2, np.array([0.5, -1.25]), np.array([0, 2], np.uint8), np.array([0, 1], np.uint8), np.array([2.0]),
        acknowledged=SECRET,
    )  # fmt: skip
    return {
        "expand": {"seed": SEED.hex(), "context": ["tag", 7], "bytes": expand(SEED, "tag", 7, length=32).hex()},
        "stream": {
            "seed": SEED.hex(), "prime": 251, "words": uniform(SEED, 64, 251).tolist(),
            "q": str(p.q), "first of q": strings(uniform(SEED, 3, p.q)),
        },
        "primes": {
            "q of N = 4096": str(ring_prime(4096, 60)), "q of N = 8192": str(ring_prime(8192, 60)),
            "2^w - p": {str(w): (1 << w) - wire_prime(w) for w in (40, 45, 50, 54)},
        },
        "transform": {"psi": str(ring.root), "of x, values 0 to 3": strings(ring.transformed(one)[:4])},
        "words": {
            "w": 54, "residues": strings(residues), "words": strings(words), "back": strings(widened(words.tolist(), p.q, p.p)),
            "packed": packed(words, 54).hex(),
        },
        "digits": {
            "bits": 8, "K": 3, "V": 48, "d": digits.per_component, "largest": digits.largest, "R": digits.radix,
            "values": VALUES, "components": digits.packed(VALUES).tolist(),
        },
        "ciphertext": {
            "N": 4096, "S": 11, "w": 54, "s, coefficients 0 to 7": ternary_key()[:8].tolist(),
            "s transformed, 0 to 1": strings(ring.transformed(ring.residues(ternary_key()))[:2]),
            "errors": error(), "components": VALUES, "seed": SEED.hex(), "words": strings(bare),
        },
        "tags": {"epoch seed": SEED.hex(), "tags": strings(blob.words[-2:])},
        "upload id": {"secret": SECRET.hex(), "id": blob.entries[0].upload_id.hex()},
        "upload": {"blob": blob.to_bytes(54).hex()},
        "masks": {
            "private key": SEED.hex(), "public key": PUBLIC.hex(), "members": [1, 4], "pair secret": pair.hex(),
            "own seed": plus[0].hex(), "pair seed": plus[1].hex(),
            "masked words 0 to 1": strings(_masked(blob, plus, minus)[:2]),
        },
        "state": {
            "round": 3, "updates": 2, "values": [0.5, -1.25], "idle": [0, 2], "exponent": [0, 1], "ranges": [2.0],
            "acknowledged": SECRET.hex(), "digest": state.digest.hex(), "tag": state.tag(SEED).hex(),
            "acknowledged after": state.acknowledging([bytes(16), blob.entries[0].upload_id]).hex(),
        },
        "pruning": {
            "beta": 0.3, "thresholds": thresholds("0.3"),
            "draws": np.frombuffer(expand(SEED, "reactivation", FEDERATION, 3, length=12), "<u4").tolist(),
        },
        "rules": _rules(state),
    }  # fmt: skip


RULE = {"rate": 0.5, "momentum": 0.9, "second": 0.99, "floor": 0.001}
UPDATES = ((0.5, -0.25), (0.125, None), (-0.0625, 0.03125))  # None: the value was not sent


def _rules(state: State) -> dict[str, Any]:
    """Values and moments after three rounds under each rule, and the digest of the state that has them."""
    made: dict[str, Any] = {"settings": RULE, "values": state.values.tolist(), "mean updates": UPDATES}
    for rule in ("average", "momentum", "adagrad", "adam", "yogi"):
        config = {"aggregation": {"rule": rule, **RULE}}
        tensors = [Tensor("a", (2,), "dense", slice(0, 2))]
        agreement = Agreement(FEDERATION, FINGERPRINT, SEED, 64, PARAMETERS, tensors, state.values, config)
        after = replace(state, moments=first_moments(agreement))
        for update in UPDATES:
            mask = np.array([number is not None for number in update])
            after = moved(agreement, after, np.array([number or 0.0 for number in update]), mask)
        moments = [moment.tolist() for moment in after.moments]
        made[rule] = {"values": after.values.tolist(), "moments": moments, "digest": after.digest.hex()}
    return made


def _masked(blob: Blob, plus: list[bytes], minus: list[bytes]) -> np.ndarray:
    from dictpfl.deploy.audit.cipher.masks import shifted

    return shifted(blob.words, PARAMETERS.p, plus=plus, minus=minus)


def _public() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(SECRET).public_key().public_bytes_raw()


PUBLIC = _public()


def text() -> str:
    """The vectors as JSON: one line a vector's field."""
    parts = []
    for name, fields in vectors().items():
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
        parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Write the file, and the end of the specification."""
    (HERE / "protocol4.json").write_text(text())
    page = SPECIFICATION.read_text()
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    SPECIFICATION.write_text(f"{before}{BEGIN}```json\n{text()}```\n{after}")


if __name__ == "__main__":
    main()
