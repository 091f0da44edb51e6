"""A small transformer of clips: tokens of patches of all frames, or of a frozen encoder, of which a reducer may leave few."""

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
_FEATURES = 3  # frames, tokens, values
_PATCH = 8


@MODELS.register("video")
class VideoTransformer(nn.Module):
    """Patches of each frame, projected; a reducer's place; frame and place embeddings, blocks, a class token and a linear head.

    Of features (`data.options.features`, `dictpfl.client.data.features`) the patches are those of an encoder that is no part of the model:
    a dense layer projects them, its class tokens tell a reducer which frames are alike, and their attention which places matter.

    Args:
        sample_shape: (F, C, H, W) of clips, or (F, 1 + N, D + 1) of features.
        outputs: classes.
        width: of the transformer.
        layers: blocks of it.
        heads: of attention, at least 1; divides `width`.
        patch: side of a patch, at least 1, 8 by default; divides height and width. Features have their encoder's.
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
        patch: int | None = None,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise ConfigError(
                f"video: heads {heads} must divide the width {width}, both at least 1; change model.options"
            )
        if layers < 1:
            raise ConfigError(f"video: layers is {layers}: at least 1; change model.options")
        self.frames, self.of_features = int(sample_shape[0]), len(sample_shape) == _FEATURES
        if self.of_features:
            self.places, columns = _features(sample_shape, patch)
            self.projector = nn.Linear(columns, width)
        else:
            self.places, patch = _patches(sample_shape, _PATCH if patch is None else patch)
            self.patch_embed = nn.Conv2d(int(sample_shape[1]), width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.frame_pos_embed = nn.Parameter(torch.empty(self.frames, width))
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
                f"tokens.reducer: {type(reduction.reducer).__name__} works between layers, a video transformer's tokens are reduced "
                "before them; expected fastvid, dtm, salient, tome, grid, frames or random"
            )
        reduction.reducer.kept(self.frames, self.places)
        self.reduction = reduction

    def tokens(self, clips: Tensor) -> Tensor:
        """Project patches, or an encoder's tokens of them: clips, or their features, to (batch, F, places, width)."""
        if self.of_features:
            projected: Tensor = self.projector(clips[:, :, 1:, :-1])
            return projected
        patches = self.patch_embed(clips.flatten(0, 1)).flatten(2).transpose(1, 2)
        found: Tensor = patches.unflatten(0, (len(clips), -1))
        return found

    def _frames(self, clips: Tensor) -> Frames:
        """What a reducer is given: of features also what their encoder says of frames and of places."""
        hidden = self.tokens(clips)
        return Frames(hidden, clips[:, :, 0, :-1], clips[:, :, 1:, -1]) if self.of_features else Frames(hidden)

    def forward(self, clips: Tensor) -> Tensor:
        """(batch, F, C, H, W), or (batch, F, 1 + N, D + 1), to (batch, outputs)."""
        frames = self._frames(clips)
        where = self.frame_pos_embed.unsqueeze(1) + self.place_pos_embed
        if self.reduction is not None and self.reduction.acts(training=self.training):
            kept = self.reduction.once(frames)
            read = kept.hidden + where.flatten(0, 1)[kept.positions]
        else:
            read = (frames.hidden + where).flatten(1, 2)
        x = torch.cat([self.cls_token.expand(len(clips), -1, -1), read], dim=1)
        if self.reduction is not None:
            self.reduction.read(self.layers, x, 1 + where.shape[0] * where.shape[1])
        for layer in self.layers:
            x = layer(x)
        outputs: Tensor = self.head(self.norm(x[:, 0]))
        return outputs


def _patches(sample_shape: Sequence[int], patch: int) -> tuple[int, int]:
    """Places of a frame, and the side of a patch.

    Raises:
        ConfigError: no clips, or patches that do not fit.
    """
    if len(sample_shape) != _CLIP:
        raise ConfigError(
            f'video needs clips (F, C, H, W); these samples are {tuple(sample_shape)}: use data.source = "videofolder", or vit_tiny'
        )
    height, breadth = (int(d) for d in sample_shape[2:])
    if patch < 1 or height % patch or breadth % patch:
        raise ConfigError(
            f"video: patch {patch} must divide frames of {height} x {breadth}, and be at least 1; change model.options"
        )
    return (height // patch) * (breadth // patch), patch


def _features(sample_shape: Sequence[int], patch: int | None) -> tuple[int, int]:
    """Places of a frame, and the width of a token.

    Raises:
        ConfigError: a patch, which there is none of, or too few tokens or values.
    """
    if patch is not None:
        raise ConfigError(
            f"video: model.options.patch is {patch}, and these samples {tuple(sample_shape)} are features (F, 1 + N, D + 1), whose patches are "
            "the encoder's; leave patch out"
        )
    _, tokens, columns = (int(d) for d in sample_shape)
    if tokens < 2 or columns < 2:  # noqa: PLR2004 -- a class token and a patch; a value and the attention
        raise ConfigError(
            f"video: features (F, 1 + N, D + 1) of shape {tuple(sample_shape)} have no patch, or no value; expected some"
        )
    return tokens - 1, columns - 1
