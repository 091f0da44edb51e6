"""Exports, loaded by peft, transformers and timm in a process that cannot import this project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.calling import forward
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.formats.merged import export_merged
from dictpfl.deploy.exports.formats.peft import export_adapter
from dictpfl.deploy.simulation.simulate import simulate

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]
Folders = Callable[[str], Path]
ATOL = 2e-5

LOADER = """
import json, os, sys, traceback, warnings
class Never:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dictpfl":
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Never())
try:
    import dictpfl
except ImportError:
    pass
else:
    raise SystemExit("dictpfl could be imported")
warnings.simplefilter("error", UserWarning)
warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
warnings.filterwarnings("ignore", message="fan_in_fan_out is set")  # PEFT sets it right for each layer
import numpy as np, peft, timm, torch, transformers
torch.set_num_threads(1)  # a fork has no other threads

def answer(job):
    samples = np.load(job["samples"])["features"]
    outputs = []
    for lines in job["lines"]:
        scope = {}
        exec(lines, scope)
        with torch.no_grad():
            for row in samples:
                x = torch.from_numpy(row)[None]
                found = scope["model"](x) if x.is_floating_point() else scope["model"](input_ids=x[:, : int((x >= 0).sum())])
                outputs.append(getattr(found, "logits", found)[0].reshape(-1).numpy())
    np.savez(job["out"], *outputs)

for line in sys.stdin:
    child = os.fork()
    if not child:
        job, code = json.loads(line), 0
        try:
            os.chdir(job["work"])
            answer(job)
        except BaseException:
            code = 1
            traceback.print_exc(file=open(job["errors"], "w"))
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Loads the libraries once, and models in a fork for each order: the libraries take longer than all the rest."""


@cache
def loader() -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", LOADER],
        cwd="/",
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module", autouse=True)
def _ended() -> Iterator[None]:
    yield
    if loader.cache_info().currsize:
        with loader():
            pass
        loader.cache_clear()


def elsewhere(folders: Sequence[Path], samples: Samples, work: Path) -> list[list[Any]]:
    """Outputs of the models that another process loads by the lines of the folders' cards."""
    cards = [(folder / "README.md").read_text(encoding="utf-8") for folder in folders]
    code = [re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0] for card in cards]
    lines = [c.replace("FOLDER", str(folder)) for c, folder in zip(code, folders, strict=True)]
    samples.save(work / "samples.npz")
    job = {"samples": str(work / "samples.npz"), "out": str(work / "out.npz"), "errors": str(work / "errors.txt")}
    process = loader()
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps(job | {"lines": lines, "work": str(work)}), file=process.stdin, flush=True)
    exit_code = process.stdout.readline()
    assert exit_code == "0\n", (
        (work / "errors.txt").read_text() if exit_code else "the loader has ended: see its output above"
    )
    with np.load(work / "out.npz") as found:
        rows = [found[name] for name in found.files]
    return [rows[i : i + len(samples)] for i in range(0, len(rows), len(samples))]


def here(finished: Finished, samples: Samples) -> list[Any]:
    model = finished.merged()
    with torch.no_grad():
        rows = [forward(model, torch.from_numpy(samples.features[i : i + 1]))[0] for i in range(len(samples))]
    return [r.reshape(-1).numpy() for r in rows]


def require_same(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL, rtol=1e-4)


def require_both_load(finished: Finished, work: Path) -> str:
    """Both exports answer elsewhere what the merged model answers here; returns the adapter's base."""
    test = Samples.load(work / "run" / "test.npz").take(np.arange(5))
    export_merged(finished, work / "merged")
    base = export_adapter(finished, work / "peft")
    expected = here(finished, test)
    for found in elsewhere([work / "merged", work / "peft"], test, work):
        require_same(found, expected)
    return base


def text_run(kind: str, model: Path, texts: Path, tokenizer: Path, out: Path, **changes: Any) -> Finished:
    raw = {
        "federation": {"rounds": 2},
        "data": {"source": "csv", "path": str(texts), "label": "topic", "limit": 120,
                 "options": {"text": "text", "tokenizer": str(tokenizer), "max_tokens": 12}},
        "model": {"source": f"transformers:{model}"},
        "training": {"steps": 4, "learning_rate": 1e-2, "device": "cpu"},
    }  # fmt: skip
    if kind.endswith("-lm"):
        raw["model"]["options"] = {"head": "causal-lm"}
        raw["data"]["options"]["target"] = "next"
        raw["training"]["task"] = "causal-lm"
    simulate(FederationConfig.of(raw, changes), out, engine="local")
    return Finished.load(out)


