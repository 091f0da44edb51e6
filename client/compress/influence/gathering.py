"""Inputs and output gradients of covered weights, sample by sample: a sample's gradient of a weight is the sum of their outer products.

Nobody holds the gradients of all samples for a whole model: only what went into a layer, and what came back to its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model import fused
from dictpfl.client.model.layers.attention import TableMultiheadAttention
from dictpfl.client.model.layers.convolution import patches_of
from dictpfl.client.model.sparse.weights import Weight
from dictpfl.client.training.calling import forward, tensors_of
from dictpfl.client.training.task import Task
from dictpfl.common.errors import ModelError

BATCH = 8
"""Samples a pass forward and back."""
_OUT = "leave it out: by --keep where a command has it, by `keep` from Python, and in a federation by naming it in decomposition.dense"
Pair = tuple[Tensor, Tensor]
"""Inputs (samples, tokens, m) and gradients of the outputs (samples, tokens, n) of a group of a weight's rows."""


@dataclass
class Gathered:
    """Pairs of some weights: by name and group of rows, one for each call of the layer and batch."""

    seen: dict[tuple[str, int], list[list[Pair]]] = field(default_factory=dict)

    def of(self, weight: Weight) -> list[Pair]:
        """Pairs of all samples, one a group of rows; calls of one layer follow each other as tokens do."""
        return [_together(self.seen[weight.name, group]) for group in range(weight.groups)]

    @property
    def bytes(self) -> int:
        """Memory that the pairs take."""
        return sum(
            t.numel() * t.element_size()
            for calls in self.seen.values()
            for pairs in calls
            for pair in pairs
            for t in pair
        )


class _MixedError(Exception):
    """Samples of a batch that a layer reads otherwise than one below the other: they are passed one by one."""


class _Batch:
    """Calls of one pass forward: what each layer read, and its output, whose gradient is to come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls: list[tuple[str, int, Tensor, Tensor, Callable[[Tensor], Tensor]]] = []

    def note(self, weight: Weight, group: int, x: Tensor, output: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """Note a call; returns what stands for the output from here on, so that who changes it in place leaves ours as it was."""
        if len(output) != self.size and self.size > 1:
            raise _MixedError
        held = output if output.requires_grad else output.detach().requires_grad_()
        self.calls.append((weight.name, group, x, held, rows))
        return held.clone()


def gather(model: nn.Module, weights: Mapping[str, Weight], samples: Samples, task: Task) -> Gathered:
    """Pass samples forward and back, in evaluation mode; parameters get no gradient and are left as they were.

    Samples that the model reads in groups, such as texts of several lengths with a reducer of tokens, or in parts, such as a clip's
    frames, or steps before samples, are passed one by one.

    Args:
        model: plain.
        weights: those to watch, of this model.
        samples: at least one.
        task: its loss of each sample alone is what gradients are of.

    Raises:
        ModelError: a weight that no sample reaches.
    """
    found = Gathered()
    was_training, wanted = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    features, labels = tensors_of(model, samples)
    try:
        for p in wanted:
            p.requires_grad_(False)
        size, at = BATCH if _reads_one_each(model, weights, features[:1]) else 1, 0
        while at < len(features):
            x, y = features[at : at + size], labels[at : at + size]
            try:
                batch, gradients = _passed(model, weights, x, y, task)
            except _MixedError:
                size = 1
                continue
            _add(found, batch, gradients)
            at += len(x)
    finally:
        for p in wanted:
            p.requires_grad_(True)
        model.train(was_training)
    return found


@torch.no_grad()
def _reads_one_each(model: nn.Module, weights: Mapping[str, Weight], one: Tensor) -> bool:
    """Tell whether layers have one row of a sample: a batch of as many samples as one has steps looks alike where steps come first."""
    batch = _Batch(1)
    with _watched(model, weights, batch):
        forward(model, one)
    return all(len(x) == 1 for _, _, x, *_ in batch.calls)


def _passed(
    model: nn.Module, weights: Mapping[str, Weight], x: Tensor, y: Tensor, task: Task
) -> tuple[_Batch, tuple[Tensor | None, ...]]:
    """Pass a batch: calls of its layers, and the gradient of each call's output."""
    batch = _Batch(len(x))
    with _watched(model, weights, batch), torch.enable_grad():
        outputs = forward(model, x)
        loss = torch.stack([task.loss(outputs[i : i + 1], y[i : i + 1]) for i in range(len(x))]).sum()
        _require_all(weights, batch)
        gradients = torch.autograd.grad(loss, [held for *_, held, _ in batch.calls], allow_unused=True)
    return batch, gradients


