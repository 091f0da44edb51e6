"""Masked layers: a trainable threshold for each row of a frozen weight (Lua-LLM, Lu et al., NeurIPS 2025).

For W (n, m) with ranks r (`scores.ranks`), scores s = r / m and thresholds t (n,):

    training      M_ij = sigmoid(lambda (s_ij - t_i)), lambda = m / temperature; the layer computes with M * W
    evaluation    the layer computes with W where a hard mask is true, and zero elsewhere

    dL/dt_i = -lambda sum_j G_ij W_ij M_ij (1 - M_ij)        G = dL/d(M * W)

Masks are computed again in the backward pass, never kept. Written from the equations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from dictpfl.client.model.layers.attention import TableMultiheadAttention
from dictpfl.client.model.sparse.weights import Weight
from dictpfl.common.errors import ModelError

_NARROW = 1 << 15  # ranks below this go into two bytes
_CACHED = 1 << 16
"""Entries of a matrix that are gone through at a time on a processor: with what is made of them they fit a core's cache."""
_VECTOR = 32
"""Entries that torch computes at a time at most; it rounds otherwise what is left over at the end."""


_FLOOR = -40.0
"""Least argument of the sigmoid, 4e-18: nothing beside 1 in either type. Further below, M * W has no full precision any more (it is smaller
than 1e-38), and processors multiply such numbers six times slower."""


class Border:
    """Left behind by a forward pass in training.

    Attributes:
        spread: sum_j M (1 - M) of each row, (n,).
        above: entries whose score is above their row's threshold.
    """

    def __init__(self) -> None:
        self.spread: Tensor | None = None
        self.above: Tensor | None = None


def soft_mask(ranks: Tensor, thresholds: Tensor, sharpness: float, dtype: torch.dtype) -> Tensor:
    """M, (n, m): sigmoid of (r - m t) times the sharpness, 1 / temperature.

    Args:
        ranks: r, (n, m), whole numbers.
        thresholds: t, (n,), float64; m t is rounded to `dtype` once.
        sharpness: 1 / temperature, in ranks.
        dtype: to compute in.
    """
    place = (thresholds * ranks.shape[1]).to(dtype)
    return torch.sigmoid_((ranks.to(dtype) - place[:, None]).mul_(sharpness).clamp_(min=_FLOOR))


@dataclass(frozen=True)
class _Softness:
    """What M is computed from, whenever it is.

    Attributes:
        weight: W, (n, m).
        ranks: r, (n, m).
        thresholds: t, (n,).
        sharpness: 1 / temperature, in ranks.
    """

    weight: Tensor
    ranks: Tensor
    thresholds: Tensor
    sharpness: float

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their W and their M; on a processor so many that a cache holds them, which takes a third of the time.

        It changes no bit: blocks begin where torch's vectors do, and what is left over at the end of a matrix is the same.
        """
        n, m = self.weight.shape
        many = n if self.weight.device.type != "cpu" else max(_VECTOR, _CACHED // m // _VECTOR * _VECTOR)
        for begin in range(0, n, many):
            rows = slice(begin, begin + many)
            weight = self.weight[rows]
            yield rows, weight, soft_mask(self.ranks[rows], self.thresholds[rows], self.sharpness, weight.dtype)

    def forward(self, border: Border, dtype: torch.dtype) -> Tensor:
        """M * W in a type, (n, m); leaves its sums behind."""
        whole = self.weight.new_empty(self.weight.shape, dtype=dtype)
        spread, above = [], []
        for rows, weight, soft in self.blocks():
            spread.append((soft * (1 - soft)).sum(dim=1))
            above.append((soft > 0.5).sum())  # noqa: PLR2004 -- the middle of the sigmoid, where the score is the threshold
            torch.mul(soft, weight, out=whole[rows])
        border.spread, border.above = torch.cat(spread), torch.stack(above).sum()
        return whole

    def backward(self, gradient: Tensor, whole: Tensor | None = None) -> Tensor:
        """The thresholds' gradient, (n,) float64, from G, (n, m); writes M * W into `whole` where that is wanted again."""
        found = []
        for rows, weight, soft in self.blocks():
            found.append((gradient[rows].to(weight.dtype) * weight * soft * (1 - soft)).sum(dim=1))
            if whole is not None:
                torch.mul(soft, weight, out=whole[rows])
        return torch.cat(found).double().mul_(-self.weight.shape[1] * self.sharpness)  # lambda = m times the sharpness


