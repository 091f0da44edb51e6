"""The ledger: counts, losses and metrics at the head of an upload, sealed like the rest (docs/explanation/how-it-works.md).

The coordinator learns no sample count and no metric; institutions learn sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import VoidError
from dictpfl.common.law.measure import Measure
from dictpfl.common.law.packing import Digits, pack, unpack

_FRACTION = 1024
"""Sums of losses and metrics are sent in units of 1/1024."""
_FIELDS = 6
LARGEST_CODE = 4095
"""Largest range code that every institution may send: two to four times the range that the round began with."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Report of an institution about a round, or the sum of such reports.

    Attributes:
        participants: 1, or the number of uploads in the sum.
        samples: training samples, at most the agreed cap.
        train_loss: sum of the training loss over those samples (mean loss times samples).
        measured: number of validation samples.
        loss: sum of the loss over validation samples, for the shared model before training.
        metric: sum of the task's metric over them (for instance correct predictions).
        codes: range code of each tensor (`dictpfl.common.law.grid`), int64.
        measures: integers of each agreed measure over validation samples, int64; empty where none is told.
    """

    participants: int
    samples: int
    train_loss: float
    measured: int
    loss: float
    metric: float
    codes: Ints
    measures: tuple[Ints, ...] = ()

    @classmethod
    def void(cls, participants: int) -> Self:
        """Make the ledger of a round of which nothing is known but the number of uploads."""
        return cls(participants, 0, 0.0, 0, 0.0, 0.0, np.zeros(0, np.int64))


@dataclass(frozen=True)
class LedgerForm:
    """Form of the ledger at the head of an upload: six fields, a component each, range codes as digits, then measures as digits.

    Attributes:
        tensors: number of tensors in the layout.
        capacity: most uploads in a sum.
        payload_bits: bits of a component of a sum.
        measures: agreed measures, in their order.
    """

    tensors: int
    capacity: int
    payload_bits: int
    measures: tuple[Measure, ...] = ()

    @cached_property
    def codes(self) -> Digits:
        """Digits of range codes."""
        return Digits.holding(LARGEST_CODE, self.capacity, self.payload_bits)

    @property
    def size(self) -> int:
        """Number of components."""
        return self._codes_end + sum(digits.components(one.size) for one, digits in self._measured)

    @cached_property
    def _measured(self) -> tuple[tuple[Measure, Digits], ...]:
        """Measures with their digits."""
        return tuple((one, one.digits(self.capacity, self.payload_bits)) for one in self.measures)

    @property
    def _codes_end(self) -> int:
        """Number of components up to the last range code."""
        return _FIELDS + self.codes.components(self.tensors)

    @property
    def bound(self) -> int:
        """Largest component that one participant may send."""
        return int((2 ** (self.payload_bits - 1) - 1) // self.capacity)

    def cut(self, ledger: Ledger) -> tuple[str, ...]:
        """Name the figures of one upload's ledger that `write` cuts, so that institutions learn too small a sum."""
        most = self.bound / _FRACTION
        return tuple(name for name in ("train_loss", "loss", "metric") if not abs(getattr(ledger, name)) <= most)

    def write(self, ledger: Ledger) -> Ints:
        """Encode one upload's ledger, int64, shape (size,); fields are clipped so that no sum leaves the payload, what is no number upwards.

        Measures that are not told are zeros: nobody sees whose they are.
        """
        bound = self.bound
        scaled = [value * _FRACTION for value in (ledger.train_loss, ledger.loss, ledger.metric)]
        finite = [round(value) if np.isfinite(value) else -bound if value == -np.inf else bound for value in scaled]
        head = [ledger.participants, ledger.samples, ledger.measured, *finite]
        fields = np.clip(np.array(head, dtype=object), -bound, bound).astype(np.int64)
        told = ledger.measures or tuple(np.zeros(one.size, np.int64) for one in self.measures)
        measures = [
            pack(np.clip(integers, -one.largest, one.largest), digits)
            for integers, (one, digits) in zip(told, self._measured, strict=True)
        ]
        return np.concatenate([fields, pack(ledger.codes, self.codes), *measures])

    def read(self, components: Ints) -> Ledger:
        """Decode the sum of ledgers that `write` made, at the head of an upload's components.

        Raises:
            VoidError: too few components, no participants, or a negative number of samples.
        """
        if components.size < self.size:
            raise VoidError(f"a sum of {components.size} components, the ledger alone has {self.size}")
        participants, samples, measured, train_loss, loss, metric = (int(v) for v in components[:_FIELDS])
        if participants < 1 or samples < 0 or measured < 0:
            raise VoidError(
                f"the ledger counts {participants} participants, {samples} samples and {measured} measured ones; "
                "an upload does not follow the protocol"
            )
        return Ledger(
            participants,
            samples,
            train_loss / _FRACTION,
            measured,
            loss / _FRACTION,
            metric / _FRACTION,
            unpack(components[_FIELDS : self._codes_end], self.tensors, self.codes),
            tuple(self._read_measures(components)),
        )

    def _read_measures(self, components: Ints) -> Iterator[Ints]:
        """Sums of each measure."""
        start = self._codes_end
        for one, digits in self._measured:
            end = start + digits.components(one.size)
            yield unpack(components[start:end], one.size, digits)
            start = end
