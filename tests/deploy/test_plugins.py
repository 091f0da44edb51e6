"""The list of doors is the list of registries that the source has."""

from __future__ import annotations

import ast
from pathlib import Path

from dictpfl.common.registry import installed
from dictpfl.deploy.plugins import GROUP, doors

ROOT = Path(__file__).parents[2]
ROOMS = ("client", "common", "deploy")


def registries() -> set[str]:
    """`module:NAME` of each registry that is made at a module's top level."""
    made = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        module = "dictpfl." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            call, target = (
                getattr(node, "value", None),
                getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0],
            )
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Registry" and isinstance(target, ast.Name):
                made.add(f"{module}:{target.id}")
    return made


def test_every_registry_is_a_door() -> None:
    assert {point.value for point in installed(GROUP)} == registries()


def test_every_door_has_parts_and_a_group_of_its_own() -> None:
    found = list(doors())
    assert not [door.problem for door in found if door.problem]
    assert len({door.group for door in found}) == len({door.key for door in found}) == len(found)
    assert all(door.parts for door in found)
