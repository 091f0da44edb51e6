"""Bytes of one institution's round under this project's encoding and under the common CKKS ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tenseal as ts

from lib.exchange import Exchange
from lib.rivals import FLARE, SLOTS

OPENFHE_BYTES, OPENFHE_SLOTS = 2 * 2**16 * 1555 // 8, 2**15
"""A ciphertext of the paper: N = 2^16, 1,555 bits of modulus (appendix), two polynomials, bits packed densely."""


class FLAREBytes:
    """Bytes that FLARE sends for named tensors, counted from what its classes sent for a sample of them."""

    def __init__(self) -> None:
        self._flare = FLARE()
        one, many = (self._send({"t": SLOTS * chunks}) for chunks in (1, 33))
        self.chunk = [(b - a) / 32 for a, b in zip(one, many, strict=True)]
        self.tensor = [a - chunk for a, chunk in zip(one, self.chunk, strict=True)]

    def _send(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        random = np.random.default_rng(1)
        named = [{n: random.normal(0, 0.01, size).astype(np.float32) for n, size in sizes.items()}]
        now, _ = self._flare.exchange(named)
        return now.up, now.down

    def count(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Bytes up and down: whole ciphertexts of 4,096 values for each tensor, and the context with each upload."""
        chunks = sum(-(-size // SLOTS) for size in sizes.values())
        up, down = (round(chunks * c + len(sizes) * t) for c, t in zip(self.chunk, self.tensor, strict=True))
        return up, down

    def checked(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Counted and really sent, tensor by tensor, for the given tensors."""
        sent = [self._send({name: size}) for name, size in sizes.items()]
        counted = [self.count({name: size}) for name, size in sizes.items()]
        up, down = (sum(pair[i] for pair in sent) for i in (0, 1))
        return {
            "tensors": len(sizes),
            "values": sum(sizes.values()),
            "sent_up": up,
            "sent_down": down,
            "off_percent": 100 * abs(sum(map(sum, counted)) / (up + down) - 1),
        }


def fedml_chunk() -> int:
    """Bytes of a ciphertext of 4,096 values at FedML-HE's depth 1 and scale 2^52, re-built on SEAL."""
    context = ts.context(ts.SCHEME_TYPE.CKKS, 2 * SLOTS, coeff_mod_bit_sizes=[60, 52, 60])
    context.global_scale = 2**52
    return len(ts.ckks_vector(context, np.random.default_rng(1).normal(0, 0.01, SLOTS).tolist()).serialize())


def encodings(
    exchange: Exchange, flare: FLAREBytes, chunk: int, tensors: Mapping[str, int], share: float
) -> dict[str, Any]:
    """Bytes of one institution and round, up and down, by encoding; `share` of the values is encrypted, the rest float32."""
    count = sum(tensors.values())
    sealed = round(share * count)
    clear = 4 * (count - sealed)
    part = tensors if share == 1.0 else {f"part{i}": min(10**6, sealed - i) for i in range(0, sealed, 10**6)}
    openfhe, fedml = -(-sealed // OPENFHE_SLOTS) * OPENFHE_BYTES, -(-sealed // SLOTS) * chunk
    return {
        "dictpfl": [exchange.bytes_up(sealed, len(tensors)) + clear, exchange.bytes_down(sealed, len(tensors)) + clear],
        "openfhe": [openfhe + clear] * 2,
        "flare": [each + clear for each in flare.count(part)],
        "fedml-he": [fedml + clear] * 2,
    }


def pruned(exchange: Exchange, tensors: Mapping[str, int], curve: Sequence[float]) -> dict[str, Any]:
    """Bytes of one institution over a run whose rounds send the given shares; round 0 is wide, the ledger is in it."""
    sent = [round(share * sum(tensors.values())) for share in curve]
    up, down = (
        sum(of(count, len(tensors), first=not number) for number, count in enumerate(sent))
        for of in (exchange.bytes_up, exchange.bytes_down)
    )
    openfhe = 2 * sum(-(-count // OPENFHE_SLOTS) * OPENFHE_BYTES for count in sent)
    return {"rounds": len(curve), "sent": sum(sent), "bytes": [up, down], "openfhe_bytes": openfhe}
