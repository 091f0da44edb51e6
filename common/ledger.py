"""The ledger: wide fields at the head of the packed stream, sealed like the rest (DESIGN.md, words).

One component a field. The coordinator learns no sample count and no metric; institutions learn sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import RoundError
from common.packing import Ints

_FRACTION = 1024
"""Sums of losses and metrics are sent in units of 1/1024."""
_FIELDS = 6


@dataclass(frozen=True, slots=True)
class Ledger:
    """What an institution reports of a round, or the sum of such reports.

    Attributes:
        participants: 1, or how many are in the sum.
        samples: training samples, at most the agreed cap.
        train_loss: sum of the training loss over those samples (mean loss times samples).
        measured: validation samples.
        loss: sum of the loss over them, for the shared model before training.
        metric: sum of the task's metric over them (correct predictions, say).
        codes: range code of each tensor (`common.grid`), int64.
    """

    participants: int
    samples: int
    train_loss: float
    measured: int
    loss: float
    metric: float
    codes: Ints

    def components(self, bound: int) -> Ints:
        """Fields as components, each clipped to +-bound so that no sum leaves the payload; shape (6 + tensors,)."""
        scaled = [self.train_loss * _FRACTION, self.loss * _FRACTION, self.metric * _FRACTION]
        finite = [round(value) if np.isfinite(value) else bound for value in scaled]
        head = [self.participants, self.samples, self.measured, *finite]
        return np.concatenate([np.clip(np.array(head, dtype=object), -bound, bound).astype(np.int64), self.codes])

    @classmethod
    def read(cls, components: Ints) -> Ledger:
        """Inverse of `components`, on a sum.

        Raises:
            RoundError: no participants, or no samples in it.
        """
        participants, samples, measured, train_loss, loss, metric = (int(v) for v in components[:_FIELDS])
        if participants < 1 or samples < 0 or measured < 0:
            raise RoundError(
                f"the ledger counts {participants} participants, {samples} samples and {measured} measured ones; "
                "an upload does not follow the protocol"
            )
        return cls(
            participants,
            samples,
            train_loss / _FRACTION,
            measured,
            loss / _FRACTION,
            metric / _FRACTION,
            components[_FIELDS:].copy(),
        )


def ledger_size(tensors: int) -> int:
    """Components of a ledger."""
    return _FIELDS + tensors
