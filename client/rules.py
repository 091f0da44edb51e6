"""Which parameter of a model is decomposed, trained dense, kept at home or left alone (PAPER section 4.1)."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from common.budget import allocator
from common.dictionary import is_transposed
from common.errors import ConfigError, ModelError
from common.settings import Decomposition


class Role(StrEnum):
    """What becomes of one parameter or running statistic."""

    TABLE = "table"
    """A weight W0 that stays frozen; its lookup table T is trained and shared."""
    DENSE = "dense"
    """Trained and shared as it is."""
    LOCAL = "local"
    """Trained, never shared."""
    FROZEN = "frozen"
    """Stays as in W0."""
    STATISTIC = "statistic"
    """A running statistic that is averaged."""
    LOCAL_STATISTIC = "local-statistic"
    """A running statistic that each institution keeps for itself (FedBN)."""
    FROZEN_STATISTIC = "frozen-statistic"
    """A running statistic that nobody updates; its layer normalises by it in training too."""


_PLAIN = (nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.MultiheadAttention)
_OWNERS_OF_MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)  # noqa: SLF001 -- torch has no public base class of convolutions
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_HEAD_CLASS = re.compile(r"Classif(ication|ier)Head$")
_POSITION = re.compile(r"(^|[._])pos(?!t)|(^|[.])wpe([.]|$)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter hangs: the module that owns it, and the attribute there."""

    name: str
    module: nn.Module
    attribute: str
    order: int
    """Index of the module in definition order; an attention's output projection counts as the attention."""
    attention: nn.MultiheadAttention | None = None
    """The attention whose output projection this is."""


