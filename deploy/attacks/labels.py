"""Labels of a batch and their counts, read off the head's gradient without any optimisation.

The gradient of cross-entropy with respect to the head's bias is mean(p) - counts / batch: with p guessed from the model's
answer to noise, counts follow (Zhao et al. 2020 for one sample; Wainakh et al. 2022 and Geng et al. 2021 for more).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.common.law.layout import Entry, Layout
from dictpfl.deploy.attacks.gradient_model import Matcher
from dictpfl.deploy.attacks.inversion import Target

Counts = NDArray[np.int64]


def head_entries(layout: Layout, outputs: int) -> tuple[Entry | None, Entry | None]:
    """Find weight (outputs, features) and bias (outputs,) of the last dense layer that is shared; None where it is not."""
    weight = bias = None
    for entry in layout.entries:
        if entry.shape == (outputs,):
            bias = entry
        elif len(entry.shape) == 2 and entry.shape[0] == outputs:  # noqa: PLR2004 -- a matrix
            weight = entry
    return weight, bias


def certain(layout: Layout, target: Target, coordinates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell for each victim if the attacker has the whole bias of the head, so that labels follow; shape (victims,)."""
    _, bias = head_entries(layout, target.outputs)
    if bias is None:
        return np.zeros(len(target), dtype=bool)
    place = (np.cumsum(coordinates) - 1)[bias.span]
    whole: NDArray[np.bool_] = np.logical_and.reduce(target.known.numpy()[:, place], axis=1)
    return whole


def infer_counts(matcher: Matcher, layout: Layout, target: Target, seed: int = 0) -> Counts:
    """Infer how often each class was in each victim's samples, (victims, outputs); rows sum to steps * batch.

    Where the bias is not known, the head's rows say it for one sample (the label's row points the other way), and what is
    known of the bias for several. Where neither is known, all classes are guessed alike.
    """
    samples = target.steps * target.batch
    weight, bias = head_entries(layout, target.outputs)
    offset = _offsets(matcher)
    answer = _answer_to_noise(matcher, target, seed)
    rows = []
    for observed, known in zip(target.observed.numpy(), target.known.numpy(), strict=True):
        whole = bias is not None and known[offset[bias.span]].all()
        scores = _by_rows(observed, known, weight, offset) if samples == 1 and not whole else None
        if scores is None:
            scores = _by_bias(observed, known, bias, offset, answer * target.steps)
        if scores is None:
            scores = np.full(target.outputs, target.steps / target.outputs)
        rows.append(rounded(scores / target.steps, samples))
    return np.stack(rows)


def rounded(shares: NDArray[np.float64], samples: int) -> Counts:
    """Round shares to the nearest whole counts with the given sum: the largest remainders are rounded up.

    Where all shares are zero, classes count alike.
    """
    wanted = np.clip(shares, 0, None)
    wanted = wanted if wanted.any() else np.ones_like(wanted)
    wanted = wanted / wanted.sum() * samples
    counts: Counts = np.floor(wanted).astype(np.int64)
    missing = samples - int(counts.sum())
    counts[np.argsort(counts - wanted, kind="stable")[:missing]] += 1
    return counts


def as_labels(counts: Counts, steps: int, batch: int) -> torch.Tensor:
    """Turn counts into labels, (victims, steps, batch), in ascending order."""
    rows = [np.repeat(np.arange(row.size), row) for row in counts]
    return torch.from_numpy(np.stack(rows)).reshape(len(counts), steps, batch)


def right(counts: Counts, labels: NDArray[np.int64]) -> float:
    """Compute the share of one victim's labels that are in the guessed multiset."""
    truth = np.bincount(labels, minlength=counts.size)
    return float(np.minimum(truth, counts).sum() / max(1, labels.size))


def prior(labels: NDArray[np.int64], outputs: int, samples: int) -> Counts:
    """Guess without looking: counts as in a public sample of the same kind of data."""
    return rounded(np.bincount(labels, minlength=outputs).astype(np.float64), samples)


def _offsets(matcher: Matcher) -> NDArray[np.int64]:
    """Number coordinates of the shared vector among the parameters alone."""
    return np.cumsum(matcher.coordinates) - 1


def _by_bias(
    observed: NDArray[np.float64],
    known: NDArray[np.bool_],
    bias: Entry | None,
    offset: NDArray[np.int64],
    answer: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    if bias is None:
        return None
    place = offset[bias.span]
    if not known[place].any():
        return None
    return np.where(known[place], answer - observed[place], answer)  # what is not known is as likely as ever


def _by_rows(
    observed: NDArray[np.float64], known: NDArray[np.bool_], weight: Entry | None, offset: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    if weight is None:
        return None
    place = offset[weight.span].reshape(weight.shape)
    if not known[place].any():
        return None
    rows = np.where(known[place], observed[place], 0.0)
    # The label's row is against all others, so that it is the most negative among the products of rows.
    products = rows @ rows.T
    np.fill_diagonal(products, 0.0)
    scores: NDArray[np.float64] = -products.sum(axis=1) / max(float(np.abs(products).sum()), 1e-30) + 1e-9
    return scores


def _answer_to_noise(matcher: Matcher, target: Target, seed: int) -> NDArray[np.float64]:
    generator = torch.Generator().manual_seed(seed)
    middle, spread = (target.low + target.high) / 2, (target.high - target.low) / 4
    noise = middle + spread * torch.randn(256, *target.shape, generator=generator, dtype=torch.float64)
    answer: NDArray[np.float64] = matcher.probabilities(noise).mean(dim=0).numpy()
    return answer
