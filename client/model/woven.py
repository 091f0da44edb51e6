"""Tables for weights that a module uses by name: whoever reads the attribute gets W0 + D T.

`TableLayer` takes over the forward of a layer with one weight. A recurrent layer has several, and hands them to kernels of its own; a
module of a user's may hold a matrix as a raw parameter. There the attribute becomes a property of the module's class, as in
`torch.nn.utils.parametrize`, but W0 stays under its own name. D T is formed for it, as large as W0: no cheaper way is known
without the module's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.model.base import SampleGradients, TableLayer
from dictpfl.common.errors import ModelError
from dictpfl.common.law.dictionary import Dictionary

_SUFFIX = "_table"


class WovenWeight(TableLayer):
    """A matrix of a module, and its table: a module inside the owner, whose class is one with a property in the matrix's place.

    Made by `put`; `to_plain` gives the owner its class back, with W0.
    """

    unadaptable: ClassVar[str] = "a module that uses it by name"
    owner: nn.Module
    attribute: str

    @classmethod
    def holds(cls, attribute: str) -> bool:  # noqa: ARG003 -- a pattern of the configuration has decided
        """See `TableLayer.holds`."""
        return True

    @classmethod
    def put(
        cls,
        layer: nn.Module,
        attribute: str,
        dictionary: Dictionary | NDArray[Any] | Tensor,
        table: nn.Parameter | None = None,
    ) -> Self:
        """See `TableLayer.put`."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.__dict__.update(owner=layer, attribute=attribute)  # no submodule: the owner holds this one
        made.take(dictionary, table)
        layer.add_module(f"{attribute}{_SUFFIX}", made)
        _reclass(layer, {attribute, *_woven(layer)})
        return made

    @property
    def base(self) -> nn.Parameter:
        """W0 in its own shape."""
        base = self.owner._parameters[self.attribute]  # noqa: SLF001 -- the attribute is the moved weight
        assert base is not None  # noqa: S101 -- for the type checker
        return base

    def weight(self) -> Tensor:
        """W0 + D T in the matrix's own shape; gradients reach the table."""
        up, down = self.factors()
        moved: Tensor = self.base + self.as_change(up @ down)
        return moved

    def to_plain(self) -> nn.Module:
        """See `TableLayer.to_plain`; returns the owner."""
        owner = self.owner
        del owner._modules[f"{self.attribute}{_SUFFIX}"]  # noqa: SLF001
        _reclass(owner, set(_woven(owner)))
        return owner

    @classmethod
    def watched(cls, layer: nn.Module) -> AbstractContextManager[None]:
        """Refuse a module with such tables: hooks see inputs of layers, and no weight that is read by name.

        Raises:
            ModelError: see above.
        """
        if names := [*_woven(layer)]:
            raise ModelError(
                f"{', '.join(names)} of {type(layer).__name__} have tables and are used by name, where gradients of single samples cannot be "
                "seen; name them in decomposition.dense or frozen"
            )
        return super().watched(layer)

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:  # noqa: ARG002
        """Refuse; see `watched`.

        Raises:
            ModelError: always.
        """
        raise ModelError("a weight that is used by name has no inputs, and no gradients of single samples")


def table_layer(module: nn.Module, attribute: str) -> TableLayer:
    """The table layer of a weight: the module itself, or what is woven into it."""
    found = module._modules.get(f"{attribute}{_SUFFIX}", module)  # noqa: SLF001
    assert isinstance(found, TableLayer)  # noqa: S101 -- what `put` made
    return found


def _woven(owner: nn.Module) -> dict[str, WovenWeight]:
    return {part.attribute: part for part in owner.children() if isinstance(part, WovenWeight) and part.owner is owner}


def _reclass(owner: nn.Module, attributes: set[str]) -> None:
    plain: type[nn.Module] = getattr(type(owner), "woven_class", type(owner))
    owner.__class__ = _with_properties(plain, tuple(sorted(attributes))) if attributes else plain
    if not attributes and isinstance(owner, nn.RNNBase):
        owner._init_flat_weights()  # noqa: SLF001 -- it keeps what it last computed with


_MADE: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def _with_properties(plain: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """A class that differs from a plain one in these attributes alone, under its name; made once."""
    if (plain, attributes) in _MADE:
        return _MADE[plain, attributes]

    def reading(name: str) -> property:
        def weight(self: nn.Module) -> Tensor:
            found = self._modules[f"{name}{_SUFFIX}"]
            assert isinstance(found, WovenWeight)  # noqa: S101 -- for the type checker
            return found.weight()

        return property(weight)

    said: dict[str, Any] = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "woven_class": plain}
    if issubclass(plain, nn.RNNBase):
        said |= {"__getstate__": _without_graph(plain), "flatten_parameters": _nothing}
    made: Any = type(plain.__name__, (plain,), said | {name: reading(name) for name in attributes})
    return _MADE.setdefault((plain, attributes), made)


def _without_graph(plain: type[nn.RNNBase]) -> Any:
    """Recurrent layers keep their last weights; a copy must not hold on to the graph that made them."""

    def getstate(self: nn.RNNBase) -> dict[str, Any]:
        with torch.no_grad():
            state: dict[str, Any] = plain.__getstate__(self)  # type: ignore[no-untyped-call]
        return state

    return getstate


def _nothing(self: nn.Module) -> None:
    """In place of moving weights into one chunk for cuDNN, which would write into tensors of a graph."""
