"""Institutions that train in other arithmetic than each other hold the same shared state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.institution import Institution
from dictpfl.common.errors import ConfigError
from tests.support.federations import encrypted, tiny
from tests.support.harness import World


def own(world: World, autocast: dict[int, str]) -> World:
    for node, name in autocast.items():
        home = world.home(node)
        InstitutionSettings.load(home).model_copy(update={"autocast": name}).save(home)
    return world


def test_other_arithmetic_changes_an_update_and_no_shared_bit(tmp_path: Path) -> None:
    config = encrypted(
        federation__rounds=2, training__optimizer="sgd", training__learning_rate=0.5, training__steps=5,
        training__frozen="narrow", training__autocast="auto",
    )  # fmt: skip
    alike, mixed = World.found(config, tmp_path / "alike"), World.found(config, tmp_path / "mixed")
    own(mixed, {1: "bfloat16", 2: "none"}).run()
    alike.run()
    assert mixed.genesis.federation == alike.genesis.federation
    assert len(set(mixed.digests())) == 1, "shared state follows from opened sums alone"
    assert mixed.digest() != alike.digest(), "arithmetic made no difference, so nothing was tested"
    named = [
        {
            line["device"]
            for line in map(json.loads, (mixed.home(n) / "diary.jsonl").read_text().splitlines())
            if "device" in line
        }
        for n in mixed.nodes
    ]
    assert named == [{"cpu, float32"}, {"cpu, bfloat16"}, {"cpu, float32"}]


def test_arithmetic_that_hides_single_samples_is_refused(tmp_path: Path) -> None:
    config = tiny(privacy__mechanism="example", privacy__noise_multiplier=1.0)
    world = own(World.found(config, tmp_path), {0: "bfloat16"})
    with pytest.raises(ConfigError, match="gradients of single samples"):
        Institution(world.home(0))


def test_an_institution_may_hold_frozen_weights_in_few_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantised` is not installed")
    config = encrypted(federation__rounds=2, training__optimizer="sgd", training__learning_rate=0.5, training__steps=5)
    alike, mixed = World.found(config, tmp_path / "alike"), World.found(config, tmp_path / "mixed")
    for node, form in {1: "4bit", 2: "8bit"}.items():
        home = mixed.home(node)
        InstitutionSettings.load(home).model_copy(update={"frozen": form}).save(home)
        assert InstitutionSettings.load(home).frozen == form
    mixed.run()
    alike.run()
    assert mixed.genesis.federation == alike.genesis.federation
    assert len(set(mixed.digests())) == 1, "shared state follows from opened sums alone"
    assert mixed.digest() != alike.digest(), "bits made no difference, so nothing was tested"


def test_few_bits_are_refused_where_they_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.found(tiny(training__compile=True), tmp_path)
    home = world.home(0)
    InstitutionSettings.load(home).model_copy(update={"frozen": "8bit"}).save(home)
    with pytest.raises(ConfigError, match=r"torch\.compile cannot look into weights of few bits"):
        Institution(home)
    monkeypatch.setattr("dictpfl.common.config.models.find_spec", lambda _: None)
    plain = World.found(tiny(), tmp_path / "plain").home(0)
    InstitutionSettings.load(plain).model_copy(update={"frozen": "8bit"}).save(plain)
    with pytest.raises(ConfigError, match=r"pip install 'dictpfl\[quantised\]'"):
        Institution(plain)
