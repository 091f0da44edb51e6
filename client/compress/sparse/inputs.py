"""Inputs of covered weights on calibration samples: sums of squares by column, or Gram matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model import fused
from dictpfl.client.model.layers.attention import TableMultiheadAttention
from dictpfl.client.model.layers.convolution import patches_of
from dictpfl.client.model.sparse.weights import Weight
from dictpfl.client.model.tokens.install import reading_all
from dictpfl.client.training.calling import forward, length_of, tensors_of
from dictpfl.common.errors import DataError, ModelError

BATCH = 8
"""Samples a forward pass of calibration."""
LEAST = 32
"""Tokens below which nobody says which columns are loud; of a model that reads no sequence, samples."""
_ROWS = 2  # dimensions of (tokens, columns)
_PIECE = 1024
"""Tokens of which a product is formed at once."""
See = Callable[[Weight, int, Tensor], None]
"""Called with a weight, a group of its rows, and what that group reads: (tokens, m), padding left out."""


@dataclass
class Squares:
    """Sums of squares of each input column, float64.

    Attributes:
        sums: (groups, m) of each weight seen.
        tokens: rows of inputs seen by each weight's first group.
    """

    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def see(self, weight: Weight, group: int, x: Tensor) -> None:
        """Add a batch; see `See`."""
        sums = self.sums.setdefault(weight.name, np.zeros((weight.groups, weight.shape[1])))
        sums[group] += x.double().square().sum(dim=0).cpu().numpy()
        if group == 0:
            self.tokens[weight.name] = self.tokens.get(weight.name, 0) + len(x)

    def require_enough(self) -> None:
        """Refuse sums over so few tokens that they hardly say which columns are loud.

        Raises:
            DataError: fewer than 32; names the weight.
        """
        for name, tokens in self.tokens.items():
            if tokens < LEAST:
                raise DataError(
                    f"{name} reads {tokens} tokens of the calibration samples, expected at least {LEAST}: give more samples, or rank by "
                    "magnitude"
                )

    def require_finite(self) -> None:
        """Refuse sums that are no numbers.

        Raises:
            DataError: inputs that are not finite; names the weight.
        """
        for name, sums in self.sums.items():
            if not np.isfinite(sums).all():
                raise DataError(
                    f"what {name} reads of the calibration samples is not finite: look for values that are missing, or far larger than "
                    "others"
                )

    def norms(self, name: str) -> NDArray[np.float64]:
        """||X_:j||_2 of each column, (groups, m)."""
        found: NDArray[np.float64] = np.sqrt(self.sums[name])
        return found


@dataclass
class Grams:
    """X^T X of the inputs, float64 (groups, m, m), for the weights of one part of a model.

    Products of at most `_PIECE` tokens are formed in float32 and added up in float64: what that errs by is about 1e-6 of the mean diagonal, and the
    inverse is damped by 1e-2 of it. In float64 they take 1.7 times as long on a processor, and many GPUs do a 64th as many. Inputs in float64 keep it.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    _last: tuple[Tensor, int, Tensor] | None = None

    def see(self, weight: Weight, group: int, x: Tensor) -> None:
        """Add a batch; see `See`."""
        m = weight.shape[1]
        if weight.name not in self.sums:
            self.sums[weight.name] = x.new_zeros(weight.groups, m, m, dtype=torch.float64)
        self.sums[weight.name][group] += self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        """X^T X; formed once for weights that read one input one after the other, as queries, keys and values do."""
        if self._last is not None:
            seen, version, product = self._last
            if x.is_set_to(seen) and x._version == version:  # noqa: SLF001 -- torch has no other name for it
                return product
        product = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        wide = x if x.dtype == torch.float64 else x.float()
        for piece in torch.split(wide, _PIECE):
            product += piece.t() @ piece
        self._last = (x, x._version, product)  # noqa: SLF001
        return product


