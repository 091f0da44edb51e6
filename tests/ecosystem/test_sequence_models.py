"""A tiny encoder-decoder from a folder learns answers of a table under encryption, and transformers loads what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.exports.exporter import load_exporter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from tests.ecosystem.conftest import COMMON, WORDS

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    import transformers

    folder, rng = tmp_path_factory.mktemp("sequences"), np.random.default_rng(1)
    rows = []
    for _ in range(120):
        topic = str(rng.choice(sorted(WORDS)))
        asked = " ".join([str(rng.choice(WORDS[topic])), *map(str, rng.choice(COMMON, int(rng.integers(1, 5))))])
        rows.append({"question": asked, "answer": " ".join(WORDS[topic][:2])})
    pd.DataFrame(rows).to_csv(folder / "talk.csv", index=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        config = transformers.T5Config(
            vocab_size=64, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2, dropout_rate=0.0, pad_token_id=0, eos_token_id=3,
            decoder_start_token_id=0,
        )  # fmt: skip
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    raw: dict[str, Any] = {
        "federation": {"rounds": 3},
        "data": {"source": "csv", "path": str(folder / "talk.csv"),
                 "options": {"text": "answer", "prompt": "question", "target": "next", "tokenizer": str(tokenizer), "max_tokens": 16}},
        "model": {"source": f"transformers:{folder / 't5'}", "options": {"head": "sequence-to-sequence"}},
        "training": {"task": "sequence-to-sequence", "steps": 12, "learning_rate": 1e-2, "batch_size": 8, "device": "cpu",
                     "metric": "sequence-accuracy", "metrics": ["perplexity"]},
    }  # fmt: skip
    simulate(FederationConfig.of(raw), folder / "run", engine="local")
    return folder / "run"


def test_it_learns_and_transformers_loads_it(run: Path, tmp_path: Path) -> None:
    import transformers

    finished, samples = Finished.load(run), Samples.load(run / "test.npz")
    assert "encoder.block.0.layer.0.SelfAttention.q.weight" in finished.factors()
    features, labels = torch.from_numpy(samples.features), torch.from_numpy(samples.labels)
    task, model = load_task("sequence-to-sequence"), finished.merged()
    with torch.no_grad():
        reached = task.loss(forward(model, features), labels).item()
        model.load_state_dict(finished.start(), strict=False)
        assert reached < 0.7 * task.loss(forward(model, features), labels).item()
    load_exporter("merged").export(run, tmp_path / "merged")
    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    assert type(plain) is transformers.T5ForConditionalGeneration
    losses, tokens = 0.0, 0
    for row, said in zip(features, labels, strict=True):
        source = row[(said == IGNORED) & (row != PADDING)]
        target = said[said != IGNORED]
        with torch.no_grad():
            losses += plain(input_ids=source[None], labels=target[None]).loss.item() * len(target)
        tokens += len(target)
    assert losses / tokens == pytest.approx(reached, rel=1e-4)
