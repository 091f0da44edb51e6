"""Tallies in whole federations: exact sums, through kills, voids, lost journals, latecomers; and nothing where nobody agreed on one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import dictpfl.client.uploading
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import KEY, TRAIN
from dictpfl.client.memory.snapshots import SLACK, seal_snapshot, snapshot_bytes
from dictpfl.client.replay import replay
from dictpfl.client.training.tally import Form, Own, Subject
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.ckks.opening import CKKSOpener, IdentityOpener
from dictpfl.common.errors import DataError, RoundError
from dictpfl.common.genesis import components
from dictpfl.common.law.round import begin
from dictpfl.common.law.tags import TAGS
from dictpfl.common.law.tally import Tally
from dictpfl.common.law.tallying import tallied as unpacked
from dictpfl.common.messages.protocol import Aggregate, Request, RoundKind, Status
from dictpfl.common.messages.wire import Blob
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.simulation.local import run_local
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.server.coordinator import AGREEMENT, Coordinator
from dictpfl.server.exchanges.exchange import CoordinatorState
from dictpfl.server.journal import Journal
from dictpfl.server.rows import ClosedRound
from tests.support.federations import encrypted, tiny
from tests.support.harness import (
    COORDINATOR_POINTS,
    INSTITUTION_POINTS,
    Killed,
    World,
    dies_after,
    dies_before,
    statement,
)
from tests.system.test_refused_sums import altered

pytestmark = pytest.mark.usefixtures("quiet")
SCORE, UPDATE, MEASURE = RoundKind.SCORE, RoundKind.UPDATE, RoundKind.MEASURE
WHOLE = [SCORE, SCORE, UPDATE, UPDATE, SCORE, MEASURE]
NORMS = f"{__name__}:Norms"
FAILING: set[str] = set()
"""Folders of institutions whose source raises, or has nothing to say."""


class Norms:
    """Mean of each feature's square, normalised by the institution itself, of the shared model's outputs."""

    def __init__(self, silent: str = "") -> None:
        self._silent = silent

    def form(self, subject: Subject) -> Form:
        return Form([("outputs", (subject.outputs,)), ("first", (1,))], 2, 20)

    def local(self, subject: Subject, own: Own, tally: Tally) -> np.ndarray | None:
        if own.folder.name in FAILING:
            raise DataError("a folder whose source fails")
        if own.folder.name == self._silent:
            return None
        counts = np.bincount(own.training.labels, minlength=subject.outputs) / len(own.training)
        return np.append(counts, float(subject.twin.read()[0]))


def tallied(**changes: Any) -> dict[str, Any]:
    said = {"tallies__opening": ["classes", NORMS], "tallies__closing": [NORMS], "federation__rounds": 2}
    return {**said, **changes}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    folder = tmp_path_factory.mktemp("templates")
    defended = {"defences__masks": True, "defences__integrity": True}
    return {
        "plain": World.found(tiny(**tallied()), folder / "plain"),
        "ckks": World.found(encrypted(**tallied()), folder / "ckks"),
        "defended": World.found(encrypted(**tallied(**defended)), folder / "defended"),
        "four": World.found(tiny(**tallied(federation__participants=4)), folder / "four"),
    }


@pytest.fixture(scope="module")
def undisturbed(templates: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    world = templates["plain"].copy(tmp_path_factory.mktemp("undisturbed") / "world")
    world.run()
    assert [kind for kind, _ in world.journal()] == WHOLE
    digest = world.digest()
    world.close()
    return digest


@pytest.fixture(autouse=True)
def nobody_fails() -> Iterator[None]:
    FAILING.clear()
    yield
    FAILING.clear()


def copy(templates: dict[str, World], name: str, folder: Path) -> World:
    return templates[name].copy(folder / "world")


def kinds(world: World) -> list[RoundKind]:
    return list(world.coordinator._journal.kinds())


def until(world: World, closed: int) -> None:
    """Exchange until so many rounds have their sum."""
    while len(world.journal()) < closed:
        world.exchange()


def lose_journal(world: World) -> None:
    world.close()
    fresh = world.folder / f"coordinator-new-{world.exchanges}"
    fresh.mkdir(mode=0o700)
    shutil.copy(world.coordinator_folder / AGREEMENT, fresh / AGREEMENT)
    world.coordinator_folder = fresh


def once(world: World) -> None:
    """Each tally is there once, and no upload is counted twice."""
    for state in world.states():
        assert [(one.name, one.when) for one in state.tallies] == [
            ("classes", "opening"), (NORMS, "opening"), (NORMS, "closing"),
        ]  # fmt: skip
    uploads = [upload for _, aggregate in world.journal() for upload in aggregate.counted]
    assert len(uploads) == len(set(uploads))


# what is learnt


@pytest.mark.parametrize("name", ["plain", "ckks", "defended"])
def test_sums_are_those_of_the_pooled_data(
    name: str, templates: dict[str, World], undisturbed: bytes, tmp_path: Path
) -> None:
    world = copy(templates, name, tmp_path)
    world.run()
    labels = np.concatenate([Samples.load(world.home(node) / TRAIN).labels for node in world.nodes])
    counts = np.bincount(labels, minlength=10)
    first, second, last = world.states()[0].tallies
    assert first.sums.tolist() == [*counts.tolist(), len(labels), 0]
    assert (first.participants, first.samples, second.samples) == (3, len(labels), len(labels))
    cap = world.genesis.sample_cap
    rows = [Samples.load(world.home(node) / TRAIN).labels for node in world.nodes]
    expected = sum(
        np.rint(np.ldexp((len(row) / cap) * (np.bincount(row, minlength=10) / len(row)), 20)).astype(np.int64)
        for row in rows
    )
    assert second.sums[:10].tolist() == expected.tolist()
    assert last.sums[:10].tolist() == expected.tolist()
    assert last.sums[10] != second.sums[10], "the closing one is of the final model"
    final = world.states()[0].values[0]
    assert last.sums[10] == sum(round(float(np.ldexp(len(row) / cap * final, 20))) for row in rows)
    assert world.digest() == undisturbed, "encrypted or not, defended or not"
    once(world)
    world.close()


def test_a_federation_without_tallies_has_none(tmp_path: Path) -> None:
    world = World.found(tiny(federation__rounds=1), tmp_path / "world")
    world.run()
    assert kinds(world) == [UPDATE, MEASURE]
    assert {state.tallies for state in world.states()} == {()}
    said = json.loads((world.home(0) / "genesis.json").read_bytes())
    assert "tallies" not in said
    assert said["config"]["tallies"] == {"opening": [], "closing": [], "options": {}}
    world.close()


def test_who_has_nothing_to_say_is_counted_and_adds_nothing(tmp_path: Path) -> None:
    options = {NORMS: {"silent": "institution-001"}}
    world = World.found(tiny(**tallied(tallies__options=options)), tmp_path / "world")
    world.run()
    opening = world.states()[0].tallied(NORMS, "opening")
    assert opening.participants == 3
    rows = [Samples.load(world.home(node) / TRAIN).labels for node in (0, 2)]
    assert opening.sums[:10].sum() == pytest.approx(2**20 * sum(map(len, rows)) / world.genesis.sample_cap, abs=20)
    world.close()


def test_sizes_tell_nothing_of_the_data(templates: dict[str, World], tmp_path: Path) -> None:
    """Other samples, another number of them, an institution with nothing to say: the same words."""
    sizes = []
    options = {"tallies__options": {NORMS: {"silent": "institution-001"}}}
    for number, changes in enumerate(({}, {"data__limit": 90, "seed": 5}, options)):
        world = World.found(encrypted(**tallied(**changes)), tmp_path / str(number))
        world.run()
        words = [
            Blob.own(aggregate.blob, world.genesis.parameters.word_bits).header.words
            for kind, aggregate in world.journal()
            if kind is SCORE
        ]
        sizes.append(words)
        state, genesis = world.genesis.start(), world.genesis
        assert words[0] == genesis.words(components(genesis, begin(genesis.law, state, SCORE)))
        world.close()
    assert sizes[0] == sizes[1] == sizes[2]


def test_over_flowers_messages(templates: dict[str, World], undisturbed: bytes, tmp_path: Path) -> None:
    world = copy(templates, "ckks", tmp_path)
    run_local(world.coordinator_folder, world.folder / "institutions", 3)
    assert Coordinator.open(world.coordinator_folder).finished
    assert world.digest() == undisturbed


# nothing is lost, nothing is there twice

PHASES = {"opening": 1, "closing": 4}
"""Rounds that were closed before the score round in which everybody dies."""
SCORING = {
    "before scoring": lambda: dies_before(dictpfl.client.uploading, "integers_of"),
    "after scoring": lambda: dies_after(dictpfl.client.uploading, "integers_of"),
    **{name: point for name, point in INSTITUTION_POINTS.items() if "training" not in name},
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("points", [list(SCORING)[n : n + 3] for n in range(0, len(SCORING), 3)], ids="+".join)
def test_every_institution_dies_once(
    phase: str, points: list[str], templates: dict[str, World], undisturbed: bytes, tmp_path: Path
) -> None:
    """In one score round, each at another point, masks and manifests on; none is lost, and none is added twice."""
    world = copy(templates, "defended", tmp_path)
    until(world, PHASES[phase])
    world.exchange({node: SCORING[point] for node, point in enumerate(points)})
    world.run()
    assert world.digest() == undisturbed
    once(world)
    world.close()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("point", COORDINATOR_POINTS)
def test_the_coordinator_dies(
    phase: str, point: str, templates: dict[str, World], undisturbed: bytes, tmp_path: Path
) -> None:
    world = copy(templates, "defended", tmp_path)
    until(world, PHASES[phase])
    world.exchange(closing=statement(world, **COORDINATOR_POINTS[point]))
    world.run()
    assert world.digest() == undisturbed
    once(world)
    world.close()


@pytest.mark.parametrize("at", range(1, 7))
def test_a_lost_journal(at: int, templates: dict[str, World], tmp_path: Path) -> None:
    """The new coordinator asks for closing tallies that are there, and hears that none is due: none is made twice."""
    world = copy(templates, "plain", tmp_path)
    until(world, min(at, 5))
    if at == 6:
        world.run()
    lose_journal(world)
    world.run()
    once(world)
    assert len({state.digest for state in world.states()}) == 1
    assert Coordinator.open(world.coordinator_folder).finished, "a coordinator that is started again knows it"
    world.close()


@pytest.mark.parametrize("phase", [1, 5])
def test_a_journal_that_is_lost_after_a_void_tally(phase: int, templates: dict[str, World], tmp_path: Path) -> None:
    """Nobody who began anew knows that a score round was void: institutions say that scores are due, and train nothing before."""
    world = copy(templates, "defended", tmp_path)
    until(world, phase - 1)
    world.exchange({1: nonsense})
    until(world, phase + 1)
    world.exchange()
    state = world.record(0).shared
    assert (state.void_scores, state.round) == (1, phase + 1)
    lose_journal(world)
    with mock.patch("dictpfl.client.uploading.train", side_effect=Killed) if phase == 1 else nullcontext():
        for _ in range(9):
            world.exchange()
            if len(world.record(0).shared.tallies) == 2:
                break
    world.run()
    once(world)
    assert len({state.digest for state in world.states()}) == 1
    world.close()


@pytest.mark.parametrize("snapshots", [0, 1])
def test_a_latecomer(snapshots: int, tmp_path: Path) -> None:
    """By replay, or from a snapshot in which the tallies are."""
    changes = tallied(federation__participants=4, federation__snapshot_every=snapshots, federation__snapshots_kept=1)
    world = World.found(tiny(**changes), tmp_path / "world")
    agreed = world.coordinator._agreement
    world.close()
    replace(agreed, snapshots_kept=snapshots).save(world.coordinator_folder / AGREEMENT)
    while world.coordinator._journal.next_round < 5:
        world.exchange(offline=[3])
    assert bool(world.coordinator._journal.oldest) == bool(snapshots), "with a snapshot, older sums are gone"
    world.run()
    late = world.record(3).shared
    assert [one.participants for one in late.tallies[:2]] == [3, 3]
    assert ("jumped" in {event for event, _ in world.events(3, "jumped")}) == bool(snapshots)
    world.digest()
    world.close()


def nonsense() -> AbstractContextManager[Any]:
    """This institution's tally is beyond what was agreed on."""
    real = dictpfl.client.uploading.seal_tally

    def beyond(*arguments: Any) -> Any:
        made = real(*arguments)
        return replace(made, components=np.append(made.components[:-1], made.components[-1] + 2**40))

    return mock.patch("dictpfl.client.uploading.seal_tally", beyond)


