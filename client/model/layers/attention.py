"""torch's attention, by its packed in-projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.model.base import LAYERS, SampleGradients, TableLayer
from dictpfl.common.errors import ModelError


@LAYERS.register("attention")
class TableMultiheadAttention(TableLayer, nn.MultiheadAttention):
    """Attention by its packed in-projection (3 d, d), with or without a table on it.

    Written out, because torch's own forward hands the projections' *weights* to fused kernels, which would pass
    by the tables here and in `out_proj`. Same operations in the same order as torch's slow path.
    """

    takes: ClassVar = (nn.MultiheadAttention,)
    weight_name: ClassVar[str] = "in_proj_weight"
    unadaptable: ClassVar[str] = "torch's own attention"

    @classmethod
    def covers(cls, layer: nn.Module, *, tied: bool = False) -> bool:  # noqa: ARG003
        """True of the plain kind: one packed projection, no learned or zero keys added; see `TableLayer.covers`."""
        assert isinstance(layer, nn.MultiheadAttention)  # noqa: S101 -- for the type checker
        return layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn

    @classmethod
    def inner(cls, layer: nn.Module) -> tuple[nn.Module, ...]:
        """The output projection; see `TableLayer.inner`."""
        assert isinstance(layer, nn.MultiheadAttention)  # noqa: S101 -- for the type checker
        return (layer.out_proj,)

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
        """Compute what `nn.MultiheadAttention.forward` does, with the table in its in-projection."""
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

    @classmethod
    def watched(cls, layer: nn.Module) -> AbstractContextManager[None]:
        """See `TableLayer.watched`: each third of the in-projection becomes a layer of its own (`Projection`)."""
        assert isinstance(layer, nn.MultiheadAttention)  # noqa: S101 -- for the type checker
        return _projections(layer)

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:  # noqa: ARG002
        """Refuse: hooks do not see the masks.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "attention is watched by its projections; enter `TableMultiheadAttention.watched(layer)` first"
        )


class Projection(nn.Module):
    """A third of an attention's packed projection as a layer of its own, which hooks can watch.

    Holds the attention's parameters, which it has given up for as long (`TableMultiheadAttention.watched`).
    """

    part: int
    attention: TableMultiheadAttention

    def __init__(self, attention: TableMultiheadAttention, part: int) -> None:
        super().__init__()
        self.part = part
        self.__dict__["attention"] = attention  # no submodule: it would be found twice
        for name in _packed_names(attention):
            self.register_parameter(name, getattr(attention, name))

    def forward(self, x: Tensor) -> Tensor:
        """(samples, length, d) to the same."""
        return TableMultiheadAttention.projected(self.attention, x, self.part)

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """Zero but for this third; see `TableLayer.sample_gradients`."""
        attention, x = self.attention, activations[0]
        third = slice(self.part * attention.embed_dim, (self.part + 1) * attention.embed_dim)
        wide = backprops.new_zeros(*backprops.shape[:-1], 3 * attention.embed_dim)
        wide[..., third] = backprops
        gradients = attention.bias_gradients(wide.sum(dim=1), "in_proj_bias")
        if attention.has_table:
            return gradients | attention.table_gradients(x, wide)
        if attention.in_proj_weight.requires_grad:
            gradients[attention.in_proj_weight] = torch.einsum("blo,bli->boi", wide, x)
        return gradients


class _Projected:
    """Stands for `TableMultiheadAttention.projected` while projections are layers."""

    def __init__(self, parts: nn.ModuleList) -> None:
        self._parts = parts

    def __call__(self, x: Tensor, part: int) -> Tensor:
        projection: Tensor = self._parts[part](x)
        return projection


@contextmanager
def _projections(attention: nn.MultiheadAttention) -> Iterator[None]:
    plain = not isinstance(attention, TableMultiheadAttention)
    if not any(getattr(attention, n).requires_grad for n in _packed_names(attention)):
        yield
        return
    if plain and not (type(attention) is nn.MultiheadAttention and TableMultiheadAttention.covers(attention)):
        raise ModelError(
            "attention with keys or values of its own kinds: only the packed kind can be trained privately"
        )
    watched = TableMultiheadAttention.without_table(attention) if plain else attention
    assert isinstance(watched, TableMultiheadAttention)  # noqa: S101 -- for the type checker
    children = nn.ModuleList(Projection(watched, part) for part in range(3)).train(watched.training)
    held = dict(watched._parameters)  # noqa: SLF001 -- torch has no way to give a parameter up for a while
    for name in _packed_names(watched):
        watched.__dict__[name] = watched._parameters.pop(name)  # noqa: SLF001
    watched.add_module("watched_projections", children)
    watched.__dict__["projected"] = _Projected(children)
    try:
        yield
    finally:
        for name in ("projected", *_packed_names(watched)):
            watched.__dict__.pop(name, None)
        del watched.watched_projections
        watched._parameters.clear()  # noqa: SLF001 -- in their old order
        watched._parameters.update(held)  # noqa: SLF001
        if plain:
            watched.to_plain()


def _packed_names(attention: nn.MultiheadAttention) -> list[str]:
    """Parameters of the packed projection that this attention has."""
    return [n for n in ("in_proj_weight", "in_proj_bias", "table") if getattr(attention, n, None) is not None]


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
