"""Small text classifier on real English that comes with scikit-learn; token recovery is tried on it.

The texts are the descriptions of scikit-learn's own data sets; a sample is a passage of twelve words, its class the data set
that the passage is about.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.model.networks.vit import Block
from dictpfl.common.errors import DataError

WORDS = 12
_VOCABULARY = 600
_UNKNOWN = 0


def passages(words: int = WORDS) -> Dataset:
    """Load passages as word numbers, int64 (n, words); number 0 stands for every word that is not among the commonest."""
    texts = _texts()
    counts = Counter(word for _, text in texts for word in text)
    known = {word: 1 + i for i, (word, _) in enumerate(counts.most_common(_VOCABULARY - 1))}
    rows, labels = [], []
    for label, (_, text) in enumerate(texts):
        ids = [known.get(word, _UNKNOWN) for word in text]
        cut = [ids[i : i + words] for i in range(0, len(ids) - words + 1, words)]
        rows += cut
        labels += [label] * len(cut)
    samples = Samples(np.array(rows, dtype=np.int64), np.array(labels, dtype=np.int64))
    return Dataset(
        samples, len(texts), name="scikit-learn's descriptions", class_names=tuple(name for name, _ in texts)
    )


def _texts() -> list[tuple[str, list[str]]]:
    folder = files("sklearn.datasets") / "descr"
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".rst"))
    except OSError as error:
        raise DataError(f"scikit-learn's descriptions of its data sets are not installed: {error}") from error
    texts = [
        (name.removesuffix(".rst"), re.findall(r"[a-z]+", (folder / name).read_text(encoding="utf-8").lower()))
        for name in names
    ]
    return [(name, words) for name, words in texts if len(words) >= 10 * WORDS]


class TinyText(nn.Module):
    """Words and positions, one transformer block, mean over words, a linear head."""

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        outputs: int,
        *,
        dim: int = 64,
        heads: int = 4,
        vocabulary: int = _VOCABULARY,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, dim)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, sample_shape[0], dim))
        self.block = Block(dim, heads, 2 * dim, 0.0)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Map (batch, words) to (batch, outputs)."""
        outputs: Tensor = self.head(self.norm(self.block(self.embed(ids) + self.pos_embed)).mean(dim=1))
        return outputs
