"""What all ciphertexts of the same parameters have in common, compared before SEAL parses a single byte.

SEAL's own parser can be made to abort the process by nested headers that do not agree, so it never sees
any. Only the polynomial and the seed of an item may differ from another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from common.ckks import Scratch, context
from common.errors import CorruptError
from common.parameters import CKKSParameters
from common.polynomials import coefficients_at

_SAMPLES = 16
"""Encryptions compared: a byte of randomness that is equal in all of them by chance is one in 2^120."""


@dataclass(frozen=True)
class Frame:
    """The bytes of an item that never change: the values `fixed` at the places `index`, int64."""

    index: NDArray[np.int64]
    fixed: bytes

    def require(self, item: bytes | bytearray | memoryview) -> None:
        """Compare an item of the right length.

        Raises:
            CorruptError: framed differently.
        """
        if np.frombuffer(item, dtype=np.uint8)[self.index].tobytes() != self.fixed:
            raise CorruptError(
                "a ciphertext is not framed as those of the agreed parameters are; it was damaged, or its maker does not "
                "follow the protocol"
            )


@lru_cache(maxsize=8)
def frames(parameters: CKKSParameters) -> dict[int, Frame]:
    """The frames of uploaded items and of summed ones, by length in bytes.

    Measured on encryptions under a key that is made and forgotten here: framing depends on no key.
    """
    ctx, scratch, plain = context(parameters), Scratch(), seal.Plaintext()
    generator = seal.KeyGenerator(ctx)
    encryptor = seal.Encryptor(ctx, generator.secret_key())
    seal.CKKSEncoder(ctx).encode([1.0 + 1.0j], 2.0**parameters.scale_bits, plain)
    seeded: list[bytes] = []
    full: list[bytes] = []
    for _ in range(_SAMPLES):
        item = scratch.bytes_of(encryptor.encrypt_symmetric(plain))
        seeded.append(item)
        full.append(scratch.bytes_of(scratch.fill(seal.Ciphertext(), parameters, item)))
    admitted = [full] if parameters.profile == "public_key" else [seeded, full]
    return {len(samples[0]): _frame(samples) for samples in admitted}


def _frame(samples: list[bytes]) -> Frame:
    found = np.stack([np.frombuffer(sample, dtype=np.uint8) for sample in samples])
    index = np.flatnonzero((found == found[0]).all(axis=0))
    return Frame(index, found[0, index].tobytes())


def load_ciphertext(scratch: Scratch, parameters: CKKSParameters, item: bytes | bytearray | memoryview) -> Any:
    """A ciphertext of two polynomials, at the data level and with the agreed scale.

    Raises:
        CorruptError: anything else.
    """
    frame = frames(parameters).get(len(item))
    if frame is None:
        raise CorruptError(f"a ciphertext of {len(item)} bytes, expected one of {sorted(frames(parameters))}")
    frame.require(item)
    ciphertext = scratch.fill(seal.Ciphertext(), parameters, item)
    if (
        ciphertext.size() != 2  # noqa: PLR2004 -- c0 and c1
        or ciphertext.coeff_modulus_size() != 1
        or ciphertext.scale != 2.0**parameters.scale_bits
        or not ciphertext.is_ntt_form()
    ):
        raise CorruptError(
            "a ciphertext of another size, level or scale than agreed; its maker does not follow the protocol"
        )
    return ciphertext


class Splitter:
    """Sums that have both polynomials, split as `common.seeded.Expander` splits those that have seeds."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters, self._scratch = parameters, Scratch()

    def expect(self, payload: memoryview) -> None:
        """Nothing to do ahead: whole ciphertexts hold nothing that has to be drawn."""

    def split(self, item: memoryview) -> tuple[memoryview, Any]:
        """The first polynomial of an item, 8 N bytes; a ciphertext whose first is zero and whose second is the item's.

        Raises:
            CorruptError: as `load_ciphertext`.
        """
        start, size = coefficients_at(item, self._parameters), 8 * self._parameters.ring_degree
        rest = bytearray(item)
        rest[start : start + size] = bytes(size)
        return item[start : start + size], load_ciphertext(self._scratch, self._parameters, rest)
