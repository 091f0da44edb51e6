"""Influence by layer: how far single training samples move each block of a model, on this machine's samples alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.client.compress.influence.gathering import BATCH, Gathered, Pair, gather
from dictpfl.client.compress.influence.solvers import MOST, Floats, influence, require_part, require_solver, score
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.training.task import Task, require_single
from dictpfl.common.errors import ConfigError, DataError, ModelError

_HELD = 1 << 30  # bytes of inputs and gradients at a time, at least
_OF_FREE = 4  # of a processor's free memory, the share that they may take besides: each further pass takes a pass through the whole model
_FORMED = 1 << 26  # entries of gradients at a time
_COLUMNS = 1 << 16  # entries of each gradient that are widened to float64 at a time


@dataclass(frozen=True)
class Measure:
    """Choice of the figure.

    Attributes:
        solver: `exact`, `datainf` or `none`, see `dictpfl.client.compress.influence.solvers.influence`.
        damping: lambda as a share of the mean squared gradient entry.
        part: `positive` (the paper), `negative` or `absolute`.
        top: share of these that count, the largest.
    """

    solver: str = "exact"
    damping: float = 0.1
    part: str = "positive"
    top: float = 0.25

    def __post_init__(self) -> None:
        """Refuse words and numbers out of range.

        Raises:
            ConfigError: it says what is expected.
        """
        require_solver(self.solver, self.damping)
        require_part(self.part, self.top)


@dataclass(frozen=True)
class Narrowed:
    """Directions in which alone a weight can move: of a lookup table T, its gradient is D^T G in place of G.

    Attributes:
        left: (n, r), or None; the gradient is multiplied by its transpose from the left.
        right: (m, r), or None; and by this from the right.
        gate: (m,), or None; factors of the inputs in front of the weight, which the merged weight holds and the table does not.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    gate: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """One part of a model.

    Attributes:
        weights: names of the covered weights in it.
        influence: I of each training sample, (n,), summed over its weights.
        norms: norm of the gradient of each training sample, (n,).
    """

    weights: tuple[str, ...]
    influence: Floats
    norms: Floats

    @property
    def gradient(self) -> float:
        """Mean norm."""
        return float(self.norms.mean())


@dataclass(frozen=True)
class Layers:
    """Influence of training samples on validation loss through each block.

    Attributes:
        blocks: by name, in the order of the model.
        measure: figure that `scores` gives.
        validation: number of validation samples.
    """

    blocks: Mapping[str, Block]
    measure: Measure = field(default_factory=Measure)
    validation: int = 0

    @property
    def scores(self) -> dict[str, float]:
        """S of each block, from 0 up: the higher, the further do single samples move it."""
        return {
            name: score(block.influence, part=self.measure.part, top=self.measure.top)
            for name, block in self.blocks.items()
        }

    @property
    def gradients(self) -> dict[str, float]:
        """Mean gradient norm of each block."""
        return {name: block.gradient for name, block in self.blocks.items()}

    @property
    def samples(self) -> Floats:
        """Influence of each training sample through all blocks, (n,); above 0: more weight on it raises the validation loss."""
        total: Floats = np.sum([block.influence for block in self.blocks.values()], axis=0)
        return total


def layer_influence(
    model: nn.Module,
    training: Samples,
    validation: Samples,
    task: Task,
    *,
    measure: Measure | None = None,
    solver: str | None = None,
    weights: Mapping[str, Weight] | None = None,
    narrowed: Mapping[str, Narrowed] | None = None,
    cover: Sequence[str] = (),
    keep: Sequence[str] = (),
    layers: Sequence[str] = (),
) -> Layers:
    """Measure how far each training sample moves the validation loss, block by block (LayerIF, arXiv 2505.23811).

    Gradients are those of the covered weights, in evaluation mode, at the model as it is.

    Args:
        model: plain; left as it was.
        training: n samples, at most 1,000: the exact solver inverts a matrix of n rows for each weight.
        validation: samples whose loss is looked at.
        task: loss of one sample.
        measure: figure and solver.
        solver: that of `Measure` alone, for `measure=Measure(solver)`; None: what `measure` says.
        weights: covered weights of `model`; None: those that `cover`, `keep` and `layers` name.
        narrowed: directions in which alone some of them can move.
        cover, keep, layers: see `dictpfl.client.model.sparse.weights.covered`.

    Raises:
        ConfigError: an unknown solver, or another one than `measure` names.
        DataError: no samples, or too many.
        ModelError: a loss that belongs to samples together, weights that no sample reaches, or gradients that are not finite.
    """
    require_single(task, "influence")
    _require_samples(training, validation)
    chosen = _chosen(measure, solver)
    known = covered(model, cover, keep, layers) if weights is None else weights
    sums: dict[str, Floats] = {}
    squares: dict[str, Floats] = {}
    members: dict[str, list[str]] = {}
    for name, gram, products, entries in _products(model, known, training, validation, task, narrowed or {}):
        if not (np.isfinite(gram).all() and np.isfinite(products).all()):
            raise ModelError(
                f"the gradient of {name} is not finite for some sample; look at the samples and the model's outputs"
            )
        block = known[name].block
        found = influence(gram, products, entries, solver=chosen.solver, damping=chosen.damping)
        sums[block] = sums.get(block, np.zeros(len(training))) + found
        squares[block] = squares.get(block, np.zeros(len(training))) + np.diag(gram)
        members.setdefault(block, []).append(name)
    order = list(dict.fromkeys(weight.block for weight in known.values()))
    blocks = {b: Block(tuple(members[b]), sums[b], np.sqrt(squares[b])) for b in order}
    return Layers(blocks, chosen, len(validation))


