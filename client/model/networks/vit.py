"""Small vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.model.build import MODELS
from dictpfl.client.model.networks.shapes import image_shape
from dictpfl.common.errors import ConfigError


@MODELS.register("vit_tiny")
class VitTiny(nn.Module):
    """A small vision transformer: patches, class token, positions, pre-norm blocks, a linear head.

    Args:
        sample_shape: (C, H, W).
        outputs: classes.
        dim: width.
        depth: blocks.
        heads: attention heads; divides `dim`.
        patch: side of a patch; 0: 2 for small images, else such that no side has more than 8 patches.
        mlp_ratio: width of a block's MLP over `dim`.
        dropout: in each block's branches.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        outputs: int,
        *,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        patch: int = 0,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape(sample_shape, "vit_tiny")
        side = patch or _auto_patch(height, width)
        if height % side or width % side or dim % heads:
            raise ConfigError(
                f"vit_tiny: patch {side} must divide the image {height} x {width} and heads {heads} the width {dim}; "
                "change model.options"
            )
        self.patch_embed = nn.Conv2d(channels, dim, side, stride=side)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (height // side) * (width // side), dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, int(dim * mlp_ratio), dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw class token and positions; parts draw their own."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, C, H, W) to (batch, outputs)."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        outputs: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return outputs


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to the same."""
        x = x + self._drop(self.proj(self._mix(self.norm1(x))))
        return x + self._drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))

    def _mix(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _auto_patch(height: int, width: int) -> int:
    sides = [p for p in range(2, min(height, width) + 1) if height % p == 0 and width % p == 0]
    few = [p for p in sides if max(height, width) / p <= 8]  # noqa: PLR2004 -- at most 64 patches
    return (few or sides or [1])[0]
