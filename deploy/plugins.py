"""Everything that can be added by name, and where each part comes from (`dictpfl doctor --plugins`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dictpfl.common.registry import Listed, Registry, installed, listed_points
from dictpfl.deploy.commands import GROUP as COMMANDS
from dictpfl.deploy.doctor import GROUP as CHECKS

GROUP = "dictpfl.doors"
"""Entry points of registries: each is a door for parts of one kind."""
_WHOLE = {COMMANDS: "command line", CHECKS: "doctor"}
"""Groups of which every entry point is used, and none is named."""


@dataclass(frozen=True, slots=True)
class Door:
    """One kind of part that can be added.

    Attributes:
        kind: the part's noun.
        key: configuration key or option that names one.
        group: entry point group of packages.
        parts: all that have a name.
        problem: why this installation cannot use the door; empty if it can.
    """

    kind: str
    key: str
    group: str
    parts: tuple[Listed, ...]
    problem: str = ""


def doors() -> Iterator[Door]:
    """All doors with their parts; what an installed package brings is loaded once, to see that it can be."""
    for point in installed(GROUP):
        try:
            registry: Registry[object] = point.load()
            parts = tuple(registry.listed())
        except ModuleNotFoundError as error:
            yield Door(point.name, "", "", (), f"{error.name} is not installed: pip install 'dictpfl[institution]'")
        else:
            yield Door(registry.kind, registry.key, registry.group, parts)
    for group, kind in _WHOLE.items():
        yield Door(kind, kind, group, tuple(listed_points(group, group)))
