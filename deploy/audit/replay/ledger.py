"""Ledger: six fields of a component each at the head of an upload, range codes and measures as digits (section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import RoundError
from dictpfl.deploy.audit.formats.digits import Digits
from dictpfl.deploy.audit.replay.agreement import Agreement

_FIELDS, _FRACTION, _LARGEST_CODE = 6, 1024, 4095


@dataclass(frozen=True)
class Ledger:
    """Ledger of an upload, or the sum of those of several.

    Attributes:
        participants: number of uploads.
        samples: training samples.
        measured: validation samples.
        train_loss: sum of the training loss.
        loss: sum of the loss over validation samples.
        metric: sum of the metric over them.
        codes: range code of each tensor, int64.
    """

    participants: int
    samples: int
    measured: int
    train_loss: float
    loss: float
    metric: float
    codes: Ints


def code_digits(agreement: Agreement) -> Digits:
    """Choose the digits of range codes."""
    p = agreement.parameters
    count = Digits.most(_LARGEST_CODE, p.capacity, p.payload_bits).per_component
    return Digits.widest(count, p.capacity, p.payload_bits)


def ledger_size(agreement: Agreement) -> int:
    """Number of components of a ledger, measures behind its range codes included."""
    return _codes_end(agreement) + sum(
        Digits.widest(
            Digits.most(1 << bits, agreement.parameters.capacity, agreement.parameters.payload_bits).per_component,
            agreement.parameters.capacity,
            agreement.parameters.payload_bits,
        ).components(size)
        for size, bits in agreement.measures
    )


def _codes_end(agreement: Agreement) -> int:
    return _FIELDS + code_digits(agreement).components(len(agreement.tensors))


def read_ledger(agreement: Agreement, components: Ints) -> Ledger:
    """Read the ledger at the head of components.

    Raises:
        RoundError: nonsense.
    """
    size = ledger_size(agreement)
    if components.size < size:
        raise RoundError(f"{components.size} components, the ledger alone has {size}")
    participants, samples, measured, *sums = (int(c) for c in components[:_FIELDS])
    if participants < 1 or samples < 0 or measured < 0:
        raise RoundError(f"a ledger of {participants} participants, {samples} samples and {measured} measured ones")
    codes = code_digits(agreement).unpacked(components[_FIELDS : _codes_end(agreement)], len(agreement.tensors))
    train_loss, loss, metric = (total / _FRACTION for total in sums)
    return Ledger(participants, samples, measured, train_loss, loss, metric, codes)
