"""Shapes that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

from dictpfl.common.errors import ConfigError

_IMAGE = 3  # dimensions of a sample: channels, height, width


def image_shape(sample_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """Channels, height and width of a sample.

    Raises:
        ConfigError: no image; `name` is the network's, for the message.
    """
    if len(sample_shape) != _IMAGE:
        raise ConfigError(f"{name} needs images (C, H, W); these samples are {tuple(sample_shape)}: use mlp")
    channels, height, width = (int(d) for d in sample_shape)
    return channels, height, width
