"""Attacks (a door: `dictpfl attack --attacks`): one file of `dictpfl.deploy.attacks.published` adds one.

An attack is a class of one of two kinds:

- `UpdateAttack` reads one institution's update, in a recorded run of every method that is attacked. Two base classes of
  `dictpfl.deploy.attacks.inversion_run` judge what it finds: `InversionAttack` images, `LabelAttack` labels.
- `FederationAttack` plays federations of its own, where the case that it needs is another one.

Both yield findings. An attack that fails on plaintext counts as broken there (`dictpfl.deploy.attacks.attack.checks_of`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import Registry

if TYPE_CHECKING:
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.attacks.case import Case
    from dictpfl.deploy.attacks.inversion import Effort
    from dictpfl.deploy.attacks.results import Finding


@dataclass(frozen=True)
class Tools:
    """Means of an attacker.

    Attributes:
        effort: starts and iterations.
        pictures: folder for pictures; made by who writes one.
        seed: of the attacker's own randomness.
    """

    effort: Effort
    pictures: Path
    seed: int = 0


class UpdateAttack(ABC):
    """Attack on one institution's update.

    Attributes:
        largest_batch: samples of a local step up to which it is tried; None: any number.
    """

    largest_batch: ClassVar[int | None] = None

    @abstractmethod
    def run(self, case: Case, tools: Tools) -> Iterator[Finding]:
        """Attack every victim of a case."""

    def takes(self, batch: int) -> bool:
        """Tell whether it is tried on a batch of this size."""
        return self.largest_batch is None or batch <= self.largest_batch


class FederationAttack(ABC):
    """Attack that plays federations of its own."""

    @abstractmethod
    def run(self, config: FederationConfig, folder: Path, tools: Tools) -> Iterator[Finding]:
        """Play what it needs and attack it.

        Args:
            config: the configuration under attack, to be changed as the attack needs.
            folder: place of its runs, not there yet.
            tools: means of the attacker.
        """


Attack = UpdateAttack | FederationAttack
ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    key="dictpfl attack --attacks, --parts",
    group="dictpfl.attacks",
    folder="dictpfl.deploy.attacks.published",
)


def attack_of(name: str) -> Attack:
    """Make the attack that a name leads to.

    Raises:
        ConfigError: unknown, or no class of an attack.
    """
    made = ATTACKS.load(name)
    if not (isinstance(made, type) and issubclass(made, UpdateAttack | FederationAttack)):
        raise ConfigError(
            f"{ATTACKS.key}: {name!r} is {made!r}; expected a subclass of UpdateAttack or FederationAttack "
            "(dictpfl.deploy.attacks.registry)"
        )
    return made()