def places(model: nn.Module) -> dict[str, tuple[Place, ...]]:
    """Every parameter by its first name, in the order of `named_parameters`, with all places it hangs at.

    A tied parameter has several places and is handled once, under its first name.
    """
    found: dict[int, list[Place]] = {}
    outer: dict[int, tuple[int, nn.MultiheadAttention]] = {}
    for order, (prefix, module) in enumerate(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            outer[id(module.out_proj)] = (order, module)
        at, attention = outer.get(id(module), (order, None))
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            found.setdefault(id(parameter), []).append(Place(name, module, attribute, at, attention))
    return {name: tuple(found[id(parameter)]) for name, parameter in model.named_parameters()}


def statistics(model: nn.Module) -> dict[str, Place]:
    """Running means and variances by name.

    The count of batches is there only for layers without momentum, the only ones that it acts on.
    """
    found = {}
    for order, (prefix, module) in enumerate(model.named_modules()):
        if not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        counted = ("num_batches_tracked",) if module.momentum is None else ()
        for attribute in ("running_mean", "running_var", *counted):
            name = f"{prefix}.{attribute}" if prefix else attribute
            found[name] = Place(name, module, attribute, order)
    return found


def matrix_shape(shape: Iterable[int], *, by_input: bool = False) -> tuple[int, int]:
    """(n, m) of a weight seen as a matrix: rows are outputs, a convolution's kernel is unrolled into columns.

    `by_input`: the weight is stored the other way round, as GPT-2's `Conv1D` does (`is_by_input`).
    """
    n, *rest = shape
    m = math.prod(int(d) for d in rest)
    return (m, int(n)) if by_input else (int(n), m)


def is_by_input(module: nn.Module) -> bool:
    """Whether this is transformers' `Conv1D`: a linear layer whose weight is stored (inputs, outputs)."""
    kind: type = getattr(module, "plain_class", type(module))
    return (kind.__module__, kind.__qualname__) == ("transformers.pytorch_utils", "Conv1D")


def survey(model: nn.Module, settings: Decomposition) -> dict[str, Role]:
    """The role of every parameter (order of `named_parameters`), then of every running statistic.

    Names are the model's own. What decides, first that applies:

    1. a pattern of `settings.dense`, then `local`, then `frozen` (so `frozen = ["*"]` with
       `dense = ["head.*"]` trains the head alone); a tied parameter answers to each of its names.
       `local` and `frozen` reach running statistics too.
    2. `last_layers` = k > 0: parameters of the last k modules that own weight matrices, and of all
       modules defined after them, are DENSE; the others, and their statistics, are frozen.
    3. `enabled` False: DENSE.
    4. the switches for embeddings, head, norms, positions, biases and tokens; TABLE for what layers can cover.

    The head is what timm's `get_classifier` names, else the last `nn.Linear` in definition order with all of
    a transformers `...ClassificationHead` around it. One whose weight is tied, or that a language model names
    as its output embedding, is no new head: it goes with the embeddings. `nn.Embedding` is frozen by default,
    positions kept in one too; a tied weight goes with its embedding. A weight shared by several layers gets
    one table, if all of them can take one. DENSE stays what no table layer covers: depthwise convolutions,
    embeddings with `max_norm` or `scale_grad_by_freq`, attention with `kdim` or `vdim` of its own, subclasses
    that may compute something else.

    Raises:
        ConfigError: a pattern that matches no name.
        ModelError: nothing would be trained and shared.
    """
    hanging, stats = places(model), statistics(model)
    matched = _patterns(settings, {n: tuple(p.name for p in ps) for n, ps in hanging.items()}, tuple(stats))
    first = _first_trained(hanging, settings.last_layers)
    ends = _ends(model, hanging)
    roles: dict[str, Role] = {}
    for name, at in hanging.items():
        if name in matched:
            roles[name] = matched[name]
        elif settings.last_layers:
            roles[name] = Role.DENSE if max(p.order for p in at) >= first else Role.FROZEN
        else:
            roles[name] = _default(at, settings, ends) if settings.enabled else Role.DENSE
    _demote(roles, hanging, settings)
    for name, place in stats.items():
        roles[name] = matched.get(name) or _statistic(place, settings, first)
    if not any(role in (Role.TABLE, Role.DENSE) for role in roles.values()):
        raise ModelError(
            "nothing of this model is trained and shared: expected at least one decomposed or dense parameter; "
            "switch on decomposition.biases or norms, or name parameters in decomposition.dense"
        )
    return roles


def _patterns(
    settings: Decomposition, aliases: Mapping[str, tuple[str, ...]], stats: tuple[str, ...]
) -> dict[str, Role]:
    matched: dict[str, Role] = {}
    for key, role, on_stats in (
        ("frozen", Role.FROZEN, Role.FROZEN_STATISTIC),
        ("local", Role.LOCAL, Role.LOCAL_STATISTIC),
        ("dense", Role.DENSE, None),
    ):
        for pattern in getattr(settings, key):
            hits = {n: role for n, names in aliases.items() if any(fnmatchcase(x, pattern) for x in names)}
            if on_stats is not None:
                hits |= {n: on_stats for n in stats if fnmatchcase(n, pattern) and not n.endswith("_tracked")}
            if not hits:
                near = difflib.get_close_matches(pattern, [*aliases, *stats], n=3, cutoff=0.0)
                raise ConfigError(
                    f"decomposition.{key}: pattern {pattern!r} matches no parameter; "
                    f"the nearest names are {', '.join(near)}"
                )
            matched |= hits
    return matched


def _first_trained(hanging: Mapping[str, tuple[Place, ...]], last_layers: int) -> int:
    if not last_layers:
        return 0
    orders = sorted({p.order for at in hanging.values() for p in at if isinstance(p.module, _OWNERS_OF_MATRICES)})
    return orders[-min(last_layers, len(orders))] if orders else 0


@dataclass(frozen=True, slots=True)
class _Ends:
    """Ids of the modules of the head, and of those that hold embeddings."""

    head: frozenset[int]
    embeddings: frozenset[int]


def _ends(model: nn.Module, hanging: Mapping[str, tuple[Place, ...]]) -> _Ends:
    embeddings = {id(m) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    outward = _named_by(model, "get_output_embeddings")
    if outward is not None:
        embeddings.add(id(outward))
    inner = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in inner]
    last = _named_by(model, "get_classifier") or (linears[-1] if linears else None)
    tied = any(len(at) > 1 and any(p.module is last for p in at) for at in hanging.values())
    if last is None or tied or id(last) in embeddings:
        return _Ends(frozenset(), frozenset(embeddings))
    around = [m for m in model.modules() if _HEAD_CLASS.search(type(m).__name__)]
    wide = {id(part) for m in around if any(x is last for x in m.modules()) for part in m.modules()}
    return _Ends(frozenset(wide | {id(last)}), frozenset(embeddings))


def head_of(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of the head, as `survey` finds it; empty where there is none."""
    hanging = places(model)
    head = _ends(model, hanging).head
    return frozenset(name for name, at in hanging.items() if id(at[0].module) in head)


def _named_by(model: nn.Module, method: str) -> nn.Module | None:
    """The module with a weight that a method of the model names, as timm's and transformers' models do."""
    try:
        found = getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return found if isinstance(found, nn.Module) and isinstance(getattr(found, "weight", None), nn.Parameter) else None


def _default(at: tuple[Place, ...], settings: Decomposition, ends: _Ends) -> Role:
    place, parameter = at[0], at[0].module.get_parameter(at[0].attribute)
    in_head, embeds = id(place.module) in ends.head, any(id(p.module) in ends.embeddings for p in at)
    word = settings.head if in_head else settings.embeddings if embeds else "decomposed"
    if word != "decomposed":
        return Role.DENSE if word == "dense" else Role.FROZEN
    module, kind = place.module, type(place.module).__name__.lower()
    matrix = sum(d > 1 for d in parameter.shape) > 1 or (parameter.ndim > 1 and isinstance(module, _OWNERS_OF_MATRICES))
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm)) or "norm" in kind:
        return _if(settings.norms)
    # torch's own layers hold weights, whatever they are called; positions are embeddings or free parameters.
    if _POSITION.search(place.name) and (isinstance(module, nn.Embedding) or not _is_torchs(module)):
        return _if(settings.positions)
    if "bias" in place.attribute:
        return _if(settings.biases)
    if not matrix:
        return _if(settings.tokens)
    return Role.TABLE if all(covers(p, tied=len(at) > 1) for p in at) else Role.DENSE


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _if(switch: bool) -> Role:  # noqa: FBT001 -- a switch of the configuration
    return Role.DENSE if switch else Role.FROZEN


def covers(place: Place, *, tied: bool = False) -> bool:
    """Whether a table layer computes exactly what the layer at this place does with this weight."""
    module = place.module
    if is_by_input(module):
        return place.attribute == "weight"
    if type(module) not in _PLAIN or place.attribute not in ("weight", "in_proj_weight"):
        return False
    if place.attention is not None and not covers_attention(place.attention):
        return False
    if isinstance(module, _CONVOLUTIONS):
        # Depthwise kernels are few; a table of theirs would cost more arithmetic than they do.
        return module.groups == 1 or module.in_channels > module.groups
    if isinstance(module, nn.Embedding):
        # A tied padding row learns through the other layer only, which one shared table cannot express.
        return (
            module.max_norm is None and not module.scale_grad_by_freq and not (tied and module.padding_idx is not None)
        )
    return True if not isinstance(module, nn.MultiheadAttention) else covers_attention(module)


def covers_attention(module: nn.MultiheadAttention) -> bool:
    """Whether the attention is the plain kind: one packed projection, no learned or zero keys added."""
    packed = module.in_proj_weight is not None
    return type(module) is nn.MultiheadAttention and packed and module.bias_k is None and not module.add_zero_attn


def _demote(roles: dict[str, Role], hanging: Mapping[str, tuple[Place, ...]], settings: Decomposition) -> None:
    shapes = {n: shape_of(at) for n, at in hanging.items() if roles[n] is Role.TABLE}
    for name, r in allocator(settings.allocator).ranks(shapes, settings.rank).items():
        n, m = shapes[name]
        # Sending T would cost as much as sending W, and W can move in every direction.
        if r * (n if is_transposed((n, m), settings.orientation) else m) >= n * m:
            roles[name] = Role.DENSE


def shape_of(at: tuple[Place, ...]) -> tuple[int, int]:
    """(n, m) of the weight that hangs at these places."""
    module = at[0].module
    return matrix_shape(module.get_parameter(at[0].attribute).shape, by_input=is_by_input(module))


def _statistic(place: Place, settings: Decomposition, first: int) -> Role:
    if settings.batch_norm == "frozen" or place.order < first:
        return Role.FROZEN_STATISTIC
    if settings.batch_norm == "local" or place.attribute == "num_batches_tracked":
        # The count is an integer of each institution's own.
        return Role.LOCAL_STATISTIC
    return Role.STATISTIC
