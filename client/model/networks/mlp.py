"""Multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dictpfl.client.model.build import MODELS


@MODELS.register("mlp")
def mlp(sample_shape: Sequence[int], outputs: int, hidden: Sequence[int] = (128, 128)) -> nn.Module:
    """Flatten, then linear layers with ReLU between them: `hidden` are their widths."""
    widths = [math.prod(sample_shape), *(int(h) for h in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
