"""The capability to add: the coordinator's only one. No key, nothing that opens."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context, load_ciphertext
from common.errors import CorruptError
from common.parameters import CKKSParameters


class Adder(Protocol):
    """A running sum of uploads' items. Adding is associative and commutative; an item refused changes nothing."""

    def add(self, payload: memoryview, item_length: int) -> None:
        """Add an upload's items, back to back; all of them are checked before the first is added.

        Raises:
            CorruptError: an item is no ciphertext of these parameters, or their number differs.
        """
        ...

    def total(self) -> list[bytes]:
        """The items of the sum."""
        ...


def _items(payload: memoryview, length: int) -> list[memoryview]:
    return [payload[i : i + length] for i in range(0, len(payload), length)]


class CKKSAdder:
    """Sums of CKKS ciphertexts, by parameters alone."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self._evaluator = seal.Evaluator(context(parameters))
        self._scratch = Scratch()
        self._sum: list[Any] | None = None

    def add(self, payload: memoryview, item_length: int) -> None:
        """See `Adder.add`."""
        loaded = [load_ciphertext(self._scratch, self._parameters, item) for item in _items(payload, item_length)]
        if self._sum is None:
            self._sum = loaded
            return
        if len(loaded) != len(self._sum):
            raise CorruptError(f"an upload of {len(loaded)} ciphertexts among uploads of {len(self._sum)}")
        for total, one in zip(self._sum, loaded, strict=True):
            self._evaluator.add_inplace(total, one)

    def total(self) -> list[bytes]:
        """See `Adder.total`."""
        return [self._scratch.bytes_of(item) for item in self._sum or []]


class IntegerAdder:
    """Sums of plain integers: the identity sealer's items and every clear section."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._sum: np.ndarray[Any, Any] | None = None
        self._lengths: int = 0

    def add(self, payload: memoryview, item_length: int) -> None:
        """See `Adder.add`."""
        try:
            values = np.frombuffer(payload, dtype=self._dtype).astype(np.int64)
        except ValueError as error:
            raise CorruptError(f"{len(payload)} bytes are no whole number of {self._dtype} integers") from error
        if self._sum is not None and values.size != self._sum.size:
            raise CorruptError(f"an upload of {values.size} integers among uploads of {self._sum.size}")
        total = values if self._sum is None else self._sum + values
        if values.size and np.abs(total).max() > np.iinfo(self._dtype).max:
            raise CorruptError("the sum leaves the agreed integer range; an upload is larger than its digits allow")
        self._sum, self._lengths = total, item_length

    def total(self) -> list[bytes]:
        """See `Adder.total`."""
        if self._sum is None or not self._sum.size:
            return []
        data = self._sum.astype(self._dtype).tobytes()
        return [data[i : i + self._lengths] for i in range(0, len(data), self._lengths)]
