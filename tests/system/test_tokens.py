"""Fewer tokens in a federation: encrypted and not it is one state, no byte more or less is sent, and without the section nothing changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.model.tokens.install import reduction_of
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.audit.replay.identity import federation_id
from dictpfl.deploy.ceremony.charter import draw_up
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.founding import found, found_again
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.clips import tiny_encoder, write_clips
from tests.support.federations import encrypted, tiny

TOKENS: dict[str, Any] = {
    "model__source": "vit_tiny",
    "model__options": {"dim": 16, "depth": 3, "patch": 1},
    "training__steps": 2,
    "federation__rounds": 2,
}
REDUCED = TOKENS | {"tokens__reducer": "autoprune", "tokens__keep": 0.3}


def test_one_state_and_no_other_bytes(tmp_path: Path) -> None:
    sealed = simulate(encrypted(**REDUCED), tmp_path / "ckks", engine="local").summary
    opened = simulate(tiny(**REDUCED), tmp_path / "identity", engine="local").summary
    whole = simulate(encrypted(**TOKENS), tmp_path / "whole", engine="local").summary
    assert sealed["state_digest"] == opened["state_digest"]
    assert sealed["state_digest"] != whole["state_digest"]
    assert sealed["bytes"] == whole["bytes"]
    home = tmp_path / "ckks" / "institutions" / "institution-000"
    assert federation_id(home) == Genesis.load(home).federation
    home = tmp_path / "whole" / "institutions" / "institution-000"
    assert federation_id(home) == Genesis.load(home).federation
    found = reduction_of(Finished.load(tmp_path / "ckks").merged())
    assert found is not None


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["none", "own"])
def test_both_engines_and_two_runs_give_the_same_bits(adapt: str, tmp_path: Path) -> None:
    """With samples on one curve, and on several: what a batch is split into depends on nothing but its samples."""
    config = tiny(**REDUCED | {"tokens__options": {"adapt": adapt, "gamma": 5.0} if adapt == "own" else {}})
    engines = ("local", "local", "flower")
    runs = [simulate(config, tmp_path / str(n), engine=engine).summary for n, engine in enumerate(engines)]
    assert len({(run["state_digest"], run["model_sha256"]) for run in runs}) == 1


@pytest.mark.parametrize("public_share", [0.0, 0.3])
def test_gamma_is_measured_at_the_founding(public_share: float, tmp_path: Path) -> None:
    """On public samples, or on noise: never on an institution's. The agreement holds the number, and a run resumes with the same file."""
    options = {"adapt": "own", "gamma": "measured"}
    config = tiny(**REDUCED | {"tokens__options": options, "data__public_share": public_share})
    founded = found(config, tmp_path / "founded")
    gamma = founded.genesis.config.tokens.options["gamma"]
    assert 0 < gamma <= 5.0
    assert founded.notes[-1].startswith(f"tokens.options.gamma is {gamma:.4g}, measured on ")
    assert ("noise" in founded.notes[-1]) == (public_share == 0.0)
    again = found_again(config, tmp_path / "founded")
    assert again.genesis.federation == founded.genesis.federation
    other = tiny(**REDUCED | {"tokens__options": options | {"k0": 0.3}, "data__public_share": public_share})
    with pytest.raises(ConfigError, match=r"tokens\.options\.k0"):
        found_again(other, tmp_path / "founded")
    simulate(config, tmp_path / "run", engine="local")
    assert Genesis.load(tmp_path / "run" / "institutions" / "institution-000").config.tokens.options["gamma"] == gamma


def test_an_authority_measures_gamma_on_noise() -> None:
    config = encrypted(
        **REDUCED | {"tokens__options": {"adapt": "own", "gamma": "measured"}, "federation__sample_cap": 4096}
    )
    one, other = (draw_up(config, (1, 8, 8), 10, seed=bytes(32)) for _ in range(2))
    assert 0 < one.genesis.config.tokens.options["gamma"] <= 5.0
    assert one.genesis.config.tokens == other.genesis.config.tokens


