"""Weights out of an ONNX file, without the library: names, shapes and float32 values, and which node uses which.

An ONNX file is a protobuf message; the numbers of its fields are in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GRAPH = 7  # ModelProto.graph
_NODE, _INITIALIZER = 1, 5  # GraphProto
_INPUT, _NODE_NAME = 1, 3  # NodeProto
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW = 1, 2, 8, 9  # TensorProto
_FLOAT = 1  # TensorProto.DataType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Graph:
    """What a file holds: weights by their names, and of each node its name and its inputs."""

    weights: dict[str, NDArray[np.float32]]
    inputs: dict[str, tuple[str, ...]]

    def operand(self, node: str) -> NDArray[np.float32]:
        """Return the weight that a node multiplies by; exporters give it a name of their own and transpose it."""
        (name,) = (name for name in self.inputs[node] if name in self.weights)
        return self.weights[name]


def read(data: bytes) -> Graph:
    """Read a model.

    Raises:
        ValueError: no such message, or a weight that is not raw float32.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    view = memoryview(data)
    for _, graph in _chunks(view, _GRAPH):
        for field, chunk in _chunks(graph, _NODE, _INITIALIZER):
            if field == _INITIALIZER:
                name, array = _tensor(chunk)
                if array is not None:
                    weights[name] = array
            else:
                parts = list(_chunks(chunk, _INPUT, _NODE_NAME))
                name = next((bytes(part).decode() for number, part in parts if number == _NODE_NAME), "")
                inputs[name] = tuple(bytes(part).decode() for number, part in parts if number == _INPUT)
    if not weights:
        raise ValueError("no weights: expected an ONNX model with its weights inside")
    return Graph(weights, inputs)


def _tensor(message: memoryview) -> tuple[str, NDArray[np.float32] | None]:
    """Name and values of a TensorProto; no values for one that is not of floats (constants of shapes)."""
    fields = list(_fields(message))
    name = next(
        bytes(value).decode() for number, value in fields if number == _TENSOR_NAME and not isinstance(value, int)
    )
    kind = next((value for number, value in fields if number == _DATA_TYPE), 0)
    if kind != _FLOAT:
        return name, None
    shape: list[int] = []
    for number, value in fields:
        if number == _DIMS:
            shape.extend([value] if isinstance(value, int) else _packed(value))
    raw = next((value for number, value in fields if number == _RAW and not isinstance(value, int)), memoryview(b""))
    values = np.frombuffer(raw, dtype="<f4")
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{name}: {values.size} values for the shape {shape}; expected raw float32 inside the file")
    return name, values.reshape(shape).astype(np.float32)


def _packed(view: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(view):
        number, place = _varint(view, place)
        numbers.append(number)
    return numbers


def _chunks(view: memoryview, *wanted: int) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(view):
        if number in wanted and not isinstance(value, int):
            yield number, value


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message: an int, or its bytes."""
    place = 0
    while place < len(view):
        tag, place = _varint(view, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(view, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(view, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {place}: no protobuf message")
        if place + length > len(view):
            raise ValueError(f"field {number} ends after the message; the file is cut short")
        yield number, view[place : place + length]
        place += length


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(view):
            raise ValueError("a number ends after the message; the file is cut short")
        byte = view[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 -- the bit that says: more follows
            return value, place
