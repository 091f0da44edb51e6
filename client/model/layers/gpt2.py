"""`Conv1D` of transformers: the linear layer of GPT-2 style models, whose weight is stored (inputs, outputs)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.model.base import LAYERS
from dictpfl.client.model.layers.linear import LinearTable


@LAYERS.register("gpt2")
class TableConv1D(LinearTable):
    """`x W0 + (x down^T) up^T + b`, where the matrix of the stored W0 (m, n) is W0^T.

    No subclass of transformers' class: transformers is imported by who makes such a model, not here.
    """

    takes: ClassVar = ("transformers.pytorch_utils.Conv1D",)
    by_input: ClassVar[bool] = True
    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """(..., m) to (..., n)."""
        up, down = self.factors()
        return F.linear(x, self.weight.t(), self.bias) + F.linear(F.linear(x, down), up)