def test_a_budget_that_leaves_nothing_is_refused_before_round_1(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leaves less than one of 60 free tokens"):
        simulate(tiny(**REDUCED | {"tokens__keep": 0.01}), tmp_path / "run", engine="local")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens__keep": 0.5}, r"\[tokens\] is set, but tokens.reducer is \"none\""),
        ({"tokens__reducer": "autoprune", "training__compile": True}, "training.compile and gradient_checkpointing"),
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**TOKENS | change)


def test_clips_too(tmp_path: Path) -> None:
    clips: dict[str, Any] = {
        "data__source": "short_events",
        "data__options": {"count": 60, "frames": 5, "side": 3, "classes": 3},
        "model__source": "video",
        "model__options": {"width": 16, "layers": 1, "heads": 2},
        "training__steps": 2,
        "federation__rounds": 2,
    }
    reduced = clips | {"tokens__reducer": "fastvid", "tokens__keep": 0.34}
    sealed = simulate(encrypted(**reduced), tmp_path / "ckks", engine="local").summary
    opened = simulate(tiny(**reduced), tmp_path / "identity", engine="local").summary
    whole = simulate(encrypted(**clips), tmp_path / "whole", engine="local").summary
    assert sealed["state_digest"] == opened["state_digest"] != whole["state_digest"]
    assert sealed["bytes"] == whole["bytes"]


def of_features(tmp_path: Path) -> dict[str, Any]:
    clips, source = write_clips(tmp_path / "clips", each=12), tiny_encoder(tmp_path / "encoder")
    return {
        "data__source": "videofolder",
        "data__path": str(clips),
        "data__options": {"frames": 4, "features": source},
        "model__source": "video",
        "model__options": {"width": 16, "layers": 1, "heads": 2},
        "training__steps": 2,
        "federation__rounds": 2,
    }


def test_features_too(tmp_path: Path) -> None:
    """Encrypted and not it is one state, in memory and by the batch, and the federation is of its encoder."""
    settings = of_features(tmp_path)
    reduced = settings | {"tokens__reducer": "fastvid", "tokens__keep": 0.5}
    sealed = simulate(encrypted(**reduced), tmp_path / "ckks", engine="local").summary
    opened = simulate(tiny(**reduced), tmp_path / "identity", engine="local").summary
    lazily = simulate(tiny(**reduced, data__lazy=True), tmp_path / "lazy", engine="local").summary
    whole = simulate(encrypted(**settings), tmp_path / "whole", engine="local").summary
    assert sealed["state_digest"] == opened["state_digest"] == lazily["state_digest"] != whole["state_digest"]
    assert sealed["bytes"] == whole["bytes"]
    home = tmp_path / "ckks" / "institutions" / "institution-000"
    genesis = Genesis.load(home)
    assert genesis.sample_shape == (4, 5, 9)
    assert len(genesis.config.data.made_by) == 64
    assert federation_id(home) == genesis.federation
    other = settings | {"data__options": {"frames": 4, "features": tiny_encoder(tmp_path / "other", seed=1)}}
    simulate(tiny(**other | {"federation__rounds": 1}), tmp_path / "other-run", engine="local")
    there = Genesis.load(tmp_path / "other-run" / "institutions" / "institution-000")
    assert there.sample_shape == genesis.sample_shape
    assert there.config.data.made_by != genesis.config.data.made_by
    alike = dataclasses.replace(there, config=genesis.config)
    assert alike.federation != dataclasses.replace(there, config=_of(genesis.config, there.config)).federation


def _of(config: FederationConfig, other: FederationConfig) -> FederationConfig:
    """The configuration with another one's encoder and nothing else of it."""
    return config.model_copy(update={"data": other.data})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__source": "cnn", "model__options": {}}, "model.source is 'cnn', which reads images or numbers"),
        ({"model__source": "timm:resnet18"}, "model.source is 'timm:resnet18', which reads images"),
        ({"training__augment": ["flip"]}, "training.augment"),
    ],
)
def test_features_for_models_of_pictures_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**of_features(tmp_path) | change)


def test_images_for_a_model_of_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs clips \(F, C, H, W\) or features of clips, and samples of .*digits"):
        simulate(tiny(model__source="video", model__options={}), tmp_path / "run", engine="local")
