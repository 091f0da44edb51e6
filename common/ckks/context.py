"""Contexts and bytes of Microsoft SEAL (through TenSEAL), shared by sealing, adding and opening. No key here."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import tenseal.sealapi as seal

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import CorruptError


class _Saved(Protocol):
    def save(self, path: str) -> None: ...


@lru_cache(maxsize=8)
def context(parameters: CKKSParameters) -> Any:
    """Make SEAL's context for checked parameters; kept, for making one takes milliseconds."""
    encryption = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    encryption.set_poly_modulus_degree(parameters.ring_degree)
    encryption.set_coeff_modulus(seal.CoeffModulus.Create(parameters.ring_degree, list(parameters.primes)))
    return seal.SEALContext(encryption, True, seal.SEC_LEVEL_TYPE.TC128)


class Scratch:
    """An anonymous file in memory: SEAL saves to and loads from paths only, and nothing may reach a disk."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("dictpfl", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._fd}"

    def bytes_of(self, thing: _Saved) -> bytes:
        """Return what SEAL saves of an object."""
        os.ftruncate(self._fd, 0)
        thing.save(self._path)
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def fill(self, thing: Any, parameters: CKKSParameters, data: bytes | bytearray | memoryview) -> Any:
        """Load `thing` from bytes and have SEAL check it against the context; returns `thing`.

        Raises:
            CorruptError: SEAL does not accept the bytes.
        """
        os.ftruncate(self._fd, 0)
        return self.refill(thing, parameters, data, 0)

    def refill(self, thing: Any, parameters: CKKSParameters, data: bytes | bytearray | memoryview, at: int) -> Any:
        """Load `thing` from the bytes that were filled last, with `data` written over them from byte `at` on.

        Raises:
            CorruptError: SEAL does not accept the bytes.
        """
        self.patch(data, at)
        try:
            thing.load(context(parameters), self._path)
        except (RuntimeError, ValueError, OverflowError, IndexError, MemoryError) as error:
            raise CorruptError(
                f"{at + len(data)} bytes are no {type(thing).__name__} of these parameters: {error}; "
                "the file or message is damaged, or was made with other parameters"
            ) from error
        return thing

    def patch(self, data: bytes | bytearray | memoryview, at: int) -> None:
        """Write over what was filled last, from byte `at` on."""
        os.pwrite(self._fd, data, at)

    def wipe(self) -> None:
        """Overwrite and empty the file, after key material passed through."""
        size = os.fstat(self._fd).st_size
        os.pwrite(self._fd, bytes(size), 0)
        os.ftruncate(self._fd, 0)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._fd)  # bound early: at the interpreter's exit the module may be gone
