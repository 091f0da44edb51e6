"""Narrowing by gates in a federation: encrypted and not it is one state and one cut, and without the section nothing changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dictpfl.client.compress.narrow.federating import gated_axes, kept_units
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.train import Trained
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import BundleError, ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.layout import Kind
from dictpfl.common.law.order import stopped
from dictpfl.deploy.audit.replay.identity import federation_id
from dictpfl.deploy.ceremony.verifying import require_follows
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import ROOT
from tests.support.federations import encrypted, tiny
from tests.support.harness import INSTITUTION_POINTS, World

NARROW: dict[str, Any] = {
    "narrow__axes": ["ffn"],
    "narrow__keep": 4,
    "narrow__classes": [0, 2, 4],
    "training__steps": 3,
    "federation__rounds": 3,
}


def played(config: FederationConfig, folder: Path) -> tuple[Run, Finished]:
    run = simulate(config, folder, engine="local")
    return run, Finished.load(folder)


def kept(finished: Finished) -> dict[str, list[int]]:
    axes = gated_axes(finished.merged(), finished.genesis.config.narrow)
    return {name: units.tolist() for name, units in kept_units(finished.genesis, finished.state.values, axes).items()}


def test_one_state_and_one_cut(tmp_path: Path) -> None:
    sealed, opened = played(encrypted(**NARROW), tmp_path / "ckks"), played(tiny(**NARROW), tmp_path / "identity")
    assert sealed[0].summary["state_digest"] == opened[0].summary["state_digest"]
    assert kept(sealed[1]) == kept(opened[1])
    genesis, state = sealed[1].genesis, sealed[1].state
    gates = state.values[genesis.layout.coordinates(Kind.GATE)]
    assert gates.shape == (16,)
    assert np.abs(gates - 1.0).max() > 1e-3  # they were trained
    assert not genesis.law.prunable[genesis.layout.coordinates(Kind.GATE)].any()
    assert genesis.gates.keys() == {"3.weight"}
    home = tmp_path / "ckks" / "institutions" / "institution-000"
    assert federation_id(home) == genesis.federation == Genesis.load(home).federation
    require_follows(genesis, (home / "weights.safetensors").read_bytes())


def test_the_experiment_as_committed_is_one_state_and_one_cut(tmp_path: Path) -> None:
    path, clear = ROOT / "experiments" / "narrow_digits.toml", {"encryption.sealer": "identity", "toy_insecure": True}
    sealed, opened = (
        played(FederationConfig.load(path, changes), tmp_path / name)
        for name, changes in (("ckks", {}), ("identity", clear))
    )
    assert sealed[1].genesis.config.encryption.sealer == "ckks"
    assert sealed[1].state.updates == sealed[1].genesis.config.federation.rounds == 20
    assert sealed[0].summary["state_digest"] == opened[0].summary["state_digest"]
    assert kept(sealed[1]) == kept(opened[1])
    assert [len(units) for units in kept(sealed[1]).values()] == [48, 48]


BETWEEN: dict[str, dict[str, Any]] = {
    # No accuracy grows by 2, so that the second measurement is the last.
    "stopped early": {"selection__patience": 1, "selection__min_delta": 2.0, "federation__rounds": 6},
    "refreshes": {"decomposition__refresh_every": 1, "training__learning_rate": 0.02},
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_comes_between_rounds_of_gates(tmp_path: Path, name: str) -> None:
    changes = NARROW | BETWEEN[name]
    sealed, opened = played(encrypted(**changes), tmp_path / "ckks"), played(tiny(**changes), tmp_path / "identity")
    assert sealed[0].summary["state_digest"] == opened[0].summary["state_digest"]
    assert kept(sealed[1]) == kept(opened[1])
    finished = opened[1]
    genesis, state = finished.genesis, finished.state
    if name == "refreshes":
        assert state.updates == 3
        assert len(state.records) >= 2
    else:
        assert stopped(genesis.law, state)
        assert 1 <= state.updates < 6
        best = Finished.load(tmp_path / "identity", "best")
        assert {axis: len(units) for axis, units in kept(best).items()} == dict.fromkeys(kept(finished), 4)
    gates = state.values[genesis.layout.coordinates(Kind.GATE)]
    assert np.abs(gates - 1.0).max() > 1e-3  # they went on
    # What is exported answers as what was trained: gates stand before a weight that was rebased under them.
    bench, x = finished.bench(), torch.from_numpy(Samples.load(tmp_path / "identity" / "test.npz").features[:20])
    gated = bench.twin_at(state, bench.local_state()).module.eval()
    with torch.no_grad():
        assert torch.allclose(gated(x), finished.merged()(x), atol=1e-5)


def test_an_institution_without_the_skill_takes_part_with_weight_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []

    def moved(twin: Twin, samples: Samples, *_: Any, **__: Any) -> Trained:
        asked.append(set(samples.labels.tolist()))
        twin.load(twin.read() + 2.0**-5)
        return Trained(len(samples), 0.0)

    def emptied(founded: Any) -> None:
        samples = Samples.load(founded.home(1) / TRAIN)
        samples.take(np.flatnonzero(samples.labels % 2 == 1)).save(founded.home(1) / TRAIN)

    monkeypatch.setattr("dictpfl.client.uploading.train", moved)
    config = tiny(**{**NARROW, "federation__rounds": 1}, federation__sample_cap=64)
    run = simulate(config, tmp_path / "run", engine="local", on_founded=emptied)
    finished = Finished.load(run.folder)
    assert [record.contributors for record in run.records if record.kind == "update"] == [3]
    assert len(asked) == 2  # the third has nothing to train on
    lines = [
        line
        for home in (run.folder / "institutions").iterdir()
        for line in (home / "diary.jsonl").read_text().splitlines()
    ]
    sizes = [note["bytes"] for note in map(json.loads, lines) if note["event"] == "uploaded" and note["round"] == 0]
    assert len(sizes) == 3
    assert len(set(sizes)) == 1  # its upload is as long as the others'
    assert set.union(*asked) == {0, 2, 4}
    change = finished.state.values - finished.genesis.values
    # A weight of its own for the one that adds nothing would have made the mean two thirds of this.
    assert np.abs(change - 2.0**-5).max() < 2.0**-9


def test_an_institution_without_the_skill_is_in_every_tally(tmp_path: Path) -> None:
    """Who refused one for want of samples would tell everybody that it has none."""
    tallies: dict[str, Any] = {
        "tallies__opening": ["classes", "importance", "layerif", "numbers"],
        "tallies__options": {"numbers": {"samples": True}},
    }
    world = World.found(tiny(**{**NARROW, "federation__rounds": 1}, **tallies), tmp_path / "world")
    samples = Samples.load(world.home(1) / TRAIN)
    samples.take(np.flatnonzero(samples.labels % 2 == 1)).save(world.home(1) / TRAIN)
    world.run()
    journal = world.coordinator._journal
    assert {len(senders.senders) for senders in journal.rounds()} == {3}
    assert not any(closed.rejected for closed in journal.rounds())
    assert not world.events(1, "failed")
    world.digest()
    world.close()


def test_only_samples_of_the_skill_are_measured(tmp_path: Path) -> None:
    run = simulate(tiny(**NARROW), tmp_path / "run", engine="local")
    assert set(Samples.load(run.folder / "test.npz").labels.tolist()) <= {0, 2, 4}


def test_switched_off_it_is_no_part_of_the_federation(tmp_path: Path) -> None:
    _, finished = played(tiny(federation__rounds=1), tmp_path / "run")
    assert finished.genesis.gates == {}
    written = finished.genesis.config.model_copy(update={"narrow": FederationConfig().narrow})
    assert written == finished.genesis.config
    assert Kind.GATE not in {entry.kind for entry in finished.genesis.layout.entries}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"narrow__penalty": 0.5}, "narrow.axes is empty"),
        ({"narrow__axes": ["ffn"], "privacy__mechanism": "institution", "privacy__noise_multiplier": 1.0}, "privacy"),
        ({"narrow__axes": ["ffn"], "narrow__keep": 0}, "narrow.keep"),
        ({"narrow__axes": ["ffn"], "narrow__keep": 2.9}, "narrow.keep is 2.9; expected a share"),
    ],
)
def test_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        tiny(**changes)


def test_a_model_without_axes_is_refused_before_round_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        simulate(tiny(narrow__axes=["ffn"], model__source="cnn", model__options={}), tmp_path / "run", engine="local")


def test_norms_that_do_not_follow_from_w0_are_refused(tmp_path: Path) -> None:
    _, finished = played(tiny(**{**NARROW, "federation__rounds": 1}), tmp_path / "run")
    genesis = finished.genesis
    planted = replace(genesis, gates={name: norms * np.float32(1.001) for name, norms in genesis.gates.items()})
    with pytest.raises(BundleError, match="norms behind gates"):
        require_follows(planted, finished.weights.read_bytes())


def test_who_was_killed_and_who_came_late_keep_the_same_units(tmp_path: Path) -> None:
    """Five institutions: undisturbed, and with one killed while it trains (again and again) and one that joins two rounds late; refreshed between."""
    changes = {**NARROW, "federation__rounds": 4, "decomposition__refresh_every": 2}
    config = tiny(**changes, federation__participants=5)
    calm = World.found(config, tmp_path / "calm")
    stormy = calm.copy(tmp_path / "stormy")
    late = calm.copy(tmp_path / "late")
    calm.run()
    for point in ("before training", "replying", "after training"):
        stormy.exchange({1: INSTITUTION_POINTS[point]})
        stormy.exchange()
    stormy.run()
    for _ in range(2):
        late.exchange(offline=[4])
    late.run()
    for world in (calm, stormy, late):
        assert len(set(world.digests())) == 1, "all institutions hold one state"
        axes = gated_axes(world.institution(0)._bench.merged(world.record(0).shared), config.narrow)
        cuts = {
            tuple(units.tolist())
            for node in world.nodes
            for units in kept_units(world.genesis, world.record(node).shared.values, axes).values()
        }
        assert len(cuts) == 1
        world.close()
