"""`dictpfl cut` and `dictpfl distil`: a folder that its library loads, and a record of what was decided by what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

from dictpfl.client.compress.cutting.scores import digest
from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.training.calling import forward
from dictpfl.client.training.tasks.causal_lm import CausalLM
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.cli import app
from dictpfl.deploy.compress.cut_folder import options_of
from dictpfl.deploy.compress.cutting import make
from dictpfl.deploy.compress.searching import searched
from dictpfl.deploy.compress.source import read_source, with_validation
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from tests.client.compress.cutting.subjects import model_of
from tests.support.federations import as_toml, tiny

pytestmark = pytest.mark.usefixtures("quiet")
RUNNER = CliRunner()


def samples() -> Samples:
    random = np.random.default_rng(0)
    ids = random.integers(3, 40, (60, 12))
    return Samples(ids, ids)


@pytest.fixture
def hybrid(tmp_path: Path) -> tuple[str, list[str]]:
    """A folder of a small hybrid, and the options that say its data."""
    model_of("nemotron_h", layers_block_type=["linear_attention", "mlp"] * 2).float().save_pretrained(
        tmp_path / "large"
    )
    samples().save(tmp_path / "ids.npz")
    samples().take(np.arange(20)).save(tmp_path / "held.npz")
    config = tmp_path / "own.toml"
    config.write_text(
        'toy_insecure = true\n[data]\nsource = "digits"\n[model]\nsource = "transformers:x"\n[model.options]\nhead = "causal-lm"\n'
        '[training]\ntask = "causal-lm"\nbatch_size = 20\ndevice = "cpu"\n'
    )
    options = ["--config", str(config), "--data", str(tmp_path / "ids.npz"), "--measure", str(tmp_path / "held.npz")]
    return f"transformers:{tmp_path / 'large'}", options


def ran(*arguments: str) -> Any:
    result = RUNNER.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
def test_a_hybrid_cut_to_a_share_comes_back_through_transformers(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    ran("cut", source, "-o", str(tmp_path / "small"), "--to", "0.6", *options)
    record = json.loads((tmp_path / "small" / "cut.json").read_text())
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(report.values())
    count = sum(p.numel() for p in model.parameters())
    assert count == record["parameters"]["after"] == sum(record["parts"]["after"].values())
    assert 0.57 < count / record["parameters"]["before"] < 0.63
    held = Samples.load(tmp_path / "held.npz")
    with torch.no_grad():
        logits = forward(model.eval(), torch.from_numpy(held.features))
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.from_numpy(held.labels[:, 1:]).flatten()
    )
    assert float(loss) == pytest.approx(record["loss"]["after"], rel=1e-5)
    assert (tmp_path / "small" / "README.md").read_text().count("cut.json") == 1
    for axis in record["axes"].values():
        if axis["kept"] != "all":
            assert sorted(set(axis["kept"])) == axis["kept"]
            assert max(axis["kept"]) < axis["units"]


def test_given_numbers_are_kept_and_what_cannot_be_is_refused(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    ran("cut", source, "-o", str(tmp_path / "small"), "--heads", "4", "--ffn", "9", "--layers", "3", *options)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "small")
    assert (config.mamba_num_heads, config.intermediate_size, len(config.layers_block_type)) == (4, 9, 3)
    for wrong, word in (
        (["--heads", "3"], "2 or 4"),
        ([], "nothing to cut"),
        (["--ffn", "24"], "nothing to cut"),
        (["--to", "0.01"], "smallest"),
        (["--to", "half"], "share such as 0.6"),
        (["--search", "2"], "--to"),
        (["--to", "0.6", "--layers", "2"], "layers"),
        (["--heads", "4", "--score", "guess"], "activation, ablation"),
    ):
        result = RUNNER.invoke(app, ["cut", source, "-o", str(tmp_path / f"w{len(wrong)}{word[:3]}"), *wrong, *options])
        assert result.exit_code != 0, wrong
        assert word in str(result.exception) + result.output, (wrong, result.exception)


def test_numbers_that_mean_nothing_are_refused_in_a_sentence(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    cut, distil = ["cut", source, "--to", "0.6"], ["distil", source, "--teacher", source, "--steps", "1"]
    for command, wrong, word in (
        (["cut", source], ["--to=.5e400"], "inf of 7616 parameters cannot stay"),
        (["cut", source], ["--to=nan"], "share such as 0.6"),
        (["cut", source], ["--to=-0.5"], "cannot stay"),
        (["cut", source], ["--to=1.000001"], "cannot stay"),
        (cut, ["--seed=-1", "--calibration=5"], "'--seed'"),
        (cut, [f"--seed={2**63}"], "'--seed'"),
        (cut, ["--max-tokens=-1"], "'--max-tokens'"),
        (distil, ["--seed=-1"], "'--seed'"),
        (distil, [f"--seed={2**64}"], "'--seed'"),
        (distil, ["--temperature=inf"], "'--temperature': inf is no finite number"),
        (distil, ["--temperature=nan"], "'--temperature': nan is no finite number"),
        (distil, ["--temperature=-1"], "temperature -1.0 must be"),
        (distil, ["--weight=nan"], "'--weight': nan is no finite number"),
    ):
        result = RUNNER.invoke(app, [*command, *wrong, "-o", str(tmp_path / "out"), *options])
        assert result.exit_code != 0, wrong
        assert isinstance(result.exception, (ConfigError, SystemExit)), (wrong, result.exception)
        assert word in str(result.exception) + result.output, (wrong, result.exception, result.output)
        assert not (tmp_path / "out").exists()


def test_options_that_nothing_reads_are_refused(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    for words, word in (
        (["cut", source, "--ffn", "12", "--calibration", "5"], "--calibration: neurons are decided by magnitude"),
        (["cut", source, "--heads", "4", "--score", "random", "--max-tokens", "5"], "--max-tokens: --score random"),
        (["cut", source, "--heads", "4", "--score", "magnitude", "--seed", "5"], "--seed: --score magnitude draws"),
        (["cut", source, "--heads", "4", "--checkpoint", "best"], "--checkpoint: of a federation"),
        (["distil", source, "--teacher", source, "--checkpoint", "best"], "--checkpoint: of a federation"),
    ):
        with pytest.raises(ConfigError, match=word):
            ran(*words, "-o", str(tmp_path / "out"), *options)


def test_samples_are_not_numbered_where_a_share_leaves_them_nothing_to_decide(
    hybrid: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Which units a share takes is known once the model is read: here neurons alone, which the magnitudes decide."""
    source, options = hybrid
    words = [
        "cut",
        source,
        "-o",
        str(tmp_path / "out"),
        "--to",
        "0.95",
        "--heads",
        "8",
        "--channels",
        "4",
        "--width",
        "16",
    ]
    with pytest.raises(ConfigError, match="--calibration: no sample decides here"):
        ran(*words, "--calibration", "5", *options)
    assert not (tmp_path / "out").exists()
    ran(*words, *options)


