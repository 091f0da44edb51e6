"""Federations that ask a sample: all end in one state, whoever was asked; and whoever asks, on any engine, asks the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.messages.protocol import Status
from dictpfl.deploy.audit.replay.identity import federation_id as audited_id
from dictpfl.deploy.simulation.founding import found
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, open_journal
from dictpfl.server.sampling import ranked
from tests.support.federations import encrypted, tiny
from tests.support.harness import INSTITUTION_POINTS, World

SEVEN: dict[str, Any] = {"federation__participants": 7, "federation__sample": 3, "federation__rounds": 6}
NODES = range(7)


def uploaded(world: World, node: int) -> list[int]:
    """Rounds for which an institution delivered."""
    diary = world.home(node) / "diary.jsonl"
    return [number for _, number in world.events(node, "uploaded")] if diary.exists() else []


def test_all_end_in_one_state_after_rounds_of_three(tmp_path: Path) -> None:
    world = World.found(encrypted(**SEVEN), tmp_path / "world")
    world.run()
    world.digest()
    sums = [len(aggregate.counted) for _, aggregate in world.journal()]
    assert sums == [3] * 7
    asked = {node: uploaded(world, node) for node in NODES}
    assert sum(map(len, asked.values())) == 21
    assert len(set(map(tuple, asked.values()))) > 1
    for node in NODES:
        applied = [number for _, number in world.events(node, "applied")]
        assert applied == list(range(7)), "each applies each sum once, in which it is or not"
    world.close()


def test_digits_are_sized_for_the_sample(tmp_path: Path) -> None:
    sampled = found(encrypted(**SEVEN), tmp_path / "sampled").genesis
    all_asked = found(encrypted(federation__participants=7), tmp_path / "all").genesis
    assert (sampled.parameters.capacity, all_asked.parameters.capacity) == (3, 7)
    assert sampled.law.ledger.capacity == 3
    assert Agreement.load(tmp_path / "sampled" / "coordinator" / AGREEMENT).sample == 3


@pytest.mark.parametrize("point", ["replying", "before training", "after training"])
def test_institutions_that_die_at_work(point: str, tmp_path: Path) -> None:
    """The fourth law holds when the others in the sum are not those of the round before."""
    calm = World.found(tiny(**SEVEN), tmp_path / "calm")
    stormy = calm.copy(tmp_path / "stormy")
    calm.run()
    number = 0
    while not stormy.coordinator.finished:
        stormy.exchange({number % 7: INSTITUTION_POINTS[point]})
        number += 1
        assert number < 60
    stormy.digest()
    for node in NODES:
        applied = [number for _, number in stormy.events(node, "applied")]
        assert applied == sorted(set(applied))
        assert stormy.record(node).shared.updates == 6
    calm.close()
    stormy.close()


def test_one_that_was_not_asked_for_long_delivers_what_it_owes(tmp_path: Path) -> None:
    """Its residual waits through the rounds that it misses, and no upload is lost or counted twice."""
    world = World.found(tiny(**SEVEN, pruning__s=0.9, pruning__tau=1), tmp_path / "world")
    owed: dict[int, bytes] = {}
    while not world.coordinator.finished:
        replies = world.exchange()
        for node, residual in owed.items():
            if node not in replies:
                assert world.record(node).residual.values.tobytes() == residual, "nothing happens to it meanwhile"
        assert {reply.status for reply in replies.values()} <= {Status.UPLOAD, Status.SETTLED}
        here = [node for node in NODES if world.memory(node).path.exists()]
        owed = {node: world.record(node).residual.values.tobytes() for node in here}
    counted = [upload for _, aggregate in world.journal() for upload in aggregate.counted]
    assert len(counted) == len(set(counted)) == 21
    delivered = sum(len(uploaded(world, node)) for node in NODES)
    assert delivered == 21
    world.digest()
    world.close()


def test_a_latecomer_starts_from_a_snapshot_of_a_sample(tmp_path: Path) -> None:
    world = World.found(tiny(**SEVEN, federation__snapshot_every=2), tmp_path / "world")
    agreement = Agreement.load(world.coordinator_folder / AGREEMENT)
    assert agreement.snapshots_kept == 0
    late = ranked({n: f"node {n}" for n in NODES}, agreement.uploads.federation, 0, 0)[-1]
    while not world.coordinator.finished:
        world.exchange(offline=[late] if world.coordinator._journal.next_round < 5 else [])
    world.digest()
    assert world.coordinator._journal.snapshots()
    world.close()


def senders(run: Path) -> list[tuple[str, ...]]:
    coordinator = run / "coordinator"
    journal = open_journal(coordinator, Agreement.load(coordinator / AGREEMENT))
    try:
        return [closed.senders for closed in journal.rounds()]
    finally:
        journal.close()


def by_hand(run: Path) -> list[tuple[str, ...]]:
    """Whom the hash names, from the institutions' names alone."""
    homes = [run / "institutions" / f"institution-{index:03d}" for index in NODES]
    names = {index: InstitutionSettings.load(home).name for index, home in enumerate(homes)}
    federation = Genesis.load(homes[0]).federation
    return [tuple(sorted(names[i] for i in ranked(names, federation, number, 0)[:3])) for number in range(7)]


