"""The table layer for `Conv1D`, the linear layer of GPT-2 style models; imported only where transformers is."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from client.layers import TableLayer


class TableConv1D(TableLayer, Conv1D):
    """`x W0 + (x down^T) up^T + b`, where the stored W0 is (inputs, outputs) and its matrix W0^T."""

    by_input: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        """(..., m) to (..., n)."""
        up, down = self.factors()
        return F.linear(x, self.weight.t(), self.bias) + F.linear(F.linear(x, down), up)