def _chosen(measure: Measure | None, solver: str | None) -> Measure:
    if measure is None:
        return Measure() if solver is None else Measure(solver)
    if solver not in (None, measure.solver):
        raise ConfigError(f"solver is {solver!r}, and that of measure {measure.solver!r}; name one of them")
    return measure


def _require_samples(training: Samples, validation: Samples) -> None:
    if not (len(training) and len(validation)):
        raise DataError(
            f"influence needs training and validation samples, found {len(training)} and {len(validation)}; take more samples to decide by "
            "(--calibration), or set data.validation_share where a federation scores"
        )
    if len(training) > MOST:
        raise DataError(
            f"{len(training)} training samples: for each weight a matrix of so many rows is inverted; take {MOST:,} at most"
        )


def _products(
    model: nn.Module,
    weights: Mapping[str, Weight],
    training: Samples,
    validation: Samples,
    task: Task,
    narrowed: Mapping[str, Narrowed],
) -> Iterator[tuple[str, Floats, Floats, int]]:
    """K, a and p of each weight."""
    trial = training.take(np.arange(min(BATCH, len(training))))
    small = gather(model, weights, trial, task)
    share = {name: Gathered({k: v for k, v in small.seen.items() if k[0] == name}).bytes for name in weights}
    times = (len(training) + len(validation)) / len(trial)
    sizes = {name: int(size * times) for name, size in share.items()}
    for names in _held_together(sizes, _room(next(iter(weights.values())).matrix.device)):
        some = {name: weights[name] for name in names}
        seen = gather(model, some, training, task), gather(model, some, validation, task)
        for name, weight in some.items():
            pairs = [_moved(one.of(weight), narrowed.get(name)) for one in seen]
            yield name, *_inner(*pairs)


def _room(device: torch.device) -> int:
    """Bytes for inputs and gradients."""
    if device.type != "cpu" or "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return _HELD
    return max(_HELD, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _OF_FREE)


def _held_together(sizes: Mapping[str, int], room: int) -> Iterator[list[str]]:
    """Names in their order, as many at a time as memory is for."""
    some: list[str] = []
    held = 0
    for name, size in sizes.items():
        if some and held + size > room:
            yield some
            some, held = [], 0
        some.append(name)
        held += size
    yield some


def _moved(pairs: Sequence[Pair], narrowed: Narrowed | None) -> list[Pair]:
    """Pairs of the gradients that count; rows of all groups move together where they are narrowed to few directions."""
    if narrowed is None:
        return list(pairs)
    if narrowed.gate is not None:
        gate = narrowed.gate.to(pairs[0][0])
        pairs = [(x * gate, d) for x, d in pairs]
    if narrowed.right is not None:
        right = narrowed.right.to(pairs[0][0])
        pairs = [(x @ right, d) for x, d in pairs]
    if narrowed.left is None:
        return list(pairs)
    parts = narrowed.left.to(pairs[0][1]).chunk(len(pairs))
    moved = [(x, d @ part) for (x, d), part in zip(pairs, parts, strict=True)]
    return [(torch.cat([x for x, _ in moved], dim=1), torch.cat([d for _, d in moved], dim=1))]


def _inner(training: Sequence[Pair], validation: Sequence[Pair]) -> tuple[Floats, Floats, int]:
    """K_ik = g_i . g_k of the training samples, a_i = g_i . v, and the entries of a gradient; summed over groups of rows."""
    n = len(training[0][0])
    gram, products, entries = np.zeros((n, n)), np.zeros(n), 0
    for (x, d), (of_x, of_d) in zip(training, validation, strict=True):
        if d.dtype.itemsize < torch.float32.itemsize:  # bfloat16 has 8 bits for a product of two
            x, d = x.float(), d.float()  # noqa: PLW2901 -- the same pair, wider
        size = x.shape[2] * d.shape[2]
        v = torch.einsum("jtn,jtm->nm", of_d.double(), of_x.double())
        k, a = _formed(x, d, v) if n * size <= _FORMED else _unformed(x, d, v)
        gram, products, entries = gram + k.cpu().numpy(), products + a.cpu().numpy(), entries + size
    return gram, products, entries


def _formed(x: Tensor, d: Tensor, v: Tensor) -> Pair:
    """By the gradients themselves, (samples, n, m)."""
    gradients = torch.einsum("itn,itm->inm", d, x).flatten(1)
    gram = v.new_zeros(len(x), len(x))
    products = v.new_zeros(len(x))
    for part, of_v in zip(torch.split(gradients, _COLUMNS, dim=1), torch.split(v.flatten(), _COLUMNS), strict=True):
        wide = part.double()
        gram.addmm_(wide, wide.t())
        products.addmv_(wide, of_v)
    return gram, products


def _unformed(x: Tensor, d: Tensor, v: Tensor) -> Pair:
    """By K_ik = sum_tu (d_it . d_ku)(x_it . x_ku), without a gradient of any sample."""
    n, tokens = x.shape[:2]
    rows = []
    flat_x, flat_d = x.flatten(0, 1), d.flatten(0, 1)
    products = v.new_zeros(n)
    for i in range(n):
        both = (d[i] @ flat_d.t()).double() * (x[i] @ flat_x.t()).double()
        rows.append(both.sum(dim=0).reshape(n, tokens).sum(dim=1))
        products[i] = ((d[i].double() @ v) * x[i].double()).sum()
    return torch.stack(rows), products


def share_of_each(values: Mapping[str, float]) -> dict[str, float]:
    """Divide scores by their sum, so that every institution has the same say; zeros where all are zero."""
    total = math.fsum(values.values())
    return {name: value / total if total > 0 else 0.0 for name, value in values.items()}
