"""A module watched by Opacus' hooks, so that backward passes leave the gradients of single samples (the extra `dp`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers
from dictpfl.client.model.woven import WovenWeight
from dictpfl.client.privacy.samplers import Broadcast, make_known
from dictpfl.common.errors import ModelError

_TOLERANCE = 1e-3
"""Relative error allowed of the sum over a batch against autograd's; float32 is a thousand times better."""


class Sampled:
    """A module whose backward passes leave `grad_sample` (samples, *shape) at each trained parameter."""

    def __init__(self, module: nn.Module, free: Sequence[tuple[nn.Module, str, Broadcast]]) -> None:
        self._free = free
        self._trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]

    def give_out(self, samples: Tensor) -> None:
        """Before each forward pass: free parameters for as many samples as the batch has."""
        rows = samples.new_empty(len(samples), 1, dtype=torch.float32)
        for owner, name, broadcast in self._free:
            owner.__dict__[name] = broadcast(rows)

    def collect(self, count: int) -> None:
        """After each backward pass of a sum of losses: hold the samples' gradients to the gradient of that sum.

        Raises:
            ModelError: they do not add up to it: what is trained is used in a way that hooks do not see.
        """
        for name, parameter in self._trained:
            each: Any = parameter.grad_sample  # type: ignore[attr-defined]
            whole = parameter.grad
            if each is None and whole is None:
                parameter.grad_sample = parameter.new_zeros(count, *parameter.shape)  # type: ignore[attr-defined]
                continue
            if isinstance(each, Tensor) and whole is not None and each.shape == (count, *parameter.shape):
                scale = each.abs().sum(dim=0).max()
                if bool((each.sum(dim=0) - whole).abs().max() <= _TOLERANCE * scale + 1e-12):
                    continue
            raise ModelError(
                f"{name}: gradients of single samples cannot be told from what the layer does with it; freeze it "
                f"(decomposition.frozen), or use layers of torch whose inputs have the samples first"
            )

    def nothing(self) -> None:
        """Leave empty gradients, in place of both passes, for a batch without samples."""
        for _, parameter in self._trained:
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]


@contextmanager
def sampled(module: nn.Module) -> Iterator[Sampled]:
    """Watch a module in training mode; outside it is as it was.

    Raises:
        ModelError: a layer that cannot be watched.
    """
    with ExitStack() as stack:
        layers = Layers()
        for part in list(module.modules()):
            WovenWeight.watched(part)
            kind = layers.type_like(part)
            if kind is not None:
                stack.enter_context(kind.watched(part))
        free = [entry for part in list(module.modules()) for entry in stack.enter_context(_broadcast(part))]
        stack.enter_context(_not_in_place(module))
        make_known(module)
        _require_watchable(module)
        try:
            hooks = GradSampleHooks(module, strict=False, loss_reduction="sum")
        except NotImplementedError as error:
            raise ModelError(f"gradients of single samples: {error}; freeze that layer or use another") from error
        stack.callback(hooks.cleanup)
        stack.enter_context(warnings.catch_warnings())
        # A first layer's inputs need no gradient, which torch thinks worth a word.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        # A layer type that leaves its gradients to `TableLayer.sample_gradients` is slow, and right.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield Sampled(module, free)


def require_private(module: nn.Module) -> None:
    """Refuse what mixes the samples of a batch, in the module's present mode.

    Raises:
        ModelError: normalisation by the batch, or running statistics of it.
    """
    mixing = [n for n, m in module.named_modules() if isinstance(m, _NormBase) and m.training and _mixes(m)]
    if mixing:
        raise ModelError(
            f"{', '.join(mixing)}: normalisation by the batch makes each sample's output depend on the others, so that no "
            'sample can be private. Use GroupNorm (model.options.norm = "group" for cnn), or keep the statistics of W0: '
            'decomposition.batch_norm = "frozen", with scales and shifts in decomposition.frozen'
        )


def _mixes(norm: _NormBase) -> bool:
    return "InstanceNorm" not in type(norm).__name__ or bool(norm.track_running_stats)


def _require_watchable(module: nn.Module) -> None:
    """Refuse what Opacus' own fallback would compute again sample by sample, unless it is a leaf."""
    for name, part in module.named_modules():
        trained = [n for n, p in part.named_parameters(recurse=False) if p.requires_grad]
        if not trained or type(part) in GradSampleHooks.GRAD_SAMPLERS:
            continue
        if isinstance(part, _NormBase) and not part.training:
            raise ModelError(
                f"{name}: scale and shift of a normalisation whose statistics are frozen; name them in decomposition.frozen"
            )
        if any(p.requires_grad for child in part.children() for p in child.parameters()):
            raise ModelError(
                f"{', '.join(trained)} of {name or 'the model'}: a free parameter is private where its first dimension is 1; "
                "freeze it (decomposition.positions, tokens or frozen)"
            )


@contextmanager
def _broadcast(owner: nn.Module) -> Iterator[list[tuple[nn.Module, str, Broadcast]]]:
    known = type(owner) in GradSampleHooks.GRAD_SAMPLERS or isinstance(owner, (_NormBase, TableLayer))
    names = [] if known else [n for n, p in owner._parameters.items() if p is not None and _is_free(p)]  # noqa: SLF001
    held = dict(owner._parameters)  # noqa: SLF001
    made = []
    for name in names:
        parameter = owner.get_parameter(name)
        del owner._parameters[name]  # noqa: SLF001
        broadcast = Broadcast(parameter).train(owner.training)
        owner.add_module(f"watched_{name}", broadcast)
        made.append((owner, name, broadcast))
    try:
        yield made
    finally:
        for name in names:
            owner.__dict__.pop(name, None)
            del owner._modules[f"watched_{name}"]  # noqa: SLF001
        if names:
            _put_back(owner, held)


def _is_free(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.dim() > 1 and len(parameter) == 1


def _put_back(owner: nn.Module, held: dict[str, nn.Parameter | None]) -> None:
    owner._parameters.clear()  # noqa: SLF001 -- in their old order
    owner._parameters.update(held)  # noqa: SLF001


@contextmanager
def _not_in_place(module: nn.Module) -> Iterator[None]:
    """Backward hooks do not survive an activation that overwrites its input."""
    switched = [m for m in module.modules() if getattr(m, "inplace", False) is True]
    _switch(switched, on=False)
    try:
        yield
    finally:
        _switch(switched, on=True)


def _switch(modules: Iterable[nn.Module], *, on: bool) -> None:
    for module in modules:
        module.inplace = on  # type: ignore[assignment]
