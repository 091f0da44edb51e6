"""Make the harness importable by its name, whatever pytest's import mode."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def _load(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if "harness" not in sys.modules:
    _load("harness")

from harness import World  # noqa: E402 -- known by that name from here on


@pytest.fixture(scope="module")
def undisturbed(templates: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The digest of each of the module's `templates` when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    digests = {}
    for name, template in templates.items():
        world = template.copy(folder / name)
        world.run()
        digests[name] = world.digest()
        world.close()
    return digests


@pytest.fixture
def three(templates: dict[str, World], tmp_path: Path) -> Iterator[World]:
    world = templates["three"].copy(tmp_path / "world")
    yield world
    world.close()


@pytest.fixture
def five(templates: dict[str, World], tmp_path: Path) -> Iterator[World]:
    world = templates["five"].copy(tmp_path / "world")
    yield world
    world.close()
