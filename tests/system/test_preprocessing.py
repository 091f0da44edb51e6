"""Columns prepared by pooled statistics, encrypted, at three institutions: the same as scikit-learn's on the pooled rows (issue 17)."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, QuantileTransformer, RobustScaler, StandardScaler

import dictpfl
import dictpfl.client.uploading
from dictpfl.client.data.pipelines import recipes_of
from dictpfl.client.data.preparing.preparation import Preparation, preparation_of
from dictpfl.client.data.preparing.statistics import BINS, REACH
from dictpfl.client.data.preparing.wide import SQUARE_DIGITS, SUM_DIGITS, digits, number, whole
from dictpfl.client.data.raw import Table
from dictpfl.client.data.source import load_dataset
from dictpfl.client.folder import TRAIN
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.law.tally import Tally
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.settings import Preprocessing, Recipe
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.exports.evaluation import evaluate_on
from dictpfl.deploy.exports.personal import write_personal
from dictpfl.deploy.simulation.founding import found, found_again
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
NUMBERS = ("age", "weight", "year", "tiny", "constant")
CATEGORIES = {"sex": ["f", "m"], "ward": 64}
RECIPES: dict[str, Any] = {
    "impute": "median",
    "scale": "standard",
    "least": 8,
    "categories": CATEGORIES,
    "columns": {
        "weight": {"impute": "mean", "scale": "standard"},
        "year": {"impute": "median", "scale": "minmax"},
        "tiny": {"impute": "median", "clip": [0.05, 0.95], "scale": "robust"},
    },
}


def rows(count: int = 400) -> pd.DataFrame:
    """Columns on scales that no institution has alone: each site's means are its own, and values are missing."""
    draw = np.random.default_rng(5)
    site = np.arange(count) % 3
    frame = pd.DataFrame(
        {
            "age": draw.normal(40 + 15 * site, 9),
            "weight": draw.lognormal(4 + site / 4, 0.4),
            "year": 2000.0 + draw.integers(0, 25, count),
            "tiny": draw.normal(3e-7, 1e-8, count),
            "constant": np.full(count, 7.0),
            "sex": draw.choice(["f", "m", "x"], count, p=[0.55, 0.42, 0.03]),
            "ward": draw.choice(["a", "b", "c", "rare"], count, p=[0.5, 0.3, 0.19, 0.01]),
            "ill": draw.choice(["no", "yes"], count),
            "site": np.array(["north", "south", "west"])[site],
        }
    )
    for column in ("age", "weight", "year", "tiny", "sex"):
        frame.loc[draw.random(count) < 0.1 + 0.1 * (site == 1), column] = np.nan
    return frame


