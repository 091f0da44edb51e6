"""Comparisons over seeds, beside baselines, stopped and gone on with."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from torch import Tensor
from torch.nn import functional

import dictpfl
from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data
from dictpfl.deploy.runs.compared import Comparison, Row
from dictpfl.deploy.runs.run import closed_rounds
from dictpfl.deploy.simulation.comparison import OnRound, _of_one, _unwatched, compare, configurations
from dictpfl.deploy.simulation.partition import Division, Regrouping, Share, divide
from tests.support import forking
from tests.support.federations import as_toml

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    (folder / "tiny.toml").write_text(as_toml(name="tiny", federation__rounds=2, data__limit=150, training__steps=2))
    return folder


@pytest.fixture(scope="module")
def compared(place: Path) -> Comparison:
    configs = configurations(place / "tiny.toml", ["majority", "alone", "pooled", "dictpfl"])
    return compare(configs, place / "out", engine="local", seeds=SEEDS)


def row(compared: Comparison, method: str) -> Row:
    return next(one for one in compared.rows if one.method == method)


def test_each_seed_is_a_run_and_the_figure_has_an_interval(compared: Comparison) -> None:
    ours = row(compared, "dictpfl")
    assert [run.config.seed for run in ours.runs] == list(SEEDS)
    assert ours.figures == tuple(run.test for run in ours.runs)
    assert ours.interval == pytest.approx(
        stats.t.interval(0.95, 1, loc=statistics.fmean(ours.figures), scale=stats.sem(ours.figures)), nan_ok=True
    )
    assert len({run.summary["state_digest"] for run in ours.runs}) == len(SEEDS)


def test_a_figure_that_is_no_number_has_no_interval() -> None:
    """Of a concordance, say, of which no two test samples can be ordered: the comparison ended in a traceback, its runs behind it."""
    assert Row("dictpfl", (1, 2), (math.nan, 0.5), ()).interval is None


def test_baselines_have_the_same_samples_as_the_federation(compared: Comparison) -> None:
    ours, alone, pooled = (row(compared, name).runs for name in ("dictpfl", "alone", "pooled"))
    for number, federation in enumerate(ours):

        def own(run: dictpfl.Run, index: int) -> Samples:
            return Samples.load(run.folder / "institutions" / f"institution-{index:03d}" / "train.npz")

        parts = [own(federation, index) for index in range(3)]
        for index, part in enumerate(parts):
            assert np.array_equal(own(alone[3 * number + index], 0).features, part.features)
        assert np.array_equal(own(pooled[number], 0).features, np.concatenate([part.features for part in parts]))
        tests = [
            Samples.load(run.folder / "test.npz").labels for run in (federation, pooled[number], alone[3 * number])
        ]
        assert all(np.array_equal(tests[0], other) for other in tests[1:])
    assert row(compared, "alone").figures[0] == pytest.approx(statistics.fmean(run.test for run in alone[:3]))


def test_the_majority_is_the_baseline_that_every_run_states(compared: Comparison) -> None:
    majority = row(compared, "majority")
    assert majority.figures == tuple(run.summary["baseline"]["figure"] for run in row(compared, "dictpfl").runs)
    assert not majority.runs


def test_what_it_writes(compared: Comparison) -> None:
    document = json.loads((compared.folder / "compare.json").read_bytes())
    assert (document["format"], document["metric"]) == (2, "accuracy")
    assert [one["method"] for one in document["methods"]] == ["majority", "alone", "pooled", "dictpfl"]
    assert "bytes" not in document["methods"][2], "a baseline sends nothing"
    for one in document["methods"]:
        assert all((compared.folder / run["folder"] / "report.html").exists() for run in one["runs"])
    page = (compared.folder / "compare.html").read_text()
    assert all(word in page for word in ("95 % confidence", "seed 2", "no federation", "dictpfl/seed-1/report.html"))
    table = compared.table
    assert table.loc["dictpfl", "accuracy"] == row(compared, "dictpfl").test
    assert np.isnan(table.loc["pooled", "bytes_up"])


def test_resuming_runs_only_what_is_missing(compared: Comparison, place: Path) -> None:
    configs = configurations(place / "tiny.toml", ["majority", "alone", "pooled", "dictpfl"])
    begun: list[str] = []

    @contextmanager
    def watch(named: str, _config: FederationConfig) -> Iterator[OnRound]:
        begun.append(named)
        with _unwatched(named, _config) as on_round:
            yield on_round

    (row(compared, "dictpfl").runs[1].folder / "summary.json").unlink()  # as if stopped before it was written
    again = compare(configs, compared.folder, engine="local", seeds=SEEDS, resume=True, watch=watch)
    assert begun == ["dictpfl, seed 2"]
    assert [run.summary["state_digest"] for run in again] == [run.summary["state_digest"] for run in compared]
    with pytest.raises(ConfigError, match="not empty"):
        compare(configs, compared.folder, engine="local", seeds=SEEDS)
    other = configurations(place / "tiny.toml", ["dictpfl"], {"training.steps": 3})
    with pytest.raises(ConfigError, match="another configuration"):
        compare(other, compared.folder, engine="local", seeds=SEEDS, resume=True)


def test_a_baseline_is_not_resumed_with_another_number_of_institutions(compared: Comparison, place: Path) -> None:
    """Its own configuration has one institution in any case, and its figure is of what all of them had."""
    for baseline in ("alone", "pooled"):
        other = configurations(place / "tiny.toml", [baseline], {"federation.participants": 4})
        with pytest.raises(ConfigError, match=r"federation.participants is 3 there and 4 here"):
            compare(other, compared.folder, engine="local", seeds=SEEDS, resume=True)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["majority"], "trains nothing"),
        (["majority", "alone"], "trains nothing"),
        (["pool"], "unknown method"),
        (["pooled", "pooled"], "once"),
        ([], "at least one"),
    ],
)
def test_what_cannot_be_compared(methods: list[str], words: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(configurations(place / "tiny.toml", methods), place / "never", engine="local")
    assert not (place / "never").exists()


def test_labels_that_are_not_there_are_told_before_anything_is_trained(place: Path, tmp_path: Path) -> None:
    """After hours of runs it said that the task knows no answer."""
    configs = configurations(place / "tiny.toml", ["alone", "majority", "dictpfl"])
    with (
        mock.patch("dictpfl.deploy.simulation.baseline._labels", return_value=np.zeros(0)),  # as of lazy texts
        pytest.raises(ConfigError, match=r"majority: the labels of these samples are read with their features"),
    ):
        compare(configs, tmp_path / "out", engine="local")
    assert not closed_rounds(tmp_path / "out" / "alone" / "institution-000")[1]


def test_a_method_that_noise_of_institutions_forbids_is_to_be_left_out(place: Path) -> None:
    """It said to set `encryption.sealed_share`, which the method sets."""
    private = {"privacy.mechanism": "institution", "privacy.epsilon": 8.0, "privacy.delta": 1e-4}
    with pytest.raises(ConfigError, match="of a comparison leave out plaintext and fedml-he"):
        configurations(place / "tiny.toml", ["plaintext"], private)


def test_a_seed_is_named_once(place: Path) -> None:
    with pytest.raises(ConfigError, match="each once"):
        compare(configurations(place / "tiny.toml", ["dictpfl"]), place / "never", engine="local", seeds=[1, 1])


@pytest.mark.parametrize("seeds", ["-1", "1,-1", "99999999999999999999"])
def test_a_seed_that_no_generator_takes_is_no_fault_of_the_users_code(seeds: str, place: Path) -> None:
    words = f"compare tiny.toml --methods dictpfl --engine local --seeds {seeds} --out never"
    done = forking.ran(words.split(), place)
    assert done.returncode == 1
    assert "expected whole numbers from 0 to 18446744073709551615" in " ".join(done.stderr.split())


def test_a_comparison_says_that_it_is_no_run(compared: Comparison) -> None:
    with pytest.raises(ConfigError, match="holds a comparison"):
        closed_rounds(compared.folder)


def test_a_baseline_is_trained_without_privacy(place: Path) -> None:
    """As long as the federation does, by one party; whatever protects others is not in its way."""
    private = {"privacy.mechanism": "example", "privacy.noise_multiplier": 1.0, "federation.sample": 3}
    (config,) = configurations(place / "tiny.toml", ["pooled"], private).values()
    one = _of_one(config)
    noisy = private | {"privacy.mechanism": "institution", "federation.sample": 0}
    assert _of_one(configurations(place / "tiny.toml", ["pooled"], noisy)["pooled"]).privacy.mechanism == "none"
    ruled = {
        "aggregation.rule": "yogi",
        "aggregation.rate": 0.01,
        "aggregation.second": 0.9,
        "training.proximal": 0.1,
        "training.metrics": ["auroc"],
    }
    (said,) = configurations(place / "tiny.toml", ["pooled"], ruled).values()
    lone = _of_one(said)
    assert lone.aggregation == dictpfl.FederationConfig().aggregation, "one party's update is taken as it is"
    assert (lone.training.proximal, lone.training.metrics) == (0.0, [])
    assert (one.federation.participants, one.federation.sample, one.privacy.mechanism) == (1, 0, "none")
    assert one.training == config.training
    ours = _of_one(config.of({}, {"method": "dictpfl"}))
    assert (ours.method, ours.decomposition.enabled) == ("plaintext", False), "whatever federation it stands beside"
    assert one.federation.rounds == config.federation.rounds


def test_a_baseline_counts_nothing_for_others(place: Path) -> None:
    """Of fewer than three a tally is refused; a comparison with baselines must not be, too."""
    changes = {"tallies.opening": ["classes"], "tallies.options": {"classes": {}}}
    said = dictpfl.FederationConfig.load(place / "tiny.toml", changes)
    assert _of_one(said).tallies == dictpfl.FederationConfig().tallies


def test_what_a_baseline_cannot_have_is_refused_before_any_federation_runs(place: Path, tmp_path: Path) -> None:
    configs = configurations(place / "tiny.toml", ["dictpfl", "pooled"])
    scaled = configs["pooled"].of(configs["pooled"].model_dump(mode="json"), {"data.preprocessing.scale": "standard"})
    with pytest.raises(ConfigError, match=r"baseline.*data\.preprocessing.*leave these two out"):
        compare({**configs, "pooled": scaled}, tmp_path / "out", engine="local")
    assert not (tmp_path / "out" / "dictpfl").exists()


def test_regrouping_keeps_test_and_public_samples() -> None:
    def some(first: int) -> Samples:
        return Samples(np.full((2, 1), first, np.float32), np.zeros(2, np.int64))

    division = Division(some(8), some(9), None, tuple(Share(some(n), some(n + 4), str(n)) for n in range(3)))
    pooled, second = Regrouping(3).of(division), Regrouping(3, 1).of(division)
    assert (pooled.public, pooled.test) == (division.public, division.test)
    assert pooled.institutions[0].train.features.ravel().tolist() == [0, 0, 1, 1, 2, 2]
    assert pooled.institutions[0].validation.features.ravel().tolist() == [4, 4, 5, 5, 6, 6]
    assert [share.name for share in second.institutions] == ["1"]


def test_samples_that_are_read_when_needed_are_pooled(tmp_path: Path) -> None:
    """They could not be: the command ended in a traceback, after the federations beside it had run."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(15):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    data = Data(source="imagefolder", path=str(tmp_path), lazy=True)
    division = divide(load_dataset(data, seed=1), data, 3, seed=1)
    (pooled,) = Regrouping(3).of(division).institutions
    for part in ("train", "validation"):
        every = [getattr(share, part) for share in division.institutions]
        made = getattr(pooled, part)
        assert isinstance(made, LazySamples)
        assert np.array_equal(made.labels, np.concatenate([one.labels for one in every]))
        assert np.array_equal(np.asarray(made.features), np.concatenate([np.asarray(one.features) for one in every]))


