"""Small models for data that fits an institution's own machine, and users' models by name (`model.source`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from client import hub
from client.data import require_bindable
from common.errors import ConfigError, ModelError
from common.seams import load_seam
from common.settings import Model

_IMAGE = 3  # dimensions of a sample: channels, height, width


def build_model(model: Model, sample_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The model that the configuration names, with W0 drawn by `seed` or read from `model.weights`.

    Args:
        model: the section `[model]`.
        sample_shape: of one sample, (C, H, W) or (F,).
        outputs: classes, or regression outputs.
        seed: of the random initialisation; the caller's random state is left as it was.

    Raises:
        ConfigError: unknown source or option, or a shape that the model cannot take.
        ModelError: a user's function that returns no module, or weights that do not fit or are not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hub.split(model.source)[0]:
            built = hub.build(model, sample_shape, outputs)
        else:
            built = _build_known(model, sample_shape, outputs)
    if model.weights:
        load_weights(built, model.weights)
    _require_finite(built.state_dict(), model.source)
    return built


def _build_known(model: Model, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    known = {"mlp": mlp, "cnn": cnn, "vit_tiny": VitTiny}
    builder: Callable[..., Any] = load_seam(model.source, known, "model.source")
    arguments = {"sample_shape": sample_shape, "outputs": outputs, **model.options}
    require_bindable(builder, arguments, f"model.options of {model.source!r}")
    try:
        built = builder(**arguments)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"model.options {model.options} of {model.source!r}: {error}") from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"model.source {model.source!r} returned {type(built).__name__}; expected a torch.nn.Module")
    return built


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Read W0 from a safetensors file whose names and shapes are the module's own.

    A tied weight may stand under either of its names; counts of batches may be missing.

    Raises:
        ModelError: unreadable, names missing or unexpected, other shapes, or values that are not finite.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights from {path}: {error}; expected a safetensors file") from error
    take_weights(module, found, path)


def take_weights(module: nn.Module, found: Mapping[str, Tensor], path: Path | str) -> None:
    """As `load_weights`, of tensors that were read before; `path` is for messages."""
    own = module.state_dict(keep_vars=True)
    held = {id(own[name]) for name in found.keys() & own.keys()}
    missing = sorted(n for n in own.keys() - found.keys() if id(own[n]) not in held and not n.endswith("_tracked"))
    unexpected = sorted(found.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(
            f"weights in {path} do not fit the model: missing {missing}, unexpected {unexpected}; "
            "rename or drop tensors in the file, or change model.options"
        )
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"weights in {path}: {name!r} has shape {tuple(tensor.shape)}, the model {tuple(own[name].shape)}; "
                "change model.options, or give the file a head for these classes"
            )
    _require_finite(found, str(path))
    module.load_state_dict(found, strict=False)


def mlp(sample_shape: Sequence[int], outputs: int, hidden: Sequence[int] = (128, 128)) -> nn.Module:
    """Flatten, then linear layers with ReLU between them: `hidden` are their widths."""
    widths = [math.prod(sample_shape), *(int(h) for h in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def cnn(sample_shape: Sequence[int], outputs: int, width: int = 16, depth: int = 3, norm: str = "batch") -> nn.Module:
    """`depth` blocks of 3 x 3 convolution, normalisation and ReLU, each on half the image, twice as wide; a linear head.

    `norm`: `batch`, or `group` (groups of four channels or fewer), which mixes no samples.
    """
    if norm not in ("batch", "group"):
        raise ConfigError(f"model.options.norm is {norm!r}; expected `batch` or `group`")
    channels, height, _ = _image(sample_shape, "cnn")
    layers: list[nn.Module] = []
    for block in range(depth):
        wide = width << block
        layers += [nn.Conv2d(channels, wide, 3, padding=1), _norm(norm, wide), nn.ReLU()]
        if height > 1 and block < depth - 1:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height = math.ceil(height / 2)
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def _norm(kind: str, channels: int) -> nn.Module:
    return (
        nn.BatchNorm2d(channels)
        if kind == "batch"
        else nn.GroupNorm(math.gcd(channels, max(1, channels // 4)), channels)
    )


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
        channels, height, width = _image(sample_shape, "vit_tiny")
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


def _image(sample_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(sample_shape) != _IMAGE:
        raise ConfigError(f"{name} needs images (C, H, W); these samples are {tuple(sample_shape)}: use mlp")
    channels, height, width = (int(d) for d in sample_shape)
    return channels, height, width


def _require_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise ModelError(f"weights of {origin} are not finite in {', '.join(bad)}; use another file or initialisation")
