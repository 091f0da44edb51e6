"""Federations of three and of five in one process, from the `templates` of each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dictpfl.client.defences import limits
from tests.support.harness import World


@pytest.fixture(autouse=True)
def refusals_leave_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals wait for a whole second each; when they leave is tested in `test_refusals.py`."""
    monkeypatch.setattr(limits, "REFUSAL_SECONDS", 0.01)


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
