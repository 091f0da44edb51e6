"""Messages divided among three institutions by topic: the tally of what they use of a model, and that of the most skewed one alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.tallies.importance import Importance, totals
from dictpfl.client.training.tally import Own, Subject
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.common.settings import Data, Decomposition
from dictpfl.deploy.simulation.partition import divide
from lib import hybrid

INSTITUTIONS, ALPHA = 3, 0.3
TALLY, ALONE = "tally", "one institution"


def divided(samples: Samples, seed: int) -> list[Samples]:
    """Sequences of each institution, by Dirichlet over topics; a twentieth is nobody's, as a federation's test split is."""
    data = Data(partition="dirichlet", alpha=ALPHA, test_share=0.05, validation_share=0.0)
    parts = divide(Dataset(samples, int(samples.labels.max()) + 1), data, INSTITUTIONS, seed)
    return [share.train for share in parts.institutions]


def most_skewed(parts: Sequence[Samples]) -> int:
    """Number of the institution whose topics lie furthest, in total variation, from those of all."""
    classes = 1 + max(int(part.labels.max()) for part in parts)
    counts = np.array([np.bincount(part.labels, minlength=classes) for part in parts], dtype=np.float64)
    pooled = counts.sum(axis=0) / counts.sum()
    distance = np.abs(counts / counts.sum(axis=1, keepdims=True) - pooled).sum(axis=1) / 2
    return int(distance.argmax())


@lru_cache(maxsize=1)
def tallied(seed: int) -> dict[str, tuple[dict[str, list[Any]], int]]:
    """Sums of squares and number of sequences that they are of: the three institutions' tally, and the most skewed one's own numbers."""
    parts = divided(hybrid.by_topic(), seed)
    twin, source = Twin(hybrid.subject(seed), Decomposition(enabled=False), {}), Importance()
    subject = Subject(twin, FederationConfig(), hybrid.VOCABULARY, (hybrid.LENGTH,))
    tally, task = source.form(subject).tally("importance", "closing"), load_task("causal-lm")
    each = [source.local(subject, Own(part, part, task, Path()), tally) for part in parts]
    model = twin.merge()
    return {TALLY: totals(np.sum(each, axis=0), model)[:2], ALONE: totals(each[most_skewed(parts)], model)[:2]}
