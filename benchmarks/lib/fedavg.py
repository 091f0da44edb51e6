"""FedAvg in clear, in this process: what a plaintext federation computes, without files, packing or a coordinator.

Same data, split, W0, batches and seeds as `dictpfl.deploy.simulation.simulate.simulate`; updates are averaged in float64 by sample counts, and
are not quantised. With 22 million shared values that saves most of the time and memory that a simulated round of the method
`plaintext` takes beside training. It is meant for the method `plaintext`: pruning is not played, and rounding is not either.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, make_dictionaries
from dictpfl.client.training.speed import rate
from dictpfl.client.training.task import task_of
from dictpfl.client.training.train import Measured, evaluate, train
from dictpfl.common.config import FederationConfig
from dictpfl.common.law.seeds import expand, small_seed
from dictpfl.deploy.simulation.groups import TestSplit
from dictpfl.deploy.simulation.partition import Share, divide
from dictpfl.deploy.simulation.pretraining import pretrain

_FLOAT32 = 4


@dataclass
class Course:
    """What was measured, as a simulated federation measures it.

    Attributes:
        validation, validation_loss: over all institutions' validation samples, before each round and after the last, %.
        test, test_loss: after each round, %.
        train, evaluate: seconds of one institution, by round; measuring on the test split is no part of it.
    """

    validation: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    evaluate: list[float] = field(default_factory=list)


class Played:
    """Federation that is played in this process: data, split, W0, dictionaries and seeds are those of a simulation.

    Attributes:
        division: of the data. `twin`: the one model. `task`: to learn.
        seed: agreed seed, 32 bytes. `values`: values of the model.
    """

    def __init__(self, config: FederationConfig) -> None:
        torch.set_num_threads(config.training.threads)
        dataset = load_dataset(config.data, config.seed)
        self.division = divide(dataset, config.data, config.federation.participants, config.seed)
        model = build_model(config.model, dataset.sample_shape, dataset.outputs, config.seed)
        pretrain(model, self.division.public, config.model.pretrain, config.training, config.seed)
        self.seed = expand(config.seed.to_bytes(8, "little"), "simulation", length=32)
        self.twin = Twin(model, config.decomposition, make_dictionaries(model, config.decomposition, self.seed))
        self.task = task_of(config.measuring)
        self.values = sum(p.numel() for p in model.parameters())
        self._config = config

    def trained(self, institution: Share, shared: NDArray[np.float64], number: int) -> NDArray[np.float64]:
        """Train at one institution on its batches of a round; the change of the shared vector, float64, shape (size,)."""
        training, rounds = self._config.training, self._config.federation.rounds
        self.twin.load(shared)
        before = self.twin.read()
        train(self.twin, institution.train, training, self.task, rate=rate(training, number, rounds),
              seed=small_seed(self.seed, "training", institution.name, number))  # fmt: skip
        return self.twin.read() - before


def fedavg(
    config: FederationConfig, *, tests: bool, every_round: bool = False, test_last: bool = False
) -> dict[str, Any]:
    """Train for all rounds; figures as a cell has them.

    Args:
        config: checked. `tests`: measure on the test split too; else on the institutions' validation splits alone.
        every_round: measure in every round, and not after the last round only.
        test_last: measure the test split after the last round even so.
    """
    played = Played(config)
    twin, division, task = played.twin, played.division, played.task
    rounds, course = config.federation.rounds, Course()
    shared, samples = twin.read(), [len(institution.train) for institution in division.institutions]
    splits = [institution.validation for institution in division.institutions]

    def measured(of: Sequence[Samples]) -> tuple[float, float]:
        twin.load(shared)
        found = [evaluate(twin.module, split, task, batch_size=config.training.evaluation_batch) for split in of]
        return 100 * _mean(found, "metric_sum"), _mean(found, "loss_sum")

    def validate() -> None:
        began = time.monotonic()
        figure, loss = measured(splits)
        course.validation.append(figure)
        course.validation_loss.append(loss)
        course.evaluate.append((time.monotonic() - began) / len(splits))

    for number in range(rounds):
        if every_round:
            validate()
        began = time.monotonic()
        total = np.zeros_like(shared)
        for index, institution in enumerate(division.institutions):
            total += samples[index] * played.trained(institution, shared, number)
        shared = shared + total / sum(samples)
        course.train.append((time.monotonic() - began) / len(samples))
        if tests and ((every_round and not test_last) or number + 1 == rounds):
            figure, loss = measured([division.test])
            course.test.append(figure)
            course.test_loss.append(loss)
    if every_round or not tests:
        validate()
    groups: dict[str, dict[str, Any]] = {}
    if tests and division.test_groups is not None:
        split = TestSplit(division.test, division.test_groups)
        _, by_name = split.measure(twin.module, task, config.training.evaluation_batch)
        groups = {name: {"samples": split.counts[name], "figure": figure} for name, figure in by_name.items()}
    values = {"model": played.values, "shared": shared.size, "sent": rounds * shared.size}
    found = {"seed": config.seed, "rate": config.training.learning_rate, "course": asdict(course), "rounds": rounds, "values": values,
             "seconds": {"train": sum(course.train), "evaluate": sum(course.evaluate)}}  # fmt: skip
    if not tests:
        return found | {"validation": course.validation[-1], "validation_loss": course.validation_loss[-1]}
    sent = _FLOAT32 * rounds * shared.size
    return found | {
        "accuracy": course.test[-1], "final": course.test[-1], "history": list(course.test),
        "share": 100 * values["sent"] / (values["model"] * rounds), "bytes": {"up": sent, "down": sent},
        "bytes_by_round": [2 * sent // rounds] * rounds, "test_by_group": groups,
    }  # fmt: skip


def _mean(measured: list[Measured], key: str) -> float:
    return float(sum(getattr(m, key) for m in measured)) / max(1, sum(m.count for m in measured))
