"""The capability to decrypt. The coordinator never imports this module (a test and a contract hold it).

What is decrypted but not rounded is private to this module: integers with their noise, of a known plaintext,
give the secret key away (Li and Micciancio 2021); rounded integers do not.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import tenseal.sealapi as seal

from common.ckks import context
from common.errors import GuardError, NoiseError, OpeningError
from common.framing import Splitter
from common.keys import FederationKey, identity_fingerprint, load_secret
from common.packing import Ints
from common.parameters import GUARDS, TOLERANCE, CKKSParameters
from common.polynomials import add_modulo, data_prime
from common.seeded import Expander
from common.transform import Inverse, centred, rounded


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
    """Decrypts and rounds; only integers leave."""

    def __init__(self, key: FederationKey) -> None:
        ctx = context(key.parameters)
        self._parameters = key.parameters
        self.fingerprint = key.fingerprint
        self._decryptor = seal.Decryptor(ctx, load_secret(key))
        self._evaluator = seal.Evaluator(ctx)
        self._splitter = (Expander if key.parameters.seeded_sums else Splitter)(key.parameters)
        self._inverse = Inverse(key.parameters)
        self._prime = data_prime(key.parameters)

    def open(self, payload: memoryview, item_length: int) -> Ints:
        """See `Opener.open`."""
        count = len(payload) // item_length if item_length else 0
        out = np.empty((count, self._parameters.components), dtype=np.int64)
        for i in range(count):
            out[i] = _integers(self._decrypted(payload[i * item_length : (i + 1) * item_length]), self._parameters)
        return out.reshape(-1)

    def expect(self, payload: memoryview) -> None:
        """See `Opener.expect`: draws what the upload's seeds give, 0.2 ms and 66 kB for each ciphertext at N = 4096."""
        self._splitter.expect(payload)

    def _decrypted(self, item: memoryview) -> Ints:
        """2^S times the integers, plus noise: c0 + c1 s, of which c0 is in coefficients already; shape (N,)."""
        first, ciphertext = self._splitter.split(item)
        plain = seal.Plaintext()
        self._decryptor.decrypt(ciphertext, plain)  # c1 s, for its own first polynomial is zero
        self._evaluator.add_plain_inplace(ciphertext, plain)
        words = self._inverse.first(ciphertext).copy()
        add_modulo(words, np.frombuffer(first, "<u8"), self._prime)
        return centred(words, self._prime)


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


def _integers(noisy: Ints, parameters: CKKSParameters) -> Ints:
    found = rounded(noisy, parameters.scale_bits)
    if found[-GUARDS:].any():
        raise GuardError(
            "guard components of a sum are not zero: it was sealed under another key or other parameters, or a "
            "ciphertext is damaged. Compare key fingerprints with the other institutions"
        )
    if np.abs(noisy - (found << parameters.scale_bits)).max() > math.ldexp(TOLERANCE, parameters.scale_bits):
        raise NoiseError(
            "a decrypted value is further than 0.25 from an integer: more uploads were added than agreed, or a "
            "ciphertext was altered"
        )
    values: Ints = found[:-GUARDS]
    _require_payload(values, parameters)
    return values


def _require_payload(values: Ints, parameters: CKKSParameters) -> None:
    bound = 2 ** (parameters.payload_bits - 1)
    if values.size and (values.max() > bound or values.min() < -bound):
        raise OpeningError("a sum is beyond the agreed payload; an upload was larger than its digits allow")
