"""Small convolutional network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from dictpfl.client.model.build import MODELS
from dictpfl.client.model.networks.shapes import image_shape
from dictpfl.common.errors import ConfigError


@MODELS.register("cnn")
def cnn(sample_shape: Sequence[int], outputs: int, width: int = 16, depth: int = 3, norm: str = "batch") -> nn.Module:
    """`depth` blocks of 3 x 3 convolution, normalisation and ReLU, each on half the image, twice as wide; a linear head.

    `norm`: `batch`, or `group` (groups of four channels or fewer), which mixes no samples.
    """
    if norm not in ("batch", "group"):
        raise ConfigError(f"model.options.norm is {norm!r}; expected `batch` or `group`")
    channels, height, _ = image_shape(sample_shape, "cnn")
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
