"""Table layers: W = W0 + D T with W0 and D frozen (arXiv 2510.21086, section 4.1), one layer type a file of `layers`.

All of them compute the change by its two thin factors, `up` (n, r) and `down` (r, m) with
`up down = D T`, so that neither W0 + D T nor a gradient of its size is ever formed:

    paper       W0 + D T        up = D      down = T
    transposed  W0 + (D T)^T    up = T^T    down = D^T

With a second dictionary E the trained `table` is the core C, (r, r), and T stands for C E.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dictpfl.common.errors import ModelError
from dictpfl.common.law.dictionary import Dictionary
from dictpfl.common.registry import Registry

SampleGradients = dict[nn.Parameter, Tensor]
"""Gradients of single samples, (samples, *shape), of each trained parameter of a layer."""


class TableLayer(nn.Module):
    """A layer whose weight moves by its lookup table alone, and all that the project knows about this layer type.

    Made in place from a plain layer (`of`), whose class it takes over: hooks, names of the state dict and every
    other attribute stay, and `to_plain` gives the class back. W0 stays under its own name, frozen;
    `table` (T, or C; zero at the start) is a parameter, `dictionary` (D) and `right` (E, or None) are tensors that move with the
    module and are no part of its state dict. They are no buffers either: Opacus takes a layer with buffers for one that mixes samples.

    A new layer type says which plain layers it takes (`takes`), when it computes what they do (`covers`), and what it
    computes (`forward`); the rest has defaults.
    """

    takes: ClassVar[tuple[type[nn.Module] | str, ...]] = ()
    """Classes of the plain layers; exactly these, no subclass. `module.Class` for one whose package may be missing."""
    weight_name: ClassVar[str] = "weight"
    by_input: ClassVar[bool] = False
    """True where the weight is stored (inputs, outputs)."""
    unadaptable: ClassVar[str] = ""
    """Noun of this layer type, where an adapter in PEFT's format can neither pair nor copy it."""
    plain_class: type[nn.Module]
    dictionary: Tensor
    right: Tensor | None
    table: nn.Parameter
    is_transposed: bool
    # Not `transposed`: torch's convolutions have an attribute of that name.

    # What the rules ask.

    @classmethod
    def covers(cls, layer: nn.Module, *, tied: bool = False) -> bool:  # noqa: ARG003 -- for layer types that must look
        """True if this class computes exactly what a layer of `takes` does.

        Args:
            layer: plain, of a class in `takes`.
            tied: another layer has the same weight.
        """
        return True

    @classmethod
    def holds(cls, attribute: str) -> bool:
        """Tell whether a parameter of such a layer, by its name there, is a weight that can get a table."""
        return attribute == cls.weight_name

    @classmethod
    def inner(cls, layer: nn.Module) -> tuple[nn.Module, ...]:  # noqa: ARG003
        """Layers inside a plain layer whose weights it uses past their forward, and which therefore go with it."""
        return ()

    @classmethod
    def matrix_shape(cls, shape: Iterable[int]) -> tuple[int, int]:
        """(n, m) of a stored weight seen as a matrix: rows are outputs, a kernel is unrolled into columns."""
        first, *rest = (int(d) for d in shape)
        return (math.prod(rest), first) if cls.by_input else (first, math.prod(rest))

    @classmethod
    def as_matrix(cls, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """A stored weight as its matrix (n, m); no copy."""
        return weight.T if cls.by_input else weight.reshape(cls.matrix_shape(weight.shape))

    def as_change(self, product: Any) -> Any:
        """An (n, m) product D T, tensor or array, as the weight's change in its own shape; may write into the product."""
        return product.T if self.by_input else product.reshape(tuple(self.base.shape))

    # The layer's life.

    @classmethod
    def of(
        cls, layer: nn.Module, dictionary: Dictionary | NDArray[Any] | Tensor, table: nn.Parameter | None = None
    ) -> Self:
        """Turn a plain layer into this one, in place.

        Args:
            layer: `nn.Linear`, `nn.Conv2d`, ... of exactly the kind that this class covers.
            dictionary: D; a bare array, (n, r), is taken in the paper's orientation.
            table: T to share with another layer that has the same weight; None: a new one, zero.

        Raises:
            ModelError: D does not fit the weight.
        """
        made = cls.without_table(layer)
        try:
            made.take(dictionary, table)
        except ModelError:
            made.to_plain()
            raise
        return made

    @classmethod
    def put(
        cls,
        layer: nn.Module,
        attribute: str,  # noqa: ARG003 -- for layer types with several weights
        dictionary: Dictionary | NDArray[Any] | Tensor,
        table: nn.Parameter | None = None,
    ) -> Self:
        """Give the weight of that name a table; see `of`."""
        return cls.of(layer, dictionary, table)

    @classmethod
    def without_table(cls, layer: nn.Module) -> Self:
        """Turn a plain layer into this one, in place, with its own weight plain, for the sake of a layer inside it."""
        plain: type[nn.Module] = type(layer)
        layer.__class__ = cls
        assert isinstance(layer, cls)  # noqa: S101 -- for the type checker
        layer.plain_class = plain
        return layer

    def take(self, dictionary: Dictionary | NDArray[Any] | Tensor, table: nn.Parameter | None = None) -> None:
        """Take a dictionary, with a table of zeros; see `of`."""
        d = as_dictionary(dictionary)
        weight = self.base
        shape = self.matrix_shape(weight.shape)
        if d.matrix.ndim != 2 or d.matrix.shape[0] != shape[d.transposed] or not np.isfinite(d.matrix).all():  # noqa: PLR2004 -- a matrix
            raise ModelError(
                f"dictionary of shape {d.matrix.shape} for a weight of shape {tuple(weight.shape)}: "
                f"expected a finite matrix with {shape[d.transposed]} rows; make dictionaries from this very model"
            )
        wide = (d.rank, shape[not d.transposed])
        if d.right is not None and (d.right.shape != wide or not np.isfinite(d.right).all()):
            raise ModelError(
                f"right dictionary of shape {d.right.shape} for a weight of shape {tuple(weight.shape)}: expected a finite "
                f"matrix of shape {wide}; make dictionaries from this very model"
            )
        weight.requires_grad_(False)
        self.is_transposed = d.transposed
        self.dictionary = torch.tensor(d.matrix).to(weight)
        self.right = None if d.right is None else torch.tensor(d.right).to(weight)
        self.table = table if table is not None else nn.Parameter(weight.new_zeros(d.table_shape(shape)))

    @property
    def has_table(self) -> bool:
        """True unless it stands here for a layer inside it alone (`without_table`)."""
        return hasattr(self, "table")

    @property
    def base(self) -> nn.Parameter:
        """W0 in its own shape."""
        return self.get_parameter(self.weight_name)

    def factors(self) -> tuple[Tensor, Tensor]:
        """`up` (n, r) and `down` (r, m), whose product is the weight's change."""
        return self._factors(self.dictionary, self.table, self.right)

    def _factors(self, d: Tensor, table: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
        # C E is as small as T, and as cheap to make as what r samples cost.
        wide = table if right is None else table @ right
        return (wide.t(), d.t()) if self.is_transposed else (d, wide)

    @torch.no_grad()
    def change(self) -> Tensor:
        """D T in the weight's own shape, float64."""
        # Each of them first: C E in a narrow dtype would be rounded before the sum that merges.
        right = None if self.right is None else self.right.double()
        up, down = self._factors(self.dictionary.double(), self.table.double(), right)
        change: Tensor = self.as_change(up @ down)
        return change

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """W0 + D T in the weight's own shape and dtype; summed in float64."""
        return (self.base.double() + self.change()).to(self.base.dtype)

    @torch.no_grad()
    def rebase(self, dictionary: Dictionary | NDArray[Any] | Tensor) -> None:
        """Fold the table into W0, set it to zero and take a new dictionary."""
        self.base.copy_(self.merged_weight())
        self.table.zero_()
        self.take(dictionary, self.table)

    def to_plain(self) -> nn.Module:
        """Give W0's class back, in place, with W0 as its weight; the table is dropped, not folded."""
        if self.has_table:
            del self.table, self.dictionary, self.right, self.is_transposed
        plain = self.plain_class
        del self.plain_class
        self.__class__ = plain  # type: ignore[assignment]
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 -- torch's
        # Behind `to`, `double`, `cuda` and the like: D and E go where the parameters go.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch says nothing of it
        if self.has_table:
            self.dictionary = fn(self.dictionary)
            self.right = None if self.right is None else fn(self.right)
        return self

    # Gradients of single samples, for differential privacy.

    @classmethod
    def watched(cls, layer: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG003
        """Rebuild a layer of `takes`, or of this class, so that Opacus' hooks can watch it; on leaving it is as it was.

        Raises:
            ModelError: it cannot be watched.
        """
        return nullcontext()

    def sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> SampleGradients:
        """Gradients of single samples; here by computing the layer again, sample by sample.

        Args:
            activations: inputs of `forward`, each with the samples first.
            backprops: gradients of its output, (samples, ...).
        """
        trained = {f"layer.{n}": p for n, p in self.named_parameters(recurse=False) if p.requires_grad}
        if not len(backprops):
            return {p: p.new_zeros(0, *p.shape) for p in trained.values()}

        def product(parameters: Mapping[str, Tensor], inputs: tuple[Tensor, ...], gradient: Tensor) -> Tensor:
            output = functional_call(_Bare(self), dict(parameters), tuple(x.unsqueeze(0) for x in inputs))
            total: Tensor = (output * gradient.unsqueeze(0)).sum()
            return total

        start = {n: p.detach() for n, p in trained.items()}
        each = vmap(grad(product), (None, 0, 0))(start, tuple(activations), backprops)
        return {p: each[n] for n, p in trained.items()}

    def table_gradients(self, x: Tensor, backprops: Tensor) -> SampleGradients:
        """Gradients of the table alone, of a layer that is linear in its inputs.

        Args:
            x: inputs, (samples, ..., m).
            backprops: gradients of the outputs, (samples, ..., n).
        """
        up, down = self.factors()
        left, right = (F.linear(x, down), backprops) if self.is_transposed else (F.linear(backprops, up.t()), x)
        return self.as_table_gradients(torch.einsum("b...r,b...k->brk", left, right))

    def as_table_gradients(self, gradients: Tensor) -> SampleGradients:
        """Gradients of T, (samples, *T), as those of what is trained: the same, or of the core by T = C E."""
        return {self.table: gradients if self.right is None else gradients @ self.right.t()}

    def bias_gradients(self, gradients: Tensor, name: str = "bias") -> SampleGradients:
        """Gradients (samples, n) as those of the bias, if there is one and it is trained."""
        bias = getattr(self, name, None)
        return {bias: gradients} if bias is not None and bias.requires_grad else {}

    # An adapter in PEFT's format.

    @classmethod
    def adapter_pair(cls, layer: nn.Module, up: Tensor, down: Tensor) -> dict[str, Tensor] | None:  # noqa: ARG003
        """A LoRA pair whose product is `up down`, by names behind the layer's own; None: PEFT has no exact pair for it.

        Args:
            layer: plain.
            up: (n, r).
            down: (r, m).
        """
        return None


class _Bare(nn.Module):
    """A layer's forward past its hooks."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Any:
        return self.layer.forward(*inputs)


LAYERS: Registry[type[TableLayer]] = Registry(
    "layer", key="decomposition.layers", group="dictpfl.layers", folder="dictpfl.client.model.layers"
)
"""Layer types; this project's own are always active, others where a federation names them."""


def as_dictionary(dictionary: Dictionary | NDArray[Any] | Tensor) -> Dictionary:
    """A bare (n, r) array as a dictionary in the paper's orientation."""
    if isinstance(dictionary, Dictionary):
        return dictionary
    array = dictionary.detach().cpu().numpy() if isinstance(dictionary, Tensor) else dictionary
    return Dictionary(np.asarray(array, dtype=np.float32), transposed=False)
