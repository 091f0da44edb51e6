"""ViT-B/16 on a GPU: samples a second of a dictpfl twin in bfloat16, PEFT's LoRA and full fine-tuning, and encryption's share of a round.

All three go through the same loop (`dictpfl.client.training.train.train`), on random images and random weights: neither changes what a step
costs. Without a GPU nothing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import train
from dictpfl.common.ckks.keys import make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.law.packing import Digits
from dictpfl.common.protection import Encryption
from dictpfl.common.settings import Model, Training
from lib import lora
from lib.machine import median

_RANK, _INSTITUTIONS, _SAMPLES = 8, 3, 10_000
_LARGE = {"source": "timm:vit_base_patch16_224", "options": {"pretrained": False}, "side": 224}


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- the form of all rows
    """Time all three in turn, where there is a GPU."""
    if not torch.cuda.is_available():
        return {"skipped": "no GPU that torch can use"}
    return measured("cuda", steps=5 if small else 40, batch=16 if small else 64, turns=2 if small else 5, **_LARGE)


def measured(
    device: str, *, source: str, options: dict[str, Any], side: int, steps: int, batch: int, turns: int
) -> dict[str, Any]:
    """Time a round of `steps` of each method, in turn, on a device; the first turn warms up and is left out."""
    rng = np.random.default_rng(0)
    samples = Samples(rng.normal(size=(batch * 2, 3, side, side)).astype(np.float32), rng.integers(0, 10, batch * 2))
    kind: dict[str, Any] = {"device": device, "batch_size": batch, "steps": steps, "autocast": "bfloat16"}
    rates: dict[str, list[float]] = {}
    peak, values = {}, {}
    for name, twin, training in _methods(source, options, side, kind):
        rates[name] = []
        for turn in range(turns + 1):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            seen = train(twin, samples, training, Classification(), seed=turn).samples_seen
            if turn:
                rates[name].append(seen / (time.perf_counter() - began))
        peak[name] = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        values[name] = twin.layout.size
        twin.to(device="cpu")
    each = {name: median(found) for name, found in rates.items()}
    seal = _seal_seconds(values["twin, narrow base"])
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "batch": batch,
        "steps": steps,
        "samples_a_second": each,
        "against_full": {name: rate / each["full"] for name, rate in each.items()},
        "peak_gpu_bytes": peak,
        "shared_values": values,
        "seal_seconds": seal,
        "encryption_share_of_a_round": seal / (seal + _SAMPLES / each["twin, narrow base"]),
        "samples_of_that_round": _SAMPLES,
    }


def _methods(
    source: str, options: dict[str, Any], side: int, kind: dict[str, Any]
) -> Iterator[tuple[str, Twin, Training]]:
    shape, narrow = (3, side, side), Training(**kind, frozen="narrow")
    plain = Model(source=source, options=options)
    yield "full", decompose(build_model(plain, shape, 10, 0), enabled=False), Training(**kind)
    yield "twin", decompose(build_model(plain, shape, 10, 0), rank=_RANK), Training(**kind)
    yield "twin, narrow base", decompose(build_model(plain, shape, 10, 0), rank=_RANK), narrow
    paired = lora.model(shape, 10, source=source, options=options, rank=_RANK)
    yield "LoRA", decompose(paired, enabled=False, frozen=list(lora.FROZEN)), Training(**kind)


def _seal_seconds(values: int) -> float:
    """Seconds of one processor to seal an update of all shared values, median of three."""
    parameters = CKKSParameters.choose(Encryption(), capacity=_INSTITUTIONS)
    components = Digits.holding(127, parameters.capacity, parameters.payload_bits).components(values)
    sealer, spent = CKKSSealer(make_key(parameters)), []
    for _ in range(3):
        began = time.perf_counter()
        sealer.seal(np.ones(components, dtype=np.int64))
        spent.append(time.perf_counter() - began)
    return median(spent)
