"""Small transformer for tables: a token for each feature (FT-Transformer, Gorishniy et al. 2021, arXiv 2106.11959)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.model.build import MODELS
from dictpfl.client.model.networks.vit import Block
from dictpfl.common.errors import ConfigError


@MODELS.register("tabular")
class Tabular(nn.Module):
    """Each feature is a token, its value times a vector plus another; a class token, pre-norm blocks, a head.

    Beside the paper's: blocks are those of `vit_tiny` (GELU in place of ReGLU), and the first of them begins with a norm.

    Args:
        sample_shape: (F,), or any other that is flattened.
        outputs: classes, targets, or 1 for survival.
        dim: width.
        depth: blocks.
        heads: attention heads; divides `dim`.
        mlp_ratio: width of a block's MLP over `dim`.
        dropout: in each block's branches.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        outputs: int,
        *,
        dim: int = 32,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features = math.prod(sample_shape)
        if dim % heads:
            raise ConfigError(f"tabular: heads {heads} must divide the width {dim}; change model.options")
        self.feature_scale = nn.Parameter(torch.empty(1, features, dim))
        self.feature_shift = nn.Parameter(torch.empty(1, features, dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, int(dim * mlp_ratio), dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors of features and the class token; parts draw their own."""
        bound = self.cls_token.shape[-1] ** -0.5
        for token in (self.feature_scale, self.feature_shift, self.cls_token):
            nn.init.uniform_(token, -bound, bound)

    def forward(self, rows: Tensor) -> Tensor:
        """(batch, F) to (batch, outputs)."""
        values = rows.flatten(1).unsqueeze(-1)
        tokens = torch.cat(
            [self.cls_token.expand(len(rows), -1, -1), values * self.feature_scale + self.feature_shift], dim=1
        )
        outputs: Tensor = self.head(F.relu(self.norm(self.blocks(tokens)[:, 0])))
        return outputs
