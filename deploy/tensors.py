"""Files of tensors: what safetensors says of a disk that refuses, said as Python says it of any other file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dictpfl.common.files import replace_private


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise OSError where a library that writes tensors to `path` raises SafetensorError, which is none."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace `path` by safetensors with these tensors, mode 0600; after a crash the old file is there, or the new one, whole.

    Raises:
        OSError: the disk refuses; the old file is as it was.
    """
    with disk_errors(path):
        replace_private(path, lambda part: save_file(dict(tensors), part, dict(metadata) if metadata else None))