def test_void_rounds_of_tallies_are_made_up_for(templates: dict[str, World], tmp_path: Path) -> None:
    world = copy(templates, "plain", tmp_path)
    for phase in (1, 5):
        until(world, phase)
        world.exchange({1: nonsense})
    world.run()
    assert kinds(world) == [SCORE, SCORE, SCORE, UPDATE, UPDATE, SCORE, SCORE, MEASURE]
    assert {state.void_scores for state in world.states()} == {2}
    once(world)
    world.close()


def test_no_second_sum_of_a_tally_after_a_void_round(tmp_path: Path) -> None:
    """A coordinator that alters a true sum, and asks again without one institution, has no second sum to take from the first."""
    defended: dict[str, Any] = {"defences__masks": True, "defences__integrity": True, "federation__participants": 4}
    world = World.found(encrypted(tallies__opening=["classes"], federation__rounds=1, **defended), tmp_path / "world")
    sums, bits, real = list[bytes](), world.genesis.parameters.word_bits, Journal.record

    def record(journal: Journal, closed: ClosedRound, aggregate: Aggregate) -> None:
        sums.append(aggregate.blob)
        shown = altered(aggregate.blob, bits) if len(sums) == 1 else aggregate.blob
        real(journal, closed, replace(aggregate, blob=shown))

    with mock.patch.object(Journal, "record", record):
        for _ in range(6):
            world.exchange(offline=[3] if sums else [])
        assert [world.record(node).shared.void_scores for node in (0, 1, 2)] == [1, 1, 1], "it shows at all of them"
        assert len(sums) == 1
        while len(sums) < 2:
            assert world.exchanges < 20, "with the same ones it goes on by itself"
            world.exchange()
    opener, genesis = CKKSOpener(load_key(world.home(0) / KEY)), world.genesis
    plan, found = begin(genesis.law, genesis.start(), SCORE), []
    for blob in (Blob.own(data, bits) for data in sums[:2]):
        words, seeds = blob.words()[:-TAGS], [entry.seed for entry in blob.entries]
        assert plan.tally is not None
        found.append(unpacked(genesis.law, plan, plan.tally, opener.open(words, seeds, components(genesis, plan))))
    assert found[0].tolist() == found[1].tolist()
    world.close()


