"""Samplers for Opacus: gradients of single samples of the table layers, and of two stand-ins that its hooks can watch.

The extra `dp`. A sampler is given a layer, its inputs and the gradients of its outputs, both with the samples first, and
gives for each trained parameter the gradients of all samples, (samples, *shape).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from torch import Tensor, nn

from client.layers import (
    TableConv1d,
    TableConv2d,
    TableEmbedding,
    TableLayer,
    TableLinear,
    TableMultiheadAttention,
)

Samples = dict[nn.Parameter, Tensor]
_PACKED = nn.modules.linear.NonDynamicallyQuantizableLinear


def sample_linear(layer: TableLayer, activations: Sequence[Tensor], backprops: Tensor) -> Samples:
    """Of `x W0^T + (x down^T) up^T + b`, also where W0 is stored (inputs, outputs)."""
    found = _bias(layer, backprops.flatten(1, -2).sum(dim=1) if backprops.dim() > 2 else backprops)  # noqa: PLR2004
    return found | _table(layer, activations[0], backprops)


def _table(layer: TableLayer, x: Tensor, backprops: Tensor) -> Samples:
    """Of the table, for inputs (samples, ..., m) and gradients of outputs (samples, ..., n)."""
    up, down = layer.factors()
    left, right = (F.linear(x, down), backprops) if layer.is_transposed else (F.linear(backprops, up.t()), x)
    return {layer.table: torch.einsum("b...r,b...k->brk", left, right)}


def sample_convolution(layer: TableConv1d | TableConv2d, activations: Sequence[Tensor], backprops: Tensor) -> Samples:
    """By patches: each output position is a linear layer of the patch that it sees, one a group."""
    up, down = layer.factors()
    patches = _patches(layer, activations[0])
    gradients = _grouped(backprops.flatten(2), layer.groups, 1)  # samples, groups, outputs of one, positions
    if layer.is_transposed:
        narrow = torch.einsum("bgmp,rm->bgrp", patches, down)
        table = torch.einsum("bgrp,bgnp->brgn", narrow, gradients).flatten(2)
    else:
        narrow = torch.einsum("bgnp,gnr->bgrp", gradients, _grouped(up, layer.groups, 0))
        table = torch.einsum("bgrp,bgmp->brm", narrow, patches)
    return {layer.table: table} | _bias(layer, backprops.flatten(2).sum(dim=2))


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """(samples, groups, values of a patch, positions)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001 -- what the layer's own forward does
    sizes = [layer.kernel_size, layer.dilation, layer.stride]
    if isinstance(layer, nn.Conv1d):
        x, sizes = x.unsqueeze(2), [(1, *size) for size in sizes]
    kernel, dilation, stride = sizes
    return _grouped(F.unfold(x, kernel, dilation=dilation, stride=stride), layer.groups, 1)


def _grouped(x: Tensor, groups: int, axis: int) -> Tensor:
    """One axis as two: (groups, of one group)."""
    return x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])


def sample_embedding(layer: TableEmbedding, activations: Sequence[Tensor], backprops: Tensor) -> Samples:
    """Of `W0[i] + up[i] down`; the padding row has none."""
    up, down = layer.factors()
    index = activations[0].flatten(1)  # samples, tokens
    gradients = backprops.reshape(*index.shape, -1)
    if layer.padding_idx is not None:
        gradients = gradients * (index != layer.padding_idx).unsqueeze(-1)
    if not layer.is_transposed:
        return {layer.table: torch.einsum("btr,btd->brd", F.embedding(index, up), gradients)}
    rows = F.linear(gradients, down)  # samples, tokens, r
    table = rows.new_zeros(len(index), layer.num_embeddings, rows.shape[-1])
    table.scatter_add_(1, index.unsqueeze(-1).expand_as(rows), rows)
    return {layer.table: table.transpose(1, 2)}


class Projection(nn.Module):
    """A third of an attention's packed projection as a layer of its own, which hooks can watch.

    Holds the attention's parameters, which it has given up for as long (`sampled`).
    """

    part: int
    attention: TableMultiheadAttention

    def __init__(self, attention: TableMultiheadAttention, part: int) -> None:
        super().__init__()
        self.part = part
        self.__dict__["attention"] = attention  # no submodule: it would be found twice
        for name in projected_names(attention):
            self.register_parameter(name, getattr(attention, name))

    def forward(self, x: Tensor) -> Tensor:
        """(samples, length, d) to the same."""
        return TableMultiheadAttention.projected(self.attention, x, self.part)


def sample_projection(layer: Projection, activations: Sequence[Tensor], backprops: Tensor) -> Samples:
    """Zero but for this third."""
    attention, x = layer.attention, activations[0]
    third = slice(layer.part * attention.embed_dim, (layer.part + 1) * attention.embed_dim)
    wide = backprops.new_zeros(*backprops.shape[:-1], 3 * attention.embed_dim)
    wide[..., third] = backprops
    found = _bias(attention, wide.sum(dim=1), "in_proj_bias")
    if attention.has_table:
        return found | _table(attention, x, wide)
    if attention.in_proj_weight.requires_grad:
        found[attention.in_proj_weight] = torch.einsum("blo,bli->boi", wide, x)
    return found


class Broadcast(nn.Module):
    """A free parameter (1, ...), such as a class token, given out once a sample so that its gradient comes back for each."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter

    def forward(self, samples: Tensor) -> Tensor:
        """(samples, ...) for any tensor with as many rows."""
        return self.parameter.expand(len(samples), *self.parameter.shape[1:])


def sample_broadcast(layer: Broadcast, _activations: Sequence[Tensor], backprops: Tensor) -> Samples:
    """What came back."""
    return {layer.parameter: backprops.unsqueeze(1)}


def _bias(layer: nn.Module, gradients: Tensor, name: str = "bias") -> Samples:
    bias = getattr(layer, name, None)
    return {bias: gradients} if bias is not None and bias.requires_grad else {}


def projected_names(attention: nn.MultiheadAttention) -> list[str]:
    """Parameters of the packed projection that this attention has."""
    return [n for n in ("in_proj_weight", "in_proj_bias", "table") if getattr(attention, n, None) is not None]


SAMPLERS: Mapping[type[nn.Module], Callable[..., Samples]] = {
    TableLinear: sample_linear,
    TableConv1d: sample_convolution,
    TableConv2d: sample_convolution,
    TableEmbedding: sample_embedding,
    Projection: sample_projection,
    Broadcast: sample_broadcast,
    _PACKED: GradSampleHooks.GRAD_SAMPLERS[nn.Linear],
}
"""By class, no subclass; a table layer whose weight is stored (inputs, outputs) is a linear one, too."""

for _kind, _sampler in SAMPLERS.items():
    register_grad_sampler(_kind)(_sampler)
