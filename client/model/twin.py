"""A model and its decomposed twin: same outputs at the start, only tables and dense parameters are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.model import fused
from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.covering import Layers, Place, statistics
from dictpfl.client.model.gates import Gates, Installed, fold
from dictpfl.client.model.rules import Role, allotted, head_of, survey, weight_matrix
from dictpfl.client.model.woven import table_layer
from dictpfl.common.errors import ConfigError, LayoutError, ModelError
from dictpfl.common.law.dictionary import Dictionary
from dictpfl.common.law.dictionary import decompose as _decompose
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.refresh import Refreshing
from dictpfl.common.settings import Decomposition

_KINDS = {Role.TABLE: Kind.TABLE, Role.DENSE: Kind.DENSE, Role.STATISTIC: Kind.STATISTIC}
_SEED_BYTES = 32
_WORDS = {Kind.TABLE: "in tables", Kind.DENSE: "dense", Kind.GATE: "gates"}


def weight_matrices(
    model: nn.Module, settings: Decomposition, names: Iterable[str] | None = None
) -> dict[str, NDArray[np.float64]]:
    """The weights that get a table, by name, each as its matrix (n, m); `names`: those that are known to, without asking."""
    return _matrices(model, settings, allotted(model, settings) if names is None else names)


def _matrices(model: nn.Module, settings: Decomposition, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    layers = Layers(settings.layers, settings.tables)
    hanging = layers.places(model)
    return {name: weight_matrix(hanging[name], layers) for name in names}


def make_dictionaries(
    model: nn.Module,
    settings: Decomposition,
    seed: bytes,
    ranks: Mapping[str, int] | None = None,
    gradients: nn.Module | None = None,
) -> dict[str, Dictionary]:
    """A dictionary for every weight that gets a table, from its truncated SVD (arXiv 2510.21086, section 4.1).

    Made once, at genesis, and then carried as bytes: an SVD's last bits differ between platforms.

    Args:
        model: with W0.
        settings: rank, allocator, orientation, scaling, and what gets a table.
        seed: of the drawn dictionaries that zero matrices get.
        ranks: rank of each weight that gets a table; None: the budget allocator is asked.
        gradients: the same model with gradients in place of weights (`dictpfl.client.training.directions`), which
            `settings.basis` = "gradient" decomposes in place of W0.

    Raises:
        ModelError: a weight that is not finite.
        ConfigError: `settings.basis` wants gradients, and there are none.
    """
    if settings.enabled and settings.basis == "gradient" and gradients is None:
        raise ConfigError(
            'decomposition.basis = "gradient" makes dictionaries of public samples, which only a simulation has; set it to '
            '"weights"'
        )
    ranks = allotted(model, settings) if ranks is None else ranks
    source = model if settings.basis == "weights" or gradients is None else gradients
    made, refreshing = {}, Refreshing.of(settings)
    for name, weight in _matrices(source, settings, ranks).items():
        try:
            made[name] = _decompose(
                weight,
                refreshing.rank(ranks[name], 0),
                orientation=settings.orientation,
                scaling=settings.scaling,
                form=settings.form,
                # How steep the loss is along a direction says not how far to go in it.
                weighted=settings.basis == "weights",
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
        settings: what gets a table and what is trained dense (`dictpfl.client.model.rules.survey`).
        dictionaries: one for each weight that gets a table, no more, no less.
        gates: gates of units (`dictpfl.client.model.gates`); their entries stand behind all others. None: there are none.

    Raises:
        ModelError: dictionaries or gates that do not fit the model, or nothing to train.
        ConfigError: a pattern of the settings that matches nothing.
    """

    module: nn.Module
    """The twin: same forward, same outputs, names of the state dict kept (and a `table` beside each weight)."""
    layout: Layout
    """Entries carry the model's own names: the table of `fc.weight` is the entry `fc.weight`."""
    roles: dict[str, Role]
    """The role of every parameter and running statistic."""
    head: frozenset[str]
    """Names of the head's parameters (`dictpfl.client.model.rules.head_of`)."""

    penalty: Callable[[], Tensor] | None
    """A term that training adds to the loss of each step, a scalar; None: there is none."""

    def __init__(
        self,
        model: nn.Module,
        settings: Decomposition,
        dictionaries: Mapping[str, Dictionary],
        gates: Gates | None = None,
    ) -> None:
        self.module = copy.deepcopy(model)
        self._fixed = frozenset(n for n, p in model.named_parameters() if not p.requires_grad)
        self.roles = survey(self.module, settings, dictionaries, gated=gates is not None)
        self.head = head_of(self.module)
        layers = Layers(settings.layers, settings.tables)
        hanging = layers.places(self.module)
        self._places = {name: at[0] for name, at in hanging.items()} | statistics(self.module)
        self._homes: dict[str, tuple[Place, ...]] = {n: hanging[n] for n, r in self.roles.items() if r is Role.TABLE}
        self._bases: dict[str, NDArray[np.float64]] = {}
        _require_same_names(dictionaries, self._homes)
        for name, place in self._places.items():
            if self.roles[name] in (Role.DENSE, Role.LOCAL, Role.FROZEN):
                place.module.get_parameter(place.attribute).requires_grad_(self.roles[name] is not Role.FROZEN)
        self.gates = Installed(self.module, gates) if gates else None
        self.penalty = self.gates.penalty if self.gates else None
        for name, at in self._homes.items():
            _install(name, at, dictionaries[name], layers)
        fused.bar(self.module)
        self._still = _still_norms(self.roles, self._places)
        self._unfused = fused.mixers(self.module)
        self.layout = Layout.of(
            [
                *((n, tuple(self._tensor(n).shape), _KINDS[role]) for n, role in self.roles.items() if role in _KINDS),
                *((name, tuple(self._tensor(name).shape), Kind.GATE) for name in self.gates or ()),
            ]
        )

    def __repr__(self) -> str:
        """Return one line: how many values are trained, of how many that the model has, and as what."""
        trained = self.trainable()
        sizes = {
            kind: sum(p.numel() for _, one, p in trained if one is kind) for kind in (Kind.TABLE, Kind.DENSE, Kind.GATE)
        }
        added = {id(parameter) for _, kind, parameter in trained if kind is not Kind.DENSE}
        model = sum(p.numel() for p in self.module.parameters() if id(p) not in added)
        total = sum(sizes.values())
        kinds = ", ".join(f"{_WORDS[kind]} {size:,}" for kind, size in sizes.items() if size)
        return (
            f"<Twin of {type(self.module).__name__}: trainable {total:,} of {model:,} values ({total / max(1, model):.2%}): {kinds}; "
            f"{self.layout.size:,} shared>"
        )

    def load(self, vector: NDArray[np.float64]) -> None:
        """Put a shared vector into the module, cast to the module's own dtype.

        Running variances are kept from going below zero, which a rounded update could do.

        Raises:
            LayoutError: another shape than (layout.size,).
            ModelError: a value that is not finite, here or in the module's dtype.
        """
        if not np.isfinite(vector).all():
            raise ModelError("the shared vector holds values that are not finite; do not train or serve this model")
        for name, value in self.layout.unflatten(vector).items():
            tensor = self._tensor(name)
            _put(tensor, value)
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"{name} of the shared vector has values up to {np.abs(value).max():.3g}, more than {tensor.dtype} holds: updates run away; "
                    "lower aggregation.rate or training.learning_rate, and begin anew"
                )
            if self.roles.get(name) is Role.STATISTIC and name.endswith("running_var"):
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
        for name, new in dictionaries.items():
            layer = self._layer(self._homes[name][0])
            matrix = layer.matrix_shape(layer.base.shape)
            shape, rows = olds[name].table_shape(matrix), matrix[olds[name].transposed]
            given = (new.matrix.shape, new.transposed, new.form, tables[name].shape)
            if given != ((rows, shape[0]), olds[name].transposed, olds[name].form, shape):
                raise ModelError(
                    f"refresh of {name!r}: expected a dictionary {(rows, shape[0])} on the same side, of the same form, and a table "
                    f"{shape}, found {given[0]} and {given[3]}; draw with the rank of the old dictionary ({shape[0]})"
                )
            if not (new.is_finite and np.isfinite(tables[name]).all()):
                raise ModelError(
                    f"refresh of {name!r}: the table or the new dictionary is not finite; check W0 and data"
                )
        for name, new in dictionaries.items():
            layer = self._layer(self._homes[name][0])
            self._bases[name] = self.base(name) + layer.as_change(olds[name].change(tables[name]))
            _put(layer.base, self._bases[name])
            for place in self._homes[name]:
                self._layer(place).take(new, layer.table)
            _put(layer.table, np.zeros(tuple(layer.table.shape)))

    def base(self, name: str) -> NDArray[np.float64]:
        """W0 of a weight with a table, in its own shape, float64."""
        return self._bases.get(name, _array(self._layer(self._homes[name][0]).base))

    def merge(self) -> nn.Module:
        """A plain model of the original class with W0 + D T, gates folded in: an independent copy with equal outputs."""
        merged = copy.deepcopy(self.module)
        done: set[int] = set()
        for layer in [m for m in merged.modules() if isinstance(m, TableLayer)]:
            if layer.has_table and id(layer.base) not in done:
                done.add(id(layer.base))
                with torch.no_grad():
                    layer.base.copy_(layer.merged_weight())
            layer.to_plain()
        fold(merged)
        fused.restore(merged)
        for name, parameter in merged.named_parameters():
            parameter.requires_grad_(name not in self._fixed)
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
        """Parameters that the optimiser moves, shared and local, by entry name; local ones count as dense."""
        moved = []
        for name, role in self.roles.items():
            if role in (Role.TABLE, Role.DENSE, Role.LOCAL):
                parameter = self._tensor(name)
                assert isinstance(parameter, nn.Parameter)  # noqa: S101 -- for the type checker
                moved.append((name, Kind.TABLE if role is Role.TABLE else Kind.DENSE, parameter))
        return moved + ([(name, Kind.GATE, self.gates.parameter(name)) for name in self.gates] if self.gates else [])

    def add_gradients(self) -> None:
        """Add to a step's gradients what follows from the twin itself and reads no sample; here nothing."""

    def train(self) -> None:
        """Training mode, but for normalisation layers whose statistics are frozen, and what would pass by a table."""
        self.module.train()
        for norm in self._still:
            norm.eval()
        for mixer in self._unfused:
            mixer.training = False  # its children train

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
        if self.gates is not None and name in self.gates:
            return self.gates.parameter(name)
        # Looked up each time: `Module.to` replaces buffers.
        place = self._places[name]
        return self._layer(place).table if self.roles[name] is Role.TABLE else _tensor(place)

    def _dictionary(self, name: str) -> Dictionary:
        layer = self._layer(self._homes[name][0])
        right = None if layer.right is None else layer.right.float().cpu().numpy()
        return Dictionary(layer.dictionary.float().cpu().numpy(), layer.is_transposed, right)

    @staticmethod
    def _layer(place: Place) -> TableLayer:
        return table_layer(place.module, place.attribute)


