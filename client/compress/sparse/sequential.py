"""Calibration part by part, each on the outputs of the parts that were pruned before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dictpfl.client.compress.sparse.inputs import BATCH, Real, require_reached, watched
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.sparse.weights import Weight
from dictpfl.client.model.tokens.install import reading_all
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.common.errors import DataError


class Collector(Protocol):
    """Gathers what is known of inputs (`Squares`, `Grams`)."""

    def see(self, weight: Weight, group: int, x: Tensor) -> None:
        """See `dictpfl.client.compress.sparse.inputs.See`."""
        ...


C = TypeVar("C", bound=Collector)


@dataclass(frozen=True)
class Part:
    """Weights of one block, in the order in which they are used.

    Attributes:
        block: name of the module that holds them; empty: the whole model.
        readers: groups of weights that read the same input.
    """

    block: str
    readers: tuple[tuple[Weight, ...], ...]


class _Stop(Exception):  # noqa: N818 -- no error: the rest of the model is not needed
    pass


def parts_of(model: nn.Module, weights: Mapping[str, Weight], samples: Samples) -> list[Part]:
    """Divide covered weights into parts in the order of use, found by running one sample.

    Raises:
        ModelError: a weight that it does not reach.
    """
    order: dict[str, Tensor] = {}

    def see(weight: Weight, _group: int, x: Tensor) -> None:
        order.setdefault(weight.name, x)

    calls: dict[str, int] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[block].register_forward_pre_hook(lambda *_, block=block: _count(calls, block))
        for block in {w.block for w in weights.values()} & modules.keys()
    ]
    try:
        for _ in _batches(model, weights, samples.take(torch.arange(1).numpy()), see):
            pass
    finally:
        for handle in handles:
            handle.remove()
    require_reached(weights, set(order))
    parts: dict[str, list[list[Weight]]] = {}
    for name, x in order.items():
        block = weights[name].block
        # A block that runs several times for a sample, or is no module: its inputs are those of the whole model.
        readers = parts.setdefault(block if calls.get(block) == 1 else "", [])
        if readers and _is_same(order[readers[-1][0].name], x):
            readers[-1].append(weights[name])
        else:
            readers.append([weights[name]])
    return [Part(block, tuple(map(tuple, readers))) for block, readers in parts.items()]


def in_order(
    model: nn.Module,
    weights: Mapping[str, Weight],
    samples: Samples,
    make: Callable[[], C],
    decide: Callable[[Sequence[Weight], C], None],
    *,
    by_input: bool,
) -> None:
    """Gather inputs of one group of weights after the other; `decide` prunes each before the next is looked at.

    Args:
        model: plain, in evaluation mode; `decide` changes it.
        weights: covered.
        samples: at least one.
        make: a new collector for each group.
        decide: prunes these weights, in the model, by what was gathered.
        by_input: a group is what reads the same input; False: a whole block.

    Raises:
        DataError: no samples. ModelError: a weight that they do not reach.
    """
    if not len(samples):
        raise DataError("no calibration samples; expected at least one")
    with reading_all(model):
        for part in parts_of(model, weights, samples):
            groups = part.readers if by_input else (tuple(w for group in part.readers for w in group),)
            calls = _calls(model, part.block, samples)
            for group in groups:
                gathered = make()
                _run(model, part.block, calls, {w.name: w for w in group}, gathered)
                decide(group, gathered)


@torch.no_grad()
def _calls(model: nn.Module, block: str, samples: Samples) -> list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]:
    """What a block is called with for each batch: (features, positional, named)."""
    features, _ = tensors_of(model, samples)
    found: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
    if not block:
        return [(x, (), {}) for x in torch.split(features, BATCH)]

    def stop(_module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append((x, positional, named))
        raise _Stop

    handle = model.get_submodule(block).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        for x in torch.split(features, BATCH):
            try:
                forward(model, x)
            except _Stop:
                continue
    finally:
        handle.remove()
    return found


@torch.no_grad()
def _run(
    model: nn.Module,
    block: str,
    calls: Sequence[tuple[Tensor, tuple[Any, ...], dict[str, Any]]],
    group: Mapping[str, Weight],
    gathered: Collector,
) -> None:
    module = model.get_submodule(block)
    with watched(model, group, gathered.see) as real:
        for x, positional, named in calls:
            real.of(x)
            if block:
                module(*positional, **named)
            else:
                forward(model, x)


def _batches(
    model: nn.Module, weights: Mapping[str, Weight], samples: Samples, see: Callable[[Weight, int, Tensor], None]
) -> Iterator[Real]:
    features, _ = tensors_of(model, samples)
    with watched(model, weights, see) as real, torch.no_grad():
        for x in torch.split(features, BATCH):
            real.of(x)
            forward(model, x)
            yield real


def _count(calls: dict[str, int], block: str) -> None:
    calls[block] = calls.get(block, 0) + 1


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
