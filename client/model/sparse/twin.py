"""A model of which nothing but row thresholds is trained and shared.

Of how many entries stay,

    R = |log(rho / kappa)|,  kappa = 1 - p,  rho = share of all entries above their row's threshold
    dR/dt_i = -lambda sign(rho - kappa) / (rho N) sum_j M_ij (1 - M_ij)

is added to every step's gradient, `strength` times; it reads no sample. What stays in the end are the K entries furthest above their
thresholds, exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.model import fused
from dictpfl.client.model.layers.attention import TableMultiheadAttention
from dictpfl.client.model.rules import Role
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.scores import Floats
from dictpfl.client.model.sparse.select import by_thresholds
from dictpfl.client.model.sparse.thresholds import MaskedLayer, install
from dictpfl.client.model.sparse.weights import Weight
from dictpfl.client.model.twin import Twin
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.layout import Kind, Layout

_COLDEST, _HOTTEST = 0.25, 0.125
Ranks = Mapping[str, NDArray[np.int32]]
"""Ranks of the entries of each covered weight in their rows, (n, m)."""


class ThresholdTwin(Twin):
    """A copy of a model of which nothing but row thresholds is trained and shared.

    The shared vector holds a threshold for each row of each covered weight, under the weight's own name, of kind DENSE.

    Args:
        model: with W0; copied, never changed.
        weights: covered weights of `model`.
        every: ranks of each.
        sparsity: p; every threshold begins there.
        strength: of the regulariser, lambda_reg.
        temperature: in ranks; lambda = m / temperature. Between 0.25 and an eighth of the columns of the widest weight.

    Raises:
        ConfigError: another temperature: a mask that is a step has no gradient, and one as wide as its row decides nothing.
    """

    dense: nn.Module
    """The model that was given, with W0: on the CPU, if it was there."""
    plain: dict[str, Weight]
    """Its covered weights."""

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Weight],
        every: Ranks,
        sparsity: float,
        *,
        strength: float = 16.0,
        temperature: float = 1.0,
    ) -> None:
        _require_temperature(temperature, max(w.shape[1] for w in weights.values()))
        self.module, self._weights = _copied(model, weights)
        self.dense, self.plain = model, dict(weights)
        self._every = dict(every)
        self.gates = self.penalty = None
        self.sparsity, self.strength = sparsity, strength
        self.head = frozenset()
        self.roles = {
            name: Role.DENSE if name in self._weights else Role.FROZEN for name, _ in model.named_parameters()
        }
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        self._thresholds = {n: install(w, every[n], sparsity, temperature) for n, w in self._weights.items()}
        fused.bar(self.module)
        self._unfused = fused.mixers(self.module)
        self._still = [m for m in self.module.modules() if isinstance(m, _NormBase)]
        self.layout = Layout.of((name, (w.shape[0],), Kind.DENSE) for name, w in self._weights.items())
        self._seen: torch.Tensor | None = None
        self._hook = self.module.register_forward_pre_hook(lambda module, _inputs: self._refresh(module))

    def thresholds(self) -> dict[str, Floats]:
        """T of each weight, (n,), float64; copies."""
        return {name: t.detach().cpu().numpy().copy() for name, t in self._thresholds.items()}

    def masks(self) -> Masks:
        """The exact masks of the thresholds as they are now: K entries stay."""
        return by_thresholds(self._every, self.thresholds(), self.sparsity)

    def rank_by(self, every: Ranks) -> None:
        """Take other ranks; thresholds stay.

        Raises:
            ModelError: ranks of other weights or shapes.
        """
        if every.keys() != self._weights.keys() or any(every[n].shape != w.shape for n, w in self._weights.items()):
            raise ModelError("ranks of other weights than those with thresholds; make them of this model")
        self._every, self._seen = dict(every), None
        for layer in self._masked():
            layer.ranks = torch.from_numpy(every[layer.threshold_of.name]).to(layer.ranks)

    def merge(self) -> nn.Module:
        """A plain model of the original class with its exact zeros: an independent copy, equal to evaluation mode."""
        masks = self.masks()
        merged = copy.deepcopy(self.module)
        del merged._forward_pre_hooks[self._hook.id]  # noqa: SLF001 -- the copy's own of ours
        for layer in [m for m in merged.modules() if isinstance(m, MaskedLayer)]:
            layer.to_plain(torch.from_numpy(masks.by_name[layer.threshold_of.name]))
        for attention in [m for m in merged.modules() if isinstance(m, TableMultiheadAttention)]:
            attention.to_plain()
        fused.restore(merged)
        for parameter in merged.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        return merged

    def trainable(self) -> list[tuple[str, Kind, nn.Parameter]]:
        """See `Twin.trainable`: the thresholds."""
        return [(name, Kind.DENSE, t) for name, t in self._thresholds.items()]

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Twin:
        """Move the module; thresholds stay float64."""
        self.module.to(device=device, dtype=dtype)
        return self

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the regulariser's gradient to that of a step, by what its forward pass left behind; it reads no sample."""
        total = sum(w.size for w in self._weights.values())
        layers = {layer.threshold_of.name: layer for layer in self._masked()}
        passed = {n: layer for n, layer in layers.items() if layer.border.above is not None}
        kept = sum(int(layer.border.above) for layer in passed.values() if layer.border.above is not None)
        reached = sum(self._weights[n].size for n in passed)
        if not kept or not reached:
            return
        rho, kappa = kept / reached, 1.0 - self.sparsity
        push = self.strength * float(np.sign(rho - kappa)) / (rho * total)
        for name, layer in passed.items():
            t, spread = self._thresholds[name], layer.border.spread
            assert spread is not None  # noqa: S101 -- for the type checker: it comes with `above`
            gradient = spread.double() * (-push * self._weights[name].shape[1] * layer.sharpness)
            t.grad = gradient if t.grad is None else t.grad + gradient

    def _refresh(self, module: nn.Module) -> None:
        if module.training:
            return
        now = torch.cat([t.detach().reshape(-1).cpu() for t in self._thresholds.values()])
        if self._seen is not None and torch.equal(now, self._seen):
            return
        masks = self.masks()
        for layer in self._masked():
            layer.hard = torch.from_numpy(masks.by_name[layer.threshold_of.name]).to(layer.thresholds.device)
        self._seen = now

    def _masked(self) -> list[MaskedLayer]:
        return [m for m in self.module.modules() if isinstance(m, MaskedLayer)]

    def _tensor(self, name: str) -> torch.Tensor:
        return self._thresholds[name]

    def base(self, name: str) -> Floats:
        """W0 of a covered weight in its own shape, float64."""
        found: Floats = self._weights[name].parameter.detach().double().cpu().numpy()
        return found

    def local_state(self) -> dict[str, NDArray[np.generic]]:
        """Nothing is trained here and not shared."""
        return {}


def _require_temperature(temperature: float, widest: int) -> None:
    if not _COLDEST <= temperature <= max(1.0, widest * _HOTTEST):
        raise ConfigError(
            f"temperature is {temperature:g}; expected ranks between {_COLDEST:g} and {max(1.0, widest * _HOTTEST):g}, an eighth of the "
            f"{widest} columns of the widest covered weight"
        )


def _copied(model: nn.Module, weights: Mapping[str, Weight]) -> tuple[nn.Module, dict[str, Weight]]:
    """A copy of a model, with the same weights found in it."""
    memo: dict[int, object] = {}
    copied: nn.Module = copy.deepcopy(model, memo)
    modules = dict(copied.named_modules())
    own = {id(m): name for name, m in model.named_modules()}
    found = {}
    for name, weight in weights.items():
        places = tuple(
            type(p)(
                p.name, modules[own[id(p.module)]], p.attribute, p.order,
                None if p.outer is None else modules[own[id(p.outer)]],
            )
            for p in weight.places
        )  # fmt: skip
        found[name] = Weight(weight.name, places, weight.kind, weight.shape, weight.groups)
    return copied, found
