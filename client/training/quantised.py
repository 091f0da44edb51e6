"""Frozen weights of linear layers held in 8 or 4 bits while a model trains (`training.frozen`), by bitsandbytes.

As in QLoRA (Dettmers et al. 2023): a weight is read in blocks with a scale each, and is there in full only while its layer
computes. What is shared is trained beside it, in the arithmetic of the round; W0 itself waits as it is.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.common.config.models import require_bitsandbytes
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import FEW_BITS


class Quantised(Tensor):
    """A frozen weight in blocks of few bits; has the shape and dtype of what it stands for, and only `F.linear` reads it."""

    _stored: Tensor
    _scales: Any
    _bits: int

    @staticmethod
    def of(weight: Tensor, bits: int) -> Quantised:
        """Quantise a weight (n, m) where it lies: 8 bits as bitsandbytes' optimisers hold their state, 4 as NF4.

        Raises:
            ConfigError: bitsandbytes is not installed.
        """
        tools = _tools()
        made: Quantised = Tensor._make_wrapper_subclass(  # noqa: SLF001 -- torch's name for it
            Quantised, weight.shape, dtype=weight.dtype, device=weight.device
        )
        source = weight.detach().contiguous()
        made._bits = bits
        made._stored, made._scales = (
            tools.quantize_4bit(source, quant_type="nf4") if bits == FEW_BITS["4bit"] else tools.quantize_blockwise(source, blocksize=256)
        )  # fmt: skip
        return made

    def plain(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in full, as far as its bits tell."""
        tools = _tools()
        read = tools.dequantize_4bit if self._bits == FEW_BITS["4bit"] else tools.dequantize_blockwise
        full: Tensor = read(self._stored, self._scales)
        return full.view(self.shape).to(dtype)

    @property
    def held(self) -> int:
        """Bytes that its bits and scales take."""
        return self._stored.nbytes + int(self._scales.absmax.nbytes)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # fmt: skip
        """Compute `F.linear` without keeping the weight in full; all else sees a tensor without values."""
        given = kwargs or {}
        if func is F.linear:
            return _linear(*args, **given)
        return super().__torch_function__(func, tuple(types), tuple(args), dict(given))  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse what would need values.

        Raises:
            ConfigError: always.
        """
        del types, args, kwargs
        raise ConfigError(
            f"a layer reads a frozen weight by {func}, and weights of 8 or 4 bits serve linear layers alone; "
            'set training.frozen = "narrow" or "full"'
        )


def _linear(input: Tensor, weight: Quantised, bias: Tensor | None = None) -> Tensor:  # noqa: A002 -- torch's name
    outputs: Tensor = _Product.apply(input, weight)  # type: ignore[no-untyped-call]  # torch says nothing of it
    return outputs if bias is None else outputs + bias.to(outputs.dtype)


class _Product(torch.autograd.Function):
    """`x W^T` whose backward pass reads W anew, so that nothing keeps it in full in between."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Quantised) -> Tensor:
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        ctx.weight, ctx.dtype = weight, inputs.dtype
        return F.linear(inputs.to(dtype), weight.plain(dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return (gradient @ ctx.weight.plain(gradient.dtype)).to(ctx.dtype), None


def readers(module: nn.Module, parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Linear, nn.Parameter]]:
    """Find the linear layers whose weight is one of some parameters, also where layers share one."""
    wanted = {id(parameter): parameter for parameter in parameters}
    return [
        (layer, wanted[id(layer.weight)])
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) in wanted
    ]


@cache
def _tools() -> ModuleType:
    require_bitsandbytes()
    # It warns of kernels that it could load from the internet, which is not wanted of it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise ConfigError(f"bitsandbytes is installed, and cannot be imported: {error}") from error
