"""Local training: what moves, what must not, and that federated averaging of the shared vectors learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.data import Samples, load_dataset
from client.models import build_model
from client.tasks import load_task
from client.training import train
from client.twin import decompose
from common.errors import DataError
from common.settings import Data, Model, Training

CLASSES = load_task("classification")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_averaging_three_sites_learns_digits() -> None:
    dataset = load_dataset(Data(), seed=1)
    order = np.random.default_rng(0).permutation(len(dataset.samples))
    test, sites = dataset.samples.take(order[:360]), np.array_split(order[360:], 3)
    twin = decompose(build_model(Model(), dataset.sample_shape, 10, seed=1), rank=8)
    from client.training import evaluate

    shared = twin.read()
    for round_ in range(10):
        local = []
        for site in sites:
            twin.load(shared)
            train(twin, dataset.samples.take(site), Training(epochs=2), CLASSES, seed=round_)
            local.append(twin.read())
        shared = np.mean(local, axis=0)
    twin.load(shared)
    measured = evaluate(twin.module, test, CLASSES)
    assert measured.metric_sum / measured.count > 0.9


def test_no_samples_is_refused() -> None:
    twin = decompose(build_model(Model(), (4,), 2, seed=1), rank=2)
    empty = Samples(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no training samples"):
        train(twin, empty, Training(), CLASSES, seed=0)
