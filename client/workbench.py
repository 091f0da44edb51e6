"""The model on the institution's desk: W0, its twin, and shared state put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from client.models import build_model, take_weights
from client.training import resolve_device
from client.twin import Twin
from common.errors import ConfigError
from common.genesis import Genesis, tensors_digest
from common.state import SharedState


class Workbench:
    """Builds the twin once and moves it to any shared state, refreshes included."""

    def __init__(self, genesis: Genesis, weights: Path) -> None:
        """Load W0 and check it against genesis.

        Raises:
            ConfigError: other weights, or a model whose shared vector is not the agreed one.
        """
        self._genesis = genesis
        config = genesis.config
        try:
            loaded = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot read {weights}: {error}; restore it from the bundle") from error
        found = tensors_digest({name: tensor.numpy() for name, tensor in loaded.items()})
        if found != genesis.weights_digest:
            raise ConfigError(f"{weights} is not the W0 of this federation; restore it from the bundle")
        model = build_model(config.model, genesis.sample_shape, genesis.outputs, config.seed)
        take_weights(model, loaded, weights)
        self._model = model
        self.dtype = next(model.parameters()).dtype
        self.twin = self._fresh()
        self._refreshes = 0
        if self.twin.layout.digest != genesis.layout.digest:
            raise ConfigError(
                "this model's shared tensors are not those of genesis; model code or torch differs from the authority's"
            )
        self._local = self.twin.local_state()

    def _fresh(self) -> Twin:
        training = self._genesis.config.training
        twin = Twin(self._model, self._genesis.config.decomposition, self._genesis.dictionaries)
        # Before any shared state is loaded: in another dtype its values would be rounded twice.
        return twin.to(device=resolve_device(training.device), dtype=getattr(torch, training.dtype))

    def twin_at(self, state: SharedState, local: Mapping[str, NDArray[Any]]) -> Twin:
        """The twin holding the given shared state and local tensors."""
        if len(state.records) < self._refreshes:
            self.twin, self._refreshes = self._fresh(), 0
        for record in state.records[self._refreshes :]:
            self._refreshes += 1
            drawn = self._genesis.drawn_dictionaries(state.records[: self._refreshes])
            self.twin.rebase(record.tables(self._genesis.layout), drawn)
        self.twin.load(state.values)
        if local:
            self.twin.load_local_state(local)
        return self.twin

    def local_state(self) -> dict[str, NDArray[Any]]:
        """Copies of the tensors that stay here."""
        return {name: np.array(value) for name, value in self.twin.local_state().items()}

    def merged(self, state: SharedState) -> nn.Module:
        """A plain model of the original class with W0 + D T (local tensors as at genesis)."""
        return self.twin_at(state, self._local).merge().to(device="cpu", dtype=self.dtype)
