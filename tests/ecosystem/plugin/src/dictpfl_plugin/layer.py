"""A layer type of one's own: `nn.Bilinear`, whose weight (out, in1, in2) is a matrix out x (in1 in2).

In the configuration, beside the entry point `bilinear` in the group `dictpfl.layers`:

    [model]
    source = "dictpfl_plugin.layer:pairing"

    [decomposition]
    layers = ["bilinear"]   # without an entry point: ["dictpfl_plugin.layer:TableBilinear"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dictpfl.client.model.base import TableLayer


class TableBilinear(TableLayer, nn.Bilinear):
    """`x W0 y + up (x down y) + b`, with each row of `down` as a matrix (in1, in2)."""

    takes: ClassVar = (nn.Bilinear,)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """(..., in1) and (..., in2) to (..., out)."""
        up, down = self.factors()
        narrow = F.bilinear(input1, input2, down.reshape(-1, self.in1_features, self.in2_features))
        return F.bilinear(input1, input2, self.weight, self.bias) + F.linear(narrow, up)


class Pairing(nn.Module):
    """A network that pairs its features with themselves."""

    def __init__(self, features: int, outputs: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(features, width)
        self.pair = nn.Bilinear(width, width, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, ...) to (samples, outputs)."""
        x = self.narrow(x.flatten(1)).tanh()
        out: Tensor = self.head(self.pair(x, x).tanh())
        return out


def pairing(sample_shape: Sequence[int], outputs: int, *, width: int = 12) -> nn.Module:
    """Make the network, for `model.source`."""
    features = 1
    for size in sample_shape:
        features *= size
    return Pairing(features, outputs, width)