@pytest.mark.slow
def test_more_or_fewer_seeds_take_the_runs_that_are_there(place: Path) -> None:
    """A seed alone lies in its method's folder, one of several in a folder of its own: resumed with another number, it ran again."""
    begun: list[str] = []

    @contextmanager
    def watch(named: str, _config: FederationConfig) -> Iterator[OnRound]:
        begun.append(named)
        with _unwatched(named, _config) as on_round:
            yield on_round

    configs = configurations(place / "tiny.toml", ["alone", "dictpfl"])

    def compared_again(seeds: tuple[int, ...]) -> Comparison:
        begun.clear()
        return compare(configs, place / "grown", engine="local", seeds=seeds, resume=True, watch=watch)

    once = compared_again((1,))
    both = compared_again((1, 2))
    assert begun == [*(f"alone, seed 2, institution {n} of 3" for n in (1, 2, 3)), "dictpfl, seed 2"]
    assert [run.folder for run in row(both, "dictpfl").runs][:1] == [run.folder for run in row(once, "dictpfl").runs]
    assert row(both, "alone").figures[:1] == row(once, "alone").figures
    two = compared_again((2,))
    assert begun == []
    assert row(two, "dictpfl").figures == row(both, "dictpfl").figures[1:]


class Unguessed:
    """A task that knows no answer without looking."""

    metric_name, higher_is_better = "accuracy", True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) == targets).sum()


