"""Masks, integrity and differential privacy between real processes, over TLS, from the ceremony's bundles.

Institutions are killed on the way.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dictpfl.client.privacy.accounting import Spending
from dictpfl.common.messages.manifest import separated
from tests.support.ceremonial import Ceremonial
from tests.support.machines import until

pytestmark = pytest.mark.deployment
MEMBERS = ("berlin", "kyoto", "lagos", "oslo")


@pytest.fixture
def defended(tmp_path: Path) -> Iterator[Ceremonial]:
    made = Ceremonial(
        tmp_path / "world",
        MEMBERS,
        (),
        defences__masks=True,
        defences__integrity=True,
        defences__reveal_seconds=60.0,
        federation__deadline_seconds=60.0,
    )
    with made.running():
        yield made


def test_rounds_complete_with_all_and_without_one(defended: Ceremonial) -> None:
    world = defended
    world.online(MEMBERS)
    run = world.run("--rounds", 2)
    assert run.wait(300) == 0, run.text
    assert len({world.record(name).shared.digest for name in MEMBERS}) == 1
    # One is gone; its partners tell what they masked with it, and the round completes.
    world.nodes["oslo"].kill()
    run = world.more(1)
    assert run.wait(300) == 0, run.text
    left = MEMBERS[:3]
    assert len({world.record(name).shared.digest for name in left}) == 1
    with world.journal() as journal:
        sums = list(journal.aggregates(0))
    assert {len(one.counted) for one in sums} == {3, 4}
    assert all(len(separated(one.manifests)) == len(one.counted) for one in sums)
    for name in MEMBERS:
        assert not list(world.home(name).glob("evidence/*"))


DELTA = 1e-3
PRIVATE = {
    "example": {"privacy__mechanism": "example", "privacy__noise_multiplier": 1.0, "training__steps": 2},
    "institution": {"privacy__mechanism": "institution", "privacy__noise_multiplier": 2.0, "defences__masks": True},
}
"""One protects samples, the other institutions, with masks as well, which keep single uploads from being opened."""


@pytest.fixture(params=["example", "institution"])
def private(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ceremonial]:
    pytest.importorskip("opacus", reason="the extra `dp` is not installed")
    made = Ceremonial(tmp_path / "world", MEMBERS[:3], (), privacy__delta=DELTA, **PRIVATE[request.param])
    with made.running():
        yield made


@pytest.mark.nightly
def test_private_rounds_are_paid_for_also_when_a_task_is_killed(private: Ceremonial) -> None:
    world = private
    world.online(world.founders)
    run = world.run("--rounds", 2)
    until(lambda: account(world, "kyoto").releases, 120, "kyoto has paid for its first upload")
    for task in world.tasks(world.home("kyoto")):
        with suppress(ProcessLookupError):
            os.kill(task, signal.SIGKILL)
    assert run.wait(300) == 0, run.text
    assert len({world.record(name).shared.digest for name in world.founders}) == 1

    # Each has an account of its own, and its status says what that account comes to. Who was killed has paid for what it lost.
    status = {name: json.loads(world.did("status", "--folder", world.home(name), "--json")) for name in world.founders}
    for name in world.founders:
        spending = account(world, name)
        assert spending.last == 1
        assert status[name]["privacy"]["epsilon"] == spending.epsilon(DELTA)
    paid = {name: sum(release.steps for release in account(world, name).releases) for name in world.founders}
    assert paid["berlin"] == paid["lagos"]
    assert paid["kyoto"] in (paid["berlin"], paid["berlin"] * 3 // 2), "killed before or after its upload was kept"
    # Nothing of it is with the coordinator.
    assert not list(world.coordinator.rglob("*.privacy.json"))


def account(world: Ceremonial, name: str) -> Spending:
    memory = world.home(name) / "memory"
    found = list(memory.glob("*.privacy.json"))
    return Spending.load(found[0]) if found else Spending()
