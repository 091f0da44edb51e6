"""Everything that can be added by name, and where each part comes from (`dictpfl doctor --plugins`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from dictpfl.common.registry import Listed, Registry

REGISTRIES = (
    "dictpfl.common.law.budget:ALLOCATORS",
    "dictpfl.common.law.schedule:SCHEDULES",
    "dictpfl.common.law.decision:DECISIONS",
    "dictpfl.client.training.scorer:SCORERS",
    "dictpfl.client.compress.cutting.axes:ARCHITECTURES",
    "dictpfl.client.training.tally:TALLIES",
    "dictpfl.client.model.base:LAYERS",
    "dictpfl.client.model.build:MODELS",
    "dictpfl.client.model.tokens.seam:REDUCERS",
    "dictpfl.client.training.task:TASKS",
    "dictpfl.client.training.metric:METRICS",
    "dictpfl.client.data.source:SOURCES",
    "dictpfl.deploy.exports.exporter:EXPORTERS",
    "dictpfl.deploy.attacks.registry:ATTACKS",
)
"""Module and name of each door's registry; a test compares the list with the registries that the source has."""


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
    for place in REGISTRIES:
        module, _, name = place.partition(":")
        try:
            registry: Registry[object] = getattr(importlib.import_module(module), name)
            parts = tuple(registry.listed())
        except ModuleNotFoundError as error:
            yield Door(name.lower(), "", "", (), f"{error.name} is not installed: pip install 'dictpfl[institution]'")
        else:
            yield Door(registry.kind, registry.key, registry.group, parts)
