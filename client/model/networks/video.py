"""A small transformer of clips: tokens of patches of all frames, of which a reducer may leave few."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dictpfl.client.model.build import MODELS
from dictpfl.client.model.networks.vit import Block
from dictpfl.client.model.tokens.reduction import Reduction
from dictpfl.client.model.tokens.seam import Before, Frames
from dictpfl.common.errors import ConfigError

_CLIP = 4  # dimensions of a sample: frames, channels, height, width


@MODELS.register("video")
class VideoTransformer(nn.Module):
    """Patches of each frame, projected; a reducer's place; frame and place embeddings, blocks, a class token and a linear head.

    Args:
        sample_shape: (F, C, H, W).
        outputs: classes.
        width: of the transformer.
        layers: blocks of it.
        heads: of attention; divides `width`.
        patch: side of a patch; divides height and width.
        mlp_ratio: width of a block's MLP over `width`.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        outputs: int,
        *,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        patch: int = 8,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if len(sample_shape) != _CLIP:
            raise ConfigError(
                f'video needs clips (F, C, H, W); these samples are {tuple(sample_shape)}: use data.source = "videofolder", or vit_tiny'
            )
        frames, channels, height, breadth = (int(d) for d in sample_shape)
        if height % patch or breadth % patch or width % heads:
            raise ConfigError(
                f"video: patch {patch} must divide frames of {height} x {breadth}, and heads {heads} the width {width}; change "
                "model.options"
            )
        self.frames, self.places = frames, (height // patch) * (breadth // patch)
        self.patch_embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.frame_pos_embed = nn.Parameter(torch.empty(frames, width))
        self.place_pos_embed = nn.Parameter(torch.empty(self.places, width))
        self.layers = nn.ModuleList(Block(width, heads, int(width * mlp_ratio), 0.0) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.reduction: Reduction | None = None
        for parameter in (self.cls_token, self.frame_pos_embed, self.place_pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def take_reduction(self, reduction: Reduction) -> None:
        """Put a reducer between projection and transformer.

        Raises:
            ConfigError: one that works between layers, or that leaves nothing.
        """
        if not isinstance(reduction.reducer, Before):
            raise ConfigError(
                f"tokens.reducer: a {type(reduction.reducer).__name__} works between layers, a video transformer's tokens are reduced "
                "before them; expected fastvid, dtm, salient, grid, frames or random"
            )
        reduction.reducer.kept(self.frames, self.places)
        self.reduction = reduction

    def tokens(self, clips: Tensor) -> Tensor:
        """Project patches: (batch, F, C, H, W) to (batch, F, places, width)."""
        patches = self.patch_embed(clips.flatten(0, 1)).flatten(2).transpose(1, 2)
        found: Tensor = patches.unflatten(0, (len(clips), -1))
        return found

    def forward(self, clips: Tensor) -> Tensor:
        """(batch, F, C, H, W) to (batch, outputs)."""
        hidden = self.tokens(clips)
        where = self.frame_pos_embed.unsqueeze(1) + self.place_pos_embed
        if self.reduction is not None and self.reduction.acts(training=self.training):
            kept = self.reduction.once(Frames(hidden))
            read = kept.hidden + where.flatten(0, 1)[kept.positions]
        else:
            read = (hidden + where).flatten(1, 2)
        x = torch.cat([self.cls_token.expand(len(clips), -1, -1), read], dim=1)
        if self.reduction is not None:
            self.reduction.read(self.layers, x, 1 + where.shape[0] * where.shape[1])
        for layer in self.layers:
            x = layer(x)
        outputs: Tensor = self.head(self.norm(x[:, 0]))
        return outputs
