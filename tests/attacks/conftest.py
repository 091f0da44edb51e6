"""Federations of the product that attacks are played on, founded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.attacks.shown import Shown
from tests.support.federations import encrypted
from tests.support.harness import World


@pytest.fixture
def at_once() -> Iterator[None]:
    """Nobody waits before a refusal leaves: that time is measured elsewhere (tests/system)."""
    with mock.patch("time.sleep", return_value=None):
        yield


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    five = {"federation__participants": 5, "federation__rounds": 4}
    return {
        "three": World.found(encrypted(federation__rounds=4), folder / "three"),
        "five": World.found(encrypted(**five), folder / "five"),
        "masked": World.found(encrypted(**five, defences__masks=True, defences__integrity=True), folder / "masked"),
        "even": World.found(encrypted(**five, pruning__enabled=False, decomposition__enabled=False), folder / "even"),
    }


@pytest.fixture(scope="session")
def undisturbed(templates: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The digest of the federation of three when nobody attacks."""
    world = templates["three"].copy(tmp_path_factory.mktemp("undisturbed") / "three")
    world.run()
    digest = world.digest()
    world.close()
    return digest


@pytest.fixture
def shown(request: pytest.FixtureRequest, templates: dict[str, World], tmp_path: Path) -> Iterator[Shown]:
    world = templates[getattr(request, "param", "three")].copy(tmp_path / "world")
    yield Shown.of(world)
    world.close()
