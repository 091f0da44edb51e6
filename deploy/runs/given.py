"""Objects that runs of this process were given in place of names (`dictpfl.deploy.simulation.given`): one module names those of all runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dictpfl.common.registry import GIVEN

_NAMES = ("model", "data", "task")


class _Given(ModuleType):
    """Objects that were given to `dictpfl.simulate`."""

    def __init__(self) -> None:
        super().__init__(GIVEN, self.__doc__)
        self.by_folder: dict[Path, dict[str, Any]] = {}


def remember(folder: Path, objects: Mapping[str, Any]) -> None:
    """Keep a run's objects, and name them now."""
    _module().by_folder[folder.resolve()] = dict(objects)
    put_back(folder)


def put_back(folder: Path) -> None:
    """Name a run's own objects again, for a run that came later may have had others; none, where this process gave it none.

    Args:
        folder: of a run, or of an institution in one.
    """
    place, module = folder.resolve(), _module()
    own = module.by_folder.get(place, module.by_folder.get(place.parent.parent, {}))
    for name in _NAMES:
        vars(module).pop(name, None)
    vars(module).update(own)


def _module() -> _Given:
    found = sys.modules.get(GIVEN)
    if not isinstance(found, _Given):
        found = sys.modules[GIVEN] = _Given()
    return found
