"""Dirichlet division with the sizes of an IID one: labels differ between institutions, their numbers of samples do not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def equal_parts(labels: NDArray[Any], participants: int, alpha: float, seed: int) -> list[Ints]:
    """Divide samples in parts that differ by one sample at most, with labels as `dirichlet` would have them.

    Each class is wanted by institutions in shares drawn with concentration alpha, as by `dirichlet`. Institutions then take
    turns: one sample, of a class drawn by what the institution wants of those that have samples left (as in Hsu et al. 2019,
    arXiv 1909.06335, where each draws as many). So all samples are used, and what is left over last is nobody's alone.

    Args:
        labels: class of each sample, shape (n,), in an order that carries no meaning.
        participants: number of parts, at most n.
        alpha: concentration; smaller is more skewed.
        seed: of the draws.

    Returns:
        Places of each part's samples, int64, rising; the first n mod `participants` parts have one more.
    """
    rng = np.random.default_rng(seed)
    classes, which, left = np.unique(labels, return_inverse=True, return_counts=True)
    waiting = [rng.permutation(np.flatnonzero(which == c)).tolist() for c in range(classes.size)]
    wanted = (rng.dirichlet(np.full(participants, alpha), size=classes.size) * left[:, None]).T
    taken: list[list[int]] = [[] for _ in range(participants)]
    for turn in range(labels.shape[0]):
        part = turn % participants
        chances = np.where(left > 0, wanted[part], 0.0)
        if not chances.sum() > 0.0:  # it wants nothing of what is left
            chances = left.astype(np.float64)
        chosen = int(rng.choice(classes.size, p=chances / chances.sum()))
        taken[part].append(waiting[chosen].pop())
        left[chosen] -= 1
    return [np.sort(np.array(places, dtype=np.int64)) for places in taken]
