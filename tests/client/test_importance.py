"""The tally `importance`: opened, it is the pooled samples' to the last bit, and decides alike for everybody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dictpfl.client.compress.cutting.activations import sums, unit_scores
from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.cutting.choose import choose
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN
from dictpfl.client.model.twin import decompose
from dictpfl.client.tallies.importance import Importance, tallied_axes, totals
from dictpfl.client.training.tally import Own, Subject
from dictpfl.client.training.tasks.causal_lm import CausalLM
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from tests.client.compress.cutting.subjects import model_of
from tests.support.federations import encrypted

pytestmark = pytest.mark.usefixtures("quiet")


def language(count: int) -> Samples:
    ids = np.random.default_rng(0).integers(3, 40, (count, 9))
    return Samples(ids, ids)


@pytest.mark.parametrize("kind", ["nemotron_h", "llama"])
def test_any_division_adds_up_to_the_pooled_samples(kind: str, tmp_path: Path) -> None:
    twin, source = decompose(model_of(kind).float(), rank=2), Importance()
    subject = Subject(twin, FederationConfig(), 40, (9,))
    tally = source.form(subject).tally("importance", "closing")

    def of(samples: Samples) -> np.ndarray:
        return source.local(subject, Own(samples, samples, CausalLM(), tmp_path), tally)

    whole = of(language(12))
    for division in np.random.default_rng(1).integers(0, 3, (4, 12)):
        parts = [language(12).take(np.flatnonzero(division == k)) for k in range(3)]
        assert np.array_equal(sum(of(part) for part in parts if len(part)), whole)
    model = twin.merge()
    found, samples, clipped = totals(whole, model)
    assert samples == 12
    assert clipped == 0, "clipped values would hide a difference"
    floats = sums(model, [axis for axis in axes_of(model).values() if axis.kind != "block"], language(12))
    for axis in axes_of(model).values():
        if axis.kind != "block":
            scores = unit_scores(axis, found)
            assert scores.dtype == np.int64
            scale = 2.0**-16 if axis.kind == "width" else 2.0**-12  # roots are of sums times 2^20 in steps of 2^-12
            np.testing.assert_allclose(scores * scale, unit_scores(axis, floats), rtol=1e-2, atol=0.05)
    heads = next((n for n in found if n.startswith("mamba-head")), None)
    if heads:
        assert np.array_equal(found[heads][0].T, found[heads.replace("head", "channel")][0])
    with pytest.raises(ConfigError, match="not those of this"):
        totals(whole[1:], model)
    assert len(tallied_axes(model)) == len(tally.layout.entries) - 2


def test_a_federations_cut_is_the_pooled_samples_cut(tmp_path: Path) -> None:
    changes = {"tallies__closing": ["importance"], "federation__rounds": 1, "data__public_share": 0.2}
    sealed = simulate(encrypted(**changes), tmp_path / "sealed", engine="local")
    clear = simulate(
        encrypted(**changes, encryption__sealer="identity", toy_insecure=True), tmp_path / "clear", engine="local"
    )
    assert sealed.summary["state_digest"] == clear.summary["state_digest"]
    homes = sorted((sealed.folder / "institutions").iterdir())
    parts = [Samples.load(home / TRAIN) for home in homes]
    pooled = Samples(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))
    finished = Finished.load(sealed.folder)
    source = Importance()
    twin = finished.bench().twin_at(finished.state, {})
    subject = Subject(twin, finished.genesis.config, finished.genesis.outputs, finished.genesis.sample_shape)
    tally = source.form(subject).tally("importance", "closing")
    expected = source.local(subject, Own(pooled, pooled, Classification(), tmp_path), tally)
    assert np.array_equal(finished.state.tallied("importance").sums, expected)
    result = CliRunner().invoke(
        app, ["cut", str(sealed.folder), "-o", str(tmp_path / "small"), "--ffn", "6"], catch_exceptions=False
    )
    assert result.exit_code == 0
    record = json.loads((tmp_path / "small" / "cut.json").read_text())
    assert record["tallied_samples"] == len(pooled)
    model = finished.merged()
    axes = axes_of(model)
    counts = {a.setting: 6 for a in axes.values()}
    kept = choose(model, axes, counts, pooled, Classification(), total=totals(expected, model)[0]).kept
    assert {n: record["axes"][n]["kept"] for n in kept} == {n: u.tolist() for n, u in kept.items()}
    assert (record["tallied_clipped"], record["ways"]) == (0, dict.fromkeys(kept, "activation"))
    card = (tmp_path / "small" / "README.md").read_text()
    assert "samples of all institutions" in card
    assert "clipped" not in card + result.output


def test_a_cut_by_clipped_values_says_so(tmp_path: Path) -> None:
    """Where every value of a unit is clipped, it ties with all others of which that is so."""
    options = {"importance": {"most": -12, "fraction": 12}}
    config = encrypted(
        tallies__closing=["importance"], tallies__options=options, federation__rounds=1, data__public_share=0.2,
        encryption__sealer="identity", toy_insecure=True,
    )  # fmt: skip
    run = simulate(config, tmp_path / "run", engine="local")
    opened = totals(Finished.load(run.folder).state.tallied("importance").sums, Finished.load(run.folder).merged())
    assert 0 < opened.clipped <= opened.samples
    assert len(np.unique(opened.total["ffn:1"][0])) < 16
    words = ["cut", str(run.folder), "-o", str(tmp_path / "small"), "--ffn", "6"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads((tmp_path / "small" / "cut.json").read_text())["tallied_clipped"] == opened.clipped
    said = f"Of {opened.clipped} of the {opened.samples} samples a value was too large for the tally"
    assert said in (tmp_path / "small" / "README.md").read_text()
    assert said in " ".join(result.output.split())
