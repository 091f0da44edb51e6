"""SOURCE of the compression commands: which model, and which samples decide and measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from typer.testing import CliRunner

from dictpfl.client.data.preparing.preparation import as_samples
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.client.model import hub
from dictpfl.client.training.calling import forward
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.deploy.cli import app
from dictpfl.deploy.compress.source import _calibrating, _dataset, _file, read_source, with_validation
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import as_toml, tiny
from tests.support.timm_folders import tiny_vit

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("source") / "run"
    return simulate(tiny(federation__rounds=1, data__public_share=0.2), folder, engine="local")


def rows(samples: Samples) -> set[bytes]:
    return {row.tobytes() for row in samples.features}


def test_an_institution_decides_by_its_training_samples_and_measures_on_its_validation_samples(run: Run) -> None:
    home = run.folder / "institutions" / "institution-000"
    source = read_source(str(home), calibration=10, seed=3)
    assert len(source.calibration) == 10
    assert rows(source.calibration) <= rows(Samples.load(home / TRAIN))
    assert rows(source.measure) == rows(Samples.load(home / VALIDATION))
    expected = Finished.load(home).merged().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in source.model.state_dict().items())
    again = read_source(str(home), calibration=10, seed=4)
    assert rows(again.calibration) != rows(source.calibration)


def test_a_run_decides_by_its_public_share_alone(run: Run) -> None:
    source = read_source(str(run.folder))
    assert len(source.calibration) == 40  # a fifth of 200
    assert rows(source.measure) == rows(Samples.load(run.folder / "test.npz"))
    for home in sorted((run.folder / "institutions").iterdir()):
        for name in (TRAIN, VALIDATION):
            assert not rows(source.calibration) & rows(Samples.load(home / name))
    assert not rows(source.calibration) & rows(source.measure)


def test_named_tables_need_not_say_which_institution_has_a_row(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"age": draw.normal(size=120), "dose": draw.normal(size=120), "label": draw.integers(0, 2, 120)}
    )
    frame.assign(site=np.arange(120) % 3).to_csv(tmp_path / "rows.csv", index=False)
    frame.head(20).to_csv(tmp_path / "new.csv", index=False)
    config = tiny(
        federation__rounds=1, model__options={"hidden": [8]}, data__source="csv", data__path=str(tmp_path / "rows.csv"),
        data__partition="column", data__column="site",
    )  # fmt: skip
    run = simulate(config, tmp_path / "run", engine="local")
    for name, count in (("new.csv", 20), ("rows.csv", 120)):
        source = read_source(str(run.folder), data=tmp_path / name, measure=tmp_path / name)
        assert (len(source.measure), len(source.calibration)) == (count, count)
        assert source.measure.features.shape == (count, 2)


def test_tables_are_prepared_by_the_federation_s_statistics(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    ages = draw.normal(50, 10, 120)
    frame = pd.DataFrame({"age": ages, "dose": draw.normal(5, 2, 120), "label": np.where(ages > 50, "ill", "well")})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    config = tiny(
        federation__rounds=1, model__options={"hidden": [8]}, data__source="csv", data__path=str(tmp_path / "rows.csv"),
        data__preprocessing__scale="standard",
    )  # fmt: skip
    run = simulate(config, tmp_path / "run", engine="local")
    home = run.folder / "institutions" / "institution-000"
    finished, table = Finished.load(home), Table.load(home / TRAIN)
    source = read_source(str(home))
    assert (
        source.calibration.features.tolist()
        == as_samples(table, finished.genesis.config, finished.state).features.tolist()
    )
    assert np.abs(source.measure.features).max() < 5
    given = read_source(str(run.folder), data=tmp_path / "rows.csv", measure=tmp_path / "rows.csv")
    for samples in (given.calibration, given.measure):
        assert samples.features.mean(axis=0) == pytest.approx([0, 0], abs=0.3)
        assert samples.features.std(axis=0) == pytest.approx([1, 1], abs=0.3)
    for words in (
        ["cut", "--ffn", "4"], ["prune", "--cover", "1.weight"], ["distil", "--teacher", str(run.folder), "--steps", "1"],
        ["narrow", "--skill", "all", "--steps", "1", "--recover", "1"],
    ):  # fmt: skip
        out = tmp_path / words[0]
        result = CliRunner().invoke(app, [*words, str(home), "-o", str(out)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert [one["name"] for one in json.loads((out / "columns.json").read_text())["columns"]] == ["age", "dose"]


def test_a_run_without_public_samples_wants_some(tmp_path: Path) -> None:
    run = simulate(tiny(federation__rounds=1), tmp_path / "run", engine="local")
    with pytest.raises(ConfigError, match=r"--data"):
        read_source(str(run.folder))
    named = Samples(np.zeros((3, 1, 8, 8), np.float32), np.array([0, 1, 2]))
    named.save(tmp_path / "own.npz")
    source = read_source(str(run.folder), data=tmp_path / "own.npz")
    assert rows(source.calibration) == rows(named)
    Samples(np.zeros((3, 5), np.float32), np.array([0, 1, 2])).save(tmp_path / "other.npz")
    with pytest.raises(DataError, match=r"--measure: samples of shape"):
        read_source(str(run.folder), data=tmp_path / "own.npz", measure=tmp_path / "other.npz")


def test_a_library_model_comes_as_it_is_with_the_file_s_data(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    own = transformers.LlamaForCausalLM(config)
    own.train(False)
    own.save_pretrained(tmp_path / "model")
    ids = np.random.default_rng(0).integers(0, 16, (20, 6))
    Samples(ids, ids).save(tmp_path / "ids.npz")
    (tmp_path / "c.toml").write_text(as_toml(training__task="causal-lm", model__options={"head": "causal-lm"}))
    toml = (tmp_path / "c.toml").read_text().replace('"mlp"', f'"transformers:{tmp_path / "model"}"')
    (tmp_path / "c.toml").write_text(toml)
    source = read_source(f"transformers:{tmp_path / 'model'}", config=tmp_path / "c.toml", data=tmp_path / "ids.npz")
    x = torch.from_numpy(ids)
    with torch.no_grad():
        assert torch.equal(forward(source.model, x), own(x).logits)
    assert len(source.calibration) + len(source.measure) == 20
    assert not rows(source.calibration) & rows(source.measure)


def test_samples_to_choose_by_are_in_neither_of_the_others(run: Run, tmp_path: Path) -> None:
    home = run.folder / "institutions" / "institution-000"
    Samples.load(run.folder / "test.npz").save(tmp_path / "other.npz")
    chosen = read_source(str(home), measure=tmp_path / "other.npz")
    assert chosen.validation is not None
    assert rows(chosen.validation) == rows(Samples.load(home / VALIDATION))
    assert with_validation(chosen, 1) is chosen
    for source in (read_source(str(home)), read_source(str(run.folder))):
        assert source.validation is None, "what is measured chooses nothing"
        made = with_validation(source, 3)
        assert made.set_aside
        assert made.validation is not None
        parts = [rows(part) for part in (made.calibration, made.validation, made.measure)]
        assert parts[0] | parts[1] == rows(source.calibration)
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        assert len(made.validation) == len(source.calibration) // 5
        assert rows(with_validation(source, 3).validation or made.measure) == parts[1]
    with pytest.raises(ConfigError, match=r"1 sample to decide by.*--calibration"):
        with_validation(read_source(str(run.folder), calibration=1), 1)


def test_rows_that_the_data_mark_for_validation_decide_nothing() -> None:
    samples = Samples(np.arange(42, dtype=np.float32).reshape(21, 2), np.arange(21) % 3)
    marks = np.array(["train"] * 12 + ["validation"] * 5 + ["test"] * 4)
    calibration, validation = _calibrating(Dataset(samples, 3, splits=marks))
    assert validation is not None
    assert calibration.features.tolist() == samples.features[:12].tolist()
    assert validation.features.tolist() == samples.features[12:17].tolist()
    whole, none = _calibrating(Dataset(samples, 3))
    assert (len(whole), none) == (21, None)


def test_what_contradicts_itself_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        read_source("timm:resnet18")
    with pytest.raises(ConfigError, match="of its own"):
        read_source(str(run.folder), config=tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="only keys of"):
        read_source(str(run.folder), settings=["federation.rounds=2"])
    with pytest.raises(ConfigError, match="no folder"):
        read_source("nowhere")
    with pytest.raises(ConfigError, match="no folder"):
        read_source("own_module:network", config=tmp_path / "c.toml")


@pytest.mark.parametrize("setting", ["data.public_share=0.1", "data.limit=100", "data.source=digits"])
def test_a_setting_does_not_let_measured_samples_decide(run: Run, setting: str) -> None:
    for folder in (run.folder, run.folder / "institutions" / "institution-000"):
        with pytest.raises(ConfigError, match=r"samples that it is measured on included"):
            read_source(str(folder), settings=[setting])


def test_no_sample_to_decide_by_is_said(run: Run, tmp_path: Path) -> None:
    Samples(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64)).save(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"none\.npz holds no sample"):
        read_source(str(run.folder), data=tmp_path / "none.npz")


def test_a_head_that_a_checkpoint_lacks_is_named_where_timm_is_silent(tmp_path: Path) -> None:
    tiny_vit(tmp_path / "model", 2)
    for classes, named in ((2, False), (4, True)):
        Samples(np.zeros((20, 1, 8, 8), np.float32), np.arange(20) % classes).save(tmp_path / "own.npz")
        (tmp_path / "c.toml").write_text(as_toml())
        source = read_source(f"timm:{tmp_path / 'model'}", config=tmp_path / "c.toml", data=tmp_path / "own.npz")
        assert hub.fresh_of(source.model) == (("head.bias", "head.weight") if named else ())


def test_classes_of_other_data_have_the_model_s_numbers(tmp_path: Path) -> None:
    """By itself, a table that lacks the first class numbers the others from 0."""
    names = ("ape", "bee", "cat")
    for name, words in (("some", "bee cat"), ("other", "cat dog")):
        rows = [f"{n}.5,{n % 3}.5,{words.split()[n % 2]}" for n in range(12)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,label", *rows]))
    config = tiny(data={"source": "csv", "path": str(tmp_path / "some.csv")})
    assert _dataset(None, config, ()).class_names == ("bee", "cat")
    dataset = _dataset(None, config, names)
    assert (dataset.class_names, dataset.outputs) == (names, 3)
    for samples in (dataset.samples, _file(tmp_path / "some.csv", config, names)):
        assert samples.labels.tolist() == [1, 2] * 6
    with pytest.raises(DataError, match="the data have classes dog, the federation ape, bee, cat"):
        _file(tmp_path / "other.csv", config, names)