def test_a_local_run_asks_those_whom_the_hash_names(tmp_path: Path) -> None:
    run = simulate(tiny(**SEVEN), tmp_path / "run", engine="local")
    assert senders(run.folder) == by_hand(run.folder)
    assert [record.contributors for record in run.records] == [3] * 7


@pytest.mark.slow
def test_both_engines_ask_the_same_and_reach_the_same_model(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    local = simulate(tiny(**SEVEN), tmp_path / "local", engine="local")
    flower = simulate(tiny(**SEVEN), tmp_path / "flower", engine="flower")
    assert senders(flower.folder) == senders(local.folder) == by_hand(local.folder)
    assert flower.summary["state_digest"] == local.summary["state_digest"]
    assert flower.summary["model_sha256"] == local.summary["model_sha256"]


ALSO: dict[str, dict[str, Any]] = {
    "nothing else": {},
    "a server-side rule": {"aggregation__rule": "adam", "aggregation__rate": 0.01},
    "cores": {"decomposition__form": "core"},
    "refreshes": {"decomposition__refresh_every": 2},
}
"""What has state of its own, which those that were not asked have to replay."""


@pytest.mark.parametrize("what", ALSO)
def test_encryption_changes_no_bit(what: str, tmp_path: Path) -> None:
    worlds = [
        World.found(make(**SEVEN, **ALSO[what]), tmp_path / name)
        for name, make in (("plain", tiny), ("sealed", encrypted))
    ]
    for world in worlds:
        world.run()
        world.close()
    assert worlds[0].digest() == worlds[1].digest()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "more than take part": ({"federation__sample": 8}, "only 7 take part"),
    "fewer than a sum must hold": ({"federation__sample": 4, "federation__min_participants": 5}, "a sum must hold 5"),
    "more than a sum may hold": ({"federation__sample": 5, "federation__max_participants": 4}, "a sum holds 4 at most"),
    "masks": ({"defences__masks": True}, "defences.masks lays masks between members"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_by_name(what: str) -> None:
    changes, reason = REFUSED[what]
    with pytest.raises(ConfigError, match=f"federation.sample is .*{reason}"):
        encrypted(**(SEVEN | changes))


def test_a_run_is_not_resumed_with_another_sample(tmp_path: Path) -> None:
    simulate(tiny(**(SEVEN | {"federation__rounds": 1})), tmp_path / "run", engine="local")
    with pytest.raises(ConfigError, match="another configuration"):
        simulate(tiny(**(SEVEN | {"federation__sample": 4})), tmp_path / "run", engine="local", resume=True)


def federation_id(config: FederationConfig, folder: Path) -> bytes:
    return found(config, folder).genesis.federation


def test_the_federation_id_covers_the_sample_and_is_as_before_without(tmp_path: Path) -> None:
    ids = [
        federation_id(tiny(federation__participants=7, federation__max_participants=7, federation__sample=sample), tmp_path / str(sample))
        for sample in (0, 3, 4)
    ]  # fmt: skip
    assert len(set(ids)) == 3
    for sample, known in zip((0, 3, 4), ids, strict=True):
        assert audited_id(tmp_path / str(sample) / "institutions" / "institution-000") == known
    # As a release without this setting wrote it.
    home = tmp_path / "0" / "institutions" / "institution-000"
    document = json.loads((home / "genesis.json").read_bytes())
    assert document["config"]["federation"].pop("sample") == 0
    (home / "genesis.json").write_text(json.dumps(document))
    assert audited_id(home) == ids[0] == Genesis.load(home).federation


def test_integrity_and_selection_hold_in_samples(tmp_path: Path) -> None:
    config = encrypted(**SEVEN, defences__integrity=True, selection__patience=50)
    world = World.found(config, tmp_path / "world")
    world.run()
    world.digest()
    world.close()
