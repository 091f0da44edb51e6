"""Scores of units, larger is kept: what they carry, what their loss would cost, how large their weights are, or a draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.compress.cutting.activations import sums, unit_scores
from dictpfl.client.compress.cutting.axes import Axis, Ints
from dictpfl.client.compress.cutting.cut import quiet
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import Task, learnt
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError, ModelError

Floats = NDArray[np.float64]
HOW = ("activation", "ablation", "attribution", "magnitude", "random")
"""Ways to score."""
AGAIN = ("activation", "ablation")
"""Ways that ask what a block's going changes, and so again after each block that went."""
_BATCH = 16


def score(
    model: nn.Module,
    axis: Axis,
    samples: Samples,
    task: Task,
    how: str,
    *,
    seed: int = 0,
    channels: Ints | None = None,
    total: Mapping[str, list[Any]] | None = None,
    gone: Sequence[int] = (),
) -> Floats:
    """Score the units of an axis.

    | how | score of a unit |
    |---|---|
    | `activation` | norm over samples of its mean magnitude (arXiv 2504.11409); of a block, the share of the outputs' squares that goes with it |
    | `ablation` | the loss without it less the loss with it, as a magnitude |
    | `attribution` | the magnitude of the sum over its weights of gradient times weight |
    | `magnitude` | norm of its outgoing weights, times that of its incoming ones where there are neurons |
    | `random` | a draw by seed and axis |

    Args:
        model: plain; left as it was.
        axis: one of its axes.
        samples: at least one; not read by `magnitude` and `random`.
        task: gives the loss.
        how: see the table.
        seed: of the draw.
        channels: for heads by `activation`: positions of a head that stay.
        total: sums of squares that are there already (`dictpfl.client.compress.cutting.activations.sums`).
        gone: of blocks by a way of `AGAIN`: those that went already, whose own scores are 0. `activation` says how far the outputs
            are from the whole model's without one more, `ablation` how the loss moves from that without these.

    Returns:
        float64 (units,).

    Raises:
        ConfigError: an unknown way.
        ModelError: a score that is not finite; names the axis.
    """
    if how not in HOW:
        raise ConfigError(f"score {how!r} is unknown; known: {', '.join(HOW)}")
    if how == "random":
        # By the axis's name as well: layers must not drop the same numbers.
        found = np.random.default_rng([seed, *axis.name.encode()]).random(axis.units)
    elif how == "magnitude":
        found = _magnitude(model, axis)
    elif how == "attribution":
        found = attribution(model, axis, samples, task)
    elif how == "ablation":
        found = _ablation(model, axis, samples, task, gone)
    elif axis.kind == "block":
        found = _removal(model, axis, samples, gone)
    else:
        found = np.sqrt(unit_scores(axis, total or sums(model, [axis], samples), channels).astype(np.float64))
    if not np.isfinite(found).all():
        raise ModelError(f"{axis.name}: a score by {how} is not finite; check the model and the samples")
    return found


