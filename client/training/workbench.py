"""Workbench: builds a model from W0 once, and loads into it the shared state and local tensors of whoever works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dictpfl.client.model.base import TableLayer
from dictpfl.client.model.build import build_model, take_weights, weights_digest
from dictpfl.client.model.covering import statistics
from dictpfl.client.model.gates import Gates
from dictpfl.client.model.sparse.federated import Ranking, threshold_twin
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.twin import ThresholdTwin
from dictpfl.client.model.tokens.install import install
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.speed import home_of
from dictpfl.client.training.train import resolve_device
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.state import Refresh, SharedState


def twin_of(genesis: Genesis, model: nn.Module) -> Twin:
    """Make the twin that a federation trains: thresholds, or tables, dense tensors and gates; tokens are not reduced yet.

    Raises:
        ConfigError, ModelError: another model than the one that was agreed.
    """
    config = genesis.config
    masked = threshold_twin(model, config)
    return masked or Twin(model, config.decomposition, genesis.dictionaries, Gates.of(genesis.gates, config.narrow))


class Workbench:
    """Model of a federation, built once; moves to any shared state, refreshes included.

    Law: what `twin_at` returns depends on its arguments alone, and on nothing that was trained before on this bench. So
    many institutions of one process may work at it in turn (`workbench_of`).
    """

    def __init__(self, genesis: Genesis, weights: Path) -> None:
        """Load W0, check it against genesis, and build the twin.

        Raises:
            ConfigError: other weights, or a model whose shared vector is not the agreed one.
        """
        self._genesis = genesis
        config = genesis.config
        loaded = _loaded(genesis, weights)
        model = build_model(config.model, genesis.sample_shape, genesis.outputs, config.seed)
        take_weights(model, loaded, weights)
        self.dtype = next(model.parameters()).dtype
        self.twin = self._fresh(model)
        self._model = _mapped(model, loaded)
        self._taken: tuple[Refresh, ...] | None = ()
        """Refreshes that the twin is at; None: it was left in the middle of one."""
        if self.twin.layout.digest != genesis.layout.digest:
            raise ConfigError(
                "this model's shared tensors are not those of genesis; model code or torch differs from the authority's"
            )
        self._local = self.twin.local_state()

    def _fresh(self, model: nn.Module) -> Twin:
        training = self._genesis.config.training
        config, twin = self._genesis.config, twin_of(self._genesis, model)
        install(twin.module, config.tokens)
        self._ranking = Ranking(twin, config, self._genesis.tallies) if isinstance(twin, ThresholdTwin) else None
        # Before any shared state is loaded: in another dtype its values would be rounded twice.
        home = home_of(training, resolve_device(training.device))
        twin.to(device=home, dtype=getattr(torch, training.dtype))
        self._buffers = [(module, name, tensor.clone()) for module, name, tensor in _other_buffers(twin.module)]
        return twin

    def twin_at(self, state: SharedState, local: Mapping[str, NDArray[Any]]) -> Twin:
        """Return the twin, loaded with the given shared state and local tensors; it is good until the next call."""
        if self._taken is None or not _begins(state.records, self._taken):
            self.twin, self._taken = self._fresh(self._model), ()
        taken = self._taken
        for count in range(len(taken) + 1, len(state.records) + 1):
            self._taken = None
            drawn = self._genesis.drawn_dictionaries(state.records[:count])
            self.twin.rebase(state.records[count - 1].tables(self._genesis.layout), drawn)
            self._taken = state.records[:count]
        if self._ranking is not None:
            self._ranking.settle(state)
        self.twin.load(state.values)
        if local:
            self.twin.load_local_state(local)
        with torch.no_grad():
            for module, name, tensor in self._buffers:
                module.get_buffer(name).copy_(tensor)
        return self.twin

    def first_local_state(self) -> dict[str, NDArray[Any]]:
        """Copy the tensors that are trained here and never sent, as genesis has them."""
        return {name: np.array(value) for name, value in self._local.items()}

    def local_state(self) -> dict[str, NDArray[Any]]:
        """Copy the tensors that are trained here and never sent, as they are now."""
        return {name: np.array(value) for name, value in self.twin.local_state().items()}

    def masks_at(self, state: SharedState) -> Masks | None:
        """Make the exact masks that a shared state means; None in a federation without thresholds."""
        twin = self.twin_at(state, self._local)
        return twin.masks() if isinstance(twin, ThresholdTwin) else None

    def merged(self, state: SharedState) -> nn.Module:
        """Make a plain model of the original class with W0 + D T; local tensors are those of genesis."""
        return self.twin_at(state, self._local).merge().to(device="cpu", dtype=self.dtype)


def _mapped(model: nn.Module, loaded: Mapping[str, Tensor]) -> nn.Module:
    """Put W0 as the file has it in place of a model's parameters: mapped: no memory until a twin is made anew, which copies it."""
    for name, parameter in model.named_parameters():
        tensor = loaded.get(name)
        if tensor is not None and (tensor.shape, tensor.dtype) == (parameter.shape, parameter.dtype):
            parameter.data = tensor
    return model


def workbench_of(genesis: Genesis, weights: Path) -> Workbench:
    """Find the process's bench of a federation, or build it: institutions that share a process share one model.

    W0 is checked for whoever asks; the same file, many times linked, is read once.

    Raises:
        ConfigError: as `Workbench`.
    """
    # The federation id covers all that a bench is made of, but for the device (docs/decisions/0003).
    key = (genesis.federation, genesis.config.training.device)
    bench = _BENCHES.get(key)
    if bench is None:
        bench = _BENCHES[key] = Workbench(genesis, weights)
    elif _SOUND.get(_state_of(weights)) != genesis.weights_digest:
        _loaded(genesis, weights)
    return bench


_BENCHES: WeakValueDictionary[tuple[bytes, str], Workbench] = WeakValueDictionary()
"""Benches that somebody in this process works at."""
_FileState = tuple[int, ...]
_SOUND: dict[_FileState, bytes] = {}
"""Digest of W0 by state of a file that was read and checked."""
_MOST_SOUND = 64


def _loaded(genesis: Genesis, weights: Path) -> dict[str, Tensor]:
    """Load W0 and check it against genesis."""
    before = _state_of(weights)
    try:
        loaded: dict[str, Tensor] = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read {weights}: {error}; restore it from the bundle") from error
    if weights_digest(loaded) != genesis.weights_digest:
        raise ConfigError(f"{weights} is not the W0 of this federation; restore it from the bundle")
    if len(_SOUND) >= _MOST_SOUND:
        _SOUND.clear()
    _SOUND[before] = genesis.weights_digest
    return loaded


def _state_of(file: Path) -> _FileState:
    """What changes with the file's content: device, number, size and times; all links to a file have the same."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _begins(records: Sequence[Refresh], taken: Sequence[Refresh]) -> bool:
    """Tell whether these refreshes begin with those that were taken; equal ones may be other objects, read from a file."""
    return len(records) >= len(taken) and all(
        one is other or (np.array_equal(one.chosen, other.chosen) and np.array_equal(one.values, other.values))
        for one, other in zip(records, taken, strict=False)
    )


def _other_buffers(module: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Buffers that neither shared nor local state has (spectral norms' vectors, counts of batches, say): training may move them."""
    in_state = {(place.module, place.attribute) for place in statistics(module).values()}
    return [
        (part, name, tensor)
        for part in module.modules()
        if not isinstance(part, TableLayer)
        for name, tensor in part.named_buffers(recurse=False)
        if (part, name) not in in_state
    ]
