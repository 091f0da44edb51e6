"""A federation as far as it has come: of a simulation's run folder, or of an institution's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from dictpfl.client.folder import GENESIS_WEIGHTS
from dictpfl.client.keys.epochs import home
from dictpfl.client.memory.record import Memory, Record
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.common.law.order import stopped
from dictpfl.common.law.refresh import tables
from dictpfl.common.law.state import Floats, SharedState
from dictpfl.common.law.stored import of_bytes
from dictpfl.deploy.ceremony.identity import PUBLIC, Role
from dictpfl.deploy.operations import begun
from dictpfl.deploy.runs.census import words_of
from dictpfl.deploy.runs.given import put_back
from dictpfl.deploy.runs.run import STATE, SUMMARY, Run, first_institution

Checkpoint = Literal["last", "best"]
"""Shared state that a model is made of: the newest, or the one with the best validation figure (`[selection]`)."""


def require_checkpoint(name: str) -> None:
    """Refuse what is neither the newest nor the best.

    Raises:
        ConfigError: the message says what it is.
    """
    if name not in get_args(Checkpoint):
        raise ConfigError(f"checkpoint is {name!r}; expected `last` or `best`")


@dataclass(frozen=True)
class Finished:
    """Shared state, and what it takes to make a model of it.

    Attributes:
        genesis: the agreement.
        state: shared state after the last round that is known here, or the best one.
        weights: the file with W0.
        local: tensors that stay with this institution; empty for a run folder, whose model has those of genesis.
        classes: names of the model's outputs, where the federation knows them and they say more than numbers; else empty.
    """

    genesis: Genesis
    state: SharedState
    weights: Path
    local: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path | str, checkpoint: Checkpoint = "last") -> Finished:
        """Read a run folder, or an institution's folder; no key is needed.

        Args:
            folder: of either kind.
            checkpoint: `best` takes the shared values of the best round; tensors that stay here are the newest all the same.

        Raises:
            ConfigError: neither, no round is finished, none was measured and `best` is wanted, or no such checkpoint.
        """
        require_checkpoint(checkpoint)
        put_back(Path(folder))
        newest = cls._newest(Path(folder))
        newest = replace(newest, classes=words_of(newest.genesis, Path(folder)))
        if checkpoint == "last":
            return newest
        best = newest.state.at_best()
        if best is None:
            raise ConfigError(
                f"{folder} knows no best model: no institution measured one (data.validation_share), or selection.by is "
                "`none`; use `--checkpoint last`"
            )
        return replace(newest, state=best)

    @classmethod
    def _newest(cls, folder: Path) -> Finished:
        if (folder / SUMMARY).exists():
            return cls._of_run(folder)
        if not (home(folder) / DOCUMENT).exists():
            if (folder / PUBLIC).exists():
                begun.require(folder, Role.INSTITUTION)  # no epoch joined yet, or another party: it says so
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
        institution = first_institution(folder)
        genesis = Genesis.load(institution)
        try:
            state = of_bytes((folder / STATE).read_bytes(), genesis.federation, genesis.layout, genesis.tallies)
        except OSError as error:
            raise ConfigError(
                f"cannot read {folder / STATE}: {error.strerror}; run the simulation again with this release"
            ) from error
        except ConfigError as error:
            raise ConfigError(
                f"{folder / STATE} is damaged, or of another run; remove it, and `dictpfl simulate {in_shell(folder)} --resume` writes it anew"
            ) from error
        return cls(genesis, state, institution / GENESIS_WEIGHTS, {})

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
                pieces[name].append(dictionaries[name].factors(table))
            dictionaries |= self.genesis.drawn_dictionaries(records[:number])
        for name, factors in pieces.items():
            factors.append(dictionaries[name].factors(now[name]))
        return {
            name: (np.concatenate([up for up, _ in each], axis=1), np.concatenate([down for _, down in each], axis=0))
            for name, each in pieces.items()
        }


def short_of(genesis: Genesis, state: SharedState) -> str:
    """Say that a state has fewer updates than were agreed on; empty where it has all, or all have stopped early."""
    wanted, done = genesis.config.federation.rounds, state.updates
    if done >= wanted or stopped(genesis.law, state):
        return ""
    return (
        f"{done} of {wanted} updates that were agreed on: rounds go on or were ended early, or this institution was away at the end "
        "and has an older model than the others; compare state digests (`dictpfl status`)"
    )


def recalled(folder: Path) -> tuple[Genesis, Record | None]:
    """An institution's newest genesis, and its durable state; None: it has none yet."""
    genesis = Genesis.load(home(folder))
    memory = Memory(folder / "memory", genesis.federation)
    with memory.locked():
        return genesis, memory.recall()