def _add(found: Gathered, batch: _Batch, gradients: tuple[Tensor | None, ...]) -> None:
    here: dict[tuple[str, int], list[Pair]] = {}
    for (name, group, x, held, rows), gradient in zip(batch.calls, gradients, strict=True):
        back = torch.zeros_like(held) if gradient is None else gradient
        pair = x, rows(back).detach()
        if len(x) != batch.size:  # whatever the layer reads, it reads of this one sample
            pair = _as_one(pair[0]), _as_one(pair[1])
        here.setdefault((name, group), []).append(pair)
    for key, pairs in here.items():
        found.seen.setdefault(key, []).append(pairs)


def _together(batches: list[list[Pair]]) -> Pair:
    """Batches one below the other; where their tokens differ, with zeros behind, which add nothing."""
    each = [tuple(torch.cat(side, dim=1) for side in zip(*pairs, strict=True)) for pairs in batches]
    longest = max(x.shape[1] for x, _ in each)
    padded = [[torch.nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in pair] for pair in each]
    x, d = (torch.cat(side) for side in zip(*padded, strict=True))
    return x, d


def _require_all(weights: Mapping[str, Weight], batch: _Batch) -> None:
    reached = {name for name, *_ in batch.calls}
    if missing := [name for name in weights if name not in reached]:
        raise ModelError(
            f"no sample reaches {', '.join(missing[:5])}, so that nothing says what they are worth; {_OUT}"
        )


@contextmanager
def _watched(model: nn.Module, weights: Mapping[str, Weight], batch: _Batch) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(fused.restore, model)
        for weight in weights.values():
            for place in weight.places:
                if isinstance(place.module, nn.MultiheadAttention):
                    _watch_attention(_written_out(place.module, stack), weight, batch, stack)
                    continue
                if isinstance(place.outer, nn.MultiheadAttention):
                    _written_out(place.outer, stack)
                stack.callback(place.module.register_forward_hook(_hook(weight, batch)).remove)
        fused.bar(model)
        yield


def _written_out(attention: nn.MultiheadAttention, stack: ExitStack) -> TableMultiheadAttention:
    if isinstance(attention, TableMultiheadAttention):
        return attention
    made = TableMultiheadAttention.without_table(attention)
    stack.callback(made.to_plain)
    return made


def _watch_attention(attention: TableMultiheadAttention, weight: Weight, batch: _Batch, stack: ExitStack) -> None:
    def projected(x: Tensor, part: int) -> Tensor:
        return batch.note(weight, part, _rows(x.detach()), TableMultiheadAttention.projected(attention, x, part), _rows)

    attention.__dict__["projected"] = projected
    stack.callback(attention.__dict__.pop, "projected", None)


def _hook(weight: Weight, batch: _Batch) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = inputs[0].detach()
        if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
            return batch.note(weight, 0, _rows(x), output, _rows)
        groups = module.groups
        for group, patches in enumerate(patches_of(module, x).transpose(0, 1)):
            output = batch.note(weight, group, patches.transpose(1, 2), output, _of_group(group, groups))
        return output

    return hook


def _rows(x: Tensor) -> Tensor:
    """(samples, ..., m) to (samples, tokens, m)."""
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)  # noqa: PLR2004 -- samples, columns


def _as_one(x: Tensor) -> Tensor:
    """(parts, tokens, m) of one sample to (1, parts x tokens, m)."""
    return x.flatten(0, 1).unsqueeze(0)


def _of_group(group: int, groups: int) -> Callable[[Tensor], Tensor]:
    def rows(x: Tensor) -> Tensor:
        """(samples, n, ...) to (samples, positions, n of the group)."""
        return x.flatten(2).chunk(groups, dim=1)[group].transpose(1, 2)

    return rows