CASES: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert-refreshed": {"decomposition.refresh_every": 1},
    "bert-transposed": {"decomposition.orientation": "smaller"},
    "bert-embeddings": {"decomposition.embeddings": "decomposed"},
    "bert-cores": {"decomposition.form": "core"},
    "bert-cores-refreshed": {
        "decomposition.form": "core", "decomposition.refresh_every": 1, "decomposition.orientation": "smaller",
        "decomposition.embeddings": "decomposed",
    },
    "bert-lean": {"decomposition.biases": False, "decomposition.norms": False},
    "roberta": {},
    "gpt2": {"decomposition.orientation": "smaller"},
    "gpt2-lm": {"decomposition.embeddings": "decomposed"},
    "llama-lm": {},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_text_models(case: str, texts: Path, tokenizer: Path, checkpoint: Folders, tmp_path: Path) -> None:
    kind = case.split("-", maxsplit=1)[0]
    finished = text_run(case, checkpoint(kind), texts, tokenizer, tmp_path / "run", **CASES[case])
    base = require_both_load(finished, tmp_path)

    # A checkpoint without its own output layer is no whole base; everything else is, and is not copied.
    whole = case != "llama-lm"
    assert base == str(checkpoint(kind) if whole else tmp_path / "peft" / "base")
    assert (tmp_path / "peft" / "base").exists() is not whole
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    records = len(finished.state.records)
    assert config["r"] == config["lora_alpha"] <= finished.genesis.config.decomposition.rank * (records + 1)
    assert (tmp_path / "merged" / "tokenizer.json").exists()
    for folder in ("merged", "peft"):
        card = (tmp_path / folder / "README.md").read_text()
        assert finished.genesis.federation.hex() in card
        assert not re.search(r"accuracy|topic|texts", card)
        assert ("kitchen" in card) == (not case.endswith("-lm")), (
            "names of classes leave with the model, the data do not"
        )
        if folder == "merged":
            assert str(tmp_path) not in card
            assert bool(re.search(r" cores of ranks? \d", card)) == ("cores" in case)
            assert str(checkpoint(kind)) not in (tmp_path / folder / "config.json").read_text()


def test_the_adapter_differs_from_its_base(texts: Path, tokenizer: Path, checkpoint: Folders, tmp_path: Path) -> None:
    finished = text_run("bert", checkpoint("bert"), texts, tokenizer, tmp_path / "run")
    export_adapter(finished, tmp_path / "peft")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    b = [t for n, t in tensors.items() if "lora_B" in n]
    assert len(b) == 13
    assert all(t.any() for n, t in tensors.items() if "lora_A" in n)


def test_random_weights_come_with_their_base(texts: Path, tokenizer: Path, folders: Folders, tmp_path: Path) -> None:
    finished = text_run("bert", folders("bert"), texts, tokenizer, tmp_path / "run")
    base = require_both_load(finished, tmp_path)
    assert base == str(tmp_path / "peft" / "base")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of noisy pictures: bright above, or bright below."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("above", "below"):
        (folder / name).mkdir()
        for i in range(40):
            image = rng.integers(0, 90, (20, 24, 3))
            image[: 10 if name == "above" else 20][-10:] += 120
            Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "source", ["timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:resnet18", "transformers:VIT"]
)
def test_image_models(source: str, pictures: Path, folders: Folders, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "timm:vit_tiny_patch16_224": {
            "pretrained": False,
            "img_size": 16,
            "patch_size": 4,
            "depth": 1,
            "embed_dim": 24,
        },
        "timm:convnext_atto": {"pretrained": False, "depths": [1, 1, 1, 1], "dims": [16, 24, 32, 40]},
        "timm:resnet18": {"pretrained": False},
        "transformers:VIT": {"image_size": 16, "patch_size": 4, "num_channels": 3},
    }[source]
    config = FederationConfig.of({
        "federation": {"rounds": 2},
        "data": {"source": "imagefolder", "path": str(pictures), "options": {"size": 32 if "convnext" in source else 16}},
        "model": {"source": source.replace("VIT", str(folders("vit"))), "options": options},
        "training": {"steps": 3, "batch_size": 8, "learning_rate": 2e-3, "device": "cpu"},
    })  # fmt: skip
    simulate(config, tmp_path / "run", engine="local")
    require_both_load(Finished.load(tmp_path / "run"), tmp_path)


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").write_text("z")
    with pytest.raises(ConfigError, match="holds no finished run"):
        Finished.load(tmp_path)
    simulate(FederationConfig.of({"federation": {"rounds": 1}, "data": {"limit": 90}, "training": {"steps": 1}}),
             tmp_path / "run", engine="local")  # fmt: skip
    finished = Finished.load(tmp_path / "run")
    for export in (export_merged, export_adapter):
        with pytest.raises(ConfigError, match="holds something"):
            export(finished, tmp_path / "x")
