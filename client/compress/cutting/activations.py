"""Activations of units, from forward passes alone: squares of their mean magnitudes, by sample (arXiv 2504.11409, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.compress.cutting.axes import Axis, Ints
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.tokens.install import reading_all
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.common.errors import ModelError

Floats = NDArray[np.float64]
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Tap:
    """Place where an axis's activations are read.

    Attributes:
        module: name of the module.
        is_input: read what enters it, not what leaves it.
        index: int64 (units, k): channels of each unit there.
    """

    module: str
    is_input: bool
    index: Ints


def taps_of(axis: Axis) -> tuple[Tap, ...]:
    """Places at which an axis is read; none for blocks.

    A plain feed-forward layer is read before its activation function, a gated one where its product enters the
    out-projection; a Mamba mixer at the x part of what leaves in_proj, the best of z, x and dt in the paper's ablation; the
    residual stream behind each of its norms.
    """
    if axis.kind == "ffn":
        ups = [s for s in axis.slices if s.dim == 0 and s.tensor.endswith("weight")]
        if len(ups) == 1 and ups[0].index.shape[1] == 1:
            return (Tap(_module(ups[0].tensor), False, ups[0].index),)
        down = axis.slice_of(axis.out[0])
        return (Tap(_module(down.tensor), True, down.index),)
    if axis.kind in ("mamba-head", "mamba-channel"):
        projected, inner = axis.slice_of(axis.out[0]).index, axis.slice_of(axis.norms[0]).index
        return (Tap(_module(axis.out[0]), False, projected[:, inner.shape[1] : 2 * inner.shape[1]]),)
    if axis.kind == "width":
        return tuple(Tap(_module(name), False, axis.slice_of(name).index) for name in axis.norms)
    return ()


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def squares(
    model: nn.Module, axes: Iterable[Axis], samples: Samples, batch: int = _BATCH
) -> Iterator[dict[str, list[Floats]]]:
    """For each batch, by axis: the squares of m, float64 (batch, units, k), of each of its taps.

    m[b, c] is the mean over a sample's real tokens of |a[b, :, c]|; where there is no length, |a[b, c]|. Padding counts nothing.

    Args:
        model: plain; run in evaluation mode, and left as it was.
        axes: to read.
        samples: at least one.
        batch: number of samples at a time.

    Raises:
        ModelError: an activation that is not finite; names the axis.
    """
    wanted = {axis.name: taps_of(axis) for axis in axes}
    watched = sorted({(tap.module, tap.is_input) for taps in wanted.values() for tap in taps})
    features, _ = tensors_of(model, samples)
    with reading_all(model), _evaluating(model), torch.no_grad():
        for x in torch.split(features, batch):
            with _reading(model, watched) as read:
                forward(model, x)
            real = x != PADDING if x.dtype == torch.int64 and x.dim() == 2 else None  # noqa: PLR2004 -- batch, tokens
            means = {key: _mean(value, real) for key, value in read.items()}
            made = {
                name: [(means[tap.module, tap.is_input] ** 2)[:, tap.index] for tap in taps]
                for name, taps in wanted.items()
            }
            for name, parts in made.items():
                if not all(np.isfinite(part).all() for part in parts):
                    raise ModelError(
                        f"{name}: an activation is not finite; this model or these samples cannot be scored"
                    )
            yield made


def _mean(value: Tensor, real: Tensor | None) -> Floats:
    """Mean magnitudes, float64 (batch, channels), over what lies between the first and the last dimension."""
    size = value.abs().double()
    if size.dim() <= 2:  # noqa: PLR2004 -- batch, channels
        return size.cpu().numpy()
    size = size.flatten(1, -2)
    if real is None:
        return size.mean(dim=1).cpu().numpy()
    weight = real[:, : size.shape[1]].double().unsqueeze(-1)
    return ((size * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)).cpu().numpy()


@contextmanager
def _reading(model: nn.Module, watched: Iterable[tuple[str, bool]]) -> Iterator[dict[tuple[str, bool], Tensor]]:
    read: dict[tuple[str, bool], Tensor] = {}

    def keep(key: tuple[str, bool]) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            read[key] = (inputs[0] if key[1] else output).detach()

        return hook

    handles = [model.get_submodule(key[0]).register_forward_hook(keep(key)) for key in watched]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def sums(model: nn.Module, axes: Iterable[Axis], samples: Samples) -> dict[str, list[Floats]]:
    """Sums over samples of the squares, by axis: float64 (units, k) of each tap."""
    total: dict[str, list[Floats]] = {}
    for batch in squares(model, list(axes), samples):
        for name, parts in batch.items():
            added = [part.sum(axis=0) for part in parts]
            total[name] = [a + b for a, b in zip(total[name], added, strict=True)] if name in total else added
    return total


def unit_scores(axis: Axis, total: Mapping[str, list[Any]], channels: Ints | None = None) -> NDArray[Any]:
    """Scores of an axis's units from the sums of its squares, in the order of the paper's.

    A unit's score is a norm over its positions, and a root changes no order, so that sums of squares serve: exact ones give
    exact ranks. The residual stream alone adds roots, of one norm after the other; of integers, `isqrt` of the scaled sums.

    Args:
        axis: whose units are scored.
        total: of `sums`, or of a tally (`dictpfl.client.tallies.importance`).
        channels: for heads: positions of a head that stay; None: all.
    """
    parts = total[axis.name]
    if axis.kind != "width":
        chosen = parts[0] if channels is None else parts[0][:, channels]
        scores: NDArray[Any] = chosen.sum(axis=1)
        return scores
    if parts[0].dtype.kind == "i":
        return sum(_roots(part[:, 0]) for part in parts)  # type: ignore[return-value]
    added: NDArray[Any] = np.sum([np.sqrt(part[:, 0]) for part in parts], axis=0)
    return added


def _roots(values: Ints) -> Ints:
    from math import isqrt

    # Scaled, so that small sums do not round to one another.
    return np.array([isqrt(int(v) << 20) for v in values], dtype=np.int64)
