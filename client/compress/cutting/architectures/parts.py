"""Axes of parts that several architectures have: feed-forward layers, Mamba-2 mixers, the residual stream, blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.compress.cutting.axes import Axes, Axis, Ints, Kind, Sizes, alone, single
from dictpfl.common.errors import ConfigError


def of_class(model: nn.Module, *words: str) -> bool:
    """Tell whether a model's class is one of transformers whose name begins with one of these words."""
    kind = type(model)
    return kind.__module__.startswith("transformers.") and kind.__name__.startswith(words)


def feed_forward(axes: Axes, at: str, ups: Sequence[str], down: str, setting: str) -> Axis:
    """Neurons of a feed-forward layer.

    Args:
        axes: of the model.
        at: the layer's name.
        ups: names of its in-projections below it: of a plain one alone, of a gated one gate and up.
        down: its out-projection's.
        setting: key of its size.
    """
    down = f"{at}.{down}.weight"
    units = axes.shape(down)[1]
    rows = single(units)
    into = [(f"{at}.{up}.{kind}", 0, rows) for up in ups for kind in ("weight", "bias")]
    return Axis(f"ffn:{at}", "ffn", units, axes.slices(*into, (down, 1, rows)), alone(units), (down,), setting)


def packed_feed_forward(axes: Axes, at: str, packed: str, down: str, setting: str) -> Axis:
    """Neurons of a gated feed-forward layer whose gate and up rows stand in one weight, one half after the other."""
    down = f"{at}.{down}.weight"
    units = axes.shape(down)[1]
    rows, both = single(units), np.concatenate([single(units), single(units, units)], axis=1)
    into = [(f"{at}.{packed}.{kind}", 0, both) for kind in ("weight", "bias")]
    return Axis(f"ffn:{at}", "ffn", units, axes.slices(*into, (down, 1, rows)), alone(units), (down,), setting)


def mamba(axes: Axes, at: str, mixer: nn.Module, heads: str, channels: str) -> list[Axis]:
    """Heads and channels of a Mamba-2 mixer.

    Rows of in_proj are z, x, B, C, dt; heads of a group read the same B and C, so that as many must stay in each group, and a
    channel goes from all heads at once.

    Args:
        axes: of the model.
        at: the mixer's name.
        mixer: the module.
        heads: key of the number of heads.
        channels: key of the size of a head.
    """
    facts: Any = mixer
    count, size, groups, state = (
        int(n) for n in (facts.num_heads, facts.head_dim, facts.n_groups, facts.ssm_state_size)
    )
    inner = count * size
    grid = np.arange(inner, dtype=np.int64).reshape(count, size)
    steps = single(count, 2 * inner + 2 * groups * state)
    projection, norm = (f"{at}.in_proj.weight", f"{at}.in_proj.bias"), f"{at}.norm.weight"

    def cut(kind: Kind, setting: str, rows: Ints, of_head: Ints | None) -> Axis:
        wide = np.concatenate([rows, inner + rows, *([] if of_head is None else [steps])], axis=1)
        wanted = [(name, 0, wide) for name in projection]
        wanted += [(f"{at}.conv1d.{word}", 0, rows) for word in ("weight", "bias")]
        if of_head is not None:
            wanted += [(f"{at}.{word}", 0, single(count)) for word in ("A_log", "D", "dt_bias")]
        wanted += [(norm, 0, rows), (f"{at}.out_proj.weight", 1, rows)]
        group = alone(len(rows)) if of_head is None else of_head
        slices, silent = axes.slices(*wanted), axes.names(*projection)
        return Axis(f"{kind}:{at}", kind, len(rows), slices, group, silent, setting, axes.names(norm))

    per_group = np.arange(count, dtype=np.int64) // (count // groups)
    return [
        cut("mamba-head", heads, grid, per_group),
        cut("mamba-channel", channels, np.ascontiguousarray(grid.T), None),
    ]


