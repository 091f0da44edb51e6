"""Exports say what their outputs mean, and how pictures were normalised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.exports.exporter import load_exporter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate

NAMES = ["cat", "dog", "fox"]
MEAN, STD = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]


def pictures(folder: Path) -> Path:
    draw = np.random.default_rng(1)
    for site in ("a", "b", "c"):
        for name in NAMES:
            (folder / site / name).mkdir(parents=True)
            for number in range(4):
                pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / site / name / f"{number}.png")
    return folder


def run_of(tmp_path: Path, model: dict[str, Any], **options: Any) -> Path:
    config = FederationConfig.of(
        {
            "federation": {"rounds": 1},
            "data": {
                "source": "imagefolder", "path": str(pictures(tmp_path / "pictures")), "partition": "column",
                "options": {"sites": True, "size": 8, "mean": MEAN, "std": STD, **options},
            },
            "model": model,
            "training": {"epochs": 1},
            "encryption": {"sealer": "identity"},
            "toy_insecure": True,
        }
    )  # fmt: skip
    return simulate(config, tmp_path / "run", engine="local").folder


def classes_in(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        found: list[str] = json.loads(opened.metadata()["classes"])
        return found


def test_a_merged_model_of_timm_has_the_federation_s_normalisation_and_classes(tmp_path: Path) -> None:
    """It had the base's mean and deviation: who loads it by its own configuration feeds it other pixels."""
    timm = pytest.importorskip("timm")
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "pretrained": False}
    run = run_of(tmp_path, {"source": "timm:vit_tiny_patch16_224", "options": small})
    load_exporter("merged").export(run, tmp_path / "merged")
    said = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert said["label_names"] == NAMES
    model = timm.create_model(f"local-dir:{tmp_path / 'merged'}", pretrained=True)
    used = timm.data.resolve_model_data_config(model)
    np.testing.assert_allclose([used["mean"], used["std"]], [MEAN, STD], rtol=1e-6)
    assert (used["crop_pct"], used["interpolation"]) == (1.0, "bicubic")
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "| classes, by number | `cat`, `dog`, `fox` |" in card
    assert "less their mean 0.2, 0.3, 0.4, over their deviation 0.5, 0.6, 0.7" in card


def test_a_model_of_transformers_knows_its_labels(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(tmp_path / "vit")
    run = run_of(tmp_path, {"source": f"transformers:{tmp_path / 'vit'}"})
    load_exporter("merged").export(run, tmp_path / "merged")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: number for number, name in enumerate(NAMES)}


def test_files_of_weights_tell_their_classes(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"source": "mlp", "options": {"hidden": [4]}}, classes=NAMES)
    assert classes_in(run / "model.safetensors") == NAMES
    home = run / "institutions" / "institution-000"
    load_exporter("safetensors").export(home, tmp_path / "own.safetensors")
    assert (tmp_path / "own.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    load_exporter("merged").export(run, tmp_path / "merged")
    assert classes_in(tmp_path / "merged" / "model.safetensors") == NAMES


def test_numbers_are_no_names(tmp_path: Path) -> None:
    config = {
        "federation": {"rounds": 1},
        "data": {"limit": 60},
        "encryption": {"sealer": "identity"},
        "toy_insecure": True,
    }
    run = simulate(FederationConfig.of(config), tmp_path / "run", engine="local")
    assert Finished.load(run.folder).classes == ()
    with safe_open(run.folder / "model.safetensors", "pt") as opened:
        assert not opened.metadata()
