"""Roles of a model's parameters: decomposed, trained dense, kept at home or left alone (arXiv 2510.21086, section 4.1)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.model.covering import Layers, Place, own_buffers, statistics
from dictpfl.client.model.scored import read_scores
from dictpfl.client.model.woven import WovenWeight
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.budget import allocator
from dictpfl.common.law.dictionary import is_transposed, table_size
from dictpfl.common.law.facts import Facts, Spectra
from dictpfl.common.settings import Decomposition


class Role(StrEnum):
    """Role of one parameter or running statistic."""

    TABLE = "table"
    """A weight W0 that stays frozen; its lookup table T, or its core C, is trained and shared."""
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


_OWNERS_OF_MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention)  # noqa: SLF001 -- torch has no public base class of convolutions
_UNIFORM = "uniform"
_HEAD_CLASS = re.compile(r"Classif(ication|ier)Head$")
_POSITION = re.compile(r"(^|[._])pos(?!t)|(^|[.])wpe([.]|$)")


def survey(
    model: nn.Module, settings: Decomposition, decomposed: Collection[str] | None = None, *, gated: bool = False
) -> dict[str, Role]:
    """The role of every parameter (order of `named_parameters`), then of every running statistic.

    Names are the model's own. What decides, first that applies:

    1. a pattern of `settings.dense`, then `local`, then `frozen` (so `frozen = ["*"]` with
       `dense = ["head.*"]` trains the head alone); a tied parameter answers to each of its names.
       `local` and `frozen` reach running statistics too. `frozen` may name a model's own buffers, which stay as in W0
       in any case: it says that this is meant.
    2. `requires_grad` False in the model itself: FROZEN.
    3. `last_layers` = k > 0: parameters of the last k modules that own weight matrices, and of all
       modules defined after them, are DENSE; the others, and their statistics, are frozen.
    4. `enabled` False: DENSE.
    5. a pattern of `settings.tables`: TABLE.
    6. the switches for embeddings, head, norms, positions, biases and tokens; TABLE for what layers can cover.

    The head is what timm's `get_classifier` names, else the last `nn.Linear` in definition order with all of
    a transformers `...ClassificationHead` around it. One whose weight is tied, or that a language model names
    as its output embedding, is no new head: it goes with the embeddings. `nn.Embedding` is frozen by default,
    positions kept in one too; a tied weight goes with its embedding. A weight shared by several layers gets
    one table, if all of them can take one. DENSE stays what no layer type covers (`dictpfl.client.model.layers`), and a
    weight whose table would be as large.

    Args:
        model: plain.
        settings: what decides.
        decomposed: names of the weights that have a dictionary, once it is agreed. The budget allocator is then not
            asked: what it may look at, spectra above all, differs in its last bits between machines.
        gated: gates are trained beside; nothing else need be.

    Raises:
        ConfigError: a pattern that matches no name.
        ModelError: nothing would be trained and shared, or complex numbers would.
    """
    layers = Layers(settings.layers, settings.tables)
    hanging, stats = layers.places(model), statistics(model)
    matched = _patterns(model, settings, hanging)
    first = _first_trained(hanging, settings.last_layers, layers)
    roles = _wanted(model, hanging, settings, matched, layers)
    able = {n: at for n, at in hanging.items() if roles[n] is Role.TABLE}
    kept = _allotted(able, settings, layers) if decomposed is None else _dictated(able, settings, layers, decomposed)
    roles |= {name: Role.DENSE for name in able if name not in kept}
    for name, place in stats.items():
        roles[name] = matched.get(name) or _statistic(place, settings, first)
    if not gated and not any(role in (Role.TABLE, Role.DENSE) for role in roles.values()):
        raise ModelError(
            "nothing of this model is trained and shared: expected at least one decomposed or dense parameter; "
            "switch on decomposition.biases or norms, or name parameters in decomposition.dense"
        )
    return roles


def allotted(model: nn.Module, settings: Decomposition) -> dict[str, int]:
    """The rank of each weight that gets a table, in the order of `named_parameters`: asks the budget allocator, once.

    Only who founds a federation asks; everybody else has the dictionaries (`survey`).

    Raises:
        ConfigError: see `survey`, or an allocator that leaves a weight out.
        ModelError: weights that are not finite, where the allocator looks at spectra.
    """
    layers = Layers(settings.layers, settings.tables)
    hanging = layers.places(model)
    roles = _wanted(model, hanging, settings, _patterns(model, settings, hanging), layers)
    return _allotted({n: at for n, at in hanging.items() if roles[n] is Role.TABLE}, settings, layers)


def fixed_ranks(model: nn.Module, settings: Decomposition) -> dict[str, int] | None:
    """Ranks by name where they follow from shapes and settings alone, on any machine; None where an allocator looks at more."""
    return allotted(model, settings) if settings.allocator == _UNIFORM else None


def _wanted(
    model: nn.Module,
    hanging: Mapping[str, tuple[Place, ...]],
    settings: Decomposition,
    matched: Mapping[str, Role],
    layers: Layers,
) -> dict[str, Role]:
    """Roles of parameters before anybody asks what a table costs."""
    for pattern in settings.tables:
        if not any(Layers(woven=[pattern]).is_woven(place) for at in hanging.values() for place in at):
            raise ConfigError(f"decomposition.tables: pattern {pattern!r} matches vectors alone; expected matrices")
    first, ends = _first_trained(hanging, settings.last_layers, layers), _ends(model, hanging)
    roles: dict[str, Role] = {}
    for name, at in hanging.items():
        if name in matched:
            roles[name] = matched[name]
        elif not at[0].module.get_parameter(at[0].attribute).requires_grad:
            roles[name] = Role.FROZEN
        elif settings.last_layers:
            roles[name] = Role.DENSE if max(p.order for p in at) >= first else Role.FROZEN
        elif not settings.enabled:
            roles[name] = Role.DENSE
        elif any(layers.is_woven(place) for place in at):
            roles[name] = _asked_for(name, at, layers)
        else:
            roles[name] = _default(at, settings, ends, layers)
        if roles[name] is not Role.FROZEN and at[0].module.get_parameter(at[0].attribute).is_complex():
            raise ModelError(
                f"{name} holds complex numbers, and real ones alone are trained and shared: expected its real and imaginary part as a parameter "
                "(torch.view_as_real); or freeze it (decomposition.frozen)"
            )
    return roles


def _asked_for(name: str, at: tuple[Place, ...], layers: Layers) -> Role:
    if layers.covers_all(at):
        return Role.TABLE
    raise ConfigError(
        f"decomposition.tables names {name!r}, which can have none: it is used at {len(at)} places, or belongs to a layer "
        f"({type(at[0].module).__name__}) that computes with it in its own way; name others"
    )


def _allotted(able: Mapping[str, tuple[Place, ...]], settings: Decomposition, layers: Layers) -> dict[str, int]:
    shapes = {name: layers.matrix_shape(at) for name, at in able.items()}
    spectra = Spectra(shapes, lambda name: _spectrum(name, weight_matrix(able[name], layers)))
    scores = read_scores(settings.scores) if settings.scores else None
    if scores and len(scores.blocks) < 2:  # noqa: PLR2004 -- nothing to divide
        raise ConfigError(
            f"decomposition.scores is of the block {', '.join(scores.blocks) or '(none)'} alone: there is nothing to divide by; leave "
            "decomposition.allocator at 'uniform'"
        )
    facts = Facts(
        shapes, spectra, scores=scores.by_weight("influence") if scores else {}, gradients=scores.by_weight("gradient") if scores else {},
        unscored={name for name, at in able.items() if not layers.is_watched(at)},
        most=settings.rank_max, least=settings.rank_min, sized=partial(table_size, orientation=settings.orientation, form=settings.form),
    )  # fmt: skip
    ranks = allocator(settings.allocator).ranks(facts, settings.rank)
    if ranks.keys() != shapes.keys():
        missing, extra = sorted(shapes.keys() - ranks.keys()), sorted(ranks.keys() - shapes.keys())
        raise ConfigError(
            f"decomposition.allocator: {settings.allocator!r} must give every weight a rank: missing {missing}, "
            f"unexpected {extra}"
        )
    return {name: ranks[name] for name in shapes if _pays(shapes[name], ranks[name], settings)}


def _dictated(
    able: Mapping[str, tuple[Place, ...]], settings: Decomposition, layers: Layers, decomposed: Collection[str]
) -> set[str]:
    """The weights that have a dictionary, and those that must have one."""
    if settings.allocator != _UNIFORM:
        return {name for name in able if name in decomposed}
    # Its ranks are known without asking, so that a dictionary that got lost is missed; but federations that were founded before
    # recurrent layers had tables have none for them, and go on without.
    pays = {
        name
        for name, at in able.items()
        if _pays(layers.matrix_shape(at), settings.rank, settings)
        and not issubclass(layers.kind_at(at[0]), WovenWeight)
    }
    return pays | {name for name in able if name in decomposed}


def _pays(shape: tuple[int, int], rank: int, settings: Decomposition) -> bool:
    """False where sending T, or C, would cost as much as sending W, which can move in every direction."""
    n, m = shape
    if settings.form == "core":
        return table_size(shape, rank, form="core") < n * m
    return rank * (n if is_transposed(shape, settings.orientation) else m) < n * m


def _spectrum(name: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(weight).all():
        raise ModelError(f"weight {name!r} has no singular values: it is not finite; check the starting weights")
    return np.linalg.svd(weight, compute_uv=False).astype(np.float64, copy=False)


def weight_matrix(at: tuple[Place, ...], layers: Layers) -> NDArray[np.float64]:
    """A copy of the covered weight that hangs at these places, (n, m), float64."""
    kind = layers.kind_at(at[0])
    weight = at[0].module.get_parameter(at[0].attribute)
    return kind.as_matrix(weight.detach().to("cpu", torch.float64, copy=True).numpy())


def is_frozen_buffer(name: str, settings: Decomposition) -> bool:
    """Tell whether a pattern says of a buffer that is no running statistic that it stays as in W0."""
    return any(fnmatchcase(name, pattern) for pattern in settings.frozen)


def _patterns(model: nn.Module, settings: Decomposition, hanging: Mapping[str, tuple[Place, ...]]) -> dict[str, Role]:
    aliases = {name: tuple(place.name for place in places) for name, places in hanging.items()}
    stats, buffers = tuple(statistics(model)), own_buffers(model)
    matched: dict[str, Role] = {}
    for key, role, on_stats in (
        ("frozen", Role.FROZEN, Role.FROZEN_STATISTIC),
        ("local", Role.LOCAL, Role.LOCAL_STATISTIC),
        ("dense", Role.DENSE, None),
        ("tables", None, None),
    ):
        for pattern in getattr(settings, key):
            hits = {n: role for n, names in aliases.items() if any(fnmatchcase(x, pattern) for x in names)}
            if on_stats is not None:
                hits |= {n: on_stats for n in stats if fnmatchcase(n, pattern) and not n.endswith("_tracked")}
            if not hits and not (key == "frozen" and any(fnmatchcase(name, pattern) for name in buffers)):
                near = difflib.get_close_matches(pattern, [*aliases, *stats], n=3, cutoff=0.0)
                raise ConfigError(
                    f"decomposition.{key}: pattern {pattern!r} matches no parameter; "
                    f"the nearest names are {', '.join(near)}"
                )
            matched |= {name: hit for name, hit in hits.items() if hit is not None}
    return matched


def _first_trained(hanging: Mapping[str, tuple[Place, ...]], last_layers: int, layers: Layers) -> int:
    if not last_layers:
        return 0
    places = [place for at in hanging.values() for place in at]
    orders = sorted({p.order for p in places if _owns_matrix(p.module, layers)})
    return orders[-min(last_layers, len(orders))] if orders else 0


def _owns_matrix(module: nn.Module, layers: Layers) -> bool:
    # Of torch's own layers, and of plug-ins. GPT-2's `Conv1D` never counted, and federations' layouts rest on that.
    return isinstance(module, _OWNERS_OF_MATRICES) or layers.type_of(module) in layers.named


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
    inner = {id(p.module) for at in hanging.values() for p in at if p.outer is not None}
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
    hanging = Layers().places(model)
    head = _ends(model, hanging).head
    return frozenset(name for name, at in hanging.items() if id(at[0].module) in head)


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of a model's parameters by what they belong to, for whoever explains roles.

    Attributes:
        head: of the head.
        embeddings: of embeddings, tied outputs included.
        covered: weights that a layer type covers, with their matrices' shapes.
        matrices: parameters of two dimensions or more that are longer than 1.
        kinds: class of the module that owns each parameter.
    """

    head: frozenset[str]
    embeddings: frozenset[str]
    covered: Mapping[str, tuple[int, int]]
    matrices: frozenset[str]
    kinds: Mapping[str, str]


