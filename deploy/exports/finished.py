"""A federation as far as it has come: of a simulation's run folder, or of an institution's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from client.epochs import home
from client.memory import Memory, Record
from client.site import GENESIS_WEIGHTS
from client.snapshot import of_bytes
from client.workbench import Workbench
from common.dictionary import Dictionary
from common.errors import ConfigError
from common.genesis import DOCUMENT, Genesis
from common.refresh import tables
from common.state import Floats, SharedState
from deploy.founding import SITES
from deploy.run import STATE, SUMMARY, Run

Checkpoint = Literal["last", "best"]
"""Which shared state a model is made of: the newest, or the one with the best validation figure (`[selection]`)."""


@dataclass(frozen=True)
class Finished:
    """Shared state, and what it takes to make a model of it.

    Attributes:
        genesis: the agreement. `state`: shared state after the last round that is known here, or the best one.
        weights: the file with W0.
        local: tensors that stay with this institution; empty for a run folder, whose model has those of genesis.
    """

    genesis: Genesis
    state: SharedState
    weights: Path
    local: Mapping[str, NDArray[Any]]

    @classmethod
    def load(cls, folder: Path | str, checkpoint: Checkpoint = "last") -> Finished:
        """Read a run folder, or an institution's folder; no key is needed.

        Args:
            folder: of either kind.
            checkpoint: `best` takes the shared values of the best round; tensors that stay here are the newest all the same.

        Raises:
            ConfigError: neither, no round is finished, or none was measured and `best` is wanted.
        """
        found = cls._newest(Path(folder))
        if checkpoint == "last":
            return found
        best = found.state.at_best()
        if best is None:
            raise ConfigError(
                f"{folder} knows no best model: no institution measured one (data.validation_share), or selection.by is "
                "`none`; use `--checkpoint last`"
            )
        return replace(found, state=best)

    @classmethod
    def _newest(cls, folder: Path) -> Finished:
        if (folder / SUMMARY).exists():
            return cls._of_run(folder)
        if not (home(folder) / DOCUMENT).exists():
            raise ConfigError(
                f"{folder} holds no finished run ({SUMMARY} is missing) and is no institution's folder; name a folder that "
                "`dictpfl simulate` wrote, or an institution's"
            )
        genesis, record = recalled(folder)
        if record is None or record.shared.updates == 0:
            raise ConfigError(f"the institution in {folder} has applied no round yet; there is nothing to export")
        return cls(genesis, record.shared, home(folder) / GENESIS_WEIGHTS, record.local)

    @classmethod
    def _of_run(cls, folder: Path) -> Finished:
        Run.load(folder)
        site = folder / SITES / "institution-000"
        genesis = Genesis.load(site)
        try:
            state = of_bytes((folder / STATE).read_bytes(), genesis.federation, genesis.layout)
        except OSError as error:
            raise ConfigError(
                f"cannot read {folder / STATE}: {error.strerror}; run the simulation again with this release"
            ) from error
        return cls(genesis, state, site / GENESIS_WEIGHTS, {})

    def bench(self) -> Workbench:
        """A workbench on W0."""
        torch.set_num_threads(self.genesis.config.training.threads)
        return Workbench(self.genesis, self.weights)

    def merged(self, bench: Workbench | None = None) -> nn.Module:
        """The plain model of the original class with W0 + D T, in evaluation mode, on the CPU."""
        bench = bench or self.bench()
        local = self.local or bench.local_state()
        module = bench.twin_at(self.state, local).merge().to(device="cpu", dtype=bench.dtype)
        return module.eval()

    def start(self) -> dict[str, Tensor]:
        """W0 by name."""
        return load_file(self.weights)

    def factors(self) -> dict[str, tuple[Floats, Floats]]:
        """`up` (n, R) and `down` (R, m) of every table, whose product is all that the weight has moved from W0.

        R is the dictionary's rank times one more than the table was refreshed: each left a product of its own in W0.
        """
        layout, records = self.genesis.layout, self.state.records
        now = layout.unflatten(self.state.values)
        dictionaries = self.genesis.drawn_dictionaries(())
        pieces: dict[str, list[tuple[Floats, Floats]]] = {e.name: [] for e in tables(layout)}
        for number, record in enumerate(records, 1):
            for name, table in record.tables(layout).items():
                pieces[name].append(_factors(dictionaries[name], table))
            dictionaries |= self.genesis.drawn_dictionaries(records[:number])
        for name, found in pieces.items():
            found.append(_factors(dictionaries[name], now[name]))
        return {
            name: (np.concatenate([up for up, _ in each], axis=1), np.concatenate([down for _, down in each], axis=0))
            for name, each in pieces.items()
        }


def recalled(folder: Path) -> tuple[Genesis, Record | None]:
    """An institution's newest genesis, and its durable state; None: it has none yet."""
    genesis = Genesis.load(home(folder))
    memory = Memory(folder / "memory", genesis.federation)
    with memory.locked():
        return genesis, memory.recall()


def _factors(dictionary: Dictionary, table: Floats) -> tuple[Floats, Floats]:
    d = dictionary.matrix.astype(np.float64)
    return (table.T, d.T) if dictionary.transposed else (d, table)
