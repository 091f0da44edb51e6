"""Arrays of a safetensors file, mapped: they take memory only while they are read, and the system may take it back."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = 8
_KINDS = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U32": "<u4", "U8": "|u1", "BOOL": "|b1"}
"""Kinds of what a record holds, beside an institution's local tensors, which are read otherwise."""


class MappedFile:
    """Safetensors file, mapped, that nobody writes into: whoever changes it puts another in its place."""

    def __init__(self, path: Path) -> None:
        """Map the file for reading.

        Raises:
            OSError, ValueError: there is none, or it is not of this form.
        """
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._start = _LENGTH + int.from_bytes(self._bytes[:_LENGTH], "little")
        self._header: dict[str, Any] = json.loads(self._bytes[_LENGTH : self._start])

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, read-only; the file stays mapped as long as there is one.

        Raises:
            KeyError: there is none of this name, or of a kind that a record has not.
        """
        said = self._header[name]
        first, end = said["data_offsets"]
        kind = np.dtype(_KINDS[said["dtype"]])
        flat = np.frombuffer(self._bytes, kind, (end - first) // kind.itemsize, self._start + first)
        return flat.reshape(said["shape"])

    def let_go(self) -> None:
        """Give back the memory of what was read; it is read again where it is needed."""
        self._bytes.madvise(mmap.MADV_DONTNEED)
