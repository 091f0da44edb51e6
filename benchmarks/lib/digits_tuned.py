"""Does federated tuning move which digits a language model writes? SmolLM2 before and after three schools tuned it on GSM8K (`digits.py --tuned`).

An arm is the model before or after; a seed is that of the federation (its split, batches and W0's dictionaries) and of the questions, which are
the same of both arms. The federation is experiments/gsm8k.toml, without encryption, which changes no figure: the tests hold the digests equal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.numbers.reading import Reader
from dictpfl.deploy.numbers.sources import reader_of
from dictpfl.deploy.numbers.tasks import TASKS, questions
from lib.arms import SAMPLES, STEPS, Study
from lib.digits_figures import stored
from lib.machine import ROOT

NAME, BEFORE, AFTER = "digits_tuned", "before", "after"
SOURCE = ROOT / "data" / "smollm2"
FULL: Mapping[str, Any] = {"kinds": list(TASKS), "samples": 100, "shots": 2, "rounds": 4, "steps": 10, "limit": 330}
QUICK: Mapping[str, Any] = {"kinds": ["sums", "roots"], "samples": 4, "shots": 1, "rounds": 1, "steps": 1, "limit": 24}
"""Kinds of questions, how many of each with how many examples in front; rounds, steps of a school in each, and problems of all schools."""
SEEDS: Sequence[int] = range(3)
_BATCH = 4


def study(extent: Mapping[str, Any], seeds: Sequence[int]) -> Study:
    """Both arms under some seeds."""
    arms = {arm: {**extent, "tuned": arm == AFTER} for arm in (BEFORE, AFTER)}
    told = {AFTER: "the other one is the model before any training"}
    return Study(NAME, measure, arms, seeds, told, kept=extent is FULL)


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Read questions with the model before tuning, or with the merged one of a federation that this runs."""
    torch.set_num_threads(1)
    if not arm["tuned"]:
        return {STEPS: 0, SAMPLES: 0, "losses": [], "read": _read(reader_of(str(SOURCE), "cpu"), arm, seed)}
    from dictpfl.deploy.simulation.simulate import simulate

    with tempfile.TemporaryDirectory(prefix="digits-tuned-") as name:
        run = simulate(federation(arm, seed), Path(name) / "run", engine="local")
        losses = [record.test_loss for record in run.records if record.test_loss is not None]
        read = _read(reader_of(str(run.folder), "cpu"), arm, seed)
    steps = arm["rounds"] * arm["steps"] * run.summary["participants"]
    return {STEPS: steps, SAMPLES: steps * _BATCH, "losses": losses, "read": read}


def federation(arm: Mapping[str, Any], seed: int) -> FederationConfig:
    """The shipped experiment, of the extent asked for."""
    chosen = {
        "seed": seed, "federation.rounds": arm["rounds"], "training.steps": arm["steps"], "training.batch_size": _BATCH, "data.limit": arm["limit"],
        "data.path": str(ROOT / "data" / "gsm8k.parquet"), "data.options.tokenizer": str(SOURCE), "model.source": f"transformers:{SOURCE}",
        "encryption.sealer": "identity", "toy_insecure": True, "training.threads": 1, "training.device": "cpu",
        "data.test_limit": min(40, arm["limit"] // 3),
    }  # fmt: skip
    return FederationConfig.load(ROOT / "experiments" / "gsm8k.toml", chosen)


def _read(reader: Reader, arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    found = {}
    for kind in arm["kinds"]:
        every = questions(kind, arm["shots"] + arm["samples"], seed + 1)
        found[kind] = stored(reader.read(every[arm["shots"] :], every[: arm["shots"]]))
    return found
