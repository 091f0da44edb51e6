"""`dictpfl prune`, sparse folders, and what loads them without this project."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import dictpfl
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.training.task import load_task
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Model, Training
from dictpfl.deploy.cli import app
from dictpfl.deploy.compress.cli import _draw
from dictpfl.deploy.compress.pruning import pattern_of, read_figures
from dictpfl.deploy.exports.exporter import load_exporter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.planes import pack, unpack
from dictpfl.deploy.reports import plots
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import forking
from tests.support.federations import as_toml, tiny
from tests.support.timm_folders import tiny_vit

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pruning") / "run"
    return simulate(tiny(federation__rounds=1, data__public_share=0.2), folder, engine="local")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model with tied embeddings, samples of its, and a configuration."""
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    ids = np.random.default_rng(0).integers(0, 16, (30, 6))
    Samples(ids, ids).save(folder / "ids.npz")
    text = as_toml(training__task="causal-lm", model__options={"head": "causal-lm"})
    (folder / "c.toml").write_text(text.replace('"mlp"', f'"transformers:{folder / "model"}"'))
    return folder


def ran(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def equal(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def test_a_run_is_pruned_and_both_forms_hold_the_same_model(run: Run, tmp_path: Path) -> None:
    said = ran("prune", run.folder, "-o", tmp_path / "merged", "--sparsity", 0.6, "--device", "cpu")
    ran("prune", run.folder, "-o", tmp_path / "sparse", "--sparsity", 0.6, "--device", "cpu", "--format", "sparse")
    merged, figures = load_file(tmp_path / "merged" / "model.safetensors"), read_figures(tmp_path / "merged")
    again = dictpfl.load_sparse(tmp_path / "sparse")
    assert all(torch.equal(value, merged[name]) for name, value in again.state_dict().items())
    assert figures["masks_sha256"] == read_figures(tmp_path / "sparse")["masks_sha256"]
    assert figures["masks_sha256"] in said
    assert figures["kept"] == figures["entries"] - figures["entries"] * 6 // 10
    packed = {name: bits.numpy() for name, bits in load_file(tmp_path / "merged" / "masks.safetensors").items()}
    shapes = {name: tuple(weight["shape"]) for name, weight in figures["weights"].items()}
    masks = Masks.unpacked({n: packed[n] for n in shapes}, shapes)
    assert masks.kept == figures["kept"]
    for name, mask in masks.by_name.items():
        assert np.array_equal(merged[name].numpy() != 0, mask)
    assert stat.S_IMODE((tmp_path / "merged").stat().st_mode) == 0o700
    assert "accuracy" in said
    assert "zeros save size" in said
    card = (tmp_path / "sparse" / "README.md").read_text()
    assert "dictpfl.load_sparse" in card
    assert str(tmp_path) not in card


def test_a_language_model_comes_back_bit_for_bit_and_smaller(llama: Path, tmp_path: Path) -> None:
    words = (
        "prune",
        f"transformers:{llama / 'model'}",
        "--config",
        llama / "c.toml",
        "--data",
        llama / "ids.npz",
        "--device",
        "cpu",
    )
    ran(*words, "-o", tmp_path / "sparse", "--sparsity", 0.7, "--method", "sparsegpt", "--format", "sparse")
    ran(*words, "-o", tmp_path / "merged", "--sparsity", 0.7, "--method", "sparsegpt")
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    own = dictpfl.load_sparse(tmp_path / "sparse")
    assert equal(own, plain)
    assert type(own) is transformers.LlamaForCausalLM
    figures = read_figures(tmp_path / "sparse")
    written = sum(f.stat().st_size for f in (tmp_path / "sparse").glob("weights.safetensors"))
    assert figures["bytes"]["packed"] == written < figures["bytes"]["dense"]
    assert str(llama) not in json.dumps(figures)
    with pytest.raises(ConfigError, match="is there and holds something"):
        app([*map(str, words), "-o", str(tmp_path / "merged")], standalone_mode=False)


@pytest.mark.slow
def test_plain_transformers_loads_it_in_a_process_without_this_project(llama: Path, tmp_path: Path) -> None:
    ran(
        "prune", f"transformers:{llama / 'model'}", "--config", llama / "c.toml", "--data", llama / "ids.npz", "-o",
        tmp_path / "m", "--device", "cpu",
    )  # fmt: skip
    code = (
        "import sys; sys.modules['dictpfl'] = None\n"
        "import torch, transformers\n"
        f"m = transformers.LlamaForCausalLM.from_pretrained({str(tmp_path / 'm')!r}).eval()\n"
        "x = torch.arange(12).reshape(2, 6)\n"
        "w = m.model.layers[0].mlp.up_proj.weight\n"
        "print(float((w == 0).float().mean()), repr(m(x).logits.double().sum().item()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    share, total = done.stdout.split()
    assert abs(float(share) - 0.5) < 0.01
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m")
    model.train(mode=False)
    assert float(total) == pytest.approx(model(torch.arange(12).reshape(2, 6)).logits.double().sum().item(), abs=1e-9)


def test_a_federation_with_zeros_is_exported_packed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = load_exporter("sparse")
    with pytest.raises(ConfigError, match="no zeros"):
        exporter.export(run.folder, tmp_path / "dense")
    plain = Finished.load(run.folder).merged()
    with torch.no_grad():
        next(p for p in plain.parameters() if p.ndim == 2)[:, ::2] = 0.0
    monkeypatch.setattr(Finished, "merged", lambda _self, _bench=None: plain)
    words = exporter.export(run.folder, tmp_path / "sparse")
    assert equal(dictpfl.load_sparse(tmp_path / "sparse"), plain)
    assert read_figures(tmp_path / "sparse")["masks_sha256"] in words


@pytest.mark.parametrize("name", ["kept.svg", "behalten é.png"])
def test_what_stays_is_drawn(run: Run, tmp_path: Path, name: str) -> None:
    ran(
        "prune",
        run.folder,
        "-o",
        tmp_path / "a",
        "--allocate",
        "global",
        "--device",
        "cpu",
        "--picture",
        tmp_path / name,
    )
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(b"\x89PNG") or b"<svg" in drawn
    assert len(drawn) > 5_000


@pytest.mark.parametrize(("name", "said"), [("kept.txt", "one of .svg, .png, .pdf"), ("nowhere/kept.svg", "nowhere")])
def test_a_picture_that_cannot_be_is_refused_first(run: Run, tmp_path: Path, name: str, said: str) -> None:
    words = ["prune", str(run.folder), "-o", str(tmp_path / "x"), "--picture", str(tmp_path / name)]
    with pytest.raises(ConfigError, match=said):
        app(words, standalone_mode=False)
    assert not (tmp_path / "x").exists()


def test_a_picture_that_a_full_disk_refuses_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(plots, "kept_by_part", lambda _: SimpleNamespace(savefig=half))
    masks = SimpleNamespace(facts=lambda _: {"blocks": {}})
    outcome: Any = SimpleNamespace(pruned=SimpleNamespace(masks=masks, weights={}))
    (tmp_path / "kept.svg").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device") as caught:
        _draw(outcome, tmp_path / "kept.svg")
    assert caught.value.filename == str(tmp_path / "kept.svg")
    assert (tmp_path / "kept.svg").read_bytes() == b"old"


def learnable() -> tuple[torch.nn.Module, Samples]:
    model = build_model(Model(source="mlp", options={"hidden": [12]}), (1, 8, 8), 10, seed=1)
    return model, Samples(np.random.default_rng(0).normal(size=(32, 1, 8, 8)).astype(np.float32), np.arange(32) % 10)


def test_thresholds_are_learnt_by_the_command(run: Run, tmp_path: Path) -> None:
    words = ("prune", run.folder, "--method", "lua", "--sparsity", 0.8, "--device", "cpu", "--rate", 0.05)
    ran(*words, "--steps", 20, "-o", tmp_path / "lua")
    ran(*words, "--steps", 1, "-o", tmp_path / "start")
    one, other = read_figures(tmp_path / "lua"), read_figures(tmp_path / "start")
    assert one["masks_sha256"] != other["masks_sha256"]
    assert one["kept"] == other["kept"]
    assert one["method"] == "lua"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "wanda", "--steps", "20"], "--steps says how lua learns"),
        (["--rate", "0.1"], "--rate says how lua learns"),
        (["--method", "magnitude", "--regularisation", "1"], "--method is magnitude"),
        (["--set", "training.batch_size=4"], "wanda trains nothing"),
        (["--method", "lua", "--set", "training.learning_rate=0.1"], "by --steps and --rate"),
        (["--method", "lua", "--set", "training.autocast=float16"], "does not have"),
    ],
)
def test_options_that_a_method_does_not_read_are_refused(run: Run, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app(["prune", str(run.folder), "-o", str(tmp_path / "x"), "--device", "cpu", *words], standalone_mode=False)


def test_magnitude_needs_no_samples(tmp_path: Path) -> None:
    """A run has public samples only where its data have a public share."""
    bare = simulate(tiny(federation__rounds=1), tmp_path / "run", engine="local")
    ran("prune", bare.folder, "--method", "magnitude", "-o", tmp_path / "zeros", "--device", "cpu")
    assert (tmp_path / "zeros").is_dir()
    with pytest.raises(ConfigError, match="magnitude looks at no sample"):
        app(
            ["prune", str(bare.folder), "-o", str(tmp_path / "x"), "--method", "magnitude", "--calibration", "8"],
            standalone_mode=False,
        )
    with pytest.raises(ConfigError, match="without public samples"):
        app(["prune", str(bare.folder), "-o", str(tmp_path / "x"), "--device", "cpu"], standalone_mode=False)


def test_thresholds_are_learnt_in_the_arithmetic_of_training(run: Run, tmp_path: Path) -> None:
    model, samples = learnable()
    found = [
        dictpfl.learn_thresholds(
            model, samples, load_task("classification"), 0.6, steps=3, rate=0.05,
            training=Training(batch_size=8, device="cpu", autocast=autocast, learning_rate=7.0, schedule="cosine"),
        )
        for autocast in ("none", "bfloat16")
    ]  # fmt: skip
    assert found[0].loss != found[1].loss
    assert found[0].loss == pytest.approx(found[1].loss, rel=0.05)
    ran(
        "prune",
        run.folder,
        "--method",
        "lua",
        "--steps",
        2,
        "--set",
        "training.autocast=bfloat16",
        "-o",
        tmp_path / "x",
    )


def test_damaged_folders_are_refused(run: Run, tmp_path: Path) -> None:
    ran("prune", run.folder, "-o", tmp_path / "s", "--format", "sparse", "--device", "cpu")
    ran("prune", run.folder, "-o", tmp_path / "merged", "--device", "cpu")
    file, document = tmp_path / "s" / "weights.safetensors", tmp_path / "s" / "sparsity.json"
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
        stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- not a mapping
        tensors = unpack(stored, said["planes"])
    text = document.read_text()
    name = next(n for n in tensors if n.endswith(":mask"))
    values = name.replace(":mask", ":values")
    flipped = tensors[name].clone()
    flipped[0] ^= 128
    for wrong in (
        {**tensors, name: flipped},
        {**tensors, values: tensors[values][1:]},
        {n: t for n, t in tensors.items() if n != name},
    ):
        save_file(wrong, file)
        with pytest.raises(DataError):
            dictpfl.load_sparse(tmp_path / "s")
    packed, listed = pack(tensors)
    assert listed != "{}"
    for wrong in (
        {n: t.roll(7) if n in json.loads(listed) else t for n, t in packed.items()},
        {n: t[:-4] if n in json.loads(listed) else t for n, t in packed.items()},
    ):
        save_file(wrong, file, metadata={"planes": listed})
        with pytest.raises(DataError, match="fetch it again"):
            dictpfl.load_sparse(tmp_path / "s")
    for lists in ("[]", "{", '{"x": ["float32", [1]]}', listed.replace("uint8", "load").replace("float32", "load")):
        save_file(packed, file, metadata={"planes": lists})
        with pytest.raises(DataError, match="damaged"):
            dictpfl.load_sparse(tmp_path / "s")
    save_file(tensors, file)
    document.write_text(text.replace('"form": 2', '"form": 1'))  # as a release wrote it that deflated nothing
    own = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(
        torch.equal(value, own[name]) for name, value in dictpfl.load_sparse(tmp_path / "s").state_dict().items()
    )
    document.write_text(text.replace('"form": 2', '"form": 3'))
    with pytest.raises(DataError, match="form 3"):
        dictpfl.load_sparse(tmp_path / "s")
    with pytest.raises(ConfigError, match="no sparse folder"):
        dictpfl.load_sparse(tmp_path)


def test_texts_to_decide_by_are_cut_to_max_tokens(llama: Path, run: Run, tmp_path: Path) -> None:
    words = (
        "prune",
        f"transformers:{llama / 'model'}",
        "--config",
        llama / "c.toml",
        "--data",
        llama / "ids.npz",
        "--device",
        "cpu",
    )
    found = {}
    for most in (0, 2, 6):
        ran(*words, "-o", tmp_path / str(most), "--max-tokens", most, "--at-once")
        found[most] = read_figures(tmp_path / str(most))["masks_sha256"]
    assert found[0] == found[6] != found[2]
    with pytest.raises(ConfigError, match="no texts"):
        app(["prune", str(run.folder), "-o", str(tmp_path / "x"), "--max-tokens", "3"], standalone_mode=False)


def test_thresholds_are_learnt_from_python() -> None:
    model, samples = learnable()
    learnt = dictpfl.learn_thresholds(model, samples, load_task("classification"), 0.6, steps=3, rate=0.05)
    assert isinstance(learnt, dictpfl.Thresholds)
    assert learnt.masks().kept == 64 * 12 - 64 * 12 * 6 // 10
    assert all(np.abs(t - 0.6).max() > 1e-3 for t in learnt.values.values())


def test_patterns_are_read() -> None:
    assert pattern_of("") is None
    assert pattern_of("2:4") == (2, 4)
    for wrong in ("2", "4:2", "0:4", "a:b", "1:²"):
        with pytest.raises(ConfigError, match="2:4"):
            pattern_of(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["transformers", pytest.param("timm", marks=pytest.mark.nightly)])
def test_a_classifier_of_a_library_keeps_its_head_and_comes_back_from_its_sparse_folder(
    tmp_path: Path, library: str
) -> None:
    random = np.random.default_rng(0)
    if library == "timm":
        own = tiny_vit(tmp_path / "model", 5)
        features, head = random.normal(size=(30, 1, 8, 8)).astype(np.float32), "head.weight"
    else:
        config = transformers.BertConfig(
            vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_labels=5,
        )  # fmt: skip
        own = transformers.BertForSequenceClassification(config)
        own.save_pretrained(tmp_path / "model")
        features, head = random.integers(0, 16, (30, 6)), "classifier.weight"
    # Three of five classes occur: an .npz says no more of their number.
    Samples(features, np.arange(30) % 3).save(tmp_path / "own.npz")
    (tmp_path / "c.toml").write_text(as_toml())
    for form in ("sparse", "merged"):
        words = ["prune", f"{library}:model", "--config", "c.toml", "--data", "own.npz", "--format", form, "-o", form]
        done = forking.ran(words, tmp_path)
        assert done.returncode == 0, done.stderr
    again = dictpfl.load_sparse(tmp_path / "sparse").state_dict()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(again[head], own.state_dict()[head])
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.items())
