"""Convolutions in one and two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dictpfl.client.model.base import LAYERS, SampleGradients, TableLayer


class ConvolutionTable(TableLayer, _ConvNd):
    """The weight (out, in / groups, kernel...) as a matrix out x (in / groups kernel...).

    `down` becomes r filters with the layer's own stride, padding and dilation, the same for every group, `up` a
    convolution with a kernel of one.
    """

    @classmethod
    def covers(cls, layer: nn.Module, *, tied: bool = False) -> bool:  # noqa: ARG003
        """See `TableLayer.covers`."""
        assert isinstance(layer, _ConvNd)  # noqa: S101 -- for the type checker
        # Depthwise kernels are few; a table of theirs would cost more arithmetic than they do.
        return layer.groups == 1 or layer.in_channels > layer.groups

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """See `TableLayer.sample_gradients`: each output position is a linear layer of the patch that it sees, one a group."""
        up, down = self.factors()
        patches = patches_of(self, activations[0])
        gradients = _grouped(backprops.flatten(2), self.groups, 1)  # samples, groups, outputs of one, positions
        if self.is_transposed:
            narrow = torch.einsum("bgmp,rm->bgrp", patches, down)
            table = torch.einsum("bgrp,bgnp->brgn", narrow, gradients).flatten(2)
        else:
            narrow = torch.einsum("bgnp,gnr->bgrp", gradients, _grouped(up, self.groups, 0))
            table = torch.einsum("bgrp,bgmp->brm", narrow, patches)
        return self.as_table_gradients(table) | self.bias_gradients(backprops.flatten(2).sum(dim=2))

    @classmethod
    def adapter_pair(cls, layer: nn.Module, up: Tensor, down: Tensor) -> dict[str, Tensor] | None:
        """See `TableLayer.adapter_pair`."""
        assert isinstance(layer, _ConvNd)  # noqa: S101 -- for the type checker
        if layer.groups != 1 or set(layer.dilation) != {1} or layer.padding_mode != "zeros":
            return None  # PEFT's narrow convolution has stride and padding of the layer only
        kernel = layer.weight.shape[1:]
        ones = [1] * (len(kernel) - 1)
        return {
            "lora_A.weight": down.reshape(len(down), *kernel),
            "lora_B.weight": up.reshape(*up.shape, *ones),
        }


@LAYERS.register("conv1d")
class TableConv1d(ConvolutionTable, nn.Conv1d):
    """In one dimension."""

    takes: ClassVar = (nn.Conv1d,)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(batch, in, length) to (batch, out, length'), or without the batch."""
        up, down = self.factors()
        narrow = self._conv_forward(input, _filters(down, self.weight, self.groups), None)
        wide: Tensor = self._conv_forward(input, self.weight, self.bias)
        return wide + F.conv1d(narrow, up.reshape(*up.shape, 1), groups=self.groups)


@LAYERS.register("conv2d")
class TableConv2d(ConvolutionTable, nn.Conv2d):
    """In two dimensions."""

    takes: ClassVar = (nn.Conv2d,)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(batch, in, h, w) to (batch, out, h', w'), or without the batch."""
        up, down = self.factors()
        narrow = self._conv_forward(input, _filters(down, self.weight, self.groups), None)
        wide: Tensor = self._conv_forward(input, self.weight, self.bias)
        return wide + F.conv2d(narrow, up.reshape(*up.shape, 1, 1), groups=self.groups)


def _filters(down: Tensor, weight: Tensor, groups: int) -> Tensor:
    filters = down.reshape(-1, *weight.shape[1:])
    return filters if groups == 1 else filters.repeat(groups, *([1] * (weight.dim() - 1)))


def patches_of(layer: _ConvNd, x: Tensor) -> Tensor:
    """Values that each output position of a convolution sees: (samples, groups, values of a patch, positions)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001 -- what the layer's own forward does
    sizes = [layer.kernel_size, layer.dilation, layer.stride]
    if isinstance(layer, nn.Conv1d):
        x, sizes = x.unsqueeze(2), [(1, *size) for size in sizes]
    kernel, dilation, stride = sizes
    return _grouped(F.unfold(x, kernel, dilation=dilation, stride=stride), layer.groups, 1)


def _grouped(x: Tensor, groups: int, axis: int) -> Tensor:
    """One axis as two: (groups, of one group)."""
    # Not -1: a batch without samples leaves torch nothing to divide by.
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
