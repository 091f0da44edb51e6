"""Differential privacy in whole federations: what is paid and when, what a ledger tells, and that all stay in step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.shown import summed
from tests.support.federations import encrypted, tiny
from tests.support.harness import World, dies_after, dies_before

pytest.importorskip("opacus", reason="the extra `dp` is not installed")

import dictpfl.client.institution
import dictpfl.client.privacy.dpsgd
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.privacy.accounting import Release, Spending
from dictpfl.client.privacy.dpsgd import Sampling
from dictpfl.client.privacy.guard import account_of, spent
from dictpfl.client.replay import replay
from dictpfl.common.ckks.opening import opener_for
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.messages.protocol import Aggregate, RoundKind, Status
from dictpfl.deploy.simulation.founding import found
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT

pytestmark = pytest.mark.usefixtures("quiet")
EXAMPLE = {"privacy__mechanism": "example", "privacy__noise_multiplier": 1.0, "training__batch_size": 8}
INSTITUTION = {"privacy__mechanism": "institution", "privacy__noise_multiplier": 2.0}


def account(world: World, node: int) -> Spending:
    return Spending.load(account_of(world.memory(node).path))


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.found(tiny(**EXAMPLE, training__steps=3), tmp_path_factory.mktemp("example") / "world")


@pytest.fixture
def world(founded: World, tmp_path: Path) -> Iterator[World]:
    made = founded.copy(tmp_path / "world")
    yield made
    made.close()


def test_each_institution_pays_for_each_round_and_says_so(world: World) -> None:
    world.run()
    assert len(set(world.digests())) == 1
    for node in world.nodes:
        count = len(world.institution(node)._uploads.own)
        sampling = Sampling.of(count, world.genesis.config.training)
        release = Release(1.0, sampling.rate, 3 * 4)
        assert account(world, node) == Spending((release,), 3)
        found = spent(world.genesis.config, world.memory(node).path)
        assert found is not None
        assert found["epsilon"] == Spending((release,)).epsilon(1e-5)
        assert found["steps"] == 12


def test_losses_and_figures_stay_at_home(world: World) -> None:
    world.run()
    opener, state = opener_for(world.genesis.parameters, None), world.genesis.start()
    for _, aggregate in world.journal():
        done = replay(world.genesis, opener, state, aggregate)
        assert done.ledger is not None
        state, ledger = done.state, done.ledger
        assert (ledger.measured, ledger.loss, ledger.metric, ledger.train_loss) == (0, 0.0, 0.0, 0.0)
        assert ledger.samples > 0
    assert world.record(0).shared.course.best is None
    diary = [json.loads(line) for line in (world.home(0) / "diary.jsonl").read_text().splitlines()]
    assert any("metric" in line for line in diary), "the institution's own diary has its own"


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_round_that_is_interrupted_has_been_paid_for(world: World, point: str) -> None:
    dies = dies_before if point == "before" else dies_after
    world.exchange({1: lambda: dies(dictpfl.client.privacy.dpsgd, "sampled")})
    assert account(world, 1).last == 0
    assert account(world, 1).releases[0].steps == 3
    world.run()
    assert account(world, 1).releases[0].steps == 3 * (4 + 1)
    assert account(world, 0).releases[0].steps == 3 * 4


def test_the_same_reply_again_costs_nothing(world: World) -> None:
    world.exchange(lost=[1])
    world.kill_institution(1)
    before = account(world, 1)
    world.exchange()
    assert before.releases[0].steps == 3
    assert account(world, 1).releases[0].steps == 3 + 3 * (world.record(1).shared.round > 0)


def test_a_round_of_measuring_costs_nothing(world: World) -> None:
    world.run()
    assert account(world, 0).releases[0].steps == 12
    kinds = [kind for kind, _ in world.journal()]
    assert kinds.count(RoundKind.UPDATE) == 4


def test_kinds_asked_by_turns_spend_nothing_more(world: World) -> None:
    """A coordinator that asks for an update, a measurement and an update: a second one would be paid for, and neither delivered."""
    requests = world.coordinator.begin(world.nodes)
    asked = {kind: replace(requests[1], kind=kind) for kind in (RoundKind.UPDATE, RoundKind.MEASURE)}
    assert world.institution(1).handle(asked[RoundKind.UPDATE]).status is Status.UPLOAD
    paid = account(world, 1)
    measured = world.institution(1).handle(asked[RoundKind.MEASURE])
    assert measured.status is Status.UPLOAD
    for _ in range(2):
        reply = world.institution(1).handle(asked[RoundKind.UPDATE])
        assert (reply.status, reply.code) == (Status.REFUSED, "round")
        assert account(world, 1) == paid
        world.kill_institution(1)
    assert world.institution(1).handle(asked[RoundKind.MEASURE]) == measured, "what waits is sent again"
    blobs = {n: world.institution(n).handle(replace(r, kind=RoundKind.MEASURE)).blob for n, r in requests.items()}
    total = Aggregate(0, summed(world, 0, blobs, RoundKind.MEASURE))
    reply = world.institution(1).handle(replace(asked[RoundKind.UPDATE], round=1, aggregates=(total,)))
    assert reply.status is Status.UPLOAD, "the next round is another one"
    assert account(world, 1).releases[0].steps == 2 * paid.releases[0].steps


def test_an_old_account_is_charged_for_what_sums_hold(world: World) -> None:
    world.exchange()
    path = account_of(world.memory(1).path)
    old = path.read_bytes()
    world.exchange()
    path.write_bytes(old)  # as a backup would, before the sum of round 1 is opened
    assert account(world, 1).last == 0
    world.exchange()
    assert account(world, 1).last == 2
    assert account(world, 1).releases[0].steps == 9


def test_a_restored_institution_is_charged_for_sums_that_a_snapshot_skips(tmp_path: Path) -> None:
    """Memory and account are of the same old backup, and the coordinator has not kept the sums since, but who is in them."""
    world = World.found(tiny(**INSTITUTION, federation__participants=4), tmp_path / "world")
    agreed = world.coordinator_folder / AGREEMENT
    replace(Agreement.load(agreed), snapshots_kept=1, snapshot_every=1).save(agreed)
    world.exchange()
    shutil.copytree(world.home(1), tmp_path / "backup")
    world.exchange()
    world.exchange()
    world.kill_institution(1)
    shutil.rmtree(world.home(1))
    shutil.copytree(tmp_path / "backup", world.home(1))
    assert account(world, 1).releases[0].steps == 1
    world.exchange()
    assert [number for _, number in world.events(1, "jumped")] == [2], "or this shows nothing"
    assert account(world, 1).releases[0].steps == account(world, 0).releases[0].steps == 4
    world.close()


def test_a_limit_holds(tmp_path: Path) -> None:
    """With noise for exactly four rounds, a fifth upload is one too many, and refused under a name of its own."""
    config = tiny(privacy__mechanism="example", privacy__epsilon=4.0, training__batch_size=8, training__steps=3)
    world = World.found(config, tmp_path / "world")
    world.exchange({1: lambda: dies_before(dictpfl.client.privacy.dpsgd, "sampled")})
    for _ in range(3):
        world.exchange()
    replies = world.exchange()
    assert replies[1].status is Status.REFUSED
    assert replies[1].code == "privacy"
    assert 3.5 < account(world, 1).epsilon(1e-5) <= 4.0
    world.close()


def test_whole_institutions(tmp_path: Path) -> None:
    world = World.found(encrypted(**INSTITUTION), tmp_path / "world")
    world.run()
    assert len(set(world.digests())) == 1
    noise = world.genesis.law.noise
    assert noise is not None
    assert noise.honest == 2
    for node in world.nodes:
        (release,) = account(world, node).releases
        assert (release.noise, release.steps, release.rate) == (2.0, 4, 1.0)
        assert release.l2 == noise.sensitivity
    assert (world.record(0).shared.ranges == world.genesis.start().ranges).all()
    world.close()


def test_no_generator_is_kept_for_forks_to_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are forks of one process: whatever state it kept would make the same noise in each round."""
    world = World.found(tiny(**INSTITUTION), tmp_path / "world")
    draw = world.institution(0)._guard.draw
    assert draw is not None
    assert (draw(100) != draw(100)).any()
    monkeypatch.setattr("dictpfl.client.privacy.chance.secrets.randbits", lambda _bits: 7)
    assert (draw(100) == draw(100)).all(), "the operating system is asked anew each time"
    world.close()


