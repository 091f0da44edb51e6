"""Embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.model.base import LAYERS, SampleGradients, TableLayer


@LAYERS.register("embedding")
class TableEmbedding(TableLayer, nn.Embedding):
    """`W0[i] + up[i] down`; the padding row stays as it is."""

    takes: ClassVar = (nn.Embedding,)

    @classmethod
    def covers(cls, layer: nn.Module, *, tied: bool = False) -> bool:
        """See `TableLayer.covers`."""
        assert isinstance(layer, nn.Embedding)  # noqa: S101 -- for the type checker
        # A tied padding row learns through the other layer only, which one shared table cannot express.
        return layer.max_norm is None and not layer.scale_grad_by_freq and not (tied and layer.padding_idx is not None)

    def as_change(self, product: Any) -> Any:
        """See `TableLayer.as_change`; the padding row is zero."""
        if self.padding_idx is not None:
            product[self.padding_idx] = 0.0
        return product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """Indices (...) to (..., d)."""
        up, down = self.factors()
        rows = F.embedding(input, up)
        if self.padding_idx is not None:
            rows = rows * (input != self.padding_idx).unsqueeze(-1)
        return F.embedding(input, self.weight, self.padding_idx) + F.linear(rows, down.t())

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """See `TableLayer.sample_gradients`; the padding row has none."""
        up, down = self.factors()
        index = activations[0].flatten(1)  # samples, tokens
        gradients = backprops.reshape(*index.shape, self.embedding_dim)
        if self.padding_idx is not None:
            gradients = gradients * (index != self.padding_idx).unsqueeze(-1)
        if not self.is_transposed:
            return self.as_table_gradients(torch.einsum("btr,btd->brd", F.embedding(index, up), gradients))
        rows = F.linear(gradients, down)  # samples, tokens, r
        table = rows.new_zeros(len(index), self.num_embeddings, rows.shape[-1])
        table.scatter_add_(1, index.unsqueeze(-1).expand_as(rows), rows)
        return self.as_table_gradients(table.transpose(1, 2))

    @classmethod
    def adapter_pair(cls, layer: nn.Module, up: Tensor, down: Tensor) -> dict[str, Tensor] | None:
        """See `TableLayer.adapter_pair`."""
        assert isinstance(layer, nn.Embedding)  # noqa: S101 -- for the type checker
        rows = up.T.clone()
        if layer.padding_idx is not None:
            rows[:, layer.padding_idx] = 0.0
        return {"lora_embedding_A": rows, "lora_embedding_B": down.T}
