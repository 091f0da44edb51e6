"""Runs one cell in this process: the federation, then its model on held-out problems, and its adapter by PEFT elsewhere."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.data.texts import load_tokenizer
from dictpfl.client.model.build import build_model
from dictpfl.client.training.calling import arguments, forward
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import EngineError, ModelError
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.formats.peft import export_adapter
from dictpfl.deploy.simulation.partition import divide
from dictpfl.deploy.simulation.simulate import simulate
from lib.language.answers import answers_of, exact, loss_of, wanted_of
from lib.language.catalogue import ANSWERED, HELD_OUT, LONGEST, OURS, START, method_of
from lib.machine import ROOT
from lib.paper.cells import Cell, Store, facts
from lib.paper.running import quiet, traffic

DIVERGED = 1e9
"""Loss of a rate with which training does not stay finite."""
_COMPARED = 4
_ELSEWHERE = """
import json, sys
class Never:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dictpfl", "lib"):
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Never())
import numpy as np, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, folder, samples, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
before = sum(p.numel() for p in model.parameters())
model = PeftModel.from_pretrained(model, folder).eval()
AutoTokenizer.from_pretrained(folder)
file = np.load(samples)
with torch.no_grad():
    logits = model(input_ids=torch.from_numpy(file["input_ids"]), attention_mask=torch.from_numpy(file["attention_mask"])).logits
np.save(out, logits.numpy())
print(json.dumps({"parameters": before}))
"""


def run(cell: Cell, rate: float | None, store: Store, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a cell and keep what came out.

    Args:
        cell: what to run. `rate`: learning rate that tuning chose; None: its own. `store`: where the result goes.
        changes: further settings, of a quick trial; its result is not kept.
    """
    os.chdir(ROOT)  # experiments name their data from here
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    quiet()
    begun, began = facts(), time.monotonic()
    config = cell.config(**({} if rate is None else {"training.learning_rate": rate}), **changes)
    torch.set_num_threads(config.training.threads)
    try:
        figures = (
            _untrained(config, quick=bool(changes))
            if cell.name == START
            else _trained(cell, config, quick=bool(changes))
        )
    except (EngineError, ModelError):
        if not cell.tunes:
            raise
        figures = {"loss": DIVERGED}
    figures |= {
        "wall_seconds": time.monotonic() - began,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    if not changes:
        store.write(cell, figures, rate, begun)
    return figures


def held_out(config: FederationConfig, count: int = HELD_OUT) -> Samples:
    """Problems of the test split, the same for all seeds."""
    dataset = load_dataset(config.data.model_copy(update={"test_limit": count, "limit": 3}), 1)
    assert dataset.splits is not None
    return dataset.samples.take(np.flatnonzero(dataset.splits == "test"))


def _untrained(config: FederationConfig, *, quick: bool) -> dict[str, Any]:
    samples = held_out(config, 4 if quick else HELD_OUT)
    model = build_model(
        config.model, (samples.features.shape[1],), len(load_tokenizer(config.data.options["tokenizer"])), 1
    )
    return measured(model.eval(), config, samples, quick=quick)


def _trained(cell: Cell, config: FederationConfig, *, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="language-") as name:
        folder = Path(name)
        done = simulate(config, folder / "run", engine="local")
        finished = Finished.load(folder / "run")
        model = finished.merged()
        if cell.tunes:
            dataset = load_dataset(config.data, config.seed)
            shares = divide(dataset, config.data, config.federation.participants, config.seed).institutions
            losses = [loss_of(model, share.validation) for share in shares]
            tokens = sum(loss.tokens for loss in losses)
            return {"loss": sum(loss.mean * loss.tokens for loss in losses) / tokens, "tokens": tokens}
        samples = held_out(config, 4 if quick else HELD_OUT)
        figures = measured(model, config, samples, quick=quick) | traffic(done)
        figures["state_digest"] = done.summary["state_digest"]
        if method_of(cell) == OURS:
            figures["adapter"] = adapter(finished, model, samples.take(np.arange(_COMPARED)), folder)
        return figures


def measured(model: nn.Module, config: FederationConfig, samples: Samples, *, quick: bool) -> dict[str, Any]:
    """Loss on all of these problems, and exact match on the first ones."""
    tokenizer = load_tokenizer(config.data.options["tokenizer"])
    loss = loss_of(model, samples)
    asked = samples.take(np.arange(min(2 if quick else ANSWERED, len(samples))))
    written = answers_of(model, tokenizer, asked, 8 if quick else LONGEST)
    return {
        "loss": loss.mean, "tokens": loss.tokens, "problems": len(samples), "token_accuracy": 100 * loss.accuracy,
        "exact": exact(written, wanted_of(tokenizer, asked)), "asked": len(asked), "written": written[:2],
    }  # fmt: skip


def adapter(finished: Finished, model: nn.Module, samples: Samples, folder: Path) -> dict[str, Any]:
    """Write the model as an adapter, and compare what PEFT makes of it in a process that cannot import dictpfl.

    Raises:
        RuntimeError: it does not load there.
    """
    base = export_adapter(finished, folder / "adapter")
    _, named = arguments(model, torch.from_numpy(samples.features))
    with torch.no_grad():
        expected = forward(model, torch.from_numpy(samples.features)).numpy()
    np.savez(folder / "samples.npz", **{name: value.numpy() for name, value in named.items()})
    out = folder / "logits.npy"
    command = [sys.executable, "-c", _ELSEWHERE, base, str(folder / "adapter"), str(folder / "samples.npz"), str(out)]
    there = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=there)
    if done.returncode:
        raise RuntimeError(f"PEFT does not load the adapter: {done.stderr.strip().splitlines()[-1]}")
    real = named["attention_mask"].numpy().astype(bool)
    found = np.load(out)
    return {
        "base": base,
        "bytes": sum(path.stat().st_size for path in (folder / "adapter").glob("adapter_*")),
        "difference": float(np.abs(found - expected)[real].max()),
        "largest": float(np.abs(expected)[real].max()),
        "parameters": json.loads(done.stdout.splitlines()[-1])["parameters"],
    }