def decompose(model: nn.Module, settings: Decomposition | None = None, *, seed: int = 0, **changes: Any) -> Twin:
    """The twin of a model: `decompose(model, rank=8)`.

    Args:
        model: with W0; copied.
        settings: None: the defaults.
        seed: of what is drawn (dictionaries of zero matrices).
        changes: fields of `dictpfl.common.settings.Decomposition` that differ from `settings`.

    Raises:
        ModelError: see `Twin`.
        ConfigError: a field that does not exist or a value out of range.
    """
    chosen = settings_with(settings or Decomposition(), changes)
    made = make_dictionaries(model, chosen, seed.to_bytes(_SEED_BYTES, "little"))
    return Twin(model, chosen, made)


def settings_with(settings: Decomposition, changes: Mapping[str, Any]) -> Decomposition:
    """Settings with some fields changed, checked as the configuration file is."""
    from dictpfl.common.config import FederationConfig

    return FederationConfig.of({"decomposition": settings.model_dump() | dict(changes)}).decomposition


def merge(twin: Twin) -> nn.Module:
    """The plain model that a twin stands for; see `Twin.merge`."""
    return twin.merge()


def _install(name: str, at: tuple[Place, ...], dictionary: Dictionary, layers: Layers) -> None:
    table: nn.Parameter | None = None
    for place in at:
        outer = place.outer
        try:
            table = layers.kind_at(place).put(place.module, place.attribute, dictionary, table).table
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        around = None if outer is None or isinstance(outer, TableLayer) else layers.type_of(outer)
        if outer is not None and around is not None:
            around.without_table(outer)


def _still_norms(roles: Mapping[str, Role], at: Mapping[str, Place]) -> list[nn.Module]:
    still = {id(at[n].module): at[n].module for n, r in roles.items() if r is Role.FROZEN_STATISTIC}
    return [m for m in still.values() if isinstance(m, _NormBase)]


def _require_same_names(given: Mapping[str, Any], expected: Mapping[str, Any], what: str = "dictionaries") -> None:
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        raise ModelError(
            f"{what} do not fit the model: missing {missing}, unexpected {extra}; "
            "make them from this model and settings"
        )


def _tensor(place: Place) -> Tensor:
    tensor: Tensor = getattr(place.module, place.attribute)
    return tensor


def _array(tensor: Tensor) -> NDArray[Any]:
    """A copy; floats as float64 (bfloat16 has no numpy type), integers as they are."""
    kind = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind, copy=True).numpy()


@torch.no_grad()
def _put(tensor: Tensor, value: NDArray[Any]) -> None:
    # torch warns of arrays that it may not write to; those alone are copied first.
    source = torch.from_numpy(value) if value.flags.writeable and value.ndim else torch.tensor(value)
    tensor.copy_(source.reshape(tensor.shape))