def test_a_task_without_an_answer_by_the_majority_is_refused_before_anything_runs(place: Path, tmp_path: Path) -> None:
    own = {"training.task": f"{__name__}:Unguessed"}
    with pytest.raises(ConfigError, match="knows no answer without looking"):
        compare(configurations(place / "tiny.toml", ["majority", "plaintext"], own), tmp_path / "out", engine="local")
    assert not (tmp_path / "out").exists()


def test_one_seed_has_an_interval_of_its_test_samples_and_says_what_is_not_shown(place: Path) -> None:
    """The demo ranked methods by one run each, without a word on chance."""
    out = place / "of-one-seed"
    words = ["compare", place / "tiny.toml", "--methods", "plaintext,dictpfl", "--engine", "local", "--out", out]
    done = forking.ran(words, place, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "compare.json").read_text(encoding="utf-8"))["methods"]
    samples = len(Samples.load(out / "dictpfl" / "test.npz"))
    said = " ".join(done.stdout.split())
    for one in rows:
        assert one["interval"] is None
        expected = stats.binomtest(round(one["test"] * samples), samples).proportion_ci(method="wilson")
        assert one["interval_of_samples"] == pytest.approx([expected.low, expected.high])
        assert f"{one['test']:.4f} ({expected.low:.4f} to {expected.high:.4f})" in said
    assert f"on further samples like these {samples} at 95 % confidence, not that of another seed." in said
    assert ("no difference between methods is shown" in said) != ("which another seed may undo" in said)
    assert "not that of another seed" in (out / "compare.html").read_text(encoding="utf-8")


