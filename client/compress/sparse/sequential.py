"""Calibration part by part, each on the outputs of the parts that were pruned before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dictpfl.client.compress.sparse.inputs import BATCH, require_reached, watched
from dictpfl.client.data.samples import PADDING, Samples
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
K = TypeVar("K", int, int | str)


@dataclass(frozen=True)
class Feed:
    """The argument in which a block takes what the block before it puts out; all else that the two are called with is the same.

    Attributes:
        argument: number or name of the argument.
        output: number among what the block before returns.
    """

    argument: int | str
    output: int


@dataclass(frozen=True)
class Part:
    """Weights of one block, in the order in which they are used.

    Attributes:
        block: name of the module that holds them; empty: the whole model.
        readers: groups of weights that read the same input.
        fed: how the part before it feeds it; None: its inputs are known by running the model up to it.
    """

    block: str
    readers: tuple[tuple[Weight, ...], ...]
    fed: Feed | None = None


_Batch = tuple[Tensor, tuple[Any, ...], dict[str, Any]]
"""A batch of features, and what a block is called with for it: positional and named."""


@dataclass(frozen=True)
class _Call:
    """A call of a block.

    Attributes:
        arguments: by number or name.
        outputs: what it returned.
        began, ended: how often each argument that is a tensor had been written to, before and after.
        returned: the same of outputs, by number.
    """

    arguments: Mapping[int | str, Any]
    outputs: tuple[Any, ...]
    began: Mapping[int | str, int]
    ended: Mapping[int | str, int]
    returned: Mapping[int, int]


class _Stop(Exception):  # noqa: N818 -- no error: the rest of the model is not needed
    pass


def parts_of(model: nn.Module, weights: Mapping[str, Weight], samples: Samples) -> list[Part]:
    """Divide covered weights into parts in the order of use, found by running one sample; how they feed each other, by some of each batch.

    Raises:
        ModelError: a weight that it does not reach.
    """
    order: dict[str, Tensor] = {}

    def see(weight: Weight, _group: int, x: Tensor) -> None:
        order.setdefault(weight.name, x)

    features, _ = tensors_of(model, samples)
    one, modules = features[:1], dict(model.named_modules())
    blocks = sorted({w.block for w in weights.values()} & modules.keys())
    with watched(model, weights, see) as real:
        real.of(one)
        calls = _noted(model, blocks, one)
    require_reached(weights, set(order))
    parts: dict[str, list[list[Weight]]] = {}
    for name, x in order.items():
        block = weights[name].block
        # A block that runs several times for a sample, is no module, or writes to what it is given: its inputs are those of the whole model.
        made = calls.get(block, ())
        alone = len(made) == 1 and made[0].began == made[0].ended
        readers = parts.setdefault(block if alone else "", [])
        if readers and _is_same(order[readers[-1][0].name], x):
            readers[-1].append(weights[name])
        else:
            readers.append([weights[name]])
    fed = _feeds(model, list(parts), features)
    return [Part(block, tuple(map(tuple, readers)), fed.get(block)) for block, readers in parts.items()]


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
        before, calls = "", list[_Batch]()
        for part in parts_of(model, weights, samples):
            groups = part.readers if by_input else (tuple(w for group in part.readers for w in group),)
            # Running the model up to each of its blocks would take as many passes as it has blocks.
            calls = (
                _calls(model, part.block, samples) if part.fed is None else _passed_on(model, before, calls, part.fed)
            )
            once: list[bool] | None = None
            for group in groups:
                gathered = make()
                once = _run(model, part.block, calls, [w for g in groups for w in g], group, gathered, once)
                decide(group, gathered)
            before = part.block


@torch.no_grad()
def _passed_on(model: nn.Module, before: str, calls: Sequence[_Batch], feed: Feed) -> list[_Batch]:
    """What a block is called with for each batch, from what the block before it was."""
    module, found = model.get_submodule(before), list[_Batch]()
    for x, positional, named in calls:
        out = _outputs(module(*positional, **named))[feed.output]
        if isinstance(feed.argument, int):
            found.append((x, (*positional[: feed.argument], out, *positional[feed.argument + 1 :]), named))
        else:
            found.append((x, positional, {**named, feed.argument: out}))
    return found


@torch.no_grad()
def _calls(model: nn.Module, block: str, samples: Samples) -> list[_Batch]:
    """What a block is called with for each batch."""
    features, _ = tensors_of(model, samples)
    found: list[_Batch] = []
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
    calls: Sequence[_Batch],
    weights: Sequence[Weight],
    group: Sequence[Weight],
    gathered: Collector,
    once: list[bool] | None,
) -> list[bool]:
    """Show a group of a part's weights to a collector, batch by batch.

    Args:
        model, block, calls: what runs, and on what.
        weights: all of the part. group: some of them.
        gathered: sees the inputs of the group.
        once: of each batch, whether every weight of the part is read once: a pass then ends when the group has been read. None: not known yet.

    Returns:
        `once`, seen in whole passes the first time.
    """
    module, wanted, read = model.get_submodule(block), {w.name for w in group}, Counter[str]()
    times = Counter({w.name: w.groups * len(w.places) for w in weights})
    ends = sum(times[name] for name in wanted)

    def see(weight: Weight, rows: int, x: Tensor) -> None:
        read[weight.name] += 1
        if weight.name in wanted:
            gathered.see(weight, rows, x)
        if once is not None and once[number] and read.total() == ends:
            raise _Stop

    found = []
    with watched(model, {w.name: w for w in (weights if once is None else group)}, see) as real:
        for number, (x, positional, named) in enumerate(calls):  # noqa: B007 -- `see` reads it
            real.of(x)
            read.clear()
            with suppress(_Stop):
                if block:
                    module(*positional, **named)
                else:
                    forward(model, x)
            found.append(read == times)
    return found if once is None else once


def _feeds(model: nn.Module, blocks: Sequence[str], features: Tensor) -> dict[str, Feed]:
    """How each block is fed by the one before it, where it is in every batch: only padding makes some models give them masks."""
    pairs = [(before, after) for before, after in pairwise(blocks) if before and after]
    found: dict[str, Feed] = {}
    for x in torch.split(features, BATCH):
        if not pairs:
            break
        calls = _noted(model, list(dict.fromkeys(block for pair in pairs for block in pair)), _least_and_most_padded(x))
        now = {
            after: _feed(calls[before][0], calls[after][0])
            for before, after in pairs
            if len(calls[before]) == len(calls[after]) == 1
        }
        found = {after: feed for after, feed in now.items() if feed is not None and found.get(after, feed) == feed}
        pairs = [pair for pair in pairs if pair[1] in found]
    return found


def _least_and_most_padded(x: Tensor) -> Tensor:
    """Few samples that stand for a batch, the first among them: what blocks are called with, and how often, is decided by padding alone."""
    padded = (x.flatten(1) == PADDING).sum(dim=1)
    return x[sorted({0, int(padded.argmin()), int(padded.argmax())})]


@torch.no_grad()
def _noted(model: nn.Module, blocks: Sequence[str], x: Tensor) -> dict[str, list[_Call]]:
    """Calls of blocks while a model runs on a batch."""
    calls: dict[str, list[_Call]] = {block: [] for block in blocks}
    began: dict[str, dict[int | str, int]] = {}

    def begin(block: str, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        began[block] = _versions(_arguments(positional, named))

    def end(block: str, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given, made = _arguments(positional, named), _outputs(output)
        calls[block].append(_Call(given, made, began[block], _versions(given), _versions(dict(enumerate(made)))))

    with ExitStack() as stack:
        for block in blocks:
            module = model.get_submodule(block)
            before = module.register_forward_pre_hook(
                lambda _, positional, named, block=block: begin(block, positional, named), with_kwargs=True
            )
            after = module.register_forward_hook(
                lambda _, positional, named, out, block=block: end(block, positional, named, out), with_kwargs=True
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        forward(model, x)
    return calls


def _arguments(positional: tuple[Any, ...], named: dict[str, Any]) -> dict[int | str, Any]:
    given: dict[int | str, Any] = dict(enumerate(positional))
    given.update(named)
    return given


def _versions(values: Mapping[K, Any]) -> dict[K, int]:
    """How often each tensor was written to: torch counts it."""
    return {key: value._version for key, value in values.items() if isinstance(value, Tensor)}  # noqa: SLF001 -- torch has no other name for it


def _outputs(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _feed(before: _Call, after: _Call) -> Feed | None:
    """How one block feeds the next; None: something lies between them, or they are called with other things."""
    given = [
        Feed(argument, number)
        for argument, value in after.arguments.items()
        for number, out in enumerate(before.outputs)
        if value is out and after.began.get(argument, -1) == before.returned.get(number)
    ]
    if len(given) != 1 or before.arguments.keys() != after.arguments.keys():
        return None
    same = [before.arguments[a] is value for a, value in after.arguments.items() if a != given[0].argument]
    return given[0] if all(same) else None


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
