"""Vision transformers: `vit_tiny`, and timm's `VisionTransformer` with plain blocks (DINOv2's among them)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.model.tokens.reduction import Reduction, spread, together
from dictpfl.client.model.tokens.seam import Before, Between, Frames, Tokens
from dictpfl.client.model.tokens.stack import require_deep, rows_to_columns, run
from dictpfl.common.errors import ConfigError

NAME = "vision transformers (vit_tiny, timm's VisionTransformer)"
_MOST_ROWS, _PATCHES_A_ROW = 4, 4


class ReducedBlocks(nn.Sequential):
    """The blocks of a vision transformer, with a reducer before them or between them.

    Rows that ask are the class token and an even grid of patches (2 x 2 of 8 x 8 patches, 4 x 4 of 16 x 16), which always stay.
    """

    reduction: Reduction
    prefix: int

    def forward(self, x: Tensor) -> Tensor:
        """(B, prefix + patches, D) to (B, prefix + those that stay, D)."""
        if not self.reduction.acts(training=self.training):
            return self._all(x)
        if isinstance(self.reduction.reducer, Before):
            kept = self.reduction.once(Frames(x[:, self.prefix :].unsqueeze(1)))
            read = torch.cat([x[:, : self.prefix], kept.hidden], dim=1)
            self.reduction.read(self, read, x.shape[1])
            return self._all(read)
        patches = x.shape[1] - self.prefix
        rows = [self.prefix + place for place in spread(patches, rows_a_side(patches))]
        first = [*range(self.prefix), *rows]
        order = torch.tensor([*first, *sorted({*range(x.shape[1])} - {*first})], device=x.device)
        count = x.new_ones(len(x), x.shape[1], dtype=torch.float32)
        tokens = Tokens(x[:, order], order.expand(len(x), -1), count, len(first))
        between = self.reduction.between(NAME)
        return together(run(list(self), _Blocks(), tokens, len(rows), between, self.reduction.told))

    def _all(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
        return x


def rows_a_side(patches: int) -> int:
    """Count the rows on each side of the grid that asks: a quarter of the patches' side, 2 to 4."""
    side = math.isqrt(patches) // _PATCHES_A_ROW
    return max(2, min(_MOST_ROWS, side))


class _Blocks:
    """How a block is run, and looked into: the outputs of its `qkv`."""

    def run(self, layer: nn.Module, tokens: Tokens) -> Tensor:
        out: Tensor = layer(tokens.hidden)
        return out

    def watched(self, layer: nn.Module) -> Sequence[nn.Module]:
        return [_mixer(layer).qkv]

    def attention(self, layer: nn.Module, tokens: Tokens, seen: Sequence[Tensor]) -> Tensor:
        mixer = _mixer(layer)
        heads = getattr(mixer, "heads", None) or mixer.num_heads
        q, k = torch.unflatten(seen[0], -1, (3, heads, -1)).permute(2, 0, 3, 1, 4)[:2]
        if hasattr(mixer, "q_norm"):
            q, k = mixer.q_norm(q), mixer.k_norm(k)
        return rows_to_columns(q, k, tokens, q.shape[-1] ** -0.5)


def _mixer(layer: nn.Module) -> Any:
    return getattr(layer, "attn", layer)


def matches(model: nn.Module) -> bool:
    """Tell whether a model is of this family."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not len(blocks):
        return False
    ours = all(isinstance(getattr(b, "qkv", None), nn.Linear) and hasattr(b, "heads") for b in blocks)
    timms = any(
        (c.__module__, c.__name__) == ("timm.models.vision_transformer", "VisionTransformer")
        for c in type(model).__mro__
    )
    plain = all(hasattr(getattr(b, "attn", None), "q_norm") and not hasattr(b.attn, "rope") for b in blocks)
    return (ours and hasattr(model, "cls_token")) or (timms and plain)


def install(model: nn.Module, reduction: Reduction) -> None:
    """Put a reduction between a model's blocks, in place.

    Raises:
        ConfigError: gradient checkpointing is on, too shallow, an average over patches with counts that differ, or a budget too small.
    """
    _refuse_checkpointing(model)
    blocks: Any = model.blocks
    blocks.prefix = int(getattr(model, "num_prefix_tokens", 1))
    if isinstance(reduction.reducer, Between):
        require_deep(len(blocks))
        patches = _patches(model)
        rows = rows_a_side(patches) ** 2
        courses = reduction.reducer.courses(len(blocks), patches - rows, rows)
        if len(courses) > 1 and getattr(model, "global_pool", "token") != "token":
            raise ConfigError(
                f"tokens.options.adapt gives samples other numbers of tokens, and this model averages over them (global_pool = "
                f'{model.global_pool!r}); set adapt = "none", or model.options.global_pool = "token"'
            )
    else:
        reduction.reducer.kept(1, _patches(model))
    reduction.hang(blocks, ReducedBlocks)
    if _before_a_pass not in model._forward_pre_hooks.values():  # noqa: SLF001 -- a copy of a model brings its hooks along
        model.register_forward_pre_hook(_before_a_pass)


def _before_a_pass(model: Any, _inputs: Any) -> None:
    if isinstance(model.blocks, ReducedBlocks):
        _refuse_checkpointing(model)


def _refuse_checkpointing(model: Any) -> None:
    """Timm's checkpointing calls the blocks one by one, past what reduces between them.

    Raises:
        ConfigError: it is on.
    """
    if getattr(model, "grad_checkpointing", False):
        raise ConfigError(
            "gradient checkpointing of timm passes a reducer of tokens by: model.set_grad_checkpointing(False), or leave the reducer out"
        )


def stack(model: nn.Module) -> nn.Module:
    """The module on which a reduction hangs."""
    blocks: nn.Module = model.blocks  # type: ignore[assignment] # what `matches` found
    return blocks


def _patches(model: Any) -> int:
    embedder = model.patch_embed
    if hasattr(embedder, "num_patches"):
        return int(embedder.num_patches)
    return int(model.pos_embed.shape[1]) - 1
