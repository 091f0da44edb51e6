"""The ways that faster ones replaced, so that both can be measured in one run, and held to the same results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import client.training
import client.twin
import client.workbench
import common.dictionary
import common.round
from client.models import load_weights
from client.twin import Twin
from common.grid import step_exponents
from common.packing import Digits, Ints
from common.round import Law, Stream
from common.state import Floats

MEASURED_AT_A_TIME = 512
"""Samples in a batch of an evaluation."""


def leading(a: Floats, r: int) -> tuple[Floats, Floats]:
    """`common.dictionary._leading`, from all singular vectors."""
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    return u[:, :r], s[:r]


def stream(law: Law, ranges: Floats, mask: NDArray[np.bool_], digits: Digits) -> Stream:
    """`common.round._stream`, with a power of two for every value."""
    index = np.flatnonzero(mask)
    exponents = step_exponents(ranges, digits.largest)
    return Stream(index, np.ldexp(1.0, exponents[law.layout.tensor_of[index]]), digits)


def range_codes(values: Floats, units: Floats, tensors: NDArray[np.int32], cap: int) -> Ints:
    """`common.grid.range_codes`, with a division for every value."""
    codes = np.zeros(units.size, dtype=np.float64)
    if values.size:
        starts = np.flatnonzero(np.concatenate([[True], tensors[1:] != tensors[:-1]]))
        codes[tensors[starts]] = np.maximum.reduceat(np.abs(values) / units[tensors], starts)
    return np.minimum(np.ceil(codes), cap).astype(np.int64)


def read(twin: Twin) -> Floats:
    """`client.twin.Twin.read`, through copies."""
    return twin.layout.flatten({e.name: array(twin._tensor(e.name)) for e in twin.layout.entries})  # noqa: SLF001


def array(tensor: Tensor) -> NDArray[Any]:
    """`client.twin._array`, copied twice."""
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).clone().numpy()


@torch.no_grad()
def put(tensor: Tensor, value: NDArray[Any]) -> None:
    """`client.twin._put`, through a copy."""
    tensor.copy_(torch.tensor(value).reshape(tensor.shape))


def pack(values: Ints, digits: Digits) -> Ints:
    """`common.packing.pack`, a value at a time."""
    count = digits.components(values.size)
    out = [0] * count
    for place, value in enumerate(values.tolist()):
        out[place % count] += value << (digits.width * (place // count))
    return np.array(out, dtype=np.int64)


def unpack(components: Ints, count: int, digits: Digits) -> Ints:
    """`common.packing.unpack`, a digit at a time."""
    half, mask = 1 << (digits.width - 1), (1 << digits.width) - 1
    planes: list[list[int]] = [[] for _ in range(digits.per_component)]
    for component in components.tolist():
        rest = component
        for plane in planes[:-1]:
            digit = ((rest + half) & mask) - half
            plane.append(digit)
            rest = (rest - digit) >> digits.width
        planes[-1].append(rest)
    return np.array([digit for plane in planes for digit in plane][:count], dtype=np.int64)


def _take(module: torch.nn.Module, _found: object, path: Path) -> None:
    """`client.models.take_weights`, from the file once more."""
    load_weights(module, path)


@contextmanager
def installed() -> Iterator[None]:
    """Everything runs as it did before, inside; packing was never otherwise."""
    with ExitStack() as stack:
        for holder, name, way in (
            (common.dictionary, "_leading", leading),
            (common.round, "_stream", stream),
            (common.round, "range_codes", range_codes),
            (client.twin, "_array", array),
            (client.twin, "_put", put),
            (client.twin.Twin, "read", read),
            (client.workbench, "take_weights", _take),
            (client.training, "_CACHED", MEASURED_AT_A_TIME),
        ):
            stack.enter_context(patch.object(holder, name, way))
        yield
