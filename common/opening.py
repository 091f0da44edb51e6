"""The capability to decrypt. The coordinator never imports this module (a test and a contract hold it).

What is decoded but not rounded is private to this module: a decrypted CKKS float of a known plaintext
gives the secret key away (Li and Micciancio 2021); rounded integers do not.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from common.ckks import Scratch, context
from common.errors import GuardError, NoiseError, OpeningError
from common.framing import load_ciphertext
from common.keys import FederationKey, identity_fingerprint, load_secret
from common.packing import Ints
from common.parameters import GUARDS, TOLERANCE, CKKSParameters
from common.seeded import Expander


class Opener(Protocol):
    """Turns a sum's items back into integers."""

    fingerprint: bytes

    def open(self, payload: memoryview, item_length: int) -> Ints:
        """Components of all items, int64, shape (items * parameters.components,).

        Raises:
            CorruptError: an item is no ciphertext of these parameters.
            GuardError: guard components are not zero: a foreign key, or a damaged ciphertext.
            NoiseError: a value too far from an integer to be trusted.
            OpeningError: a value beyond the payload.
        """
        ...

    def expect(self, payload: memoryview) -> None:
        """Do ahead what an own upload's items are enough for, while the sum that they will be in is waited for."""
        ...


class CKKSOpener:
    """Decrypts, decodes and rounds; only integers leave."""

    def __init__(self, key: FederationKey) -> None:
        ctx = context(key.parameters)
        self._parameters = key.parameters
        self.fingerprint = key.fingerprint
        self._decryptor = seal.Decryptor(ctx, load_secret(key))
        self._encoder = seal.CKKSEncoder(ctx)
        self._expander = Expander(key.parameters) if key.parameters.seeded_sums else None
        self._scratch = Scratch()

    def open(self, payload: memoryview, item_length: int) -> Ints:
        """See `Opener.open`."""
        count = len(payload) // item_length if item_length else 0
        out = np.empty((count, self._parameters.components), dtype=np.int64)
        for i in range(count):
            out[i] = _integers(self._decoded(payload[i * item_length : (i + 1) * item_length]), self._parameters)
        return out.reshape(-1)

    def expect(self, payload: memoryview) -> None:
        """See `Opener.expect`: draws what the upload's seeds give, 0.1 ms and 66 kB for each ciphertext at N = 4096."""
        if self._expander is not None:
            self._expander.expect(payload)

    def _decoded(self, item: memoryview) -> NDArray[np.float64]:
        plain = seal.Plaintext()
        self._decryptor.decrypt(self._loaded(item), plain)
        decoded = self._encoder.decode_complex(plain)
        slots = np.fromiter(decoded, np.complex128, self._parameters.ring_degree // 2)
        return np.concatenate([slots.real, slots.imag])

    def _loaded(self, item: memoryview) -> Any:
        if self._expander is not None:
            return self._expander.load(item)
        return load_ciphertext(self._scratch, self._parameters, item)


class IdentityOpener:
    """The inverse of `common.sealing.IdentitySealer` on sums."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self.fingerprint = identity_fingerprint(parameters)

    def open(self, payload: memoryview, item_length: int) -> Ints:  # noqa: ARG002 -- the protocol's signature
        """See `Opener.open`."""
        values = np.frombuffer(payload, dtype="<i8").astype(np.int64)
        _require_payload(values, self._parameters)
        return values

    def expect(self, payload: memoryview) -> None:
        """Nothing to do ahead."""


def _integers(decoded: NDArray[np.float64], parameters: CKKSParameters) -> Ints:
    rounded = np.rint(decoded)
    if rounded[-GUARDS:].any():
        raise GuardError(
            "guard components of a sum are not zero: it was sealed under another key or other parameters, or a "
            "ciphertext is damaged. Compare key fingerprints with the other institutions"
        )
    # A comparison that is false for NaN, so that NaN is refused too.
    if not np.abs(decoded - rounded).max() <= TOLERANCE:
        raise NoiseError(
            "a decoded value is further than 0.25 from an integer: more uploads were added than agreed, or a "
            "ciphertext was altered"
        )
    values = rounded[:-GUARDS].astype(np.int64)
    _require_payload(values, parameters)
    return values


def _require_payload(values: Ints, parameters: CKKSParameters) -> None:
    bound = 2 ** (parameters.payload_bits - 1)
    if values.size and (values.max() > bound or values.min() < -bound):
        raise OpeningError("a sum is beyond the agreed payload; an upload was larger than its digits allow")
