"""A hybrid of Mamba-2 and attention in a federation: encrypted or not it is one state, one tally and one cut, as of the pooled texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.cutting.choose import choose
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN
from dictpfl.client.tallies.importance import totals
from dictpfl.client.training.task import task_of
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import ROOT

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]
EXPERIMENT = ROOT / "experiments" / "hybrid_text.toml"


def configuration(sealer: str, texts: Path, tokenizer: Path, model: Path) -> FederationConfig:
    """The experiment on 240 sentences of three topics, which is an institution each."""
    own = {
        "data.path": str(texts), "data.source": "csv", "data.split_column": "", "data.column": "topic", "data.options.max_tokens": 12,
        "data.options.tokenizer": str(tokenizer), "data.public_share": 0.2, "model.source": f"transformers:{model}",
        "model.pretrain.epochs": 1, "federation.rounds": 2, "training.steps": 2, "training.threads": 1, "training.device": "cpu",
        "encryption.sealer": sealer, "toy_insecure": sealer == "identity",
    }  # fmt: skip
    return FederationConfig.load(EXPERIMENT, own)


def test_one_state_and_the_cut_of_the_pooled_texts(
    texts: Path, tokenizer: Path, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    runs = [
        simulate(configuration(sealer, texts, tokenizer, folders("nemotron_h")), tmp_path / sealer, engine="local")
        for sealer in ("ckks", "identity")
    ]
    assert runs[0].summary["encrypted"]
    for fact in ("state_digest", "model_sha256"):
        assert runs[0].summary[fact] == runs[1].summary[fact]
    finished = Finished.load(runs[0].folder)
    model, task = finished.merged(), task_of(finished.genesis.config.measuring)
    axes = axes_of(model)
    parts = [Samples.load(home / TRAIN) for home in sorted((runs[0].folder / "institutions").iterdir())]
    pooled = Samples(*(np.concatenate([getattr(p, part) for p in parts]) for part in ("features", "labels")))
    opened, counted, _ = totals(finished.state.tallied("importance", "closing").sums, model)
    assert counted == len(pooled)
    counts = {"mamba_num_heads": 4, "mamba_head_dim": 4, "intermediate_size": 24}
    told, seen = (choose(model, axes, counts, pooled, task, total=total) for total in (opened, None))
    for name, kept in told.kept.items():
        np.testing.assert_array_equal(kept, seen.kept[name])
    cuts = []
    for number, run in enumerate(runs):
        out = tmp_path / f"small-{number}"
        words = ["cut", run.folder, "-o", out, "--heads", 4, "--channels", 4, "--ffn", 24]
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        cuts.append({n: axis["kept"] for n, axis in json.loads((out / "cut.json").read_text())["axes"].items()})
    assert cuts[0] == cuts[1]
    for name, kept in told.kept.items():
        assert cuts[0][name] == kept.tolist(), name
    small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small-0")
    assert (small.config.mamba_num_heads, small.config.intermediate_size) == (4, 24)