def calibrate(model: nn.Module, weights: Mapping[str, Weight], samples: Samples, see: See) -> None:
    """Run a model on samples in evaluation mode, all their tokens, and show the inputs of covered weights.

    Args:
        model: plain; its weights are not changed.
        weights: those to watch, of this model.
        samples: at least one.
        see: called for each weight, group of rows and batch.

    Raises:
        DataError: no samples.
        ModelError: a weight that no forward pass reaches.
    """
    if not len(samples):
        raise DataError("no calibration samples; expected at least one")
    seen: set[str] = set()

    def noting(weight: Weight, group: int, x: Tensor) -> None:
        seen.add(weight.name)
        see(weight, group, x)

    was_training = model.training
    model.eval()
    features, _ = tensors_of(model, samples)
    try:
        with reading_all(model), watched(model, weights, noting) as batch, torch.no_grad():
            for x in torch.split(features, BATCH):
                batch.of(x)
                forward(model, x)
    finally:
        model.train(was_training)
    require_reached(weights, seen)


def require_reached(weights: Mapping[str, Weight], seen: set[str]) -> None:
    """Refuse weights that no calibration sample reached.

    Raises:
        ModelError: it names them.
    """
    if missing := [name for name in weights if name not in seen]:
        raise ModelError(
            f"no calibration sample reaches {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}, so nothing says what of "  # noqa: PLR2004 -- a line's worth
            "it may go; keep it by --keep, or name other samples"
        )


class Real:
    """Tokens of the current batch that are no padding."""

    def __init__(self) -> None:
        self._real: Tensor | None = None

    def of(self, features: Tensor) -> None:
        """Take a batch as it goes into the model; token ids alone have padding."""
        if features.is_floating_point() or features.dim() != _ROWS:
            self._real = None
            return
        real = features != PADDING
        self._real = real[:, : length_of(real)]  # as the model is given it

    def rows(self, x: Tensor) -> Tensor:
        """An input (..., m) as rows (tokens, m), without padding."""
        real = self._real
        rows = x.detach().reshape(-1, x.shape[-1])
        if real is None or bool(real.all()):
            return rows
        if x.dim() > _ROWS and tuple(x.shape[:2]) == tuple(real.shape):
            return x.detach()[real].reshape(-1, x.shape[-1])
        if x.dim() == _ROWS and len(x) == real.numel():
            return rows[real.reshape(-1)]
        return rows


@contextmanager
def watched(model: nn.Module, weights: Mapping[str, Weight], see: See) -> Iterator[Real]:
    """Show the inputs of weights while a model runs; say each batch to what is yielded, before it goes into the model.

    torch's own attention hands weights to fused kernels, so that it is written out for as long.
    """
    real = Real()
    with ExitStack() as stack:
        stack.callback(fused.restore, model)
        for weight in weights.values():
            for place in weight.places:
                module = place.module
                if isinstance(module, nn.MultiheadAttention):
                    _watch_attention(_written_out(module, stack), weight, see, real, stack)
                    continue
                if isinstance(place.outer, nn.MultiheadAttention):
                    _written_out(place.outer, stack)
                handle = module.register_forward_pre_hook(_hook(weight, see, real))
                stack.callback(handle.remove)
        fused.bar(model)
        yield real


def _written_out(attention: nn.MultiheadAttention, stack: ExitStack) -> TableMultiheadAttention:
    if isinstance(attention, TableMultiheadAttention):
        return attention
    made = TableMultiheadAttention.without_table(attention)
    stack.callback(made.to_plain)
    return made


def _watch_attention(
    attention: TableMultiheadAttention, weight: Weight, see: See, real: Real, stack: ExitStack
) -> None:
    def projected(x: Tensor, part: int) -> Tensor:
        see(weight, part, real.rows(x))
        return TableMultiheadAttention.projected(attention, x, part)

    attention.__dict__["projected"] = projected
    stack.callback(attention.__dict__.pop, "projected", None)


def _hook(weight: Weight, see: See, real: Real) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            for group, part in enumerate(patches_of(module, x.detach()).transpose(0, 1)):
                see(weight, group, part.transpose(1, 2).reshape(-1, part.shape[1]))
        else:
            see(weight, 0, real.rows(x))

    return hook