def configured(folder: Path, preparation: dict[str, Any], **changes: Any) -> FederationConfig:
    rows().to_csv(folder / "patients.csv", index=False)
    data = {
        "source": "csv", "path": str(folder / "patients.csv"), "label": "ill", "partition": "column", "column": "site",
        "preprocessing": preparation,
    }  # fmt: skip
    said = {"data": data, "model": {"options": {"hidden": [8]}}, "federation": {"rounds": 2}, "training": {"steps": 1}}
    return FederationConfig.of(said, changes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Encrypted, all rounds closed."""
    folder = tmp_path_factory.mktemp("prepared")
    world = World.found(configured(folder, RECIPES, **{"federation.participants": 3}), folder / "world")
    world.run()
    return world


@pytest.mark.parametrize("tally", ["columns", "quantiles"])
def test_negative_counts_of_one_institution_stop_nobody(tally: str, tmp_path: Path) -> None:
    """Nothing could be prepared from them, at any institution, for ever: the round is void, and made up for."""
    world = World.found(configured(tmp_path, RECIPES, **{"federation.participants": 3}), tmp_path / "world")
    real, lied = dictpfl.client.uploading.integers_of, list[str]()

    def lie(asked: Tally, *others: Any) -> Any:
        made = real(asked, *others)
        if asked.name != tally or lied:
            return made
        lied.append(tally)
        return np.append(np.int64(-10_000), made[1:])

    with mock.patch.object(dictpfl.client.uploading, "integers_of", lie):
        world.run()
    assert lied
    assert {(state.void_scores, state.updates) for state in world.states()} == {(1, 2)}
    world.digest()
    world.close()


def pooled(world: World) -> np.ndarray:
    return np.concatenate([Table.load(world.home(node) / TRAIN).features for node in world.nodes])


def prepared(world: World) -> tuple[Preparation, np.ndarray, Any]:
    made = preparation_of(world.genesis.config)
    assert made is not None
    return made, pooled(world), world.states()[0]


def test_means_and_deviations_are_those_of_scikit_learn_on_pooled_rows(template: World) -> None:
    made, table, state = prepared(template)
    scalings = made.scalings(state)
    for name, strategy in (("age", "median"), ("weight", "mean")):
        column = table[:, [made.columns.names.index(name)]]
        fitted = make_pipeline(SimpleImputer(strategy=strategy), StandardScaler()).fit(column)
        scaler = fitted[-1]
        if strategy == "median":  # to a bin; what is left is exact
            assert scalings[name].fill == pytest.approx(fitted[0].statistics_[0], abs=width(column))
            scaler = StandardScaler().fit(np.where(np.isnan(column), scalings[name].fill, column))
        assert scalings[name].centre == pytest.approx(scaler.mean_[0], rel=1e-9)
        assert scalings[name].spread == pytest.approx(scaler.scale_[0], rel=1e-9)


def width(column: np.ndarray) -> float:
    """A bin."""
    return 2 * REACH * float(np.nanstd(column)) / BINS


def test_quantiles_are_those_of_the_pooled_rows_to_a_bin(template: World) -> None:
    made, table, state = prepared(template)
    scalings = made.scalings(state)
    tiny, year = (table[:, [made.columns.names.index(name)]] for name in ("tiny", "year"))
    filled = np.where(np.isnan(tiny), np.nanmedian(tiny), tiny)
    robust = RobustScaler().fit(filled)
    assert scalings["tiny"].centre == pytest.approx(robust.center_[0], abs=width(tiny))
    assert scalings["tiny"].spread == pytest.approx(robust.scale_[0], abs=2 * width(tiny))
    assert scalings["tiny"].low == pytest.approx(np.nanquantile(tiny, 0.05), abs=width(tiny))
    assert scalings["tiny"].high == pytest.approx(np.nanquantile(tiny, 0.95), abs=width(tiny))
    minmax = MinMaxScaler().fit(year)
    assert scalings["year"].centre == pytest.approx(minmax.data_min_[0], abs=width(year))
    assert scalings["year"].spread == pytest.approx(minmax.data_range_[0], abs=2 * width(year))


def test_categories_that_few_have_are_one(template: World) -> None:
    made, table, state = prepared(template)
    kept = made.kept(state)
    assert kept["sex"].tolist() == [True, True]
    codes = table[:, made.columns.names.index("ward")].astype(int)
    counts = np.bincount(codes, minlength=64)
    assert kept["ward"].tolist() == (counts >= 8).tolist()
    assert kept["ward"].sum() == 3
    samples = made.samples(Table(table, np.zeros(len(table), np.int64)), state)
    assert samples.features.shape[1:] == template.genesis.sample_shape == (5 + 3 + 65,)
    assert made.columns.features[5:8] == ("sex=f", "sex=m", "sex=other")
    encoder = OneHotEncoder(min_frequency=8, sparse_output=False)
    wards = encoder.fit_transform(codes[:, None])
    np.testing.assert_array_equal(
        samples.features[:, 8:].sum(axis=0)[np.flatnonzero(kept["ward"])], wards.sum(axis=0)[:-1]
    )
    assert samples.features[:, 8 + 64].sum() == counts[counts < 8].sum()


def test_the_statistics_come_first_and_all_stay_in_step(template: World) -> None:
    kinds = [kind for kind, _ in template.journal()]
    assert kinds[:3] == [RoundKind.SCORE, RoundKind.SCORE, RoundKind.UPDATE]
    assert len({state.digest for state in template.states()}) == 1
    assert np.isfinite(template.states()[0].values).all()


def test_a_latecomer_replays_the_statistics(tmp_path: Path) -> None:
    """Away in the first rounds, it takes part with the statistics of the others, and its own rows are in none of them."""
    frame = rows()
    frame["site"] = [f"site-{n % 4}" for n in range(len(frame))]
    config = configured(
        tmp_path,
        {"impute": "mean", "scale": "standard", "categories": CATEGORIES},
        **IDENTITY,
        **{"federation.participants": 4},
    )
    frame.to_csv(tmp_path / "patients.csv", index=False)
    world = World.found(config, tmp_path / "world")
    world.exchange(offline=[3])
    world.exchange(offline=[3])
    world.run()
    states = world.states()
    assert len(states) == 4
    assert len({state.digest for state in states}) == 1
    assert states[0].tallied("columns").participants == 3
    others = np.concatenate([Table.load(world.home(node) / TRAIN).features for node in list(world.nodes)[:3]])
    scaling = Preparation(preparation_of(config_of(world)).columns).scalings(states[3])["age"]  # type: ignore[union-attr]
    assert scaling.fill == pytest.approx(np.nanmean(others[:, 0]), rel=1e-9)
    uploads = [len(aggregate.counted) for _, aggregate in world.journal()]
    assert uploads[0] == 3
    assert uploads[-1] == 4
    world.close()


IDENTITY = {"encryption.sealer": "identity", "toy_insecure": True}


def config_of(world: World) -> FederationConfig:
    return world.genesis.config


def test_rows_without_a_value_and_text_are_told_by_column(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 1: column 'ward' is not numbers; '\w+' is the first that is none; name its categories"
    ):
        load_dataset(configured(tmp_path, {"impute": "mean", "categories": {"sex": 4}}).data, 1)
    with pytest.raises(DataError, match=r"missing values in 'age'; set data.preprocessing.impute"):
        load_dataset(configured(tmp_path, {"scale": "standard", "categories": CATEGORIES}).data, 1)
    with pytest.raises(ConfigError, match="no feature 'agee'; the nearest is 'age'"):
        load_dataset(
            configured(tmp_path, {"impute": "mean", "columns": {"agee": {}}, "categories": CATEGORIES}).data, 1
        )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"federation.min_participants": 2, "toy_insecure": True},
            "preprocessing tallies statistics of columns, but federation.min",
        ),
        ({"privacy.mechanism": "example", "privacy.epsilon": 8.0}, "no epsilon counts tallies"),
        ({"method": "fedml-he", "toy_insecure": True}, "a score round would read samples"),
        ({"data.public_share": 0.1, "model.pretrain.epochs": 1}, "model.pretrain reads samples"),
        ({"data.preprocessing.clip": [0.9, 0.1]}, "expected two rising shares"),
        ({"data.preprocessing.columns": {"sex": {}}}, "in columns and in categories"),
        ({"data.preprocessing.pipeline": "x:y"}, "a pipeline says all of it"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        configured(tmp_path, {"scale": "standard", "categories": {"sex": ["f"]}}, **changes)


@pytest.mark.parametrize("words", [[], ["f", "m", "f"]])
def test_a_federation_is_not_founded_on_no_category_or_on_one_twice(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"categories\.sex is .*; expected at least one word, each once"):
        found(configured(tmp_path, {**RECIPES, "categories": CATEGORIES | {"sex": words}}), tmp_path / "run")


@pytest.mark.slow
def test_a_run_reports_evaluates_and_is_audited(tmp_path: Path) -> None:
    run = simulate(configured(tmp_path, RECIPES), tmp_path / "run", engine="local", record=True)
    assert [f"{check.what}: {check.detail}" for check in audited(run.folder) if check.failed] == []
    shuffled = rows()[list(reversed(rows().columns))]
    shuffled.to_csv(tmp_path / "other.csv", index=False)
    one, other = (evaluate_on(run.folder, tmp_path / name) for name in ("patients.csv", "other.csv"))
    assert one.samples == len(shuffled)
    assert (one.metric, one.loss) == (other.metric, other.loss)
    own = evaluate_on(run.folder)
    assert own.metric == pytest.approx(run.summary["test"])
    for name, beside in (("one.safetensors", "one"), ("model-0.1", "model-0.1"), ("model-0.2", "model-0.2")):
        dictpfl.export(run, tmp_path / name)
        said = json.loads((tmp_path / f"{beside}.columns.json").read_bytes())
        assert [column["name"] for column in said["columns"]] == run.config.data.features
    write_personal(run.folder / "institutions" / "institution-000", tmp_path / "own", epochs=1)
    assert (tmp_path / "own" / "columns.json").read_bytes() == (tmp_path / "one.columns.json").read_bytes()


# scikit-learn's own words


def test_a_pipeline_says_the_same(tmp_path: Path) -> None:
    numbers = Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
    whole = ColumnTransformer(
        [
            ("numbers", numbers, ["age", "weight"]),
            ("year", MinMaxScaler(), ["year"]),
            ("sex", OneHotEncoder(categories=[["f", "m"]], min_frequency=8, handle_unknown="ignore"), ["sex"]),
        ],
        remainder="passthrough",
    )
    said = recipes_of(whole)
    both = Recipe(impute="median", scale="standard")
    assert said.columns == {"age": both, "weight": both, "year": Recipe(scale="minmax")}
    assert (said.categories, said.least) == ({"sex": ["f", "m"]}, 8)
    assert recipes_of(numbers) == Preprocessing(impute="median", scale="standard")
    assert recipes_of(RobustScaler()) == Preprocessing(scale="robust")


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (StandardScaler(with_mean=False), "with_mean would be ignored"),
        (SimpleImputer(strategy="most_frequent"), "cannot be fitted by pooled statistics"),
        (QuantileTransformer(), "cannot be fitted by pooled statistics"),
        (make_pipeline(StandardScaler(), SimpleImputer()), "after another step"),
        (ColumnTransformer([("a", StandardScaler(), ["age"])]), "drops the columns"),
        (ColumnTransformer([("a", StandardScaler(), [0])], remainder="passthrough"), "expected a list of names"),
        (ColumnTransformer([("a", OneHotEncoder(), ["sex"])], remainder="passthrough"), "a list for each of sex"),
    ],
)
def test_what_pooled_statistics_cannot_fit_is_refused(made: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        recipes_of(made)


def test_a_pipeline_is_written_into_genesis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_steps.py").write_text(
        "from sklearn.preprocessing import StandardScaler\n\n\ndef made():\n    return StandardScaler()\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows()[["year", "constant", "ill", "site"]].fillna(2005.0).to_csv(tmp_path / "n.csv", index=False)
    changes = {**IDENTITY, "data.path": str(tmp_path / "n.csv")}
    config = configured(tmp_path, {"pipeline": "own_steps:made"}, **changes)
    genesis = found(config, tmp_path / "run").genesis
    assert genesis.config.data.preprocessing == Preprocessing(scale="standard")
    assert [tally.name for tally in genesis.tallies] == ["columns"]
    assert found_again(config, tmp_path / "run").genesis.federation == genesis.federation
    other = configured(tmp_path, {"scale": "minmax"}, **changes)
    assert found(other, tmp_path / "other").genesis.federation != genesis.federation


def test_unscaled_features_are_noticed(tmp_path: Path) -> None:
    rows()[["year", "constant", "ill", "site"]].fillna(2005.0).to_csv(tmp_path / "n.csv", index=False)
    changes = {**IDENTITY, "data.path": str(tmp_path / "n.csv")}
    raw = found(configured(tmp_path, {}, **changes), tmp_path / "raw").notes
    scaled = found(configured(tmp_path, {"scale": "standard"}, **changes), tmp_path / "scaled").notes
    (note,) = set(raw) - set(scaled)
    assert "'year' is 2.01e+03 on average" in note


@given(
    st.lists(st.floats(-1e15, 1e15, allow_subnormal=False), min_size=1, max_size=30),
    st.integers(1, 4),
)
def test_digits_add_up_to_exact_sums(values: list[float], parties: int) -> None:
    """The oracle is Python's own rational arithmetic; whoever holds which value, the sum of the digits is the same number."""
    parts = [whole(np.array(values[n::parties])) for n in range(parties)]
    exact = [Fraction(v) for part in parts for v in part]
    summed = np.sum([digits(sum(part), SUM_DIGITS) for part in parts], axis=0)
    squares = np.sum([digits(sum(v * v for v in part), SQUARE_DIGITS) for part in parts], axis=0)
    assert number(summed, 1) == sum(exact) / 2**60
    assert number(squares, 2) == sum(v * v for v in exact) / 2**120
    assert float(number(summed, 1)) == pytest.approx(sum(values), rel=1e-9, abs=1e-3)
