"""A module watched by Opacus' hooks, so that backward passes leave the gradients of single samples (the extra `dp`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from client.layers import TableLayer, TableMultiheadAttention
from client.rules import covers_attention
from client.samplers import Broadcast, Projection, projected_names, sample_linear
from common.errors import ModelError

_TOLERANCE = 1e-3
"""Of the sum over a batch, against what autograd says; float32 is a thousand times better."""


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
            found: Any = parameter.grad_sample  # type: ignore[attr-defined]
            whole = parameter.grad
            if found is None and whole is None:
                parameter.grad_sample = parameter.new_zeros(count, *parameter.shape)  # type: ignore[attr-defined]
                continue
            if isinstance(found, Tensor) and whole is not None and found.shape == (count, *parameter.shape):
                scale = found.abs().sum(dim=0).max()
                if bool((found.sum(dim=0) - whole).abs().max() <= _TOLERANCE * scale + 1e-12):
                    continue
            raise ModelError(
                f"{name}: gradients of single samples cannot be told from what the layer does with it; freeze it "
                f"(decomposition.frozen), or use layers of torch whose inputs have the samples first"
            )

    def nothing(self) -> None:
        """In place of both passes, for a batch without samples."""
        for _, parameter in self._trained:
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]


@contextmanager
def sampled(module: nn.Module) -> Iterator[Sampled]:
    """Watch a module in training mode; outside it is as it was.

    Raises:
        ModelError: a layer that cannot be watched.
    """
    with ExitStack() as stack:
        for part in [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]:
            stack.enter_context(_projections(part))
        free = [entry for part in list(module.modules()) for entry in stack.enter_context(_broadcast(part))]
        stack.enter_context(_not_in_place(module))
        for layer in module.modules():
            if isinstance(layer, TableLayer) and layer.by_input:
                register_grad_sampler(type(layer))(sample_linear)
        _require_watchable(module)
        try:
            hooks = GradSampleHooks(module, strict=False, loss_reduction="sum")
        except NotImplementedError as error:
            raise ModelError(f"gradients of single samples: {error}; freeze that layer or use another") from error
        stack.callback(hooks.cleanup)
        stack.enter_context(warnings.catch_warnings())
        # A first layer's inputs need no gradient, which torch thinks worth a word.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
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
    """Only a leaf may be left to Opacus' own fallback, which computes the layer again, sample by sample."""
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
def _projections(attention: nn.MultiheadAttention) -> Iterator[None]:
    plain = not isinstance(attention, TableMultiheadAttention)
    if not any(getattr(attention, n).requires_grad for n in projected_names(attention)):
        yield
        return
    if plain and not covers_attention(attention):
        raise ModelError(
            "attention with keys or values of its own kinds: only the packed kind can be trained privately"
        )
    watched = TableMultiheadAttention.without_table(attention) if plain else attention
    assert isinstance(watched, TableMultiheadAttention)  # noqa: S101 -- for the type checker
    children = nn.ModuleList(Projection(watched, part) for part in range(3)).train(watched.training)
    held = dict(watched._parameters)  # noqa: SLF001 -- torch has no way to give a parameter up for a while
    for name in projected_names(watched):
        watched.__dict__[name] = watched._parameters.pop(name)  # noqa: SLF001
    watched.add_module("watched_projections", children)
    watched.__dict__["projected"] = lambda x, part: children[part](x)
    try:
        yield
    finally:
        for name in ("projected", *projected_names(watched)):
            watched.__dict__.pop(name, None)
        del watched.watched_projections
        _put_back(watched, held)
        if plain:
            watched.to_plain()


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
