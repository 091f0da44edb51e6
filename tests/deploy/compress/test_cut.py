"""`dictpfl cut` and `dictpfl distil`: a folder that its library loads, and a record of what was decided by what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.training.calling import forward
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.cli import app
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
        (distil, ["--temperature=inf"], "temperature inf must be a number above 0"),
        (distil, ["--temperature=nan"], "temperature nan must be"),
        (distil, ["--temperature=-1"], "temperature -1.0 must be"),
        (distil, ["--weight=nan"], "weight nan one from 0 to 1"),
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


def test_a_search_keeps_the_best_of_what_it_distilled(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    said = ran(
        "cut",
        source,
        "-o",
        str(tmp_path / "small"),
        "--to",
        "0.6",
        "--search",
        "2",
        "--most",
        "5",
        "--steps",
        "2",
        *options,
    )
    record = json.loads((tmp_path / "small" / "cut.json").read_text())
    assert "5 sizes within 3 %" in said.output
    rows = [line.split() for line in said.output.splitlines()]
    distilled = [float(row[-2]) for row in rows if len(row) == 8 and "," in row[4]]
    assert len(distilled) == 2
    assert record["loss"]["after"] == pytest.approx(min(distilled), abs=6e-5)


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


def test_a_search_scores_each_kind_as_a_cut_without_one(hybrid: tuple[str, list[str]], tmp_path: Path) -> None:
    source, options = hybrid
    ran("cut", source, "-o", str(tmp_path / "alone"), "--to", "0.6", *options)
    ran(
        "cut",
        source,
        "-o",
        str(tmp_path / "of"),
        "--to",
        "0.6",
        "--search",
        "1",
        "--most",
        "1",
        "--steps",
        "1",
        *options,
    )
    alone, of = (json.loads((tmp_path / name / "cut.json").read_text()) for name in ("alone", "of"))
    assert alone["scores_sha256"] == of["scores_sha256"]
    assert alone["axes"] == of["axes"]


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