def test_no_second_sum_of_a_tally_with_another_round_in_between(tmp_path: Path) -> None:
    """After the void round the coordinator measures the model, which it may at any time: the tally is still the same one."""
    defended: dict[str, Any] = {"defences__masks": True, "federation__participants": 4}
    world = World.found(encrypted(tallies__closing=["classes"], federation__rounds=1, **defended), tmp_path / "world")
    sums, bits = list[bytes](), world.genesis.parameters.word_bits
    record, due = Journal.record, CoordinatorState.next_kind

    def altering(journal: Journal, closed: ClosedRound, aggregate: Aggregate) -> None:
        if closed.kind is SCORE:
            sums.append(aggregate.blob)
        is_first = closed.kind is SCORE and len(sums) == 1
        record(journal, closed, replace(aggregate, blob=altered(aggregate.blob, bits)) if is_first else aggregate)

    def between(state: CoordinatorState) -> RoundKind | None:
        return MEASURE if sums and MEASURE not in state.journal.kinds() else due(state)

    with mock.patch.object(Journal, "record", altering), mock.patch.object(CoordinatorState, "next_kind", between):
        while kinds(world) != [UPDATE, SCORE, MEASURE]:
            assert world.exchanges < 15
            world.exchange()
        for _ in range(4):
            world.exchange(offline=[3])
        assert {(state.void_scores, state.round) for state in world.states()[:3]} == {(1, 3)}
        assert len(sums) == 1, "of another three there is no sum"
        while len(sums) < 2:
            assert world.exchanges < 25, "with the same ones it goes on by itself"
            world.exchange()
    world.close()