class _Soft(torch.autograd.Function):
    """M * W; its gradient goes to the thresholds alone."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, ranks: Tensor, thresholds: Tensor, sharpness: float, border: Border
    ) -> Tensor:
        ctx.save_for_backward(weight, ranks, thresholds)
        ctx.sharpness = sharpness
        return _Softness(weight, ranks, thresholds, sharpness).forward(border, weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, ranks, thresholds = ctx.saved_tensors
        to_thresholds = _Softness(weight, ranks, thresholds, ctx.sharpness).backward(gradients[0])
        return None, None, to_thresholds, None, None


class _SoftLinear(torch.autograd.Function):
    """x (M * W)^T + b, which keeps neither M nor M * W for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, ranks: Tensor, thresholds: Tensor, sharpness: float,
        border: Border,
    ) -> Tensor:  # fmt: skip
        kind = x.device.type
        # Autocast is over when the backward pass runs: its products are in the same type all the same, as those of plain layers are.
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        ctx.sharpness = sharpness
        ctx.save_for_backward(x, weight, ranks, thresholds)
        whole = _Softness(weight, ranks, thresholds, sharpness).forward(border, ctx.dtype)
        return F.linear(x.to(ctx.dtype), whole, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, ranks, thresholds = ctx.saved_tensors
        g = gradients[0].to(ctx.dtype)
        rows, wide = g.reshape(-1, g.shape[-1]), x.to(ctx.dtype).reshape(-1, x.shape[-1])
        whole = weight.new_empty(weight.shape, dtype=ctx.dtype) if ctx.needs_input_grad[0] else None
        softness = _Softness(weight, ranks, thresholds, ctx.sharpness)
        to_thresholds = softness.backward(rows.t() @ wide, whole)
        to_x = None if whole is None else (g @ whole).to(x.dtype)
        return to_x, None, None, None, to_thresholds, None, None


class MaskedLayer(nn.Module):
    """A layer whose frozen weight is masked by thresholds; made in place from a plain one, whose class it takes over."""

    takes: ClassVar[tuple[type[nn.Module] | str, ...]] = ()
    bars_fused_kernels: ClassVar[bool] = True
    """See `dictpfl.client.model.fused`."""
    plain_class: type[nn.Module]
    threshold_of: Weight
    thresholds: nn.Parameter
    """t, (n,), float64 whatever the module's dtype, so that what is decided by it is the same everywhere."""
    ranks: Tensor
    hard: Tensor | None
    """(n, m): True where an entry stays; used in evaluation mode."""
    sharpness: float
    border: Border

    @classmethod
    def masking(
        cls, layer: nn.Module, weight: Weight, ranks: Tensor, thresholds: nn.Parameter, temperature: float
    ) -> Self:
        """Turn a plain layer into this one, in place."""
        plain: type[nn.Module] = type(layer)
        if isinstance(layer, TableMultiheadAttention):
            plain = layer.plain_class
        layer.__class__ = cls
        assert isinstance(layer, cls)  # noqa: S101 -- for the type checker
        layer.plain_class, layer.threshold_of = plain, weight
        layer.ranks, layer.hard, layer.border = ranks, None, Border()
        layer.sharpness = 1.0 / temperature
        layer.thresholds = thresholds
        return layer

    def masked(self) -> Tensor:
        """The masked weight as its matrix, (n, m)."""
        matrix = self.threshold_of.as_matrix(self._own_weight())
        if self.training:
            found: Tensor = _Soft.apply(matrix, self.ranks, self.thresholds, self.sharpness, self.border)  # type: ignore[no-untyped-call]
            return found
        return torch.where(self._hard(), matrix, 0.0)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(..., m) to (..., n) by the masked weight."""
        if not self.training:
            return F.linear(x, self.masked(), bias)
        matrix = self.threshold_of.as_matrix(self._own_weight())
        found: Tensor = _SoftLinear.apply(  # type: ignore[no-untyped-call]
            x, matrix, bias, self.ranks, self.thresholds, self.sharpness, self.border
        )
        return found

    @torch.no_grad()
    def to_plain(self, mask: Tensor | None) -> nn.Module:
        """Give the plain class back, in place, with zeros where the mask is false."""
        weight = self._own_weight()
        if mask is not None:
            weight.masked_fill_(self.threshold_of.as_stored(~mask.to(weight.device)), 0.0)
        del self.thresholds, self.ranks, self.hard, self.border, self.sharpness, self.threshold_of
        plain = self.plain_class
        del self.plain_class
        self.__class__ = plain  # type: ignore[assignment]
        return self

    def _own_weight(self) -> Tensor:
        return self.get_parameter(self.threshold_of.places[0].attribute)

    def _hard(self) -> Tensor:
        if self.hard is None:
            raise ModelError(
                "a masked layer is used in evaluation mode before its masks are known; go through its twin"
            )
        return self.hard

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 -- torch's
        held = self.thresholds.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch says nothing of it
        self.thresholds.data = held.to(self.thresholds.device)
        self.ranks = self.ranks.to(self.thresholds.device)
        self.hard = None if self.hard is None else self.hard.to(self.thresholds.device)
        return self


class MaskedLinear(MaskedLayer, nn.Linear):
    """`x (M W)^T + b`."""

    takes: ClassVar = (nn.Linear, NonDynamicallyQuantizableLinear)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(..., m) to (..., n)."""
        return self.linear(input, self.bias)


class MaskedConv1D(MaskedLayer):
    """GPT-2's linear layer, whose weight is stored (inputs, outputs)."""

    takes: ClassVar = ("transformers.pytorch_utils.Conv1D",)
    bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(..., m) to (..., n)."""
        if self.training:
            return self.linear(x, self.bias)
        # The plain layer's own operation, on a weight stored as its own: the same bits.
        stored = self.threshold_of.as_stored(self.masked()).contiguous()
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), stored).reshape(*x.shape[:-1], -1)


class MaskedConv1d(MaskedLayer, nn.Conv1d):
    """Convolution in one dimension."""

    takes: ClassVar = (nn.Conv1d,)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(batch, in, length) to (batch, out, length')."""
        found: Tensor = self._conv_forward(input, self.threshold_of.as_stored(self.masked()), self.bias)
        return found


class MaskedConv2d(MaskedLayer, nn.Conv2d):
    """Convolution in two dimensions."""

    takes: ClassVar = (nn.Conv2d,)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(batch, in, h, w) to (batch, out, h', w')."""
        found: Tensor = self._conv_forward(input, self.threshold_of.as_stored(self.masked()), self.bias)
        return found


class MaskedAttention(MaskedLayer, TableMultiheadAttention):
    """torch's attention, written out, by its masked packed in-projection."""

    takes: ClassVar = (nn.MultiheadAttention,)

    def projected(self, x: Tensor, part: int) -> Tensor:
        """The query (`part` 0), key (1) or value (2) of an input (..., d), by its third of the masked projection."""
        if part == 0:
            self._whole = self.masked()  # once for the three
        whole, bias = self._whole, self.in_proj_bias
        if part == 2:  # noqa: PLR2004 -- the last of them
            del self._whole
        return F.linear(x, whole.chunk(3)[part], None if bias is None else bias.chunk(3)[part])

    def to_plain(self, mask: Tensor | None = None) -> nn.Module:
        """See `MaskedLayer.to_plain`."""
        return MaskedLayer.to_plain(self, mask)


_KINDS = (MaskedLinear, MaskedConv1D, MaskedConv1d, MaskedConv2d, MaskedAttention)
_BY_CLASS: dict[type[nn.Module] | str, type[MaskedLayer]] = {plain: kind for kind in _KINDS for plain in kind.takes}


def install(weight: Weight, ranks: NDArray[np.int32], start: float, temperature: float) -> nn.Parameter:
    """Put thresholds on the layer, or layers, of a weight; in place.

    Args:
        weight: covered, of a plain model.
        ranks: r, (n, m).
        start: every row's threshold.
        temperature: ranks over which the soft mask falls; lambda = m / temperature.

    Raises:
        ModelError: a layer of a kind that has no masked form.
    """
    n, m = weight.shape
    if ranks.shape != (n, m):
        raise ModelError(
            f"{weight.name}: ranks of shape {ranks.shape} for a weight of {n} x {m}; make them of this model"
        )
    device = weight.parameter.device
    held = torch.from_numpy(ranks).to(device, torch.int16 if m < _NARROW else torch.int32)
    thresholds = nn.Parameter(torch.full((n,), start, dtype=torch.float64, device=device))
    for place in weight.places:
        plain = type(place.module)
        kind = _BY_CLASS.get(plain) or _BY_CLASS.get(f"{plain.__module__}.{plain.__qualname__}")
        if isinstance(place.module, TableMultiheadAttention) and not place.module.has_table:
            kind = MaskedAttention
        if kind is None:
            raise ModelError(
                f'{weight.name}: thresholds on {plain.__name__} are not known; leave it whole (keep = ["{weight.name}"])'
            )
        kind.masking(place.module, weight, held, thresholds, temperature)
        if isinstance(place.outer, nn.MultiheadAttention) and not isinstance(place.outer, TableMultiheadAttention):
            TableMultiheadAttention.without_table(place.outer)
    return thresholds