def test_noise_for_an_epsilon_is_agreed_on_at_genesis(tmp_path: Path) -> None:
    config = tiny(privacy__mechanism="institution", privacy__epsilon=8.0)
    run = simulate(config, tmp_path / "run", engine="local")
    assert 7.9 < run.summary["privacy"]["epsilon"] <= 8.0
    assert run.config.privacy.noise_multiplier > 0.0
    assert run.summary["best"] is None
    assert f"{run.summary['privacy']['epsilon']:.2f}" in (tmp_path / "run" / "report.html").read_text()
    again = simulate(config, tmp_path / "run", engine="local", resume=True)
    assert again.summary["state_digest"] == run.summary["state_digest"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"privacy__noise_multiplier": 0.0}, "how much noise"),
        ({"training__clip_norm": 1.0}, "clip_norm"),
        ({"training__autocast": "bfloat16"}, "single samples"),
        ({"training__frozen": "4bit"}, "does not use"),
        ({"training__tf32": True}, "does not use"),
        ({"selection__patience": 3}, "patience"),
        ({"encryption__sealed_share": 0.5}, "sealed_share"),
        ({"privacy__mechanism": "institution", "privacy__curious": 3}, "curious"),
        ({"privacy__mechanism": "institution", "encryption__sealed_share": 0.0}, "sealed_share"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        tiny(**(EXAMPLE | changes))


def test_an_institution_cannot_have_its_own_bits_beside_single_samples() -> None:
    with pytest.raises(ConfigError, match=r"here/institution.toml: frozen is '4bit'.*single samples"):
        InstitutionSettings(name="berlin", frozen="4bit").own_training(tiny(**EXAMPLE), Path("here/institution.toml"))


@pytest.mark.parametrize("mechanism", ["example", "institution"])
def test_a_model_that_cannot_be_private_is_refused_before_round_one(mechanism: str, tmp_path: Path) -> None:
    config = tiny(
        **{**EXAMPLE, "privacy__mechanism": mechanism, "model__source": "cnn", "model__options": {"width": 4}}
    )
    with pytest.raises(ModelError, match="GroupNorm"):
        found(config, tmp_path / "run")


def test_without_privacy_nothing_changes_and_no_account_is_kept(tmp_path: Path) -> None:
    world = World.found(tiny(), tmp_path / "world")
    world.exchange()
    assert not account_of(world.memory(0).path).exists()
    assert spent(FederationConfig(), world.memory(0).path) is None
    world.close()
