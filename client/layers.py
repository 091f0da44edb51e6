"""Table layers: W = W0 + D T with W0 and D frozen, for linear, convolution, embedding and attention (PAPER 4.1).

All of them compute the change by its two thin factors, `up` (n, r) and `down` (r, m) with
`up down = D T`, so that neither W0 + D T nor a gradient of its size is ever formed:

    paper       W0 + D T        up = D      down = T
    transposed  W0 + (D T)^T    up = T^T    down = D^T
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn

from client.rules import is_by_input, matrix_shape
from common.dictionary import Dictionary
from common.errors import ModelError


class TableLayer(nn.Module):
    """A layer whose weight moves by its lookup table alone.

    Made in place from a plain layer (`of`), whose class it takes over: hooks, names of the state dict and every
    other attribute stay, and `to_plain` gives the class back. W0 stays under its own name, frozen;
    `table` (T, zero at the start) is a parameter, `dictionary` (D) a buffer outside the state dict.
    """

    weight_name: ClassVar[str] = "weight"
    by_input: ClassVar[bool] = False
    """Whether the weight is stored (inputs, outputs)."""
    plain_class: type[nn.Module]
    dictionary: Tensor
    table: nn.Parameter
    is_transposed: bool
    # Not `transposed`: torch's convolutions have an attribute of that name.

    @classmethod
    def of(
        cls, layer: nn.Module, dictionary: Dictionary | NDArray[Any] | Tensor, table: nn.Parameter | None = None
    ) -> Self:
        """Turn a plain layer into this one, in place.

        Args:
            layer: `nn.Linear`, `nn.Conv2d`, ... of exactly the kind that this class covers.
            dictionary: D; a bare array, (n, r), is taken in the paper's orientation.
            table: T to share with another layer that has the same weight; None: a new one, zero.

        Raises:
            ModelError: D does not fit the weight.
        """
        plain: type[nn.Module] = type(layer)
        layer.__class__ = cls
        assert isinstance(layer, cls)  # noqa: S101 -- for the type checker
        layer.plain_class = plain
        try:
            layer.take(dictionary, table)
        except ModelError:
            del layer.plain_class
            layer.__class__ = plain  # type: ignore[assignment]
            raise
        return layer

    def take(self, dictionary: Dictionary | NDArray[Any] | Tensor, table: nn.Parameter | None = None) -> None:
        """Take a dictionary, with a table of zeros; see `of`."""
        d = as_dictionary(dictionary)
        weight = self.base
        shape = matrix_shape(weight.shape, by_input=self.by_input)
        if d.matrix.ndim != 2 or d.matrix.shape[0] != shape[d.transposed] or not np.isfinite(d.matrix).all():  # noqa: PLR2004 -- a matrix
            raise ModelError(
                f"dictionary of shape {d.matrix.shape} for a weight of shape {tuple(weight.shape)}: "
                f"expected a finite matrix with {shape[d.transposed]} rows; make dictionaries from this very model"
            )
        weight.requires_grad_(False)
        self.is_transposed = d.transposed
        matrix = torch.tensor(d.matrix).to(weight)
        self.register_buffer("dictionary", matrix, persistent=False)
        self.table = table if table is not None else nn.Parameter(weight.new_zeros(d.table_shape(shape)))

    @property
    def base(self) -> nn.Parameter:
        """W0 in its own shape."""
        return self.get_parameter(self.weight_name)

    def factors(self) -> tuple[Tensor, Tensor]:
        """`up` (n, r) and `down` (r, m), whose product is the weight's change."""
        if self.is_transposed:
            return self.table.t(), self.dictionary.t()
        return self.dictionary, self.table

    @torch.no_grad()
    def change(self) -> Tensor:
        """D T in the weight's own shape, float64."""
        up, down = self.factors()
        change: Tensor = self.as_weight(up.double() @ down.double())
        return change

    def as_weight(self, matrix: Any) -> Any:
        """An (n, m) tensor or array in the weight's own shape."""
        return matrix.T if self.by_input else matrix.reshape(tuple(self.base.shape))

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """W0 + D T in the weight's own shape and dtype; summed in float64."""
        return (self.base.double() + self.change()).to(self.base.dtype)

    @torch.no_grad()
    def rebase(self, dictionary: Dictionary | NDArray[Any] | Tensor) -> None:
        """Fold the table into W0, set it to zero and take a new dictionary."""
        self.base.copy_(self.merged_weight())
        self.table.zero_()
        self.take(dictionary, self.table)

    def to_plain(self) -> nn.Module:
        """Give W0's class back, in place, with W0 as its weight; the table is dropped, not folded."""
        del self.table, self.dictionary, self.is_transposed
        plain = self.plain_class
        del self.plain_class
        self.__class__ = plain  # type: ignore[assignment]
        return self


def as_dictionary(dictionary: Dictionary | NDArray[Any] | Tensor) -> Dictionary:
    """A bare (n, r) array as a dictionary in the paper's orientation."""
    if isinstance(dictionary, Dictionary):
        return dictionary
    array = dictionary.detach().cpu().numpy() if isinstance(dictionary, Tensor) else dictionary
    return Dictionary(np.asarray(array, dtype=np.float32), transposed=False)


class TableLinear(TableLayer, nn.Linear):
    """`x W0^T + (x T^T) D^T + b`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(..., m) to (..., n)."""
        up, down = self.factors()
        return F.linear(input, self.weight, self.bias) + F.linear(F.linear(input, down), up)


