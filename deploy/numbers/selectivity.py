"""Digit selectivity of neurons: how a neuron's output vector ranks the ten digits among all tokens (arXiv 2506.01734).

With w the column of the down-projection that a neuron writes, U the unembedding, g(w) its direction behind the last norm, and rank(i) the place
of digit i among the logits U g(w) (1 is the largest), the score is DSC_i = (sum of the ten ranks) / rank(i). Some norms multiply by their weight,
others by 1 + weight, so w goes through the norm itself. A positive activation changes no rank, a negative one turns their order round: rank of -w is
V + 1 - rank, up to ties.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dictpfl.deploy.numbers.parts import through
from dictpfl.deploy.numbers.reading import Reader, Silenced

_COLUMNS = 512
Floats = NDArray[np.float64]


@torch.no_grad()
def ranks(reader: Reader, *, gain: bool = True) -> Tensor:
    """Rank of each digit for each neuron's +w, int64 (layers, 10, neurons), from 1.

    Args:
        reader: the model.
        gain: False: by the bare unembedding, without the last norm.
    """
    layers = []
    for layer in reader.layers:
        parts = [
            _ranks_behind(reader, layer.written(w.t()), gain=gain)
            for w in torch.split(layer.down.weight, _COLUMNS, dim=1)
        ]
        layers.append(torch.cat(parts, dim=1))
    return torch.stack(layers).cpu()


@torch.no_grad()
def of_vectors(reader: Reader, vectors: Tensor) -> Floats:
    """DSC of vectors of the residual stream (n, width), float64, (n, 10)."""
    found = torch.cat([_ranks_behind(reader, part) for part in torch.split(vectors, _COLUMNS)], dim=1)
    scores: Floats = selectivity(found.cpu().unsqueeze(0))[0].T
    return scores


def _ranks_behind(reader: Reader, vectors: Tensor, *, gain: bool = True) -> Tensor:
    """Ranks of the digits behind the last norm, (10, n), of vectors of the stream (n, width)."""
    behind = through(reader.norm, vectors) if gain else vectors.float()
    return _ranks_of(reader.unembedding @ behind.t(), reader.digits.to(reader.unembedding.device))


def _ranks_of(logits: Tensor, digits: Tensor) -> Tensor:
    """Ranks of the digits in each column of logits (V, columns): one more than there are larger ones, (10, columns)."""
    asked, order = logits[digits].t().contiguous().sort(dim=1)  # (columns, 10)
    place = torch.searchsorted(asked, logits.t().contiguous())  # how many of the digits' logits are smaller
    counts = torch.zeros(len(asked), 11, dtype=torch.long, device=logits.device)
    counts.scatter_add_(1, place, torch.ones_like(place))
    larger = counts.flip(1).cumsum(dim=1).flip(1)[:, 1:]  # larger than the digit at this place
    return torch.zeros_like(larger).scatter_(1, order, larger + 1).t()


def selectivity(found: Tensor) -> Floats:
    """DSC of ranks, float64, (layers, 10, neurons)."""
    values: Floats = (found.sum(dim=1, keepdim=True) / found.double()).numpy()
    return values


def effective(found: Tensor, activations: Floats, vocabulary: int) -> Tensor:
    """Ranks of +w or -w, by the sign of each neuron's mean activation.

    Args:
        found: of +w.
        activations: means, (layers, neurons).
        vocabulary: V.
    """
    negative = torch.from_numpy(activations < 0).unsqueeze(1)
    return torch.where(negative, vocabulary + 1 - found, found)


def most_selective(scores: Floats, digit: int, count: int) -> Silenced:
    """Neurons of the whole model that are most selective for a digit; ties by layer and index.

    Args:
        scores: DSC, (layers, 10, neurons).
        digit: whose.
        count: of neurons.
    """
    flat = scores[:, digit].reshape(-1)
    chosen = np.argsort(-flat, kind="stable")[:count]
    return by_layer(chosen.tolist(), scores.shape[2])


def drawn(like: Silenced, width: int, *seed: int) -> Silenced:
    """Draw as many neurons of the same layers, by seed: one number or several."""
    draw = np.random.default_rng(seed)
    return {
        layer: torch.from_numpy(np.sort(draw.permutation(width)[: len(neurons)])) for layer, neurons in like.items()
    }


def largest(reader: Reader, count: int) -> Silenced:
    """Find the neurons of the whole model whose output vectors are longest; ties by layer and index."""
    lengths = torch.stack([down.weight.detach().float().norm(dim=0).cpu() for down in reader.downs])
    chosen = np.argsort(-lengths.flatten().numpy(), kind="stable")[:count]
    return by_layer(chosen.tolist(), lengths.shape[1])


def by_layer(flat: Sequence[int], width: int) -> Silenced:
    """Neurons by layer, from their numbers in the whole model."""
    found: dict[int, list[int]] = {}
    for number in sorted(flat):
        found.setdefault(number // width, []).append(number % width)
    return {layer: torch.tensor(neurons, dtype=torch.long) for layer, neurons in found.items()}
