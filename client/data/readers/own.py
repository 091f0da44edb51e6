"""A user's own Dataset: anything with a length, whose items are pairs of a sample and its label (`torch.utils.data.Dataset`)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from dictpfl.client.data.lazy import Known, Numbers, Room
from dictpfl.client.data.samples import SPLITS
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data

_HELD = 16  # targets of a regression that are kept in memory; more are read with the features
_log = structlog.get_logger(__name__)


def is_own(found: Any) -> bool:
    """Tell whether an object is a map-style Dataset, or some of them by split."""
    import torch

    parts = list(found.values()) if isinstance(found, Mapping) else [found]
    # A class is called first; the others are more likely a slip than a Dataset.
    plain = (type, list, tuple, str, bytes, np.ndarray, torch.Tensor)
    return bool(parts) and all(
        hasattr(part, "__len__") and hasattr(part, "__getitem__") and not isinstance(part, plain) for part in parts
    )


class OwnReader:
    """Items of a Dataset; nothing of them is kept.

    An item may be drawn (random transforms): torch's, numpy's and Python's generators are seeded for each, by the round's seed and the
    sample's number, and are afterwards as they were. So a sample does not depend on how many workers there are.
    """

    steady = False

    def __init__(self, found: Any, data: Data) -> None:
        """Take a Dataset, or a mapping of `train`, `validation` and `test` to one each.

        Raises:
            DataError: other splits, or no samples.
        """
        parts: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {"": found}
        if unknown := sorted(map(str, parts.keys() - {*SPLITS, ""})):
            raise DataError(f"data.source {data.source!r} returned {', '.join(unknown)}; expected {', '.join(SPLITS)}")
        self._data, self._names, self._parts = data, list(parts), list(parts.values())
        self._ends = np.cumsum([len(part) for part in self._parts])
        if not self._ends[-1]:
            raise DataError(f"data.source {data.source!r} returned a Dataset without samples; expected at least one")

    def __len__(self) -> int:
        """Number of samples of all splits."""
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """Splits and their lengths: nothing else is known of somebody else's Dataset; labels are compared when they are read."""
        return ",".join(f"{name}{len(part)}" for name, part in zip(self._names, self._parts, strict=True))

    def read(self, numbers: Numbers, seed: int, room: Room | None = None) -> tuple[NDArray[Any], NDArray[Any]]:  # noqa: ARG002 -- pairs are checked before they stand together
        """See `dictpfl.client.data.lazy.Reader`."""
        with _as_they_were():
            pairs = [self._item(int(number), seed) for number in numbers]
        shapes = {tuple(part.shape for part in pair) for pair in pairs}
        if len(shapes) > 1:
            raise DataError(
                f"{self._data.source}: samples {numbers.tolist()[:5]} have the shapes {sorted(shapes)[:5]}; expected one for all"
            )
        return np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])

    def known(self) -> Known:
        """See `dictpfl.client.data.lazy.Reader`: by `targets` and `classes` of the Dataset, as torchvision's have them, or by its items."""
        labels, kept, one = self._labels()
        classes = self._classes()
        # `groups` names each sample's institution; torch has no word for it.
        groups = [getattr(part, "groups", None) for part in self._parts]
        named = np.concatenate([np.asarray(g, np.str_) for g in groups]) if all(g is not None for g in groups) else None
        splits = None if self._names == [""] else np.repeat(self._names, [len(part) for part in self._parts])
        names, shape = len(classes), one.shape
        if one.dtype == np.int64:
            outputs = max(1, names, int(labels.max()) + 1 if labels is not None and len(labels) else 0)
            labels = labels if one.ndim == 0 else None  # a class for each token is read with its tokens
        elif len(shape) == 2:  # noqa: PLR2004 -- a map with the number of a class for each pixel
            outputs = max(1, names)
        else:
            outputs = shape[0] if shape else 1
        return Known(outputs, labels, named, splits, kept, name=self._data.source, class_names=classes)

    def _classes(self) -> tuple[str, ...]:
        """Names of the classes, where the Dataset has them; none of one that says None."""
        said = getattr(self._parts[0], "classes", None)
        try:
            return () if said is None else tuple(map(str, said))
        except TypeError as error:
            raise DataError(
                f"`classes` of data.source {self._data.source!r} is {said!r}; expected the names of classes, in the order of their numbers"
            ) from error

    def _labels(self) -> tuple[NDArray[Any] | None, Numbers | None, NDArray[Any]]:
        """Labels of all samples (None: read with features), which of them there are, and one label."""
        said = [getattr(part, "targets", None) for part in self._parts]
        if all(one is not None for one in said):
            try:
                labels = np.concatenate([_label(np.asarray(one)) for one in said])
                return labels, None, np.zeros(labels.shape[1:], labels.dtype)
            except (TypeError, ValueError) as error:
                raise DataError(f"`targets` of data.source {self._data.source!r}: {error}") from error
        first = next((label for label in map(self._tried, range(len(self))) if label is not None), None)
        if first is None:
            raise DataError(
                f"data.source {self._data.source!r}: no sample can be read; data.skip_broken = false says why"
            )
        if (first.dtype == np.int64 and first.ndim) or first.size > _HELD:
            return None, None, first
        _log.info(
            "reading every sample once for its label; an attribute `targets` of the Dataset, with all labels, saves this",
            source=self._data.source,
            samples=len(self),
        )
        every = [self._tried(number) for number in range(len(self))]
        kept = np.array([number for number, label in enumerate(every) if label is not None], dtype=np.int64)
        if len(kept) < len(self):
            _log.warning(
                "samples that cannot be read are left out", source=self._data.source, samples=len(self) - len(kept)
            )
        if len(shapes := {label.shape for label in every if label is not None}) > 1:
            raise DataError(
                f"labels of data.source {self._data.source!r} have the shapes {', '.join(map(str, sorted(shapes)[:5]))}; expected one for all"
            )
        labels = np.stack([label if label is not None else np.zeros_like(first) for label in every])
        return labels, None if len(kept) == len(self) else kept, np.zeros(labels.shape[1:], labels.dtype)

    def _tried(self, number: int) -> NDArray[Any] | None:
        try:
            with _as_they_were():
                return self._item(number, 0)[1]
        except DataError:
            if not self._data.skip_broken:
                raise
            return None

    def _item(self, number: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        import torch

        part = int(np.searchsorted(self._ends, number, side="right"))
        place = number - (int(self._ends[part - 1]) if part else 0)
        drawn = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0])
        torch.default_generator.manual_seed(drawn)
        np.random.seed(drawn)  # noqa: NPY002 -- the generator that others' transforms draw from
        random.seed(drawn)
        where = f"sample {place}{f' of {self._names[part]!r}' if self._names[part] else ''} of data.source {self._data.source!r}"
        try:
            pair = self._parts[part][place]
        except Exception as error:  # others' code: a broken file can be any error
            said = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{where} cannot be read: {said}; mend or drop it, or set data.skip_broken = true"
            ) from error
        if not isinstance(pair, Sequence) or len(pair) != 2:  # noqa: PLR2004 -- a sample and its label
            raise DataError(f"{where} is {type(pair).__name__}; expected a pair: a sample and its label")
        try:
            x, y = (_array(one) for one in pair)
            return x, _label(y)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {error}") from error


def _array(found: Any) -> NDArray[Any]:
    import torch

    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().numpy()
    if not isinstance(found, (np.ndarray, np.generic, int, float, list)):
        raise TypeError(
            f"expected a tensor, an array or a number, found {type(found).__name__}; give the Dataset a transform that makes one"
        )
    return np.asarray(found)


def _label(found: NDArray[Any]) -> NDArray[Any]:
    if found.dtype.kind not in "biuf":
        raise TypeError(f"expected a number for a label, found {found.dtype}; number the classes 0, 1, 2, ...")
    return found.astype(np.float32 if found.dtype.kind == "f" else np.int64)


@contextmanager
def _as_they_were() -> Iterator[None]:
    """Leave the process's generators as they were: the training that reads here draws from them, too."""
    import torch

    own, others = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the global generator is meant
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(others)  # noqa: NPY002
