"""Founding TinyLlama: dictionaries of its 154 weights by Lanczos; before, all eigenvectors of each.

The weights are random with TinyLlama's shapes, 22 layers of them: their singular values lie closer than trained ones do, so Lanczos takes the
longest. Time is that of `decompose`; the members of a deployment take it again when they join. "Before" is one weight of each shape, times
how many there are. `--small`: one layer.
"""

from __future__ import annotations

import resource
import time
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law import dictionary
from dictpfl.common.law.dictionary import Dictionary, decompose

LAYERS = 22
SHAPES = {"q, o": ((2048, 2048), 2), "k, v": ((256, 2048), 2), "gate, up": ((5632, 2048), 2), "down": ((2048, 5632), 1)}
"""Weights of a layer: their shape, and how many."""
RANK = 8


def _weight(shape: tuple[int, int], seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0.0, 0.02, shape).astype(np.float32).astype(np.float64)


def _timed(weight: NDArray[np.float64]) -> tuple[float, Dictionary]:
    began = time.perf_counter()
    made = decompose(weight, RANK)
    return time.perf_counter() - began, made


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- every row is called so
    """Seconds of all weights, and of one of each shape both ways; and how far the two ways are apart, as a share of a column."""
    layers, seconds, one, before, apart = 1 if small else LAYERS, 0.0, {}, {}, 0.0
    for name, (shape, count) in SHAPES.items():
        weight = _weight(shape, 0)
        one[name], made = _timed(weight)
        with mock.patch.object(dictionary, "_LARGE", 2**62):
            before[name], full = _timed(weight)
        off = np.linalg.norm(made.matrix.astype(float) - full.matrix, axis=0) / np.linalg.norm(full.matrix, axis=0)
        apart = max(apart, float(off.max()))
        for number in range(1, layers * count):
            seconds += _timed(_weight(shape, number))[0]
    seconds += sum(one.values())
    return {
        "layers": layers,
        "rank": RANK,
        "seconds": seconds,
        "seconds_before": layers * sum(before[name] * count for name, (_, count) in SHAPES.items()),
        "seconds_of_one": one,
        "seconds_of_one_before": before,
        "apart_at_most": apart,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
