"""Covered weights: those of a model that may lose entries."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import structlog
from torch import Tensor, nn

from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers, Place
from dictpfl.client.model.rules import Role, survey
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Decomposition

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight, seen as its matrix (n, m): rows are outputs, columns inputs, a kernel unrolled.

    Attributes:
        name: of the parameter, its first where it is tied.
        places: where it hangs; one, or several that share it.
        kind: layer type that covers it.
        shape: (n, m).
        groups: equal parts of the rows, each with inputs of its own: groups of a convolution, or query, key and value.
    """

    name: str
    places: tuple[Place, ...]
    kind: type[TableLayer]
    shape: tuple[int, int]
    groups: int

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself."""
        place = self.places[0]
        return place.module.get_parameter(place.attribute)

    @property
    def matrix(self) -> Tensor:
        """The weight as its matrix, (n, m): a view, detached."""
        return self.as_matrix(self.parameter.detach())

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]

    @property
    def block(self) -> str:
        """Part of the model that it belongs to: its name up to the first number, or up to the first point."""
        return block_of(self.name)

    def as_matrix(self, values: Tensor) -> Tensor:
        """Values in the weight's own shape as its matrix (n, m), a view."""
        return values.t() if self.kind.by_input else values.reshape(self.shape)

    def as_stored(self, values: Tensor) -> Tensor:
        """A matrix (n, m) in the weight's own shape, a view."""
        return values.t() if self.kind.by_input else values.reshape(tuple(self.parameter.shape))


def block_of(name: str) -> str:
    """Part of a model that a parameter belongs to; see `Weight.block`."""
    words = name.split(".")
    number = next((i for i, word in enumerate(words) if word.isdigit()), 0)
    return ".".join(words[: number + 1])


def covered(
    model: nn.Module, cover: Sequence[str] = (), keep: Sequence[str] = (), layers: Sequence[str] = ()
) -> dict[str, Weight]:
    """Find the covered weights of a plain model by name, in the order of `named_parameters`.

    Without patterns they are those that would get a table with the default settings: linear layers, convolutions and packed
    attention, never embeddings, head, norms or biases. A tied weight counts once. One of a single column stays whole: a row of it would
    go or stay as one.

    Args:
        model: plain.
        cover: patterns (fnmatch) of names; what they match is covered in place of the default, the head too. Embeddings are not.
        keep: patterns of names that are never covered.
        layers: layer types beside this project's own, as `decomposition.layers`.

    Raises:
        ConfigError: a pattern that matches no weight that can be covered.
        ModelError: no weight is left.
    """
    known = Layers(layers)
    hanging = known.places(model)
    able = {name: at for name, at in hanging.items() if known.is_watched(at)}
    _require_matched("cover", cover, able)
    _require_matched("keep", keep, able)
    if cover:
        chosen = [name for name, at in able.items() if _matches(at, cover)]
    else:
        # Nothing is trained here: a model that is frozen as a whole is told by what is covered, not by what would be shared.
        roles = survey(model, Decomposition(layers=list(layers)), gated=True)
        chosen = [name for name in able if roles[name] is Role.TABLE]
    found = {name: _weight(name, able[name], known) for name in chosen if not _matches(able[name], keep)}
    weights = {name: w for name, w in found.items() if w.shape[1] > 1}
    if single := [name for name in found if name not in weights]:
        _log.info("weights of one column stay whole", weights=single)
    if not weights:
        raise ModelError(
            "no weight of this model is covered; name some by --cover of `dictpfl prune` (in a federation by sparsity.cover), or keep fewer: those that can be are "
            f"{', '.join(list(able)[:5]) or 'none'}"
        )
    return weights


def _weight(name: str, at: tuple[Place, ...], layers: Layers) -> Weight:
    kind = layers.type_of(at[0].module)
    assert kind is not None  # noqa: S101 -- for the type checker: it is covered
    module = at[0].module
    groups = 3 if isinstance(module, nn.MultiheadAttention) else int(getattr(module, "groups", 1))
    return Weight(name, at, kind, layers.matrix_shape(at), groups)


def _matches(at: tuple[Place, ...], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(place.name, pattern) for place in at for pattern in patterns)


def _require_matched(what: str, patterns: Sequence[str], able: dict[str, tuple[Place, ...]]) -> None:
    for pattern in patterns:
        if not any(_matches(at, [pattern]) for at in able.values()):
            near = difflib.get_close_matches(pattern, list(able), n=3, cutoff=0.0)
            raise ConfigError(
                f"{what}: pattern {pattern!r} matches no weight that can lose entries; the nearest names are {', '.join(near)}"
            )
