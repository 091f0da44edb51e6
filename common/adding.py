"""The capability to add: the coordinator's only one. No key, nothing that opens."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tenseal.sealapi as seal

from common.ckks import Scratch, context
from common.errors import CorruptError
from common.framing import load_ciphertext
from common.packing import Ints
from common.parameters import CKKSParameters
from common.seeded import SeededAdder


class Adder(Protocol):
    """A running sum of uploads' items; adding is associative and commutative.

    In two steps, so that an upload of several sections is added whole or not at all: `load` may refuse and
    changes nothing, `add` cannot fail. What `load` returned is the new total: it is good for one `add`, at once.
    """

    def load(self, payload: memoryview, item_length: int) -> Any:
        """The total with an upload's items, back to back, checked and added.

        Raises:
            CorruptError: an item is nothing that may be added, or their number differs from the others'.
        """
        ...

    def add(self, loaded: Any) -> None:
        """Take over what `load` returned."""
        ...

    def total(self) -> list[bytes]:
        """The items of the sum."""
        ...


class CKKSAdder:
    """Sums of CKKS ciphertexts with both polynomials, by parameters alone: public-key ones, or those of very many uploads."""

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
        if self._sum is None:
            return [load_ciphertext(self._scratch, self._parameters, item) for item in items]
        # One at a time: beside the old total and the new one there is never a whole upload in SEAL's form.
        return [self._added(total, item) for total, item in zip(self._sum, items, strict=True)]

    def _added(self, total: Any, item: memoryview) -> Any:
        one, result = load_ciphertext(self._scratch, self._parameters, item), seal.Ciphertext()
        try:
            self._evaluator.add(total, one, result)
        except (RuntimeError, ValueError) as error:
            # SEAL refuses sums whose second polynomial vanishes: nothing honest does that.
            raise CorruptError(
                f"a ciphertext cannot be added: {error}; its maker does not follow the protocol"
            ) from error
        return result

    def add(self, loaded: list[Any]) -> None:
        """See `Adder.add`."""
        self._sum = loaded

    def total(self) -> list[bytes]:
        """See `Adder.total`."""
        return [self._scratch.bytes_of(item) for item in self._sum or []]


def ckks_adder(parameters: CKKSParameters) -> Adder:
    """What adds ciphertexts of these parameters: in the shortest form that they allow."""
    return SeededAdder(parameters) if parameters.seeded_sums else CKKSAdder(parameters)


class IntegerAdder:
    """Sums of plain integers: the identity sealer's items, and every section that crosses in clear."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._sum: Ints | None = None
        self._item_length = 0

    def load(self, payload: memoryview, item_length: int) -> Ints:
        """See `Adder.load`."""
        try:
            values = np.frombuffer(payload, dtype=self._dtype).astype(np.int64)
        except ValueError as error:
            raise CorruptError(f"{len(payload)} bytes are no whole number of {self._dtype} integers") from error
        self._require_range(values)
        if self._sum is not None and values.size != self._sum.size:
            raise CorruptError(f"an upload of {values.size} integers among uploads of {self._sum.size}")
        total = values if self._sum is None else self._sum + values
        self._require_range(total)
        self._item_length = item_length
        return total

    def _require_range(self, values: Ints) -> None:
        # Half the range at most, so that int64 sums cannot wrap before they are compared.
        bound = min(np.iinfo(self._dtype).max, 2**62)
        if values.size and (values.max() > bound or values.min() < -bound):
            raise CorruptError("the sum leaves the agreed integer range; an upload is larger than its digits allow")

    def add(self, loaded: Ints) -> None:
        """See `Adder.add`."""
        self._sum = loaded

    def total(self) -> list[bytes]:
        """See `Adder.total`."""
        if self._sum is None or not self._sum.size:
            return []
        data = self._sum.astype(self._dtype).tobytes()
        return [data[i : i + self._item_length] for i in range(0, len(data), self._item_length)]
