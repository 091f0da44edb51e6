"""A trimmed head gives the columns of its classes, bit for bit, and a library's configuration knows of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.narrow.heads import head_layer, trimmed
from dictpfl.client.model.build import build_model
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model
from dictpfl.deploy.exports.folders import save_model


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