def _array(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _per_unit(tensor: Tensor, dim: int, index: Ints) -> Floats:
    """Sums of a tensor over a unit's positions, (units,)."""
    flat = (
        tensor.detach().double().movedim(dim, 0).flatten(1).sum(dim=1) if tensor.dim() > 1 else tensor.detach().double()
    )
    found: Floats = flat.cpu().numpy()[index].sum(axis=1)
    return found


def _magnitude(model: nn.Module, axis: Axis) -> Floats:
    parameters = dict(model.named_parameters())
    if axis.kind == "block":
        norms = [
            sum(float(parameters[n].detach().double().square().sum()) for n in axis.out if n.startswith(m))
            for m in axis.members
        ]
        return _array(np.sqrt(np.array(norms)))
    squares = {
        (s.tensor, s.dim): _per_unit(parameters[s.tensor].detach().double().square(), s.dim, s.index)
        for s in axis.slices
    }
    if axis.kind == "ffn":
        into = sum(v for (name, dim), v in squares.items() if dim == 0 and name.endswith("weight"))
        out = sum(v for (_, dim), v in squares.items() if dim == 1)
        found: Floats = np.sqrt(into * out)
        return found
    if axis.kind == "width":
        return _array(np.sum([v for (name, _), v in squares.items() if name not in axis.norms], axis=0) ** 0.5)
    return _array(np.sum([v for (_, dim), v in squares.items() if dim == 1], axis=0) ** 0.5)


def attribution(model: nn.Module, axis: Axis, samples: Samples, task: Task, *, absolute: bool = False) -> Floats:
    """Estimate by the gradient how the mean loss moves when a unit goes: `| sum_{i in g} dL/dtheta_i (-theta_i) |` (Michaud et al. 2025).

    With `absolute` each gradient's absolute value stands in place of the gradient: the form of the paper's code for language models,
    which loses the sign.

    Args:
        model: plain; left as it was.
        axis: one of its axes.
        samples: at least one.
        task: gives the loss.
        absolute: see above.

    Returns:
        float64 (units,).
    """
    parameters = dict(model.named_parameters())
    grads = {n: g.abs() if absolute else g for n, g in _gradients(model, samples, task).items()}
    if axis.kind == "block":
        moved = {n: float((grads[n] * p.detach().double()).sum()) for n, p in parameters.items()}
        return np.abs(_array([sum(v for n, v in moved.items() if n.startswith(m)) for m in axis.members]))
    parts = [_per_unit(grads[s.tensor] * parameters[s.tensor].detach().double(), s.dim, s.index) for s in axis.slices]
    return np.abs(_array(np.sum(parts, axis=0)))


def _gradients(model: nn.Module, samples: Samples, task: Task) -> dict[str, Tensor]:
    """Gradients of the mean loss over samples, float64, by parameter; the model's own stay as they were."""
    named = [(n, p, p.requires_grad) for n, p in model.named_parameters()]
    total = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p, _ in named}
    mode = model.training
    model.eval()
    try:
        for _, parameter, _ in named:
            parameter.requires_grad_(True)
        features, labels = tensors_of(model, samples)
        known = learnt(task, labels)  # of a batch without a label, the loss is 0
        for x, y in zip(torch.split(features, _BATCH), torch.split(labels, _BATCH), strict=True):
            loss = task.loss(forward(model, x), y) * learnt(task, y) / max(1, known)
            found = torch.autograd.grad(loss, [p for _, p, _ in named], allow_unused=True)
            for (name, _, _), gradient in zip(named, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.double().cpu()
    finally:
        for _, parameter, needed in named:
            parameter.requires_grad_(needed)
        model.train(mode)
    return total


def _ablation(model: nn.Module, axis: Axis, samples: Samples, task: Task, gone: Sequence[int]) -> Floats:
    def loss() -> float:
        found = evaluate(model, samples, task)
        return found.loss_sum / max(1, found.count)

    mode, found = model.training, np.zeros(axis.units)
    try:
        with quiet(model, axis, gone):
            before = loss()
            for u in _left(axis, gone):
                with quiet(model, axis, [u]):
                    found[u] = abs(loss() - before)
    finally:
        model.train(mode)
    return found


def _left(axis: Axis, gone: Sequence[int]) -> list[int]:
    return [u for u in range(axis.units) if u not in set(gone)]


@torch.no_grad()
def _removal(model: nn.Module, axis: Axis, samples: Samples, gone: Sequence[int]) -> Floats:
    """Sum (M - M_without_j)^2 / sum M^2 of the outputs M (arXiv 2511.16664), batch by batch: outputs of all samples are too many to hold."""
    mode, found, scale = model.training, np.zeros(axis.units), 0.0
    features, _ = tensors_of(model, samples)
    model.eval()
    try:
        for x in torch.split(features, _BATCH):
            whole = _outputs(model, x)
            scale += float(whole.double().square().sum())
            with quiet(model, axis, gone):
                for u in _left(axis, gone):
                    with quiet(model, axis, [u]):
                        found[u] += float((whole - _outputs(model, x)).double().square().sum())
    finally:
        model.train(mode)
    return found / max(scale, float(np.finfo(np.float64).tiny))


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Outputs for a batch, in 32 bits or more; of real tokens alone where each token has its own."""
    said = forward(model, x)
    said = said if said.dtype == torch.float64 else said.float()
    if x.dtype != torch.int64 or x.dim() != 2 or said.dim() != 3:  # noqa: PLR2004 -- batch, tokens(, what is said of each)
        return said
    return said[(x != PADDING)[:, : said.shape[1]]]


def blocks_that_stay(
    model: nn.Module, axis: Axis, samples: Samples, task: Task, how: str, count: int
) -> tuple[Floats, Ints]:
    """Take the block away that is missed least, score the others again without it, and so on (arXiv 2511.16664).

    Two blocks that do the same are missed little each, and much together: one score for each of the whole model would let both go.
    Of n blocks, k go for about k n forward passes over the samples, in place of n.

    Args:
        model: plain; left as it was.
        axis: its blocks.
        samples: at least one.
        task: gives the loss.
        how: one of `AGAIN`.
        count: number of blocks that stay.

    Returns:
        Scores, float64 (units,), of a block that goes those when it went, and of one that stays the last; and the blocks that stay,
        int64 (count,), ascending.

    Raises:
        ModelError: a score that is not finite.
    """
    found, gone = np.zeros(axis.units), list[int]()
    while axis.units - len(gone) > count:
        left = _left(axis, gone)
        found[left] = score(model, axis, samples, task, how, gone=gone)[left]
        # Of equals the last goes, as where units are kept by one score each.
        gone.append(min(left, key=lambda u: (found[u], -u)))
    return found, np.array(_left(axis, gone), dtype=np.int64)


def digest(scores: Mapping[str, Iterable[float]]) -> str:
    """SHA-256 over scores by axis, hexadecimal: what was decided by, without saying it."""
    import hashlib

    made = hashlib.sha256()
    for name in sorted(scores):
        made.update(name.encode() + b"\0" + np.asarray(list(scores[name]), dtype="<f8").tobytes())
    return made.hexdigest()
