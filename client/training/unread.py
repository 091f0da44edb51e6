"""Features that are read by the batch, where otherwise there is a tensor of all (`data.lazy`), and the processes that read them."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dictpfl.client.data.lazy import SUSPICIOUS, Form, LazySamples
from dictpfl.common.errors import DataError

Batch = tuple[Tensor, Tensor]
Prepared = tuple[Tensor, Tensor, Sequence[tuple[int, str]], str]
"""Features and labels of a batch, what was left out of it, and why it cannot be had; empty: it can."""
_SHOWN = 3
_log = structlog.get_logger(__name__)


class Unread:
    """Features of lazy samples: what a tensor of all would be asked about itself, and batches of it."""

    def __init__(self, samples: LazySamples, dtype: torch.dtype, workers: int = 0) -> None:
        """Take samples.

        Args:
            samples: to read from.
            dtype: of floats in a batch.
            workers: processes that read where all are read in their order.
        """
        self.samples, self.workers, self.device = samples, workers, torch.device("cpu")
        self.shape = (len(samples), *samples.form.shape)
        kind = getattr(torch, samples.form.dtype)
        self.dtype = dtype if kind.is_floating_point else kind

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def digest(self) -> bytes | None:
        """Digest of which samples these are; None: one may be another the next time, or be left out."""
        samples = self.samples
        if not samples.reader.steady or samples.data.skip_broken:
            return None
        return hashlib.sha256(samples.reader.digest.encode() + samples.numbers.tobytes()).digest()

    @property
    def labels(self) -> Tensor:
        """Labels, floats in this dtype, where they are in memory; an empty tensor where they are read with features."""
        if not self.samples.holds_labels:
            return torch.empty(0)
        held = torch.from_numpy(self.samples.labels)
        return held.to(self.dtype) if held.is_floating_point() and self.is_floating_point() else held

    def dim(self) -> int:
        """Dimensions of a tensor of all."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Tell whether they are floats, as a tensor does."""
        return self.dtype.is_floating_point

    def read(self, places: Any, seed: int = 0) -> Prepared:
        """Read a batch; errors come back as words, since they cross from a process to another, where a traceback would be added."""
        try:
            shared = _Shared(self.samples.form) if get_worker_info() is not None else None
            found = self.samples.read(np.asarray(places), seed, shared)
        except DataError as error:
            return torch.empty(0), torch.empty(0), (), str(error)
        features, labels = torch.from_numpy(found.features), torch.from_numpy(found.labels)
        if shared is not None and shared.holds(found.features):
            features = shared.tensor
        if labels.is_floating_point():
            labels = labels.to(self.dtype if self.dtype.is_floating_point else torch.float32)
        return features.to(self.dtype), labels, found.broken, ""


class _Shared:
    """Memory that this process shares with the one that it reads for: a batch that is written there crosses without a copy."""

    def __init__(self, form: Form) -> None:
        self._form, self.tensor = form, torch.empty(0)

    def __call__(self, count: int) -> NDArray[Any]:
        kind: torch.dtype = getattr(torch, self._form.dtype)
        shape = (count, *self._form.shape)
        size = math.prod(shape) * kind.itemsize
        # As torch's own `default_collate` does in a worker.
        storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]  # noqa: SLF001
        self.tensor = torch.empty(0, dtype=kind).set_(storage, 0, shape)  # type: ignore[call-overload]
        made: NDArray[Any] = self.tensor.numpy()
        return made

    def holds(self, features: NDArray[Any]) -> bool:
        """Tell whether features were written here."""
        return (
            features.shape == self.tensor.shape and features.ctypes.data == self.tensor.data_ptr() and len(features) > 0
        )


class Broken:
    """Samples that were left out, said once each."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def see(self, broken: Sequence[tuple[int, str]]) -> None:
        """Count what a batch was short of, and say what is new."""
        for number, why in broken:
            if number not in self._known and len(self._known) < _SHOWN:
                _log.warning("a sample that cannot be read is left out (data.skip_broken)", reason=why)
            self._known.add(number)

    def conclude(self, of: int) -> None:
        """Say how many there were.

        Raises:
            DataError: all of them.
        """
        if len(self._known) >= max(of, SUSPICIOUS):
            raise DataError(f"none of {of} samples can be read; set data.skip_broken = false, which says why")
        if self._known:
            _log.warning(
                "samples that cannot be read were left out (data.skip_broken)", samples=len(self._known), of=of
            )


class _InOrder(Dataset[Prepared]):
    """Batches of some size, first to last."""

    def __init__(self, unread: Unread, size: int) -> None:
        self._unread, self._size = unread, size

    def __len__(self) -> int:
        return math.ceil(len(self._unread) / self._size)

    def __getitem__(self, number: int) -> Prepared:
        return self._unread.read(np.arange(number * self._size, min(len(self._unread), (number + 1) * self._size)))


def in_order(unread: Unread, size: int, device: torch.device) -> Iterator[Batch]:
    """Yield all samples by the batch, without those that are left out; a batch of which nothing is left is not yielded.

    Raises:
        DataError: a sample cannot be read.
    """
    every = loaded(_InOrder(unread, size), len(unread), device, unread.workers, torch.Generator())
    return ((x, y) for x, y in every if len(x))


def loaded(
    made: Dataset[Prepared], count: int, device: torch.device, workers: int, generator: torch.Generator | None
) -> Iterator[Batch]:
    """Yield prepared batches on a device, in their order, however many processes prepare them; empty ones, where all was left out, too.

    Args:
        made: batches by number.
        count: samples in all, for what is said of those that were left out.
        device: to yield on.
        workers: processes; 0: this one.
        generator: that the loader draws its own seed from; None: torch's global one.

    Raises:
        DataError: a sample cannot be read, or a process ended.
    """
    broken = Broken()
    with warnings.catch_warnings():
        # torch advises against more processes than cores; the configuration has said how many.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Prepared] = DataLoader(
            made,
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            collate_fn=_as_it_is,
            generator=generator,
        )
        batches = iter(loader)
    while True:
        try:
            x, y, left_out, why = next(batches)
        except StopIteration:
            break
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads samples ended: {str(error).splitlines()[0]}. Most often it had too little memory, or /dev/shm is small (in a "
                "container: --shm-size); use fewer training.workers, or 0"
            ) from error
        if why:
            raise DataError(why)
        broken.see(left_out)
        yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)
    broken.conclude(count)


def _as_it_is(made: Any) -> Any:
    return made
