"""Calibration of a curve: on samples it is measured how fast the slope falls with information (gamma = "measured" of `autoprune`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dictpfl.client.model.tokens.reducers.autoprune import MOST_SLOPE, AutoPrune
from dictpfl.client.model.tokens.seam import Tokens
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.curve import Course

_QUANTILE = 0.9


@dataclass
class Listening:
    """A reducer that notes the mutual information of every sample, and else does what `inner` does.

    Attributes:
        inner: a curve with levels.
        heard: information of the samples, float32 (B,) of each batch.
    """

    inner: AutoPrune
    heard: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Merge and divide as the reducer does."""
        self.merge, self.normalised = self.inner.merge, self.inner.normalised

    def courses(self, layers: int, free: int, rows: int) -> Sequence[Course]:
        """See `Between.courses`."""
        return self.inner.courses(layers, free, rows)

    def level(self, information: Tensor) -> Tensor:
        """See `Between.level`."""
        self.heard.append(information.detach().float().cpu())
        return self.inner.level(information)

    def scores(self, layer: int, attention: Tensor, tokens: Tokens) -> Tensor:
        """See `Between.scores`."""
        return self.inner.scores(layer, attention, tokens)

    def gamma(self) -> float:
        """Return k0 over the 90th percentile of what was heard, at most 5: one sample in ten is on the flat curve.

        Raises:
            ConfigError: nothing was heard, or what is no number.
        """
        heard = torch.cat(self.heard) if self.heard else torch.zeros(0)
        if not len(heard) or not bool(torch.isfinite(heard).all()):
            raise ConfigError(
                f"tokens.options.gamma cannot be measured: {len(heard)} samples were read, or attention is not finite"
            )
        information = float(heard.quantile(_QUANTILE))
        return MOST_SLOPE if information * MOST_SLOPE <= self.inner.k0 else self.inner.k0 / information
