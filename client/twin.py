"""A model and its decomposed twin: same outputs at the start, only tables and dense parameters are trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from client.layers import TableLayer, TableMultiheadAttention, table_class
from client.rules import Place, Role, head_of, is_by_input, matrix_shape, places, shape_of, statistics, survey
from common.budget import allocator
from common.dictionary import Dictionary
from common.dictionary import decompose as _decompose
from common.errors import LayoutError, ModelError
from common.layout import Kind, Layout
from common.refresh import Refreshing
from common.settings import Decomposition

_KINDS = {Role.TABLE: Kind.TABLE, Role.DENSE: Kind.DENSE, Role.STATISTIC: Kind.STATISTIC}
_SEED_BYTES = 32


def weight_matrices(model: nn.Module, settings: Decomposition) -> dict[str, NDArray[np.float64]]:
    """The weights that get a table, by name, each as its matrix (n, m)."""
    hanging = places(model)
    tables = (name for name, role in survey(model, settings).items() if role is Role.TABLE)
    return {name: _matrix(hanging[name]) for name in tables}


def make_dictionaries(model: nn.Module, settings: Decomposition, seed: bytes) -> dict[str, Dictionary]:
    """A dictionary for every weight that gets a table, from its truncated SVD (PAPER section 4.1).

    Made once, at genesis, and then carried as bytes: an SVD's last bits differ between platforms.

    Args:
        model: with W0.
        settings: rank, allocator, orientation, scaling, and what gets a table.
        seed: of the drawn dictionaries that zero matrices get.

    Raises:
        ModelError: a weight that is not finite.
    """
    weights = weight_matrices(model, settings)
    ranks = allocator(settings.allocator).ranks({n: matrix_shape(w.shape) for n, w in weights.items()}, settings.rank)
    made, refreshing = {}, Refreshing.of(settings)
    for name, weight in weights.items():
        try:
            made[name] = _decompose(
                weight,
                refreshing.rank(ranks[name], 0),
                orientation=settings.orientation,
                scaling=settings.scaling,
                seed=seed,
                name=name,
            )
            if refreshing.ranks:
                made[name] = made[name].padded(min(ranks[name], *weight.shape))
        except LayoutError as error:
            raise ModelError(f"weight {name!r} cannot be decomposed: {error}; check the starting weights") from error
    return made


class Twin:
    """A decomposed copy of a model, and the shared vector that stands for what is trained in it.

    Args:
        model: with W0; copied, never changed.
        settings: what gets a table and what is trained dense (`client.rules.survey`).
        dictionaries: one for each weight that gets a table, no more, no less.

    Raises:
        ModelError: dictionaries that do not fit the model, or nothing to train.
        ConfigError: a pattern of the settings that matches nothing.
    """

    module: nn.Module
    """The twin: same forward, same outputs, names of the state dict kept (and a `table` beside each weight)."""
    layout: Layout
    """Entries carry the model's own names: the table of `fc.weight` is the entry `fc.weight`."""
    roles: dict[str, Role]
    """The role of every parameter and running statistic."""
    head: frozenset[str]
    """Names of the head's parameters (`client.rules.head_of`)."""

    def __init__(self, model: nn.Module, settings: Decomposition, dictionaries: Mapping[str, Dictionary]) -> None:
        self.module = copy.deepcopy(model)
        self.roles = survey(self.module, settings)
        self.head = head_of(self.module)
        hanging = places(self.module)
        self._places = {name: at[0] for name, at in hanging.items()} | statistics(self.module)
        self._homes: dict[str, tuple[Place, ...]] = {n: hanging[n] for n, r in self.roles.items() if r is Role.TABLE}
        self._bases: dict[str, NDArray[np.float64]] = {}
        _require_same_names(dictionaries, self._homes)
        for name, place in self._places.items():
            if self.roles[name] in (Role.DENSE, Role.LOCAL, Role.FROZEN):
                place.module.get_parameter(place.attribute).requires_grad_(self.roles[name] is not Role.FROZEN)
        for name, at in self._homes.items():
            _install(name, at, dictionaries[name])
        _bar_fused_kernels(self.module)
        self._still = _still_norms(self.roles, self._places)
        self.layout = Layout.of(
            (name, tuple(self._tensor(name).shape), _KINDS[role]) for name, role in self.roles.items() if role in _KINDS
        )

    def load(self, vector: NDArray[np.float64]) -> None:
        """Put a shared vector into the module, cast to the module's own dtype.

        Running variances are kept from going below zero, which a rounded update could do.

        Raises:
            LayoutError: another shape than (layout.size,).
            ModelError: a value that is not finite.
        """
        if not np.isfinite(vector).all():
            raise ModelError("the shared vector holds values that are not finite; do not train or serve this model")
        for name, value in self.layout.unflatten(vector).items():
            _put(self._tensor(name), value)
            if self.roles[name] is Role.STATISTIC and name.endswith("running_var"):
                self._tensor(name).clamp_(min=0.0)

    def read(self) -> NDArray[np.float64]:
        """The module's shared values, float64, shape (layout.size,)."""
        out = np.empty(self.layout.size, dtype=np.float64)
        for e in self.layout.entries:
            # Straight to its place and to float64: no second and third copy of a large tensor.
            torch.from_numpy(out[e.span]).copy_(self._tensor(e.name).detach().reshape(-1))
        return out

    def rebase(self, tables: Mapping[str, NDArray[np.float64]], dictionaries: Mapping[str, Dictionary]) -> None:
        """Refresh: W0 takes up D T of the given tables, new dictionaries come in, these tables are zero.

        W0 is summed in float64, kept from one refresh to the next, so that many of them lose no bits. The layout
        stays: a new dictionary needs the rank and side of the old one.

        Raises:
            ModelError: names, shapes or sides that do not fit; the twin is then as before.
        """
        _require_same_names(dictionaries, {name: at for name, at in self._homes.items() if name in tables})
        _require_same_names(tables, dictionaries, "tables")
        olds = {name: self._dictionary(name) for name in dictionaries}
        shapes = {name: shape_of(self._homes[name]) for name in dictionaries}
        for name, new in dictionaries.items():
            shape, rows = olds[name].table_shape(shapes[name]), shapes[name][olds[name].transposed]
            found = (new.matrix.shape, new.transposed, tables[name].shape)
            if found != ((rows, shape[0]), olds[name].transposed, shape):
                raise ModelError(
                    f"refresh of {name!r}: expected a dictionary {(rows, shape[0])} on the same side and a table "
                    f"{shape}, found {found[0]} and {found[2]}; draw with the rank of the old dictionary ({shape[0]})"
                )
            if not (np.isfinite(new.matrix).all() and np.isfinite(tables[name]).all()):
                raise ModelError(
                    f"refresh of {name!r}: the table or the new dictionary is not finite; check W0 and data"
                )
        for name, new in dictionaries.items():
            layer = self._layer(self._homes[name][0])
            change = layer.as_weight(olds[name].change(tables[name]))
            padding = getattr(layer, "padding_idx", None)
            if padding is not None:
                change[padding] = 0.0
            self._bases[name] = self.base(name) + change
            _put(layer.base, self._bases[name])
            for place in self._homes[name]:
                self._layer(place).take(new, layer.table)
            _put(layer.table, np.zeros(tuple(layer.table.shape)))

    def base(self, name: str) -> NDArray[np.float64]:
        """W0 of a weight with a table, in its own shape, float64."""
        return self._bases.get(name, _array(self._layer(self._homes[name][0]).base))

    def merge(self) -> nn.Module:
        """A plain model of the original class with W0 + D T: an independent copy with equal outputs."""
        merged = copy.deepcopy(self.module)
        done: set[int] = set()
        for layer in [m for m in merged.modules() if isinstance(m, TableLayer)]:
            has_table = not isinstance(layer, TableMultiheadAttention) or layer.has_table
            if has_table and id(layer.base) not in done:
                done.add(id(layer.base))
                with torch.no_grad():
                    layer.base.copy_(layer.merged_weight())
            layer.to_plain()
        _restore_fused_kernels(merged)
        for parameter in merged.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        return merged

    def local_state(self) -> dict[str, NDArray[Any]]:
        """Copies of what this institution trains or counts and never shares, by name."""
        local = (n for n, r in self.roles.items() if r in (Role.LOCAL, Role.LOCAL_STATISTIC))
        return {n: _array(self._tensor(n)) for n in local}

    def load_local_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of `local_state`.

        Raises:
            ModelError: other names or shapes than this model's local ones.
        """
        expected = self.local_state()
        _require_same_names(state, expected, "local state")
        for name, value in state.items():
            if value.shape != expected[name].shape:
                raise ModelError(
                    f"local state of {name!r}: expected shape {expected[name].shape}, found {value.shape}; "
                    "it belongs to another model"
                )
        for name, value in state.items():
            _put(self._tensor(name), value)

    def trainable(self) -> list[tuple[str, Kind, nn.Parameter]]:
        """What the optimiser moves, shared and local, by entry name; local parameters count as dense."""
        found = []
        for name, role in self.roles.items():
            if role in (Role.TABLE, Role.DENSE, Role.LOCAL):
                parameter = self._tensor(name)
                assert isinstance(parameter, nn.Parameter)  # noqa: S101 -- for the type checker
                found.append((name, Kind.TABLE if role is Role.TABLE else Kind.DENSE, parameter))
        return found

    def train(self) -> None:
        """Training mode, but for normalisation layers whose statistics are frozen."""
        self.module.train()
        for norm in self._still:
            norm.eval()

    def eval(self) -> None:
        """Evaluation mode."""
        self.module.eval()

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Twin:
        """Move the module; do so before `load`, so that a wider dtype keeps all bits of the shared vector."""
        self.module.to(device=device, dtype=dtype)
        for name, base in self._bases.items():
            _put(self._layer(self._homes[name][0]).base, base)
        return self

    def _tensor(self, name: str) -> Tensor:
        # Looked up each time: `Module.to` replaces buffers.
        place = self._places[name]
        return self._layer(place).table if self.roles[name] is Role.TABLE else _tensor(place)

    def _dictionary(self, name: str) -> Dictionary:
        layer = self._layer(self._homes[name][0])
        return Dictionary(layer.dictionary.float().cpu().numpy(), layer.is_transposed)

    @staticmethod
    def _layer(place: Place) -> TableLayer:
        assert isinstance(place.module, TableLayer)  # noqa: S101 -- what `_install` made
        return place.module


def decompose(model: nn.Module, settings: Decomposition | None = None, *, seed: int = 0, **changes: Any) -> Twin:
    """The twin of a model: `decompose(model, rank=8)`.

    Args:
        model: with W0; copied.
        settings: None: the defaults.
        seed: of what is drawn (dictionaries of zero matrices).
        changes: fields of `common.settings.Decomposition` that differ from `settings`.

    Raises:
        ModelError: see `Twin`.
        ConfigError: a field that does not exist or a value out of range.
    """
    chosen = settings_with(settings or Decomposition(), changes)
    made = make_dictionaries(model, chosen, seed.to_bytes(_SEED_BYTES, "little"))
    return Twin(model, chosen, made)


def settings_with(settings: Decomposition, changes: Mapping[str, Any]) -> Decomposition:
    """Settings with some fields changed, checked as the configuration file is."""
    from common.config import FederationConfig

    return FederationConfig.of({"decomposition": settings.model_dump() | dict(changes)}).decomposition


def merge(twin: Twin) -> nn.Module:
    """The plain model that a twin stands for; see `Twin.merge`."""
    return twin.merge()


def _install(name: str, at: tuple[Place, ...], dictionary: Dictionary) -> None:
    table: nn.Parameter | None = None
    for place in at:
        try:
            table = table_class(place.module).of(place.module, dictionary, table).table
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        outer = place.attention
        if outer is not None and type(outer) is nn.MultiheadAttention:
            TableMultiheadAttention.without_table(outer)


def _bar_fused_kernels(module: nn.Module) -> None:
    # In eval mode torch's encoder layers hand W0 itself to a fused kernel, past the tables.
    for part in module.modules():
        if not any(isinstance(m, TableLayer) for m in part.modules()):
            continue
        if isinstance(part, nn.TransformerEncoderLayer):
            part.__dict__["fused_activation"] = part.activation_relu_or_gelu
            part.__dict__["activation_relu_or_gelu"] = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.__dict__["fused_nested_tensor"] = part.use_nested_tensor
            part.__dict__["use_nested_tensor"] = False


def _restore_fused_kernels(module: nn.Module) -> None:
    for part in module.modules():
        if "fused_activation" in part.__dict__:
            part.__dict__["activation_relu_or_gelu"] = part.__dict__.pop("fused_activation")
        if "fused_nested_tensor" in part.__dict__:
            part.__dict__["use_nested_tensor"] = part.__dict__.pop("fused_nested_tensor")


def _still_norms(roles: Mapping[str, Role], at: Mapping[str, Place]) -> list[nn.Module]:
    still = {id(at[n].module): at[n].module for n, r in roles.items() if r is Role.FROZEN_STATISTIC}
    return [m for m in still.values() if isinstance(m, _NormBase)]


def _require_same_names(found: Mapping[str, Any], expected: Mapping[str, Any], what: str = "dictionaries") -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ModelError(
            f"{what} do not fit the model: missing {missing}, unexpected {extra}; "
            "make them from this model and settings"
        )


def _tensor(place: Place) -> Tensor:
    tensor: Tensor = getattr(place.module, place.attribute)
    return tensor


def _matrix(at: tuple[Place, ...]) -> NDArray[np.float64]:
    array = _array(_tensor(at[0]))
    return array.T if is_by_input(at[0].module) else array.reshape(shape_of(at))


def _array(tensor: Tensor) -> NDArray[Any]:
    """A copy; floats as float64 (bfloat16 has no numpy type), integers as they are."""
    kind = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind, copy=True).numpy()


@torch.no_grad()
def _put(tensor: Tensor, value: NDArray[Any]) -> None:
    # torch warns of arrays that it may not write to; those alone are copied first.
    source = torch.from_numpy(value) if value.flags.writeable and value.ndim else torch.tensor(value)
    tensor.copy_(source.reshape(tensor.shape))
