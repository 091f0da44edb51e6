"""Confusion matrix, and what follows from it for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.pooled import COUNT_BITS, numbers, ratio
from dictpfl.client.training.shapes import are_labels, labels, require_numbers, units
from dictpfl.common.arrays import Ints

_MOST = 32
"""Most classes whose whole matrix is added, n^2 integers; of more, three integers a class are enough for all but the matrix."""


@METRICS.register("confusion")
class Confusion:
    """Confusion matrix of classes, or of each label: accuracy, balanced accuracy, sensitivity, specificity, precision, F1.

    Of two classes, sensitivity and its like are those of class 1; of more, means over the classes that occur, with `by class` beside; one
    that occurs and is never said has no precision, and counts as 0 in their mean,
    where one that is said and never occurs counts as 0, too.
    Of labels that do not exclude each other (float targets of 0 and 1), each is there from a probability of 1/2 on.
    """

    bits = COUNT_BITS

    def __init__(self, outputs: int) -> None:
        """Make it for so many classes or labels."""
        self._classes = outputs
        self._whole = outputs <= _MOST
        self.size = 4 * outputs + 3 + (outputs * outputs if self._whole else 0)

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `dictpfl.client.training.pooled.Pooled.sums`: right, named, there, all, by class; exact ones, units, sets of labels; matrix."""
        count = self._classes
        matrix = np.zeros(count * count if self._whole else 0, dtype=np.int64)
        if are_labels(outputs, targets):
            outputs, targets = labels(outputs, targets)
            require_numbers(outputs)
            named, there = (outputs > 0).long(), targets.long()
            by_class = [(named & there).sum(0), named.sum(0), there.sum(0), torch.full((count,), len(there))]
            exact = int((named == there).all(dim=1).sum())
            return np.concatenate([*map(numbers, by_class), [exact, len(there), len(there)], matrix])
        outputs, targets = units(outputs, targets)
        require_numbers(outputs)
        said = outputs.argmax(dim=1)
        right = said[said == targets]
        by_class = [torch.bincount(some, minlength=count) for some in (right, said, targets)]
        by_class.append(torch.full((count,), len(targets)))
        if self._whole:
            matrix = numbers(torch.bincount(targets * count + said, minlength=count * count))
        return np.concatenate([*map(numbers, by_class), [len(right), len(targets), 0], matrix])

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `dictpfl.client.training.pooled.Pooled.figures`."""
        count = self._classes
        right, named, there, every = np.asarray(sums[: 4 * count], dtype=np.float64).reshape(4, count)
        exact, total, sets = (int(v) for v in sums[4 * count : 4 * count + 3])
        by_class = {
            "sensitivity": _ratios(right, there),
            "specificity": _ratios(every - named - there + right, every - there),
            "precision": _ratios(right, named),
            "f1": _ratios(2 * right, named + there),
        }
        one = 1 if count == 2 and not sets else None  # noqa: PLR2004 -- the second of two classes is the one that is looked for
        # Of labels, the mean of both shares of each; of classes, that is what the mean sensitivity is.
        both = by_class["sensitivity"] + (by_class["specificity"] if sets else [])
        figures: dict[str, Any] = {"accuracy": ratio(exact, total), "balanced accuracy": _mean(both)}
        figures |= {name: _mean(values) if one is None else values[one] for name, values in by_class.items()}
        if one is None:
            # A class that does not occur has a specificity all the same, near 1 as a rule.
            figures["specificity"] = _mean(
                [s for s, t in zip(by_class["specificity"], there, strict=True) if t or sets]
            )
            # As scikit-learn's mean; left out, a model that says one class alone would seem as precise as that one.
            figures["precision"] = _mean(
                [0.0 if p is None and t else p for p, t in zip(by_class["precision"], there, strict=True)]
            )
        figures |= {f"{name} by class": values for name, values in by_class.items()}
        if not sets:
            figures["majority"] = ratio(float(there.max()), total)
        if self._whole and not sets:
            figures["matrix"] = np.asarray(sums[4 * count + 3 :], dtype=np.int64).reshape(count, count).tolist()
        return figures


def _ratios(part: NDArray[np.float64], whole: NDArray[np.float64]) -> list[float | None]:
    return [ratio(float(p), float(w)) for p, w in zip(part, whole, strict=True)]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
