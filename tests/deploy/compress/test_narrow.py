"""`dictpfl narrow`: a plain model that a process without dictpfl loads, a report that fits its schema, words that are measured."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.narrow.federating import gated_axes, kept_units
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.deploy.cli import app
from dictpfl.deploy.compress.narrowing import _skilled
from dictpfl.deploy.exports.adapter import make_adapter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.folders import save_model
from dictpfl.deploy.exports.narrow_report import NarrowReport, stage
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import forking
from tests.support.federations import as_toml, tiny
from tests.support.timm_folders import tiny_vit

ROOT = Path(__file__).parents[3]
SHORT = ["--steps", "4", "--recover", "3"]


def called(*arguments: str) -> str:
    """Call the command as a user does; its errors are raised."""
    result = CliRunner().invoke(app, ["narrow", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.output)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow") / "run"
    config = tiny(federation__rounds=1, data__limit=600, data__public_share=0.4, model__options={"hidden": [16, 12]})
    simulate(config, folder, engine="local")
    return folder


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Models as they were in memory when they were saved."""
    caught: list[nn.Module] = []

    def saved_too(model: nn.Module, source: str, folder: Path, **more: Any) -> None:
        caught.append(copy.deepcopy(model).eval())
        save_model(model, source, folder, **more)

    for place in ("dictpfl.deploy.exports.folders", "dictpfl.deploy.compress.narrowing"):
        monkeypatch.setattr(f"{place}.save_model", saved_too)
    return caught


def report(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "narrow.json").read_text(encoding="utf-8"))
    jsonschema.validate(written, NarrowReport.model_json_schema())
    return written


def test_a_model_without_numbers_is_reported_as_that() -> None:
    """The report refused NaN when all work was done, and nothing was written."""
    model = nn.Linear(3, 2)
    nn.init.constant_(model.bias, torch.nan)
    found = stage(model, load_task("classification"), Samples(np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1])))
    assert found.kept is not None
    assert (found.kept.metric, found.kept.loss, found.kept.samples, found.figure) == (None, None, 4, "no number")


