"""FedAvg in clear, in this process: what a plaintext federation computes, without files, packing or a coordinator.

Same data, split, W0, batches and seeds as `deploy.simulation.simulate`; updates are averaged in float64 by sample counts, and
are not quantised. With 22.7 million shared values that saves most of what a simulated round of the method `plaintext`
takes beside training. It is meant for the method `plaintext`: pruning is not played, and rounding is not either.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from client.data import load_dataset
from client.models import build_model
from client.partition import divide
from client.pretraining import pretrain
from client.speed import rate
from client.tasks import load_task
from client.training import Measured, evaluate, train
from client.twin import Twin, make_dictionaries
from common.config import FederationConfig
from common.seeds import expand, small_seed


def fedavg(config: FederationConfig, *, tests: bool) -> dict[str, Any]:
    """Train for all rounds; figures as a cell has them, measured after the last round only.

    Args:
        config: checked. `tests`: measure on the test split; else on the institutions' validation splits.
    """
    torch.set_num_threads(config.training.threads)
    dataset = load_dataset(config.data, config.seed)
    division = divide(dataset, config.data, config.federation.participants, config.seed)
    model = build_model(config.model, dataset.sample_shape, dataset.outputs, config.seed)
    pretrain(model, division.public, config.model.pretrain, config.training, config.seed)
    seed = expand(config.seed.to_bytes(8, "little"), "simulation", length=32)
    twin = Twin(model, config.decomposition, make_dictionaries(model, config.decomposition, seed))
    task, rounds, began = load_task(config.training.task), config.federation.rounds, time.monotonic()
    shared, samples = twin.read(), [len(site.train) for site in division.sites]
    for number in range(rounds):
        total = np.zeros_like(shared)
        for index, site in enumerate(division.sites):
            twin.load(shared)
            before = twin.read()
            train(twin, site.train, config.training, task, rate=rate(config.training, number, rounds),
                  seed=small_seed(seed, "training", f"institution-{index:03d}", number))  # fmt: skip
            total += samples[index] * (twin.read() - before)
        shared = shared + total / sum(samples)
    trained = time.monotonic() - began
    twin.load(shared)
    splits = [division.test] if tests else [site.validation for site in division.sites]
    measured = [evaluate(twin.module, split, task, batch_size=config.training.evaluation_batch) for split in splits]
    values = {"model": sum(p.numel() for p in model.parameters()), "shared": shared.size, "sent": rounds * shared.size}
    seconds = {"train": trained / len(samples), "evaluate": time.monotonic() - began - trained}
    found = {"seed": config.seed, "rate": config.training.learning_rate, "seconds": seconds}
    accuracy = 100 * _mean(measured, "metric_sum")
    if not tests:
        return found | {"validation": accuracy, "validation_loss": _mean(measured, "loss_sum")}
    sent = 4 * rounds * shared.size
    return found | {
        "accuracy": accuracy, "final": accuracy, "history": [accuracy], "rounds": rounds, "values": values,
        "share": 100 * values["sent"] / (values["model"] * rounds), "bytes": {"up": sent, "down": sent},
        "bytes_by_round": [2 * sent // rounds] * rounds,
    }  # fmt: skip


def _mean(measured: list[Measured], key: str) -> float:
    return sum(getattr(m, key) for m in measured) / max(1, sum(m.count for m in measured))