def test_a_source_that_fails_stops_nobody_else(templates: dict[str, World], tmp_path: Path) -> None:
    """With enough others the round closes without it; with too few, the same tally is asked for again."""
    four = copy(templates, "four", tmp_path / "four")
    FAILING.add("institution-001")
    four.run()
    assert [one.participants for one in four.states()[0].tallies] == [4, 3, 3]
    four.digest()
    four.close()
    three = copy(templates, "plain", tmp_path / "three")
    until(three, 1)
    replies = three.exchange()
    assert (replies[1].status, replies[1].code) == (Status.REFUSED, "data")
    assert kinds(three) == [SCORE]
    FAILING.clear()
    three.run()
    assert kinds(three) == WHOLE
    once(three)
    three.close()


# what nobody agreed on


@pytest.mark.parametrize("closed", [2, 3])
def test_no_tally_is_made_where_none_is_due(closed: int, templates: dict[str, World], tmp_path: Path) -> None:
    """A coordinator that asks for scores between updates gets none, whatever it says of the run."""
    world = copy(templates, "plain", tmp_path)
    until(world, closed)
    asked = world.coordinator.begin(world.nodes)[0]
    with mock.patch("dictpfl.client.uploading.integers_of", side_effect=Killed):
        refused = world.institution(0).handle(replace(asked, kind=SCORE))
    assert (refused.status, refused.code) == (Status.REFUSED, "round")
    world.close()


