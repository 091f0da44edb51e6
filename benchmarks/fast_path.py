"""Where the time of a round and of founding goes, and what faster ways gave beside the former ones.

    python benchmarks/fast_path.py            # two minutes of one idle core
    python benchmarks/fast_path.py --quick    # one round, one turn; writes nothing

Each workload is founded and run twice in this process, on the local engine: as it was before (`benchmarks/former.py` puts the
former ways back in) and as it is. Functions are timed where they are called (`benchmarks/phases.py`). Then each way
that replaced another is measured beside it, with equal results (`benchmarks/pairs.py`). Figures are processor time
of one thread, so that what else runs on the machine hardly matters; the clock's seconds, which add waiting for the
disk, are in the JSON too. docs/performance.md reads the result. Exits with 1 if a present way is slower by more than what two
such measurements differ by on a busy machine.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import structlog

from benchmarks import former
from benchmarks.fast_path_page import page, plot
from benchmarks.machine import ROOT, Requirement, conclude, machine, write_results
from benchmarks.pairs import TURNS, pairs
from benchmarks.phases import FOUNDING, ROUND, Phases
from benchmarks.round import VIT
from client.institution import forget_institutions
from client.models import build_model
from common.config import FederationConfig
from deploy.engines.local import run_local
from deploy.founding import found
from deploy.observer import Observer

DIGITS, VIT_5M, EVERYTHING, HUB = "digits", "ViT, 5 million", "ViT, 5 million, every value sent", "ViT of transformers"
WITHOUT_PRETRAINING: Mapping[str, Any] = {"model.pretrain.epochs": 0, "model.pretrain.classes": []}
SMALL_HUB: Mapping[str, Any] = {
    "model_type": "vit", "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512,
    "image_size": 8, "patch_size": 2, "num_channels": 1,
}  # fmt: skip
FORMER, PRESENT = "former", "present"
LEAST = 0.9
_IMPORTS = """
import sys, time
began = time.process_time()
import torch
loaded = time.process_time()
parameter = torch.nn.Parameter(torch.zeros(1))
torch.optim.Adam([parameter])
print(loaded - began, time.process_time() - loaded, "torch._dynamo" in sys.modules)
"""
"""A fresh process: torch, then its first optimiser."""


def workloads(*, quick: bool) -> dict[str, FederationConfig]:
    """By name; the federation of transformers' model only where that library is."""
    digits = ROOT / "experiments" / "digits.toml"
    rounds = {"federation.rounds": 1 if quick else 2}
    few = {"federation.rounds": 1, "training.steps": 1, "method": "fedhe-full", "data.limit": 400}
    made = {DIGITS: FederationConfig.load(digits, {**WITHOUT_PRETRAINING, **rounds})}
    if importlib.util.find_spec("transformers"):
        hub = {"model.source": "transformers:vit", "model.options": {}, "model.architecture": SMALL_HUB}
        made[HUB] = FederationConfig.load(digits, {**WITHOUT_PRETRAINING, **rounds, **hub})
    made[VIT_5M] = FederationConfig.of(VIT, {**WITHOUT_PRETRAINING, "federation.rounds": 1 if quick else 2})
    made[EVERYTHING] = FederationConfig.of(VIT, {**WITHOUT_PRETRAINING, **few})
    return made


def profile(config: FederationConfig, way: AbstractContextManager[None]) -> dict[str, Any]:
    """Seconds by phase of founding, and of a round; the last measurement after all rounds is counted to them."""
    founding, rounds = Phases(), Phases()
    with way, tempfile.TemporaryDirectory() as folder:
        with founding.watching(FOUNDING):
            founded = found(config, Path(folder))
        observer = Observer(founded)
        try:
            with rounds.watching(ROUND):
                run_local(
                    founded.coordinator,
                    founded.sites,
                    config.federation.participants,
                    on_poll=lambda: list(observer.poll()),
                )
        finally:
            forget_institutions()
        shared = founded.genesis.layout.size
    count = config.federation.rounds
    return {
        "founding": {"cpu": founding.cpu, "wall": founding.wall},
        "round": {kind: {name: s / count for name, s in each.items()} for kind, each in
                  (("cpu", rounds.cpu), ("wall", rounds.wall))},
        "rounds": count,
        "shared": shared,
        "model": founded.model_values,
    }  # fmt: skip


def imports() -> dict[str, float]:
    """Processor seconds of a fresh process for torch, and for the first optimiser on top."""
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    torch_seconds, first, dynamo = done.stdout.split()
    return {"torch": float(torch_seconds), "first optimiser": float(first), "imports torch._dynamo": dynamo == "True"}


def main() -> int:
    """Measure, print, write; 1 if a present way is slower than the former one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, one turn; judges and writes nothing")
    quick: bool = parser.parse_args().quick
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    facts, configs = machine(), workloads(quick=quick)
    # What a process does once is not a round's: `imports` measures it, in a process of its own.
    importlib.import_module("torch._dynamo")
    for config in configs.values():
        build_model(config.model, (1, 8, 8), 10, config.seed)
    profile(FederationConfig.of({}, {"federation.rounds": 1, "data.limit": 200}), nullcontext())
    profiles = {
        name: {FORMER: profile(config, former.installed()), PRESENT: profile(config, nullcontext())}
        for name, config in configs.items()
    }
    models = {name: config for name, config in configs.items() if name != EVERYTHING}
    measured = list(pairs(models, turns=1 if quick else TURNS))
    result = {
        "machine": facts,
        "profiles": profiles,
        "pairs": [pair.to_json() for pair in measured],
        "imports": imports(),
    }
    needed = [
        Requirement(f"{pair.what}: times less than before", "at least", LEAST, pair.ratio, "x")
        for pair in measured
        if not pair.trades
    ]
    print(page(result, needed))
    if quick:
        return 0
    write_results(
        "fast_path", result | {"requirements": [r.to_json() for r in needed]}, page(result, needed), plot(result)
    )
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
