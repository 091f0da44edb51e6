"""Linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from dictpfl.client.model.base import LAYERS, SampleGradients, TableLayer


class LinearTable(TableLayer):
    """Part of all layer types that compute `x W^T + b`, however W is stored."""

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """See `TableLayer.sample_gradients`; inputs (samples, ..., m)."""
        bias = backprops.flatten(1, -2).sum(dim=1) if backprops.dim() > 2 else backprops  # noqa: PLR2004 -- samples, n
        return self.bias_gradients(bias) | self.table_gradients(activations[0], backprops)

    @classmethod
    def adapter_pair(cls, layer: nn.Module, up: Tensor, down: Tensor) -> dict[str, Tensor] | None:  # noqa: ARG003
        """See `TableLayer.adapter_pair`."""
        return {"lora_A.weight": down, "lora_B.weight": up}


@LAYERS.register("linear")
class TableLinear(LinearTable, nn.Linear):
    """`x W0^T + (x down^T) up^T + b`."""

    takes: ClassVar = (nn.Linear, NonDynamicallyQuantizableLinear)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """(..., m) to (..., n)."""
        up, down = self.factors()
        return F.linear(input, self.weight, self.bias) + F.linear(F.linear(input, down), up)
