"""Masks and integrity between real processes, over TLS, from the ceremony's bundles; one institution is killed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ceremonial import Ceremonial

from common.manifest import separated

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
    try:
        made.all([made.join(name) for name in MEMBERS])
        made.start(MEMBERS)
        yield made
    finally:
        made.stop()


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
        assert not list(world.site(name).glob("evidence/*"))
