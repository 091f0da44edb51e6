"""A trimmed head gives the columns of its classes, bit for bit, and a library's configuration knows of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.narrow.heads import head_layer, trimmed, trimmed_if_can
from dictpfl.client.model.build import build_model
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model
from dictpfl.deploy.exports.folders import save_model
from tests.support.timm_folders import tiny_vit


def test_outputs_are_the_columns() -> None:
    model, x = mlp((4,), 5, (6,)), torch.randn(9, 4)
    made = trimmed(model, (4, 1))
    assert torch.allclose(made(x), model(x)[:, [4, 1]], rtol=0, atol=1e-6)
    assert model(x).shape == (9, 5)
    for classes in ((), (5,)):
        with pytest.raises(ConfigError, match="5 rows"):
            trimmed(model, classes)


def test_transformers_loads_a_trimmed_head(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=30, num_labels=4
    )
    model = transformers.BertForSequenceClassification(config).eval()
    assert head_layer(model) == "classifier"
    trimmed(model, (0, 3)).save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 30, (3, 7))
    assert again.config.num_labels == 2
    assert torch.allclose(again(ids).logits, model(ids).logits[:, [0, 3]], atol=1e-6)


def test_timm_loads_a_trimmed_head(tmp_path: Path) -> None:
    """Of a network that was cut before, in a process without this project."""
    pytest.importorskip("timm")
    source = Model(source="timm:vit_tiny_patch16_224", options={"pretrained": False, "img_size": 32, "depth": 2})
    whole = build_model(source, (3, 32, 32), 5, seed=1).eval()
    small = cut(whole, {name: np.arange(96) for name, axis in axes_of(whole).items() if axis.kind == "ffn"})
    made, x = trimmed(small, (4, 1)).eval(), torch.ones(1, 3, 32, 32)
    save_model(made, source.source, tmp_path / "small")
    code = (
        "import sys; sys.modules['dictpfl'] = None\nimport timm, torch\n"
        "m = timm.create_model('local-dir:small', pretrained=True).eval()\n"
        "print(*(v.hex() for v in m(torch.ones(1, 3, 32, 32)).flatten().tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [float.fromhex(word) for word in done.stdout.split()]
    assert found == pytest.approx(small(x)[0, [4, 1]].tolist(), abs=1e-5)
    again = build_model(Model(source=f"timm:{tmp_path / 'small'}"), (3, 32, 32), 2, seed=2)
    assert torch.equal(again.eval()(x), made(x))


def test_an_output_layer_that_mirrors_embeddings_is_no_head() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=30,
        tie_word_embeddings=True,
    )
    with pytest.raises(ConfigError, match="no head of its own"):
        head_layer(transformers.LlamaForCausalLM(config))


@pytest.mark.parametrize("form", [list, lambda names: {str(row): name for row, name in enumerate(names)}])
def test_names_of_labels_follow_in_timm(tmp_path: Path, form: Callable[[list[str]], Any]) -> None:
    tiny_vit(tmp_path / "whole", 4)
    path = tmp_path / "whole" / "config.json"
    named = {"label_names": form(["cat", "dog", "eel", "fox"]), "label_descriptions": {"dog": "barks", "eel": "swims"}}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | named))
    source = f"timm:{tmp_path / 'whole'}"
    model = build_model(Model(source=source), (1, 8, 8), 4, seed=1)
    for name, made in (("all", model), ("few", trimmed(model, (3, 1)))):
        save_model(made, source, tmp_path / name)
    whole, few = (json.loads((tmp_path / name / "config.json").read_bytes()) for name in ("all", "few"))
    assert whole["label_names"] == named["label_names"]
    assert (few["num_classes"], few["label_names"]) == (2, ["fox", "dog"])
    assert few["label_descriptions"] == {"dog": "barks"}
    import timm

    again = timm.create_model(f"local-dir:{tmp_path / 'few'}", pretrained=True)
    assert again.num_classes == again.pretrained_cfg["num_classes"] == 2
    assert again.pretrained_cfg["label_names"] == ["fox", "dog"]
    assert model.pretrained_cfg["label_names"] == named["label_names"]


def test_names_of_another_head_are_left_out(tmp_path: Path) -> None:
    tiny_vit(tmp_path / "whole", 4)
    path = tmp_path / "whole" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"label_names": ["cat", "dog", "eel", "fox"]}))
    source = f"timm:{tmp_path / 'whole'}"
    other = build_model(Model(source=source), (1, 8, 8), 3, seed=1)
    for name, made in (("other", other), ("few", trimmed(other, (0, 2)))):
        save_model(made, source, tmp_path / name)
        assert "label_names" not in json.loads((tmp_path / name / "config.json").read_bytes())


def test_a_head_that_cannot_lose_rows_is_whole_and_says_why() -> None:
    timm = pytest.importorskip("timm")
    two = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=5)
    made, classes, why = trimmed_if_can(two, (0, 2))
    assert made is two
    assert classes == ()
    assert why.startswith("The head has all its rows: VisionTransformerDistilled has a head of other parts")
    transformers = pytest.importorskip("transformers")
    words = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=30, tie_word_embeddings=False)
    )
    assert "has no head of its own" in trimmed_if_can(words, (0, 2))[2]
    assert trimmed_if_can(words, ()) == (words, (), "")