def test_no_update_after_a_closing_tally(templates: dict[str, World], tmp_path: Path) -> None:
    """Or the tally would be of another model than the final one."""
    world = copy(templates, "plain", tmp_path)
    until(world, 5)
    asked: Request = world.coordinator.begin(world.nodes)[0]
    assert asked.kind is MEASURE
    reply = world.institution(0).handle(replace(asked, kind=UPDATE))
    assert reply.status is Status.FINISHED
    assert world.institution(0).handle(replace(asked, kind=SCORE)).status is Status.FINISHED
    # And were it made: nobody applies it.
    state, genesis = world.record(0).shared, world.genesis
    (_, update) = world.journal()[3]
    header = Blob.own(update.blob, genesis.parameters.word_bits).header
    with pytest.raises(RoundError, match="aggregates go in order"):
        replay(genesis, IdentityOpener(genesis.parameters), state, update)
    with (
        mock.patch("dictpfl.client.replay.read_header", return_value=replace(header, round=state.round)),
        pytest.raises(RoundError, match="carries an update after all institutions agreed to stop"),
    ):
        replay(genesis, IdentityOpener(genesis.parameters), state, update)
    world.close()


def test_closing_tallies_follow_an_early_stop(tmp_path: Path) -> None:
    changes = tallied(selection__patience=1, selection__min_delta=2.0, federation__rounds=6)
    world = World.found(tiny(**changes), tmp_path / "world")
    world.run()
    assert kinds(world) == [SCORE, SCORE, UPDATE, UPDATE, SCORE, MEASURE]
    once(world)
    world.close()


def test_a_run_that_ends_early_leaves_closing_tallies_to_the_next(templates: dict[str, World], tmp_path: Path) -> None:
    """`dictpfl run --drain`, or a rotation in the middle: the model is not final, and institutions would refuse."""
    world = copy(templates, "plain", tmp_path)
    agreed = world.coordinator._agreement
    world.close()
    replace(agreed, rounds=1).save(world.coordinator_folder / AGREEMENT)
    world.run()
    assert kinds(world) == [SCORE, SCORE, UPDATE, MEASURE]
    world.close()
    agreed.save(world.coordinator_folder / AGREEMENT)
    world.run()
    assert kinds(world) == [SCORE, SCORE, UPDATE, MEASURE, UPDATE, SCORE, MEASURE]
    once(world)
    world.close()


def test_more_rounds_than_agreed(templates: dict[str, World], tmp_path: Path) -> None:
    """Tallies close after the last update of the run; once they have, institutions make no more."""
    world = copy(templates, "plain", tmp_path)
    agreed = world.coordinator._agreement
    world.close()
    replace(agreed, rounds=3).save(world.coordinator_folder / AGREEMENT)
    world.run()
    assert kinds(world) == [SCORE, SCORE, UPDATE, UPDATE, UPDATE, SCORE, MEASURE]
    world.close()
    replace(agreed, rounds=5).save(world.coordinator_folder / AGREEMENT)
    world.run()
    assert [kind for kind in kinds(world) if kind is not MEASURE] == [SCORE, SCORE, UPDATE, UPDATE, UPDATE, SCORE]
    once(world)
    world.close()


@pytest.mark.slow
def test_the_audit_replays_them(tmp_path: Path) -> None:
    """By its second implementation, from a recorded run under CKKS with masks."""
    made = encrypted(**tallied(defences__masks=True))
    run = simulate(made, tmp_path / "run", engine="local", record=True)
    assert [f"{check.what}: {check.detail}" for check in audited(run.folder) if check.failed] == []


def test_snapshots_are_as_long_as_the_coordinator_is_told(templates: dict[str, World], tmp_path: Path) -> None:
    """It admits no longer one: what tallies may add is in what genesis says."""
    world = copy(templates, "plain", tmp_path)
    world.run()
    whole, _ = snapshot_bytes(world.genesis)
    without, _ = snapshot_bytes(replace(world.genesis, tallies=()))
    sealed = len(seal_snapshot(world.institution(0)._keys, world.record(0).shared))
    assert whole - without >= 8 * sum(tally.layout.size for tally in world.genesis.tallies)
    assert without - SLACK < sealed - 8 * sum(tally.layout.size for tally in world.genesis.tallies)
    assert sealed <= whole
    world.close()
