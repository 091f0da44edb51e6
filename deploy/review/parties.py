"""Parties whose folders lie in a folder: coordinators and institutions, of a simulation or of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from dictpfl.client.folder import SETTINGS, InstitutionSettings
from dictpfl.client.keys.epochs import home
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.deploy.attacks.results import RESULTS
from dictpfl.deploy.ceremony.departures import STUDIES
from dictpfl.deploy.runs.run import CONFIG, SUMMARY, Run
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL

_DEPTH = 2
"""Levels below the folder at which a party's folder may lie: `institutions/institution-000` of a simulation."""


@dataclass(frozen=True)
class Parties:
    """Folders of the parties, by role.

    Attributes:
        folder: where.
        coordinators: folders with a journal.
        institutions: folders with an institution.toml.
    """

    folder: Path
    coordinators: tuple[Path, ...]
    institutions: tuple[Path, ...]

    @classmethod
    def find(cls, folder: Path) -> Self:
        """Look through a folder.

        Raises:
            ConfigError: nothing in it that a report could be made from.
        """
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; name a run folder, an attack's folder or a party's folder")
        places = sorted({place.resolve(): place for place in _places(folder, _DEPTH)}.values())
        parties = cls(
            folder,
            tuple(p for p in places if (p / AGREEMENT).exists() and (p / JOURNAL).exists()),
            tuple(p for p in places if (p / SETTINGS).exists()),
        )
        if not (parties.coordinators or parties.institutions or (folder / RESULTS).exists()):
            raise ConfigError(
                f"{folder} holds neither a run, nor a party's folder, nor {RESULTS}; `dictpfl simulate CONFIG.toml --out DIR` "
                "makes a run, `dictpfl attack CONFIG.toml --out DIR` attacks"
            )
        return parties

    @cached_property
    def run(self) -> Run | None:
        """The finished simulation, if this is one."""
        return Run.load(self.folder) if (self.folder / SUMMARY).exists() else None

    @property
    def simulated(self) -> bool:
        """Tells whether one process played all parties."""
        return (self.folder / CONFIG).exists()

    @cached_property
    def config(self) -> FederationConfig | None:
        """Configuration that was agreed on; None where only a coordinator is here, who has none."""
        if self.run is not None:
            return self.run.config
        return self.genesis.config if self.genesis else None

    @cached_property
    def genesis(self) -> Genesis | None:
        """Agreement as an institution has it; None where no institution's folder with one is here."""
        joined = [home(place) for place in self.institutions if (home(place) / DOCUMENT).exists()]
        return Genesis.load(joined[0]) if joined else None

    @cached_property
    def agreement(self) -> Agreement | None:
        """The coordinator's half."""
        return Agreement.load(self.coordinators[0] / AGREEMENT) if self.coordinators else None

    @cached_property
    def names(self) -> dict[Path, str]:
        """Institutions' names by folder."""
        return {place: InstitutionSettings.load(place).name for place in self.institutions}


def _places(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name != STUDIES:  # each is a federation of its own, with a report of its own
                yield from _places(path, depth - 1)
