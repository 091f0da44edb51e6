"""Outputs of a run's model for samples that are given as arrays, as columns of a table, or as samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.data.preparing.preparation import as_samples
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.tables import numbers
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.common.errors import DataError, ModelError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.stored import of_bytes
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

_BATCH = 64
_LABEL = "dictpfl label"
"""Column of labels that nobody looks at."""
_OF_FEATURES = ("scale", "shape")
"""Options of a table that make features, not labels."""


def predicted(shared: Path, home: Path, model: nn.Module, features: Any) -> NDArray[Any]:
    """Compute the outputs of a run's model, as `Run.predict` says.

    Args:
        shared: file of the shared state.
        home: an institution's folder, which has the agreement.
        model: the run's, in evaluation mode.
        features: see `Run.predict`.

    Raises:
        DataError: features of another kind or shape.
        ModelError: the model does not take them.
    """
    genesis = Genesis.load(home)
    samples = _samples_of(shared, genesis, features)
    ways, shape = [samples], samples.features.shape[1:]
    if samples.features.dtype == np.int64 and len(shape) == 1 and shape == tuple(genesis.sample_shape):
        # Tokens, or a row of numbers that happen to be whole: the model tells. Whole numbers of a picture may be scaled otherwise.
        ways.append(Samples(samples.features.astype(np.float32), samples.labels))
    refused: list[Exception] = []
    for way in ways:
        try:
            return _joined([part.numpy() for part in outputs_of(model, way)])
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            refused.append(error)
    raise ModelError(
        f"the model does not take features of {samples.features.dtype} and shape {shape} each: {refused[0]}; give them as "
        "the federation's samples are"
    ) from refused[0]


@torch.no_grad()
def outputs_of(model: nn.Module, samples: Samples) -> Iterator[Tensor]:
    """Yield a model's outputs batch by batch, since samples may be on disk; one empty batch where there are none."""
    for start in range(0, max(1, len(samples)), _BATCH):
        part = samples.take(np.arange(start, min(start + _BATCH, len(samples))))
        yield forward(model, tensors_of(model, part)[0])


def _samples_of(shared: Path, genesis: Genesis, features: Any) -> Samples:
    data, expected = genesis.config.data, tuple(genesis.sample_shape)
    if isinstance(features, Samples):
        samples = features
    elif hasattr(features, "iloc"):
        samples = _of_frame(data, features, expected)
    elif data.preprocessing.on:
        raise DataError(
            f"features: found {type(features).__name__}, and this federation prepares columns (data.preprocessing): whether these are prepared, an "
            f"array does not say. Expected a pandas frame with the columns {_some(data.features)} as they stand, or dictpfl.Samples"
        )
    else:
        values = _array(features)
        samples = Samples(values, np.zeros(len(values), np.int64))
    if isinstance(samples, Table):
        state = of_bytes(shared.read_bytes(), genesis.federation, genesis.layout, genesis.tallies)
        samples = as_samples(samples, genesis.config, state)
    shape = samples.features.shape[1:]
    if shape != expected and samples.features.dtype != np.int64:  # rows of tokens may be shorter
        raise DataError(
            f"features: found samples of shape {shape}, the model takes {expected}; expected an array ({', '.join(map(str, ('n', *expected)))})"
        )
    return samples


def _array(features: Any) -> NDArray[Any]:
    masked = int(np.sum(features.mask)) if isinstance(features, np.ma.MaskedArray) else 0
    if masked:
        raise DataError(f"features: {masked} values are masked; fill or drop those samples")
    try:
        if isinstance(features, torch.Tensor):
            features = features.detach().cpu()
            features = (features.float() if features.is_floating_point() else features).numpy()
        array = np.asarray(features)
    except (ValueError, TypeError) as error:  # rows of unequal length, tensors that are sparse
        raise DataError(
            f"features: cannot be read as an array: {error}; expected an array or tensor (n, ...), a row for each sample"
        ) from error
    if array.ndim == 0:
        raise DataError(f"features: found {features!r}; expected an array or tensor (n, ...), a row for each sample")
    return array.astype(np.float32) if array.dtype == np.bool_ else array


def _of_frame(data: Data, frame: pd.DataFrame, expected: tuple[int, ...]) -> Samples:
    """Read columns as the federation's files were read."""
    if not data.features:
        raise DataError(
            "features: found a frame, and the federation's samples are no columns of a table; give an array"
        )
    if frame.ndim == 1:
        raise DataError("features: found a Series, expected a frame, a row for each sample, such as frame.iloc[[0]]")
    columns = frame.rename(columns=str)
    if missing := [name for name in data.features if name not in columns]:
        raise DataError(
            f"features: the frame lacks the columns {_some(missing)}; this federation's are {_some(data.features)}"
        )
    if twice := [name for name in data.features if list(columns).count(name) > 1]:
        raise DataError(f"features: the frame has the columns {_some(twice)} twice; expected each once")
    if not len(columns):
        return Samples(np.zeros((0, *expected), np.float32), np.zeros(0, np.int64))
    options = {key: value for key, value in data.options.items() if key in _OF_FEATURES}
    changed = {"path": "features", "label": _LABEL, "column": "", "split_column": "", "exclude": [], "options": options}
    return numbers(data.model_copy(update=changed), columns[list(data.features)].assign(**{_LABEL: 0})).samples


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")  # noqa: PLR2004 -- a line is enough


def _joined(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of all batches; each batch of tokens was cut to its own longest."""
    if rows[0].ndim > 2:  # noqa: PLR2004 -- samples, tokens, outputs of each
        longest = max(part.shape[1] for part in rows)
        rows = [np.pad(p, ((0, 0), (0, longest - p.shape[1]), *[(0, 0)] * (p.ndim - 2))) for p in rows]
    return np.concatenate(rows)