class TableConv1d(TableLayer, nn.Conv1d):
    """The weight (out, in / groups, k) as a matrix out x (in / groups k)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(batch, in, length) to (batch, out, length'), or without the batch."""
        up, down = self.factors()
        narrow = self._conv_forward(input, _filters(down, self.weight, self.groups), None)
        wide: Tensor = self._conv_forward(input, self.weight, self.bias)
        return wide + F.conv1d(narrow, up.reshape(*up.shape, 1), groups=self.groups)


class TableConv2d(TableLayer, nn.Conv2d):
    """The weight (out, in / groups, kh, kw) as a matrix out x (in / groups kh kw).

    `down` becomes r filters with the layer's own stride, padding and dilation, the same for every group, `up` a
    1 x 1 convolution.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(batch, in, h, w) to (batch, out, h', w'), or without the batch."""
        up, down = self.factors()
        narrow = self._conv_forward(input, _filters(down, self.weight, self.groups), None)
        wide: Tensor = self._conv_forward(input, self.weight, self.bias)
        return wide + F.conv2d(narrow, up.reshape(*up.shape, 1, 1), groups=self.groups)


def _filters(down: Tensor, weight: Tensor, groups: int) -> Tensor:
    filters = down.reshape(-1, *weight.shape[1:])
    return filters if groups == 1 else filters.repeat(groups, *([1] * (weight.dim() - 1)))


class TableEmbedding(TableLayer, nn.Embedding):
    """`W0[i] + up[i] down`; the padding row stays as it is."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """Indices (...) to (..., d)."""
        up, down = self.factors()
        rows = F.embedding(input, up)
        if self.padding_idx is not None:
            rows = rows * (input != self.padding_idx).unsqueeze(-1)
        return F.embedding(input, self.weight, self.padding_idx) + F.linear(rows, down.t())

    @torch.no_grad()
    def change(self) -> Tensor:
        """D T, (V, d), float64, with zeros in the padding row."""
        change = super().change()
        if self.padding_idx is not None:
            change[self.padding_idx] = 0.0
        return change


class TableMultiheadAttention(TableLayer, nn.MultiheadAttention):
    """Attention by its packed in-projection (3 d, d), with or without a table on it.

    Written out, because torch's own forward hands the projections' *weights* to fused kernels, which would pass
    by the tables here and in `out_proj`. Same operations in the same order as torch's slow path.
    """

    weight_name: ClassVar[str] = "in_proj_weight"

    @classmethod
    def without_table(cls, layer: nn.MultiheadAttention) -> TableMultiheadAttention:
        """An attention whose in-projection stays plain, while `out_proj` is a table layer; in place."""
        plain = type(layer)
        layer.__class__ = cls
        assert isinstance(layer, cls)  # noqa: S101 -- for the type checker
        layer.plain_class = plain
        return layer

    @property
    def has_table(self) -> bool:
        """Whether the in-projection is decomposed."""
        return hasattr(self, "table")

    def to_plain(self) -> nn.Module:
        """See `TableLayer.to_plain`."""
        if self.has_table:
            return super().to_plain()
        plain = self.plain_class
        del self.plain_class
        self.__class__ = plain  # type: ignore[assignment]
        return self

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002 -- torch's signature
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002 -- torch's signature
        is_causal: bool = False,  # noqa: FBT001, FBT002 -- torch's signature
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        if is_causal and attn_mask is None:
            raise ModelError("is_causal is a hint about a mask: expected attn_mask with it, as torch's attention does")
        batched = query.dim() == 3  # noqa: PLR2004 -- batch, length, features
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = (self._heads(x) for x in self._project(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, q, k.shape[2])
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * (q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            mixed = weights @ v
        else:
            mixed, weights = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _project(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.projected(x, part) for part, x in enumerate(inputs))

    def projected(self, x: Tensor, part: int) -> Tensor:
        """The query (`part` 0), key (1) or value (2) of an input (..., d), by its third of the packed projection."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        assert weight is not None  # noqa: S101 -- only the packed kind is covered
        plain = F.linear(x, weight.chunk(3)[part], None if bias is None else bias.chunk(3)[part])
        if not self.has_table:
            return plain
        up, down = self.factors()
        return plain + F.linear(F.linear(x, down), up.chunk(3)[part])

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, d) to (batch, heads, length, d / heads)."""
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn: Tensor | None, padding: Tensor | None, q: Tensor, keys: int) -> Tensor | None:
        """One additive mask that broadcasts to (batch, heads, queries, keys)."""
        if attn is not None:
            attn = _additive(attn, q)
            if attn.dim() == 3:  # noqa: PLR2004 -- (batch heads, queries, keys)
                attn = attn.view(-1, self.num_heads, *attn.shape[1:])
        if padding is None:
            return attn
        padding = _additive(padding, q).view(-1, 1, 1, keys)
        return padding if attn is None else attn + padding


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def table_class(layer: nn.Module) -> type[TableLayer]:
    """The table layer that takes a plain layer's place; `client.rules.covers` says whether there is one."""
    if is_by_input(layer):
        from client.gpt2 import TableConv1D  # only where transformers made the model

        return TableConv1D
    return COVERED[type(layer)]


COVERED: dict[type[nn.Module], type[TableLayer]] = {
    nn.Linear: TableLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: TableLinear,
    nn.Conv1d: TableConv1d,
    nn.Conv2d: TableConv2d,
    nn.Embedding: TableEmbedding,
    nn.MultiheadAttention: TableMultiheadAttention,
}
"""Which table layer takes the place of which of torch's layers; exactly these classes, no subclass."""