@pytest.mark.parametrize("method", ["gates", "lasso", "attribution", "scratch", "distil", "uncut"])
def test_a_run_is_narrowed(run: Path, tmp_path: Path, method: str) -> None:
    output = tmp_path / "out"
    called(str(run), "--skill", "classes=0,2,4", "-o", str(output), "--method", method, *SHORT)
    written, tensors = report(output), load_file(output / "model.safetensors")
    assert written["classes"] == [0, 2, 4]
    widths = (16, 12) if method == "uncut" else (4, 3)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.endswith("weight")} == {
        "1.weight": (widths[0], 64), "3.weight": (widths[1], widths[0]), "5.weight": (3, widths[1]),
    }  # fmt: skip
    assert written["after_recovery"]["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert written["steps"] == 7
    assert written["after_recovery"]["kept"]["samples"] == len(Samples.load(run / "test.npz").of_classes((0, 2, 4)))


def test_the_audit_compares_equal_steps(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = called(
        str(run), "--skill", "classes=0,2,4", "--dropped", "classes=1,3", "-o", str(output), "--relearn", "1,5", "--seeds", "2", *SHORT
    )  # fmt: skip
    audits = report(output)["audits"]
    assert [audit["head"] for audit in audits] == ["as it is", "fresh"]
    assert [curve["steps"] for curve in audits[0]["curves"]] == [1, 5]
    assert all(len(curve[arm]) == 2 for curve in audits[0]["curves"] for arm in ("arm", "ceiling", "floor"))
    assert audits[0]["probe"].keys() == {"arm", "ceiling", "floor"}
    assert "verdict" in words
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "not erased" in card
    assert promises(card) == []


def test_a_dropped_skill_of_which_one_class_is_there_has_no_probe(run: Path, tmp_path: Path) -> None:
    test = Samples.load(run / "test.npz")
    test.of_classes((0, 1, 2)).save(tmp_path / "own.npz")
    audit = ["--relearn", "1", "--seeds", "1", "--skill", "classes=0,2"]
    for number, dropped in enumerate(("classes=1,3", "classes=1")):
        output = tmp_path / f"out{number}"
        words = called(
            str(run), "--data", str(tmp_path / "own.npz"), "--dropped", dropped, "-o", str(output), *audit, *SHORT
        )
        written = report(output)
        assert [one["probe"] for one in written["audits"]] == [{}, {}]
        (note,) = [note for note in written["notes"] if "probe" in note]
        assert f"samples of {dropped} to train on are of one class" in note
        assert note in " ".join(words.split())


def test_one_unit_stays_and_that_is_said(run: Path, tmp_path: Path) -> None:
    words = called(
        str(run), "--skill", "classes=0,2", "--keep", "0.01", "--method", "random", "-o", str(tmp_path / "a"), *SHORT
    )
    assert load_file(tmp_path / "a" / "model.safetensors")["1.weight"].shape == (1, 64)
    said = "keep = 0.01 is less than a unit of ffn:1, ffn:3; at least one unit stays in every layer."
    assert said in " ".join(words.split())
    assert said in report(tmp_path / "a")["notes"]
    assert said in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


def test_gates_that_all_close_are_said(run: Path, tmp_path: Path) -> None:
    strong = ["--penalty", "100", "--rate", "0.1", "--steps", "60", "--recover", "1", "--skill", "classes=0,2"]
    called(str(run), *strong, "-o", str(tmp_path / "a"))
    (note,) = [note for note in report(tmp_path / "a")["notes"] if "gates" in note]
    assert "All gates of ffn:1, ffn:3 closed: at least one unit stays" in note
    assert not any("closed" in note for note in _notes(run, tmp_path / "b", "--skill", "classes=0,2", *SHORT))


def _notes(run: Path, output: Path, *words: str) -> list[str]:
    called(str(run), *words, "-o", str(output))
    return list(report(output)["notes"])


GATED: dict[str, Any] = {
    "narrow__axes": ["ffn"],
    "narrow__keep": 5,
    "narrow__classes": [4, 0, 2],
    "federation__rounds": 2,
}


def test_an_adapter_has_the_gates_of_its_federation(tmp_path: Path) -> None:
    simulate(tiny(**GATED, model__options={"hidden": [16, 16]}), tmp_path / "run", engine="local")
    finished = Finished.load(tmp_path / "run")
    merged = finished.merged().state_dict()
    adapter, loaded = make_adapter(finished, finished.merged()), finished.start()
    for name, tensor in adapter.tensors.items():
        owner, kind = name.removeprefix("base_model.model.").split(".", 1)
        if kind == "lora_A.weight":
            loaded[f"{owner}.weight"] = loaded[f"{owner}.weight"] + adapter.tensors[name.replace("_A", "_B")] @ tensor
        elif not kind.startswith("lora_B"):
            loaded[f"{owner}.{kind.removeprefix('base_layer.')}"] = tensor
    assert "1" in adapter.targets
    assert all(torch.allclose(loaded[name], tensor, atol=1e-6) for name, tensor in merged.items())


def exported(*words: str | Path) -> str:
    """Export a federation's own cut; what was printed."""
    result = CliRunner().invoke(app, ["export", *map(str, words), "--format", "narrow"])
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_a_federations_own_cut(tmp_path: Path, in_memory: list[nn.Module]) -> None:
    simulate(tiny(**GATED), tmp_path / "run", engine="local")
    said = exported(tmp_path / "run", "-o", tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tuple(one.shape) for name, one in tensors.items() if name.endswith("weight")} == {
        "1.weight": (5, 64), "3.weight": (3, 5),
    }  # fmt: skip
    test = Samples.load(tmp_path / "run" / "test.npz")
    x = torch.from_numpy(test.features).flatten(1)
    by_hand = (x @ tensors["1.weight"].T + tensors["1.bias"]).relu() @ tensors["3.weight"].T + tensors["3.bias"]
    assert torch.allclose(by_hand, in_memory[0](x), atol=1e-5)
    finished = Finished.load(tmp_path / "run")
    whole = finished.merged()
    axes = gated_axes(whole, finished.genesis.config.narrow)
    kept = kept_units(finished.genesis, finished.state.values, axes)
    small = cut(whole, kept).eval()
    assert torch.allclose(by_hand, small(torch.from_numpy(test.features))[:, [0, 2, 4]], atol=1e-5)
    written = report(tmp_path / "out")
    assert (written["skill"], written["classes"], written["method"]) == ("classes=0,2,4", [0, 2, 4], "gates")
    assert written["kept"] == {name: units.tolist() for name, units in kept.items()}
    assert written["after_cut"]["parameters"] == sum(one.numel() for one in tensors.values())
    assert (written["steps"], written["after_recovery"]) == (None, None)
    right = (small(torch.from_numpy(test.features)).argmax(dim=1).numpy() == test.labels).mean()
    assert written["after_cut"]["kept"]["metric"] == pytest.approx(right)
    assert written["after_cut"]["kept"]["samples"] == len(test)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Classes of the skill: 0, 2, 4; the head has their rows alone, in this order." in card
    shares = [int(found) for found in re.findall(r"(\d+)% ?", said + card.split("went with")[0])]
    # Barely trained gates are all near 1, and 5 of 16 units stay.
    assert shares
    assert all(40 < share < 80 for share in shares), (shares, said)
    assert written["left_open"] == pytest.approx(shares[0] / 100, abs=0.006)
    assert "not erased" in card
    assert promises(card) == []

    exported(tmp_path / "run", "-o", tmp_path / "whole", "--head", "whole")
    assert load_file(tmp_path / "whole" / "model.safetensors")["3.weight"].shape == (10, 5)
    assert report(tmp_path / "whole")["classes"] == []
    home = tmp_path / "run" / "institutions" / "institution-000"
    exported(home, "-o", tmp_path / "home")
    own = Samples.load(home / "validation.npz").of_classes((0, 2, 4))
    assert report(tmp_path / "home")["before"]["kept"]["samples"] == len(own) > 0
    # What is no more there, or damaged, is said, and withholds no model.
    for number, (change, reason) in enumerate(
        [(lambda path: path.write_bytes(b"?"), "cannot read"), (Path.unlink, "holds no samples")]
    ):
        change(tmp_path / "run" / "test.npz")
        said = exported(tmp_path / "run", "-o", tmp_path / f"unmeasured{number}")
        written = report(tmp_path / f"unmeasured{number}")
        assert written["before"]["kept"] is None
        assert written["after_cut"]["parameters"] < written["before"]["parameters"]
        (note,) = written["notes"]
        assert note.startswith("Not measured: ")
        assert reason in note
        assert note in " ".join(said.split())


def test_a_federations_cut_that_keeps_one_unit_says_so(tmp_path: Path) -> None:
    simulate(tiny(**GATED | {"narrow__keep": 0.01, "narrow__classes": []}), tmp_path / "run", engine="local")
    said = " ".join(exported(tmp_path / "run", "-o", tmp_path / "out").split())
    assert "keep = 0.01 is less than a unit of ffn:1; at least one unit stays in every layer." in said
    assert report(tmp_path / "out")["notes"] == [
        "keep = 0.01 is less than a unit of ffn:1; at least one unit stays in every layer."
    ]
    assert load_file(tmp_path / "out" / "model.safetensors")["3.weight"].shape == (10, 1)


TIMM = """
import sys; sys.modules["dictpfl"] = None
import timm, torch
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
with torch.no_grad():
    torch.save(model(torch.load("x.pt")), "logits.pt")
"""


def by_timm_alone(folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Outputs of a folder that timm loads in a process without this project."""
    torch.save(x, folder.parent / "x.pt")
    plain = [sys.executable, "-I", "-c", TIMM, folder.name]
    done = subprocess.run(plain, capture_output=True, text=True, check=False, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    found: torch.Tensor = torch.load(folder.parent / "logits.pt")
    return found


@pytest.mark.slow
def test_a_federations_cut_of_timm_is_loaded_by_timm(tmp_path: Path, in_memory: list[nn.Module]) -> None:
    pytest.importorskip("timm")
    sizes = {"pretrained": False, "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config = tiny(**GATED, model__source="timm:vit_tiny_patch16_224", model__options=sizes)
    simulate(config, tmp_path / "run", engine="local")
    exported(tmp_path / "run", "-o", tmp_path / "out")
    x = torch.randn(4, 1, 8, 8)
    found = by_timm_alone(tmp_path / "out", x)
    assert found.shape == (4, 3)
    assert torch.allclose(found, in_memory[0](x), atol=1e-5)
    assert report(tmp_path / "out")["classes"] == [0, 2, 4]


def test_an_export_of_a_federation_without_gates(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(run), "--format", "narrow", "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["--skill", "classes=eleven"], ConfigError, "no class is called"),
        (["--skill", "topic=1"], ConfigError, "expected classes="),
        (["--skill", "column=ward"], DataError, "names no group"),
        (
            ["--skill", "classes=0,1", "--dropped", "classes=1,2"],
            DataError,
            r"\d\d of the \d+ samples of the dropped skill belong",
        ),
        (
            ["--skill", "all", "--dropped", "classes=1"],
            DataError,
            r"\d\d of the \d+ samples of the dropped skill belong",
        ),
        (["--skill", "classes=1", "--dropped", "all"], DataError, "samples of the dropped skill belong"),
        (["--skill", "all", "--dropped", "all"], DataError, "samples of the dropped skill belong"),
        (["--skill", "classes=0,1", "--keep", "40"], ConfigError, "cannot stay"),
        *(
            (["--skill", "classes=0,1", f"--keep={keep}"], ConfigError, f"keep is {keep}: expected a share")
            for keep in ("0", "-1", "-0.5", "2.9")
        ),
        (["--skill", "classes=0,1", "--axes", "width"], ConfigError, "gates stand"),
        (["--skill", "classes=0,1", "--method", "random", "--axes", "mamba-head"], ConfigError, "no axis of kind"),
        (["--skill", "classes=0,1", "--dropped", "classes=2", "--relearn", "ten"], ConfigError, "numbers of steps"),
    ],
)
def test_what_cannot_be(run: Path, tmp_path: Path, arguments: list[str], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        called(str(run), *arguments, "-o", str(tmp_path / "out"), *SHORT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", ["nan", "inf", "-inf"])
def test_what_is_no_number_cannot_stay(run: Path, tmp_path: Path, keep: str) -> None:
    words = (str(run), "--skill", "classes=0,1", f"--keep={keep}", "-o", str(tmp_path / "out"), *SHORT)
    with pytest.raises(AssertionError, match=rf"'--keep': {keep} is no finite number"):
        called(*words)
    assert not (tmp_path / "out").exists()


def tokens(folder: Path, *, labels: bool) -> Path:
    """Samples of random token ids, with three classes or with themselves as labels."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 40, size=(120, 9))
    path = folder / "samples.npz"
    Samples(ids, random.integers(0, 3, 120) if labels else ids).save(path)
    return path


def saved(folder: Path, kind: str) -> tuple[Path, str]:
    """A small folder of transformers, and the class that loads it."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "bert":
        model = transformers.BertForSequenceClassification(
            transformers.BertConfig(**small, intermediate_size=24, num_labels=3)
        )
    elif kind == "llama":
        config = transformers.LlamaConfig(
            **small, intermediate_size=24, num_key_value_heads=2, tie_word_embeddings=True
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.NemotronHConfig(
            hidden_size=16, vocab_size=40, num_attention_heads=2, num_key_value_heads=2, head_dim=8, intermediate_size=24,
            layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"], mamba_num_heads=4, mamba_head_dim=8,
            n_groups=2, ssm_state_size=8, chunk_size=8,
        )  # fmt: skip
        model = transformers.NemotronHForCausalLM(config)
    model.save_pretrained(folder / "model")
    return folder / "model", type(model).__name__


LOADED = """
import sys, torch, transformers
torch.set_num_threads(int(sys.argv[4]))  # another number rounds otherwise
model = getattr(transformers, sys.argv[1]).from_pretrained(sys.argv[2]).eval()
assert not any(name.startswith("dictpfl") for name in sys.modules)
with torch.no_grad():
    torch.save(model(torch.arange(9)[None]).logits, sys.argv[3])
print(sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama", "nemotron_h"])
def test_folders_of_transformers(tmp_path: Path, kind: str, in_memory: list[nn.Module]) -> None:
    folder, name = saved(tmp_path, kind)
    data, config = tokens(tmp_path, labels=kind == "bert"), tmp_path / "config.toml"
    task = "classification" if kind == "bert" else "causal-lm"
    head = "sequence-classification" if kind == "bert" else "causal-lm"
    config.write_text(
        f'[model]\nsource = "transformers:{folder}"\noptions = {{ head = "{head}" }}\n'
        f'[training]\ntask = "{task}"\nbatch_size = 8\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    skill, output = "classes=0,2" if kind == "bert" else "all", tmp_path / "out"
    called(
        f"transformers:{folder}",
        "--config",
        str(config),
        "--data",
        str(data),
        "--skill",
        skill,
        "-o",
        str(output),
        *SHORT,
    )
    written = report(output)
    assert 0 < len(next(iter(written["kept"].values()))) == 6
    assert written["after_recovery"]["parameters"] < written["before"]["parameters"]
    logits_file, threads = str(tmp_path / "logits.pt"), str(torch.get_num_threads())
    plain = [sys.executable, "-I", "-c", LOADED, name, str(output), logits_file, threads]
    loaded = subprocess.run(plain, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert int(loaded.stdout.split()[-1]) == written["after_recovery"]["parameters"]
    import transformers

    here = getattr(transformers, name).from_pretrained(output).eval()
    with torch.no_grad():
        logits, before = here(torch.arange(9)[None]).logits, in_memory[0](torch.arange(9)[None]).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits)
    assert torch.allclose(logits, before, atol=1e-6)
    assert logits.shape[-1] == (2 if kind == "bert" else 40)
    assert isinstance(here, nn.Module)


@pytest.mark.slow
def test_timm_by_the_command_in_a_process_of_its_own(tmp_path: Path, in_memory: list[nn.Module]) -> None:
    tiny_vit(tmp_path / "model", 5)
    named = json.loads((tmp_path / "model" / "config.json").read_bytes()) | {"label_names": list("abcde")}
    (tmp_path / "model" / "config.json").write_text(json.dumps(named))
    random = np.random.default_rng(0)
    Samples(random.normal(size=(60, 1, 8, 8)).astype(np.float32), np.arange(60) % 5).save(tmp_path / "own.npz")
    (tmp_path / "c.toml").write_text(as_toml())
    words = ["--config", "c.toml", "--data", "own.npz", "--skill", "classes=1,4", *SHORT]
    done = forking.ran(["narrow", "timm:model", *words, "-o", "small"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all its rows" not in done.stdout
    written = report(tmp_path / "small")
    assert written["classes"] == [1, 4]
    config = json.loads((tmp_path / "small" / "config.json").read_bytes())
    assert (config["num_classes"], config["label_names"]) == (2, ["b", "e"])
    x = torch.randn(4, 1, 8, 8)
    found = by_timm_alone(tmp_path / "small", x)
    # The same again in this process, whose model is caught before it is saved.
    words[1], words[3] = str(tmp_path / "c.toml"), str(tmp_path / "own.npz")
    called(f"timm:{tmp_path / 'model'}", *words, "-o", str(tmp_path / "again"))
    assert found.shape == (4, 2)
    assert torch.allclose(found, in_memory[0](x), atol=1e-5)
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert "timm.create_model('local-dir:FOLDER', pretrained=True)" in card
    assert f"{written['after_recovery']['parameters']:,} after" in card


TOO_MUCH = re.compile(r"\b(eras(?:e[sd]?|ing|ure)|unlearn(?:s|t|ed|ing)?|forg[eo]t(?:s|ten|ting)?)\b", re.IGNORECASE)
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*narrow*.md")),
    ROOT / "docs" / "explanation" / "compression.md",
    ROOT / "docs" / "explanation" / "how-it-works.md",
    *sorted((ROOT / "benchmarks" / "results").glob("narrow*.md")),
)
"""What speaks of narrowed models."""


def promises(text: str) -> list[str]:
    """Sentences that say of a skill that it is erased, unlearnt or forgotten, or that it is not, without saying that it is harder to relearn."""
    pieces = re.split(r"\n\s*\n|\n\s*(?=[-*|]\s)", text)
    sentences = [s for piece in pieces for s in re.split(r"(?<=[.!?])\s+", " ".join(piece.split()))]
    return [s for s in sentences if TOO_MUCH.search(s) and not re.search(r"\bharder to\b", s, re.IGNORECASE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_says_more_than_was_measured(page: Path) -> None:
    """`erased`, `unlearnt` and `forgotten` stand only beside `harder to`."""
    assert promises(page.read_text(encoding="utf-8")) == []


def test_what_says_more_is_found() -> None:
    said = "A skill is not erased.\nIt is never forgotten. Harder to relearn\nis not erased! Nothing is\nunlearned here.\n\n- harder to find\n- erased"
    assert promises(said) == [
        "A skill is not erased.",
        "It is never forgotten.",
        "Nothing is unlearned here.",
        "- erased",
    ]


def test_a_group_is_of_the_data_that_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows, ward in (("agreed.csv", 60, "north"), ("own.csv", 40, "south")):
        lines = [f"{random.normal()},{random.normal()},{n % 2},{ward}" for n in range(rows)]
        (tmp_path / name).write_text("\n".join(["a,b,y,ward", *lines]) + "\n")
    config = tiny(
        federation__rounds=1, data__source="csv", data__path=str(tmp_path / "agreed.csv"), data__limit=0, data__label="y",
        data__column="ward", data__partition="iid", model__options={"hidden": [8]},
    )  # fmt: skip
    folder = simulate(config, tmp_path / "run", engine="local").folder
    with pytest.raises(DataError, match="column=north"):
        called(
            str(folder),
            "--data",
            str(tmp_path / "own.csv"),
            "--skill",
            "column=north",
            "-o",
            str(tmp_path / "a"),
            *SHORT,
        )
    called(
        str(folder), "--data", str(tmp_path / "own.csv"), "--skill", "column=south", "-o", str(tmp_path / "b"), *SHORT
    )
    assert report(tmp_path / "b")["before"]["kept"]["samples"] == 8  # a fifth of 40
    Samples(np.zeros((10, 2), np.float32), np.arange(10) % 2).save(tmp_path / "own.npz")
    with pytest.raises(DataError, match=r"an \.npz names no group"):
        called(
            str(folder),
            "--data",
            str(tmp_path / "own.npz"),
            "--skill",
            "column=north",
            "-o",
            str(tmp_path / "c"),
            *SHORT,
        )


def test_skills_without_a_common_sample_whatever_they_are_called(tmp_path: Path) -> None:
    """Of groups, classes and files, what is selected decides: names that differ may mean the same samples."""
    random = np.random.default_rng(0)
    rows = [f"{random.normal()},{random.normal()},{n % 2},{('north', 'south', 'west')[n % 3]}" for n in range(90)]
    head = "a,b,y,ward"
    rows[2::3] = [row.replace(",1,west", ",0,west") for row in rows[2::3]]  # west has class 0 alone
    for name, part in (("all.csv", rows), ("one.csv", rows[:30]), ("copy.csv", rows[:30]), ("other.csv", rows[30:60])):
        (tmp_path / name).write_text("\n".join([head, *part]) + "\n")
    config = tiny(
        federation__rounds=1, data__source="csv", data__path=str(tmp_path / "all.csv"), data__limit=0, data__label="y",
        data__column="ward", data__partition="iid", data__public_share=0.3, model__options={"hidden": [8]},
    )  # fmt: skip
    folder = simulate(config, tmp_path / "run", engine="local").folder
    one, copy, other = (f"text={tmp_path / name}" for name in ("one.csv", "copy.csv", "other.csv"))

    def narrowed(name: str, skill: str, dropped: str) -> None:
        called(
            str(folder), "--data", str(tmp_path / "all.csv"), "--skill", skill, "--dropped", dropped, "-o", str(tmp_path / name),
            "--relearn", "1", "--seeds", "1", *SHORT,
        )  # fmt: skip

    # A file of 30 is told by its content, whatever its path; its 30 samples are divided into 24 and 6.
    refused = [
        (one, copy, 30),
        (one, "all", None),
        ("column=north", "classes=1", None),
        ("classes=0", "column=west", 30),
    ]
    for skill, dropped, count in refused:
        with pytest.raises(DataError, match=f"^{count or ''}.* samples of the dropped skill belong"):
            narrowed("refused", skill, dropped)
        assert not (tmp_path / "refused").exists()
    allowed = [(one, other), ("column=north", "column=south"), ("classes=1", "column=west")]
    for number, (skill, dropped) in enumerate(allowed):
        narrowed(f"out{number}", skill, dropped)
        assert report(tmp_path / f"out{number}")["audits"][0]["skill"] == dropped


def test_the_text_of_a_skill_is_read_where_each_institution_has_a_file_of_its_own(tmp_path: Path) -> None:
    for name in ("north", "south", "skill"):
        (tmp_path / f"{name}.csv").write_text("a,y\n" + "".join(f"{n}.5,{n % 2}\n" for n in range(10)))
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("north", "south")}
    config = FederationConfig.of({"data": {"source": "csv", "paths": paths, "partition": "column", "label": "y"}})
    source: Any = SimpleNamespace(config=config, prepared=lambda samples: samples)
    samples = Samples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
    made = _skilled(source, f"text={tmp_path / 'skill.csv'}", Dataset(samples, 1))
    assert (len(made.train), len(made.test)) == (8, 2)