def parts(model: nn.Module, settings: Decomposition) -> Parts:
    """Sort the parameters of a plain model."""
    layers = Layers(settings.layers, settings.tables)
    hanging = layers.places(model)
    ends = _ends(model, hanging)
    return Parts(
        frozenset(n for n, at in hanging.items() if id(at[0].module) in ends.head),
        frozenset(n for n, at in hanging.items() if any(id(p.module) in ends.embeddings for p in at)),
        {n: layers.matrix_shape(at) for n, at in hanging.items() if layers.covers_all(at)},
        frozenset(n for n, p in model.named_parameters() if sum(d > 1 for d in p.shape) > 1),
        {n: type(at[0].module).__name__ for n, at in hanging.items()},
    )


def _named_by(model: nn.Module, method: str) -> nn.Module | None:
    """The module with a weight that a method of the model names, as timm's and transformers' models do."""
    try:
        named = getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return named if isinstance(named, nn.Module) and isinstance(getattr(named, "weight", None), nn.Parameter) else None


def _default(at: tuple[Place, ...], settings: Decomposition, ends: _Ends, layers: Layers) -> Role:
    place, parameter = at[0], at[0].module.get_parameter(at[0].attribute)
    in_head, embeds = id(place.module) in ends.head, any(id(p.module) in ends.embeddings for p in at)
    word = settings.head if in_head else settings.embeddings if embeds else "decomposed"
    if word != "decomposed":
        return Role.DENSE if word == "dense" else Role.FROZEN
    module, kind = place.module, type(place.module).__name__.lower()
    matrix = sum(d > 1 for d in parameter.shape) > 1 or (parameter.ndim > 1 and _owns_matrix(module, layers))
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm)) or "norm" in kind:
        return _if(settings.norms)
    # torch's own layers hold weights, whatever they are called; positions are embeddings or free parameters.
    if _POSITION.search(place.name) and (isinstance(module, nn.Embedding) or not _is_torchs(module)):
        return _if(settings.positions)
    if "bias" in place.attribute:
        return _if(settings.biases)
    if not matrix:
        return _if(settings.tokens)
    return Role.TABLE if layers.covers_all(at) else Role.DENSE


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _if(switch: bool) -> Role:  # noqa: FBT001 -- a switch of the configuration
    return Role.DENSE if switch else Role.FROZEN


def _statistic(place: Place, settings: Decomposition, first: int) -> Role:
    if settings.batch_norm == "frozen" or place.order < first:
        return Role.FROZEN_STATISTIC
    if settings.batch_norm == "local" or place.attribute == "num_batches_tracked":
        # The count is an integer of each institution's own.
        return Role.LOCAL_STATISTIC
    return Role.STATISTIC
