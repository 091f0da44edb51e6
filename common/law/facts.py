"""Facts that a part of the method may decide from: the same bits at every institution."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.law.dictionary import table_size
from dictpfl.common.law.selection import Course

Floats = NDArray[np.float64]


class Spectra(Mapping[str, Floats]):
    """Singular values of weights by name, largest first, float64; computed when they are asked for.

    Args:
        weights: names and shapes (rows, columns) of what there is.
        of: computes one weight's singular values.
    """

    def __init__(self, names: Mapping[str, tuple[int, int]], of: Callable[[str], Floats]) -> None:
        self._names, self._of = names, of
        self._known: dict[str, Floats] = {}

    def __getitem__(self, name: str) -> Floats:
        """Singular values of one weight, shape (min(rows, columns),)."""
        if name not in self._names:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._of(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the weights."""
        return iter(self._names)

    def __len__(self) -> int:
        """Number of weights."""
        return len(self._names)


@dataclass(frozen=True)
class Facts:
    """Shared facts, as far as they are known when a decision is made.

    Attributes:
        shapes: (rows, columns) of each weight that may take a table (allocators), or of each shared tensor (later).
        spectra: singular values of W0's weights; empty once the federation runs.
        scores: mean opened score of each shared tensor, from the last score round; for allocators, the score of each weight in
            `decomposition.scores`; empty without one.
        gradients: for allocators, the mean gradient norm of each weight in that file; empty without one.
        unscored: for allocators, weights that no such score can be of: embeddings, and those of recurrent layers.
        most: for allocators, the largest rank that the configuration admits (`decomposition.rank_max`); 0: none is said.
        least: for allocators, the smallest (`decomposition.rank_min`).
        course: validation figures so far, with the best model.
        updates: update rounds finished.
        rounds: update rounds of the federation.
        prunable: number of shared values that pruning may leave out; `always`: number of those that every round sends.
        sized: number of values that are shared of a weight of a shape, at a rank; `values` asks it by name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    spectra: Mapping[str, Floats] = field(default_factory=dict, repr=False)
    scores: Mapping[str, float] = field(default_factory=dict)
    course: Course = field(default_factory=Course)
    updates: int = 0
    gradients: Mapping[str, float] = field(default_factory=dict)
    unscored: Collection[str] = ()
    most: int = 0
    least: int = 1
    rounds: int = 0
    prunable: int = 0
    always: int = 0
    sized: Callable[[tuple[int, int], int], int] = field(default=table_size, repr=False)

    def values(self, name: str, rank: int) -> int:
        """Count the values that are sent for a weight of `shapes`, at a rank: of a lookup table T, or of a core C."""
        rows, columns = self.shapes[name]
        return self.sized((rows, columns), rank)
