"""A tiny language model that learns answers only, as experiments/gsm8k.toml does, and its adapter on the published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from lib.language.answers import loss_of
from lib.language.catalogue import METHODS, PAIRS
from lib.language.running import adapter
from tests.ecosystem.conftest import COMMON, WORDS, settings
from tests.support import ROOT

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that begin with a word of a topic; an answer names two words of it, always the same."""
    rng, rows = np.random.default_rng(1), []
    for at in range(150):
        topic = str(rng.choice(sorted(WORDS)))
        asked = " ".join([str(rng.choice(WORDS[topic])), *map(str, rng.choice(COMMON, int(rng.integers(1, 5))))])
        rows.append(
            {"question": asked, "answer": " ".join(WORDS[topic][:3]), "split": "test" if at % 5 == 0 else "train"}
        )
    path = tmp_path_factory.mktemp("talk") / "talk.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with its output layer, which is its embedding, as SmolLM2's."""
    import torch
    import transformers

    name, small = settings("llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = transformers.LlamaForCausalLM(getattr(transformers, name)(**small, tie_word_embeddings=True))
    folder = tmp_path_factory.mktemp("llama-lm")
    model.save_pretrained(folder)
    return folder


def configuration(talk: Path, tokenizer: Path, model: Path, **changes: Any) -> FederationConfig:
    own = {
        "data.path": str(talk), "data.options.tokenizer": str(tokenizer), "data.options.template": "to {prompt} is",
        "data.options.max_tokens": 16, "data.limit": 0, "data.test_limit": 0, "model.source": f"transformers:{model}",
        "training.threads": 1, "training.device": "cpu", "training.learning_rate": 1e-2, "training.steps": 6,
        "training.batch_size": 8,
    }  # fmt: skip
    return FederationConfig.load(ROOT / "experiments" / "gsm8k.toml", own | changes)


def held_out(config: FederationConfig) -> Any:
    dataset = load_dataset(config.data, config.seed)
    assert dataset.splits is not None
    return dataset.samples.take(np.flatnonzero(dataset.splits == "test"))


def test_answers_are_learnt_under_encryption_and_the_adapter_loads_on_the_checkpoint(
    talk: Path, tokenizer: Path, language_model: Path, tmp_path: Path
) -> None:
    config = configuration(talk, tokenizer, language_model)
    run = simulate(config, tmp_path / "run", engine="local")
    assert run.summary["encrypted"]
    finished, samples = Finished.load(tmp_path / "run"), held_out(config)
    model = finished.merged()
    trained = loss_of(model, samples)
    assert trained.tokens == 4 * len(samples), "the answer's three words and the end, nothing of the question"
    model.load_state_dict(finished.start())
    start = loss_of(model, samples)
    assert trained.mean < 0.5 * start.mean

    plain = {"encryption.sealer": "identity", "toy_insecure": True}
    clear = simulate(configuration(talk, tokenizer, language_model, **plain), tmp_path / "clear", engine="local")
    assert clear.summary["state_digest"] == run.summary["state_digest"]
    assert clear.summary["model_sha256"] == run.summary["model_sha256"]

    found = adapter(finished, finished.merged(), samples.take(np.arange(4)), tmp_path)
    assert found["base"] == str(language_model)
    assert not (tmp_path / "adapter" / "base").exists()
    assert found["difference"] <= 1e-4 * found["largest"]


def test_lora_in_clear_trains_pairs_and_scales_alone(
    talk: Path, tokenizer: Path, language_model: Path, tmp_path: Path
) -> None:
    paired = dict(METHODS[PAIRS])
    paired["model.options"] = {**paired["model.options"], "source": f"transformers:{language_model}"}
    config = configuration(talk, tokenizer, language_model, **paired)
    run = simulate(config, tmp_path / "run", engine="local")
    finished = Finished.load(tmp_path / "run")
    names = {entry.name for entry in finished.genesis.layout.entries}
    assert {name.rpartition(".lora_")[2].partition(".")[0] for name in names if "lora_" in name} == {"A", "B"}
    assert all("lora_" in name or "norm" in name for name in names)
    samples = held_out(config)
    model = finished.merged()
    trained = loss_of(model, samples).mean
    model.load_state_dict(finished.start())
    assert trained < loss_of(model, samples).mean
    assert run.summary["values"]["shared"] == sum(entry.size for entry in finished.genesis.layout.entries)
