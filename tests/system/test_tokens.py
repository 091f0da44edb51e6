"""Fewer tokens in a federation: encrypted and not it is one state, no byte more or less is sent, and without the section nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.model.tokens.install import reduction_of
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.audit.replay.identity import federation_id
from dictpfl.deploy.ceremony.charter import draw_up
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.founding import found, found_again
from dictpfl.deploy.simulation.simulate import simulate
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
@pytest.mark.flower
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
