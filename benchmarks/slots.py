"""Integers in CKKS's slots, as they were sealed and opened before they lay in coefficients (decision 0024)."""

from __future__ import annotations

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context
from common.keys import FederationKey, load_secret
from common.packing import Ints
from common.parameters import GUARDS
from common.polynomials import add_modulo, data_prime, first_polynomial

PAYLOAD_BITS, SCALE_BITS = 44, 14
"""For three institutions."""


class Slots:
    """Through SEAL's encoder: the first half of a block's components are real parts, the second imaginary."""

    def __init__(self, key: FederationKey) -> None:
        ctx = context(key.parameters)
        self._parameters, self._prime = key.parameters, data_prime(key.parameters)
        self._half, self._components = key.parameters.ring_degree // 2, key.parameters.ring_degree - GUARDS
        self._encryptor, self._decryptor = seal.Encryptor(ctx, load_secret(key)), seal.Decryptor(ctx, load_secret(key))
        self._encoder, self._scratch = seal.CKKSEncoder(ctx), Scratch()
        self._zeros: list[bytearray] = []

    def prepare(self, ciphertexts: int) -> None:
        """Encryptions of zero, to which encoded components are added."""
        plain = seal.Plaintext()
        self._encoder.encode(0.0, 2.0**SCALE_BITS, plain)
        while len(self._zeros) < ciphertexts:
            self._zeros.append(bytearray(self._scratch.bytes_of(self._encryptor.encrypt_symmetric(plain))))

    def seal(self, components: Ints) -> list[bytes]:
        """Items for as many components as fill whole ciphertexts; what is less was encrypted in another way."""
        plain, items = seal.Plaintext(), []
        for block in components.reshape(-1, self._components):
            slots = np.zeros(2 * self._half)
            slots[: self._components] = block
            self._encoder.encode((slots[: self._half] + 1j * slots[self._half :]).tolist(), 2.0**SCALE_BITS, plain)
            item = self._zeros.pop()
            saved = self._scratch.bytes_of(plain)
            add_modulo(first_polynomial(item, self._parameters), first_polynomial(saved, self._parameters), self._prime)
            items.append(bytes(item))
        return items

    def open(self, items: list[bytes]) -> Ints:
        """Components of uploads."""
        plain, found = seal.Plaintext(), []
        for item in items:
            self._decryptor.decrypt(self._scratch.fill(seal.Ciphertext(), self._parameters, item), plain)
            slots = np.fromiter(self._encoder.decode_complex(plain), np.complex128, self._half)
            found.append(np.rint(np.concatenate([slots.real, slots.imag])).astype(np.int64)[: self._components])
        return np.concatenate(found)
