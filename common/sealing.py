"""The capability to encrypt: components in, ciphertext bytes out. Who can seal cannot open."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context
from common.errors import PackingError
from common.keys import FederationKey, identity_fingerprint, load_public, load_secret
from common.packing import Ints
from common.parameters import CKKSParameters
from common.polynomials import add_modulo, data_prime, first_polynomial
from common.transform import Inverse

IDENTITY_COMPONENTS = 64
"""Components of an item that is not encrypted; an encrypted one has `CKKSParameters.components`."""


class Sealer(Protocol):
    """Turns components into items of equal length, one for each ciphertext."""

    parameters: CKKSParameters
    fingerprint: bytes

    def seal(self, components: Ints) -> Iterator[bytes]:
        """Items for int64 components, shape (n,), each within the payload; lazily, so that large vectors stream.

        Raises:
            PackingError: a component beyond the payload; nothing is encrypted.
        """
        ...

    def prepare(self, ciphertexts: int) -> None:
        """Do ahead, while there is nothing else to do, what needs no components; the items stay of the same law."""
        ...


class CKKSSealer:
    """Seeded symmetric (or public-key) CKKS with integers in coefficients: N - GUARDS a ciphertext (decision 0024).

    Nearly all of sealing is the encryption itself, which `prepare` can do ahead: encryptions of zero, to which `seal`
    adds the components. Each is used once and never leaves this process's memory before that: whoever had one and
    the upload made from it would have the components.
    """

    def __init__(self, key: FederationKey) -> None:
        self.parameters = key.parameters
        self.fingerprint = key.fingerprint
        ctx = context(key.parameters)
        self._symmetric = key.parameters.profile == "symmetric"
        self._encryptor = seal.Encryptor(ctx, load_secret(key) if self._symmetric else load_public(key))
        self._nothing = seal.Plaintext()
        seal.CKKSEncoder(ctx).encode(0.0, 2.0**key.parameters.scale_bits, self._nothing)
        self._scratch = Scratch()
        self._inverse = Inverse(key.parameters)
        self._prime = data_prime(key.parameters)
        self._zeros: deque[bytearray] = deque()
        self._maker = os.getpid()

    def prepare(self, ciphertexts: int) -> None:
        """Have encryptions of zero for so many ciphertexts at hand, or one more: 0.6 ms and 33 kB each at N = 4096."""
        self._forget_inherited()
        while len(self._zeros) < ciphertexts:
            made = [bytearray(self._encrypted()) for _ in range(self._inverse.width)]
            places = [first_polynomial(item, self.parameters) for item in made]
            for place, coefficients in zip(places, self._inverse(np.stack(places)), strict=True):
                place[:] = coefficients
            self._zeros.extend(made)

    @property
    def prepared(self) -> int:
        """Encryptions of zero at hand."""
        return len(self._zeros)

    def seal(self, components: Ints) -> Iterator[bytes]:
        """See `Sealer.seal`."""
        require_payload(components, self.parameters)
        self._forget_inherited()
        for start in range(0, components.size, self.parameters.components):
            part = components[start : start + self.parameters.components]
            if not self._zeros:
                self.prepare(1)
            item = self._zeros.popleft()  # used once, whatever happens next
            # A negative number's residue is the prime less; what is left of the block, guards among it, stays zero.
            scaled = ((part << self.parameters.scale_bits) % self._prime).astype(np.uint64)
            add_modulo(first_polynomial(item, self.parameters)[: part.size], scaled, self._prime)
            yield bytes(item)

    def _forget_inherited(self) -> None:
        """A forked process has copies of what its parent prepared; used by both, they would show a difference."""
        if self._maker != os.getpid():
            self._zeros.clear()
            self._maker = os.getpid()

    def _encrypted(self) -> bytes:
        if self._symmetric:
            return self._scratch.bytes_of(self._encryptor.encrypt_symmetric(self._nothing))
        ciphertext = seal.Ciphertext()
        self._encryptor.encrypt(self._nothing, ciphertext)
        return self._scratch.bytes_of(ciphertext)


class IdentitySealer:
    """No encryption: the same integers, little-endian int64, for exact comparison. Protects nobody.

    Items are small blocks, so that padding does not inflate what is compared.
    """

    def __init__(self, parameters: CKKSParameters) -> None:
        self.parameters = parameters
        self.fingerprint = identity_fingerprint(parameters)

    def seal(self, components: Ints) -> Iterator[bytes]:
        """See `Sealer.seal`."""
        require_payload(components, self.parameters)
        for start in range(0, components.size, IDENTITY_COMPONENTS):
            block = np.zeros(IDENTITY_COMPONENTS, dtype="<i8")
            part = components[start : start + IDENTITY_COMPONENTS]
            block[: part.size] = part
            yield block.tobytes()

    def prepare(self, ciphertexts: int) -> None:
        """Nothing to do ahead."""


def require_payload(components: Ints, parameters: CKKSParameters) -> None:
    """Refuse components that the sum of `capacity` uploads could carry beyond the payload: they wrap silently."""
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    if components.size and (largest := max(int(components.max()), -int(components.min()))) > bound:
        raise PackingError(
            f"component {largest} is beyond {bound}, what {parameters.capacity} participants may add up to "
            f"{parameters.payload_bits} bits; nothing was encrypted"
        )
