"""Thresholds in a federation (`[sparsity]`): which weights have them, and the ranks that shared state decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from dictpfl.client.model.covering import statistics
from dictpfl.client.model.sparse.scores import Floats, magnitude, ranks, wanda
from dictpfl.client.model.sparse.select import require_sparsity
from dictpfl.client.model.sparse.twin import Ranks, ThresholdTwin
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, LayoutError
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.tally import Tally
from dictpfl.common.settings import ACTIVATIONS


def threshold_twin(model: nn.Module, config: FederationConfig) -> ThresholdTwin | None:
    """Make the twin of a federation that learns thresholds, ranked by magnitude; None: it learns something else.

    Args:
        model: with W0.
        config: whose `[sparsity]` says what is covered.

    Raises:
        ConfigError: a pattern that matches nothing, running statistics that would move, or a target or temperature that these weights
            cannot have.
        ModelError: no covered weight, or a layer without a masked form.
    """
    said = config.sparsity
    if said.method == "none":
        return None
    if statistics(model) and config.decomposition.batch_norm != "frozen":
        raise ConfigError(
            'sparsity.method = "lua" trains thresholds alone, and this model has running statistics; set decomposition.batch_norm = '
            '"frozen"'
        )
    weights = covered(model, said.cover, said.keep, config.decomposition.layers)
    require_sparsity(weights, said.target)
    by_size = {name: ranks(magnitude(w)) for name, w in weights.items()}
    return ThresholdTwin(
        model, weights, by_size, said.target, strength=said.regularisation, temperature=said.temperature
    )


class Ranking:
    """Ranks of a federation's entries: by magnitude, or by the institutions' pooled inputs once their tally is open.

    Args:
        twin: to rank.
        config: of the federation.
        tallies: agreed on.
    """

    def __init__(self, twin: ThresholdTwin, config: FederationConfig, tallies: Sequence[Tally]) -> None:
        self._twin, self._by_inputs = twin, config.sparsity.scores == "wanda"
        self._tally = next((t for t in tallies if t.name == ACTIVATIONS and t.when == "opening"), None)
        self._taken: bytes | None = None

    def settle(self, state: SharedState) -> None:
        """Give the twin the ranks of a shared state; nothing is computed where they are those of the last one."""
        if not self._by_inputs or self._tally is None:
            return
        opened = next((one for one in state.tallies if (one.name, one.when) == (ACTIVATIONS, "opening")), None)
        taken = b"" if opened is None else opened.sums.tobytes()
        if taken == self._taken:
            return
        if opened is not None:
            self._twin.rank_by(ranks_of_sums(self._twin.plain, self._tally.layout, opened.sums))
        elif self._taken is not None:
            self._twin.rank_by({name: ranks(magnitude(w)) for name, w in self._twin.plain.items()})
        self._taken = taken


def norms_of_sums(sums: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Floats:
    """Norms of columns, up to a factor a weight: roots of sums, none below zero."""
    found: Floats = np.sqrt(np.maximum(sums, 0).astype(np.float64))
    return found


def ranks_of_sums(
    weights: dict[str, Weight], layout: Layout, sums: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> Ranks:
    """Ranks by Wanda's scores: one multiplication and a stable sort of float64, so that they are the same everywhere.

    Args:
        weights: covered weights of W0.
        layout: of the tally, an entry (groups, m) for each.
        sums: opened.

    Raises:
        LayoutError: a tally of other weights.
    """
    norms = norms_of_sums(sums)
    spans = {e.name: e for e in layout.entries}
    if list(spans) != list(weights):
        raise LayoutError("the tally of activations is of other weights than those with thresholds")
    return {name: ranks(wanda(w, norms[spans[name].span].reshape(w.groups, w.shape[1]))) for name, w in weights.items()}
