"""Area under the ROC curve and average precision, from histograms of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.pooled import COUNT_BITS, bins_of, numbers
from dictpfl.client.training.shapes import are_labels, chances
from dictpfl.common.arrays import Ints

_TOTAL, _FEWEST = 512, 32
_REACH = 16.0
"""Log odds beyond which scores share the last bin: a probability of 1e-7."""
_PLACES = 1000
Floats = NDArray[np.float64]


@METRICS.register("auroc")
class AUROC:
    """AUROC and average precision of each class against the rest, from the scores of all institutions, in bins.

    Half of the bins' places go by probability, half by its log odds from -16 to 16, so that rare classes are told apart, too.
    Within a bin, order is lost: a pair there counts one half, as of equal scores. How far this may be from the figure of the exact scores
    follows from the counts themselves, and is reported as `auroc error` and `average precision error`: half of the share of pairs that
    share a bin is the most; what is lost is usually far less, since within a bin both orders occur.

    Of two classes, the score is that of class 1; of more, or of labels, figures are means over the classes that occur.
    """

    bits = COUNT_BITS

    def __init__(self, outputs: int, bins: int = 0) -> None:
        """Choose the number of bins.

        Args:
            outputs: classes or labels.
            bins: of each class; 0: 512 divided among them, at least 32.

        Raises:
            ConfigError: fewer than 2 bins, which have no order, or too many.
        """
        default = max(_FEWEST, _TOTAL // max(1, outputs))
        self._classes, self._bins = outputs, bins_of("auroc", bins, 2) if bins else default
        self.size = 2 * self._classes * self._bins

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `dictpfl.client.training.pooled.Pooled.sums`: by class and bin, without the class and with it."""
        chance, there = chances(outputs, targets)
        place = 0.5 * chance + 0.5 * (torch.logit(chance, eps=1e-12).clamp(-_REACH, _REACH) / (2 * _REACH) + 0.5)
        bins = (place * self._bins).long().clamp(0, self._bins - 1)
        index = (torch.arange(self._classes, device=bins.device) * 2 + there.long()) * self._bins + bins
        if self._classes == 2 and not are_labels(outputs, targets):  # noqa: PLR2004 -- the area is the same for either class
            index = index[:, 1:]
        return numbers(torch.bincount(index.reshape(-1), minlength=self.size))

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `dictpfl.client.training.pooled.Pooled.figures`."""
        areas, precisions = [], []
        for without, of_class in np.asarray(sums, dtype=np.float64).reshape(self._classes, 2, self._bins):
            known = without.sum() > 0 and of_class.sum() > 0
            areas.append(_area(without, of_class) if known else None)
            precisions.append(_precision(without, of_class) if known else None)
        figures: dict[str, Any] = {}
        for name, pairs in (("auroc", areas), ("average precision", precisions)):
            found = [pair for pair in pairs if pair is not None]
            mean = np.mean(found, axis=0).tolist() if found else [None, None]
            figures[name], figures[f"{name} error"] = mean
            if self._classes > 1:
                figures[f"{name} by class"] = [None if pair is None else pair[0] for pair in pairs]
        return figures | {"auroc bins": self._bins}


def _area(without: Floats, of_class: Floats) -> tuple[float, float]:
    """Area, and half of the share of pairs that share a bin."""
    pairs = without.sum() * of_class.sum()
    below = np.cumsum(without) - without
    tied = float((without * of_class).sum() / pairs / 2)
    return float((of_class * below).sum() / pairs) + tied, tied


def _precision(without: Floats, of_class: Floats) -> tuple[float, float]:
    """Average precision with a bin's scores of both kinds spread evenly, and how far the best and the worst order are from it.

    It is the mean, over those of the class, of the share of the class among all that score as high (scikit-learn's definition). Of
    more than a thousand in a bin, a thousand places stand for them.
    """
    n, p = without[::-1], of_class[::-1]
    steps = np.minimum(p, _PLACES).astype(np.int64)
    bins = np.repeat(np.arange(p.size), steps)
    first = np.concatenate([[0], np.cumsum(steps)[:-1]])
    share = (np.arange(bins.size) - first[bins] + 0.5) / steps[bins]
    width = (p / np.maximum(steps, 1))[bins]
    rank = (np.cumsum(p) - p)[bins] + share * p[bins] + width / 2
    above, within = (np.cumsum(n) - n)[bins], n[bins]
    even, best, worst = (
        float((width * rank / (rank + above + part * within)).sum() / p.sum()) for part in (share, 0.0, 1.0)
    )
    return even, max(best - even, even - worst)
