"""Perplexity of a language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from dictpfl.client.data.samples import IGNORED
from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.pooled import COUNT_BITS, fixed, numbers, ratio
from dictpfl.client.training.shapes import shifted
from dictpfl.common.arrays import Ints

_REACH, _FRACTION = 6, 16
"""A token's surprise up to 2^6 nats, which is clipped there, in steps of 2^-16."""


@METRICS.register("perplexity")
class Perplexity:
    """exp(mean surprise of a token), over all tokens of all institutions: outputs (batch, tokens, vocabulary).

    A mean over samples would weigh the tokens of short texts more, and the mean of institutions' perplexities is larger than theirs
    together: neither is the perplexity of the pooled text.
    """

    size, bits = 3, COUNT_BITS + _REACH + _FRACTION

    def __init__(self, outputs: int) -> None:
        """Take the vocabulary's size, which nothing follows from."""

    def sums(self, outputs: Tensor, targets: Tensor) -> Ints:
        """See `dictpfl.client.training.pooled.Pooled.sums`: surprise, tokens, right tokens."""
        outputs, targets = shifted(outputs, targets)
        known = targets != IGNORED
        outputs, targets = outputs[known], targets[known]
        surprise = F.cross_entropy(outputs.double(), targets, reduction="none").clamp(max=2.0**_REACH)
        right = outputs.argmax(dim=-1) == targets
        return np.concatenate([numbers(fixed(surprise, _FRACTION).sum()), [len(targets)], numbers(right.sum())])

    def figures(self, sums: Ints) -> Mapping[str, Any]:
        """See `dictpfl.client.training.pooled.Pooled.figures`."""
        surprise, tokens, right = (int(v) for v in sums)
        loss = ratio(surprise / 2**_FRACTION, tokens)
        return {
            "perplexity": None if loss is None else math.exp(loss), "loss a token": loss,
            "tokens right": ratio(right, tokens), "tokens": tokens,
        }  # fmt: skip