def width(
    axes: Axes, *, reads: Sequence[str], writes: Sequence[str], embeddings: Sequence[str], norms: Sequence[str]
) -> Axis:
    """The residual stream, of a model whose norms are root mean squares and whose heads' size does not hang on the width.

    Args:
        axes: of the model.
        reads: patterns of weights whose columns read it: in-projections, the head.
        writes: patterns of weights and biases whose rows write to it: out-projections.
        embeddings: patterns of the embeddings.
        norms: patterns of the norms' weights.

    Raises:
        ConfigError: a parameter of the stream's size that no pattern names: this variant is not known.
    """
    kinds = ((embeddings, 1), (reads, 1), (writes, 0), (norms, 0))
    found: list[tuple[str, int]] = []
    for name, _ in axes.model.named_parameters():
        hits = [(name, dim) for patterns, dim in kinds if any(fnmatchcase(name, p) for p in patterns)]
        found += hits[:1]
    sizes = {axes.shape(name)[dim] for name, dim in found}
    if len(sizes) != 1:
        raise ConfigError(f"the residual stream of {type(axes.model).__name__} has several widths: {sorted(sizes)}")
    units = sizes.pop()
    cells = single(units)
    silent = [n for n, _ in found if any(fnmatchcase(n, p) for p in (*embeddings, *writes))]
    normed = [n for n, _ in found if any(fnmatchcase(n, p) for p in norms)]
    slices = axes.slices(*((name, dim, cells) for name, dim in found))
    return Axis("width", "width", units, slices, alone(units), tuple(silent), "hidden_size", tuple(normed))


def blocks(axes: Axes, at: str, outs: Sequence[str], setting: str) -> Axis:
    """Whole residual blocks.

    Args:
        axes: of the model.
        at: name of the list that holds them.
        outs: patterns, below a block, of the weights and biases that write to the residual stream.
        setting: key of their number, or list.
    """
    count = len(axes.model.get_submodule(at))  # type: ignore[arg-type]
    members = tuple(f"{at}.{i}." for i in range(count))
    names = [name for name, _ in axes.model.named_parameters()]
    silent = tuple(n for n in names for m in members if any(fnmatchcase(n, m + p) for p in outs))
    return Axis("block", "block", count, (), alone(count), silent, setting, members=members)


def named(model: nn.Module, *attributes: str) -> list[tuple[str, nn.Module]]:
    """Modules that have all of these attributes, with their names, in the order of definition."""
    return [(n, m) for n, m in model.named_modules() if all(getattr(m, a, None) is not None for a in attributes)]


def list_of_blocks(model: nn.Module, attribute: str = "layers") -> str:
    """Name of the list of blocks: the first `nn.ModuleList` (or `nn.Sequential`) of that name.

    Raises:
        ConfigError: none.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == attribute and isinstance(module, (nn.ModuleList, nn.Sequential)):
            return str(name)
    raise ConfigError(f"{type(model).__name__} has no list of blocks named {attribute!r}")


def head_size(config: Any) -> int:
    """Size of a head of attention, which stays when the width goes down."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def of_configuration(model: nn.Module, changes: dict[str, Any]) -> nn.Module:
    """Make a model of transformers of the same class from a changed copy of its configuration.

    Raises:
        ConfigError: values that the configuration refuses.
    """
    facts: Any = model
    try:
        values = facts.config.to_dict() | changes
        config = type(facts.config).from_dict(values)
        with torch.random.fork_rng(devices=[]):
            made: nn.Module = type(facts)(config)
    except Exception as error:  # transformers' own validation has its own classes of error
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise ConfigError(f"{type(model).__name__} cannot have {changes}: {reason.strip()}") from error
    wrong = {key: value for key, value in changes.items() if getattr(made.config, key) != value}
    if wrong:
        raise ConfigError(f"{type(model).__name__}: its configuration did not take {wrong}")
    if getattr(facts, "generation_config", None) is not None:
        made.generation_config = copy.deepcopy(facts.generation_config)
    return made.to(next(model.parameters()).dtype)


def divisible(value: int, by: int, what: str) -> None:
    """Refuse a size that another one does not divide.

    Raises:
        ConfigError: with the nearest sizes that can be.
    """
    if value % by or not value:
        low = value // by * by
        near = f"{low} or {low + by}" if low else f"{by}"
        raise ConfigError(f"{what}: {value} is no multiple of {by}; the nearest are {near}")


def count_of(sizes: Sizes, key: str, now: int) -> int:
    """A new size, or the one that is."""
    value = sizes.get(key, now)
    if isinstance(value, tuple):
        raise ConfigError(f"{key}: expected a number, found {value}")
    return value


def kept_blocks(sizes: Sizes, key: str, now: int) -> tuple[int, ...]:
    """Blocks that stay, in order."""
    value = sizes.get(key, tuple(range(now)))
    if isinstance(value, int):
        raise ConfigError(f"{key}: expected the blocks that stay, found {value}")
    return value
