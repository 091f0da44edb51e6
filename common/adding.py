"""The capability to add: the coordinator's only one. No key, nothing that opens."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context, load_ciphertext
from common.errors import CorruptError
from common.packing import Ints
from common.parameters import CKKSParameters


class Adder(Protocol):
    """A running sum of uploads' items; adding is associative and commutative.

    In two steps, so that an upload of several sections is added whole or not at all: `load` may refuse and
    changes nothing, `add` cannot fail.
    """

    def load(self, payload: memoryview, item_length: int) -> Any:
        """An upload's items, back to back, checked.

        Raises:
            CorruptError: an item is nothing that may be added, or their number differs from the others'.
        """
        ...

    def add(self, loaded: Any) -> None:
        """Add what `load` returned."""
        ...

    def total(self) -> list[bytes]:
        """The items of the sum."""
        ...


class CKKSAdder:
    """Sums of CKKS ciphertexts, by parameters alone."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self._evaluator = seal.Evaluator(context(parameters))
        self._scratch = Scratch()
        self._sum: list[Any] | None = None

    def load(self, payload: memoryview, item_length: int) -> list[Any]:
        """See `Adder.load`."""
        items = [payload[i : i + item_length] for i in range(0, len(payload), item_length)]
        if self._sum is not None and len(items) != len(self._sum):
            raise CorruptError(f"an upload of {len(items)} ciphertexts among uploads of {len(self._sum)}")
        return [load_ciphertext(self._scratch, self._parameters, item) for item in items]

    def add(self, loaded: list[Any]) -> None:
        """See `Adder.add`."""
        if self._sum is None:
            self._sum = loaded
            return
        for total, one in zip(self._sum, loaded, strict=True):
            self._evaluator.add_inplace(total, one)

    def total(self) -> list[bytes]:
        """See `Adder.total`."""
        return [self._scratch.bytes_of(item) for item in self._sum or []]


class IntegerAdder:
    """Sums of plain integers: the identity sealer's items, and every section that crosses in clear."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._sum: Ints | None = None
        self._item_length = 0

    def load(self, payload: memoryview, item_length: int) -> Ints:
        """See `Adder.load`; the new total is computed here, so that its range can be checked."""
        self._item_length = item_length
        try:
            values = np.frombuffer(payload, dtype=self._dtype).astype(np.int64)
        except ValueError as error:
            raise CorruptError(f"{len(payload)} bytes are no whole number of {self._dtype} integers") from error
        if self._sum is None:
            return values
        if values.size != self._sum.size:
            raise CorruptError(f"an upload of {values.size} integers among uploads of {self._sum.size}")
        total = self._sum + values
        if total.size and np.abs(total).max() > np.iinfo(self._dtype).max:
            raise CorruptError("the sum leaves the agreed integer range; an upload is larger than its digits allow")
        return total

    def add(self, loaded: Ints) -> None:
        """See `Adder.add`."""
        self._sum = loaded

    def total(self) -> list[bytes]:
        """See `Adder.total`."""
        if self._sum is None or not self._sum.size:
            return []
        data = self._sum.astype(self._dtype).tobytes()
        return [data[i : i + self._item_length] for i in range(0, len(data), self._item_length)]