def test_several_seeds_say_nothing_of_one(compared: Comparison) -> None:
    assert compared.caution == ""
    assert row(compared, "dictpfl").of_samples is None


def test_a_method_takes_what_the_file_says_for_it_alone(place: Path) -> None:
    own = (
        '\n[methods.plaintext.training]\nlearning_rate = 0.03\n\n[methods."fedml-he".encryption]\nsealed_share = 0.2\n'
    )
    (place / "own.toml").write_text((place / "tiny.toml").read_text(encoding="utf-8") + own, encoding="utf-8")
    made = configurations(place / "own.toml", ["plaintext", "pooled", "fedml-he", "dictpfl"])
    shared = made["dictpfl"].training.learning_rate
    assert [one.training.learning_rate for one in made.values()] == [0.03, 0.03, shared, shared]
    assert made["fedml-he"].encryption.sealed_share == 0.2
    assert made["dictpfl"].canonical() == FederationConfig.load(place / "tiny.toml").canonical()
    typed = configurations(place / "own.toml", ["plaintext"], {"training.learning_rate": 0.5})
    assert typed["plaintext"].training.learning_rate == 0.5
    for wrong in ("[methods.plain.training]\nlearning_rate = 0.03\n", "[methods]\nplaintext = 3\n"):
        (place / "own.toml").write_text(wrong, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"\[methods\] is .*expected a table of settings for each of dictpfl"):
            FederationConfig.load(place / "own.toml")


def test_the_demo_s_rates_are_measured_and_no_grid_ends_at_its_best() -> None:
    root = Path(__file__).parents[3]
    measured = json.loads((root / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))
    made = configurations(root / "experiments" / "digits.toml", list(measured["rates"]))
    for method, best in measured["rates"].items():
        tried = {float(rate): statistics.fmean(found) for rate, found in measured["validation"][method].items()}
        assert min(tried) < best < max(tried)
        assert all(len(found) == 3 for found in measured["validation"][method].values())
        used = made[method].training.learning_rate
        # dictpfl keeps the rate of its digests, which no arm is flattered by: it may be worse than its best, never another's.
        assert used == best if method != "dictpfl" else tried[used] <= tried[best]