def test_texts_that_decide_or_teach_are_cut_to_a_length(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    """As if the file had held no more of them."""
    source, options = hybrid
    short = [*options, "--data", str(tmp_path / "short.npz")]
    ids = np.where(np.arange(12) < 5, samples().features, PADDING)
    Samples(ids, np.where(ids == PADDING, IGNORED, ids)).save(tmp_path / "short.npz")
    for name, more in (("of", [*options, "--max-tokens", "5"]), ("short", short), ("whole", options)):
        # The last option of a name counts; what is measured is a file of its own.
        ran("cut", source, "-o", str(tmp_path / f"cut-{name}"), "--heads", "4", *more)
        ran(
            "distil",
            source,
            "--teacher",
            source,
            "--weight",
            "0",
            "--steps",
            "2",
            "-o",
            str(tmp_path / f"taught-{name}"),
            *more,
        )
    scored = {
        n: json.loads((tmp_path / f"cut-{n}" / "cut.json").read_text())["scores_sha256"]
        for n in ("of", "short", "whole")
    }
    assert scored["of"] == scored["short"] != scored["whole"]
    losses = {n: json.loads((tmp_path / f"taught-{n}" / "distil.json").read_text())["training_loss"] for n in scored}
    assert losses["of"] == losses["short"] != losses["whole"]


def test_the_best_model_of_a_federation_is_cut_and_teaches(tmp_path: Path) -> None:
    config = tiny(federation__rounds=3, data__public_share=0.2, data__validation_share=0.2, training__learning_rate=3.0)
    run = simulate(config, tmp_path / "run", engine="local")
    held = Samples.load(run.folder / "test.npz")
    expected, found, taught = {}, {}, {}
    for name in ("last", "best"):
        model = Finished.load(run.folder, name).merged()  # type: ignore[arg-type]
        measured = evaluate(model, held, Classification())
        expected[name] = pytest.approx(measured.loss_sum / measured.count)
        words = ["-o", str(tmp_path / name), "--checkpoint", name]
        ran("cut", str(run.folder), "--ffn", "10", *words)
        found[name] = json.loads((tmp_path / name / "cut.json").read_text())["loss"]["before"]
        words[1] += "-taught"
        ran("distil", str(run.folder), "--teacher", str(run.folder), "--steps", "1", *words)
        taught[name] = json.loads((tmp_path / f"{name}-taught" / "distil.json").read_text())["loss"]["teacher"]
    assert found == taught == expected
    assert found["last"] != found["best"]


def test_a_search_keeps_the_best_of_what_it_distilled_and_names_what_lost(
    hybrid: tuple[str, list[str]], tmp_path: Path
) -> None:
    source, options = hybrid
    words = ["--to", "0.6", "--search", "2", "--most", "5", "--steps", "2", *options]
    said = ran("cut", source, "-o", str(tmp_path / "small"), *words)
    record = json.loads((tmp_path / "small" / "cut.json").read_text())
    assert "5 sizes within 3 %" in said.output
    rows = [line.split() for line in said.output.splitlines()]
    printed = sorted(float(row[-2]) for row in rows if len(row) == 8 and "," in row[4])
    found, sizes = record["search"], record["search"]["sizes"]
    assert len(sizes) == 5
    assert [size["kept"] for size in sizes] == [True, False, False, False, False]
    distilled = [size["loss_distilled"] for size in sizes]
    assert distilled[:2] == sorted(distilled[:2])
    assert distilled[:2] == pytest.approx(printed, abs=6e-5)
    assert distilled[2:] == [None, None, None]
    as_cut = [size["loss_as_cut"] for size in sizes]
    assert max(as_cut[:2]) <= as_cut[2] <= as_cut[3] <= as_cut[4]
    # Of 60 samples a fifth is for the test, and a fifth of the others chooses.
    assert (found["chosen_by"], found["validation_samples"], record["calibration_samples"]) == ("set aside", 9, 39)
    assert record["distilled"] == {"steps": 2, "samples_seen": 39, "teacher": "the model before"}
    assert record["parameters"]["after"] == sizes[0]["parameters"]
    # What is reported is the loss on the measured samples of the model that lies in the folder.
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    measured = evaluate(model, Samples.load(tmp_path / "held.npz"), CausalLM())
    assert record["loss"]["after"] == pytest.approx(measured.loss_sum / measured.count, rel=1e-5)
    card = (tmp_path / "small" / "README.md").read_text()
    assert "trained for 2 steps to say what the whole model says" in card
    assert "- distillation" in card
    for size in sizes[:2]:
        row = next(line for line in card.splitlines() if f"| {size['loss_distilled']:.4f} |" in line)
        assert f"| {size['parameters']:,} | {size['loss_as_cut']:.4f} |" in row
        assert row.endswith("| this one |") is size["kept"]


def test_what_is_measured_chooses_nothing(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    ids = np.repeat(np.arange(3, 23)[:, None], 12, axis=1)
    Samples(ids, ids).save(tmp_path / "odd.npz")
    made = {}
    for name, more in (("held", []), ("odd", ["--measure", str(tmp_path / "odd.npz")])):
        words = ["--to", "0.6", "--search", "4", "--most", "12", "--steps", "1"]
        ran("cut", source, "-o", str(tmp_path / name), *words, *options, *more)
        made[name] = json.loads((tmp_path / name / "cut.json").read_text())
    assert made["held"]["loss"] != made["odd"]["loss"]
    for fact in ("axes", "scores_sha256", "parameters"):
        assert made["held"][fact] == made["odd"][fact]
    chosen = [[{**size, "speed": 0} for size in made[name]["search"]["sizes"]] for name in ("held", "odd")]
    assert chosen[0] == chosen[1]
    held, odd = (load_file(tmp_path / name / "model.safetensors") for name in ("held", "odd"))
    assert held.keys() == odd.keys()
    assert all(torch.equal(tensor, odd[name]) for name, tensor in held.items())


def test_a_search_wants_samples_to_choose_by(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    words = ["cut", source, "-o", str(tmp_path / "small"), "--to", "0.6", "--calibration", "1"]
    ran(*words, *options)
    with pytest.raises(ConfigError, match="none can be set aside"):
        ran(*words[:3], str(tmp_path / "searched"), *words[4:], "--search", "2", *options)


def test_a_card_names_what_decided(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    """Magnitudes and draws look at no sample."""
    source, options = hybrid
    for name, words, said in (
        ("default", ["--ffn", "12", "--heads", "4"], "48 samples and the magnitudes of weights decided"),
        ("magnitude", ["--ffn", "12"], "The magnitudes of weights decided"),
        ("random", ["--ffn", "12", "--score", "random"], "A draw decided"),
    ):
        ran("cut", source, "-o", str(tmp_path / name), *words, *options)
        card = (tmp_path / name / "README.md").read_text()
        assert said in card
        assert ("samples that decided" in card) is (name == "default")
        assert "20 other samples were measured, and decided nothing." in card
        record = json.loads((tmp_path / name / "cut.json").read_text())
        assert (record["distilled"], record["search"]) == (None, None)


@pytest.mark.slow
def test_a_distilled_folder_loads_in_a_process_without_this_project(
    hybrid: tuple[str, list[str]], tmp_path: Path
) -> None:
    source, options = hybrid
    ran(
        "cut",
        source,
        "-o",
        str(tmp_path / "small"),
        "--to",
        "0.6",
        "--search",
        "1",
        "--most",
        "2",
        "--steps",
        "2",
        *options,
    )
    words = ["--teacher", source, "-o", str(tmp_path / "taught"), "--steps", "2"]
    ran("distil", f"transformers:{tmp_path / 'small'}", *words, *options)
    code = (
        "import sys; sys.modules['dictpfl'] = None\n"
        "import torch, transformers\n"
        "for name in ('small', 'taught'):\n"
        "    m, report = transformers.AutoModelForCausalLM.from_pretrained(name, output_loading_info=True)\n"
        "    assert not any(report.values()), report\n"
        "    print(repr(m.eval()(torch.arange(3, 39).reshape(3, 12)).logits.double().square().sum().item()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = []
    for name in ("small", "taught"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            expected.append(model(torch.arange(3, 39).reshape(3, 12)).logits.double().square().sum().item())
    assert [float(line) for line in done.stdout.split()] == pytest.approx(expected, rel=1e-6)
    assert expected[0] != pytest.approx(expected[1], rel=1e-6)


def test_a_distilled_folder_is_nearer_to_its_teacher(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    ran("cut", source, "-o", str(tmp_path / "small"), "--ffn", "12", *options)
    ran(
        "distil", f"transformers:{tmp_path / 'small'}", "--teacher", source, "-o", str(tmp_path / "taught"), "--steps", "60",
        *options,
    )  # fmt: skip
    record = json.loads((tmp_path / "taught" / "distil.json").read_text())
    assert (
        record["samples_seen"] == 60 * 16
    )  # of 60 samples a fifth is kept for the test, and batches are of 20, 20 and 8
    large, small, taught = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        for name in ("large", "small", "taught")
    )
    ids = torch.from_numpy(samples().features)
    with torch.no_grad():
        said = [model(ids).logits.log_softmax(-1) for model in (large, small, taught)]
    far = [float((said[0].exp() * (said[0] - each)).sum(-1).mean()) for each in said[1:]]
    assert far[1] < 0.7 * far[0]


def test_a_run_of_this_project_is_cut_and_says_how_it_is_made_again(tmp_path: Path) -> None:
    run = simulate(tiny(federation__rounds=1, data__public_share=0.2), tmp_path / "run", engine="local")
    ran("cut", str(run.folder), "-o", str(tmp_path / "small"), "--ffn", "10")
    record = json.loads((tmp_path / "small" / "cut.json").read_text())
    from dictpfl.client.model.build import build_model
    from dictpfl.common.settings import Model

    shape = Samples.load(run.folder / "test.npz").features.shape[1:]
    weights = str(tmp_path / "small" / "model.safetensors")
    model = build_model(
        Model(source=run.config.model.source, options=record["options"], weights=weights), shape, 10, seed=5
    )
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]["after"]
    assert "several institutions" in (tmp_path / "small" / "README.md").read_text()


def test_options_are_those_that_made_a_network_and_its_sizes_of_now() -> None:
    """A patch of one's own was left out, and what makes a network of one's own was named `hidden`, which its function need not take."""
    from dictpfl.client.model.build import build_model
    from dictpfl.common.settings import Model

    for source, options, shape in (
        ("vit_tiny", {"dim": 8, "depth": 1, "heads": 2, "patch": 4, "dropout": 0.5}, (1, 8, 8)),
        ("mlp", {"hidden": [6, 5]}, (7,)),
        ("cnn", {"width": 4, "depth": 2, "norm": "group"}, (1, 8, 8)),
    ):
        made = Model(source=source, options=options)
        model = build_model(made, shape, 3, seed=1)
        again = build_model(Model(source=source, options=options_of(model, made)), shape, 3, seed=1)
        assert str(again) == str(model)
    mine = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    assert options_of(mine, Model(source="wards:network", options={"width": 9})) == {}


def test_a_search_scores_each_kind_as_a_cut_without_one(hybrid: tuple[str, list[str]]) -> None:
    source, options = hybrid
    read = read_source(source, config=Path(options[1]), data=Path(options[3]), measure=Path(options[5]))
    read = with_validation(read, 1)
    alone = make(read, to="0.6", given={}, score="default", seed=1)
    of = searched(read, to="0.6", given={}, keep=1, most=1, steps=1, say=str, score="default", seed=1)
    assert digest(alone.shrunk.chosen.scores) == digest(of.shrunk.chosen.scores)
    assert alone.shrunk.chosen.ways == of.shrunk.chosen.ways
    kept = [{n: units.tolist() for n, units in each.shrunk.chosen.kept.items()} for each in (alone, of)]
    assert kept[0] == kept[1]


def test_what_is_trained_at_home_has_the_rate_of_dense_parameters(
    hybrid: tuple[str, list[str]], tmp_path: Path
) -> None:
    source, options = hybrid
    still = ["--set", "training.learning_rate=0.1", "--set", "training.dense_learning_rate=1e-12", "--steps", "2"]
    ran("distil", source, "--teacher", source, "-o", str(tmp_path / "taught"), *still, "--weight", "0", *options)
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("large", "taught")
    )
    assert all(torch.allclose(tensor, after[name], atol=1e-6) for name, tensor in before.items())


def test_a_teacher_that_cannot_teach_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_labels=3
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "student")
    transformers.BertModel(config).save_pretrained(tmp_path / "headless")
    ids = samples().features
    Samples(ids, np.arange(len(ids)) % 3).save(tmp_path / "own.npz")
    (tmp_path / "c.toml").write_text(as_toml())
    run = simulate(tiny(federation__rounds=1), tmp_path / "run", engine="local")
    for teacher, word in (
        (f"transformers:{tmp_path / 'headless'}", "classifier.bias, classifier.weight"),
        (str(run.folder), "does not take the student's samples"),
    ):
        with pytest.raises(ConfigError, match=word):
            ran(
                "distil", f"transformers:{tmp_path / 'student'}", "--teacher", teacher, "-o", str(tmp_path / "taught"), "--steps", "1",
                "--config", str(tmp_path / "c.toml"), "--data", str(tmp_path / "own.npz"),
            )  # fmt: skip
