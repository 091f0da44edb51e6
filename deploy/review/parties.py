"""Whose folders lie in a folder: coordinators' and institutions', of a simulation or of a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from client.epochs import home
from client.site import SITE, SiteSettings
from common.config import FederationConfig
from common.errors import ConfigError
from common.genesis import DOCUMENT, Genesis
from deploy.privacy.results import RESULTS
from deploy.run import CONFIG, SUMMARY, Run
from server.agreement import Agreement
from server.coordinator import AGREEMENT, JOURNAL

_DEPTH = 2
"""How far below the folder a party's folder may lie: `sites/institution-000` of a simulation."""


@dataclass(frozen=True)
class Parties:
    """What was found.

    Attributes:
        folder: where. `coordinators`: folders with a journal. `institutions`: folders with a site.toml.
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
        found = cls(
            folder,
            tuple(p for p in places if (p / AGREEMENT).exists() and (p / JOURNAL).exists()),
            tuple(p for p in places if (p / SITE).exists()),
        )
        if not (found.coordinators or found.institutions or (folder / RESULTS).exists()):
            raise ConfigError(
                f"{folder} holds neither a run, nor a party's folder, nor {RESULTS}; `dictpfl simulate CONFIG.toml --out DIR` "
                "makes a run, `dictpfl attack CONFIG.toml --out DIR` attacks"
            )
        return found

    @cached_property
    def run(self) -> Run | None:
        """The finished simulation, if this is one."""
        return Run.load(self.folder) if (self.folder / SUMMARY).exists() else None

    @property
    def simulated(self) -> bool:
        """Whether one process played all parties."""
        return (self.folder / CONFIG).exists()

    @cached_property
    def config(self) -> FederationConfig | None:
        """What was agreed on; None where only a coordinator is here, who has no configuration."""
        if self.run is not None:
            return self.run.config
        agreed = [Genesis.load(home(place)).config for place in self.institutions if (home(place) / DOCUMENT).exists()]
        return agreed[0] if agreed else None

    @cached_property
    def agreement(self) -> Agreement | None:
        """The coordinator's half."""
        return Agreement.load(self.coordinators[0] / AGREEMENT) if self.coordinators else None

    @cached_property
    def names(self) -> dict[Path, str]:
        """Institutions' names by folder."""
        return {place: SiteSettings.load(place).name for place in self.institutions}


def _places(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from _places(path, depth - 1)
