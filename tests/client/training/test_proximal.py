"""FedProx: the same as training on the loss plus mu/2 |w - w0|^2, for what is shared and nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.batches import indices
from dictpfl.client.training.proximal import Pull
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import train
from dictpfl.common.settings import Model, Training

TASK = Classification()
LOCAL = ["*3.bias*"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def samples(count: int = 24) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(count, 6)), rng.integers(0, 3, count))


def twin(local: list[str] | None = None) -> Twin:
    torch.manual_seed(0)
    return decompose(mlp((6,), 3, (8,)), rank=2, local=local or [])


def settings(**changes: object) -> Training:
    plain = {
        "batch_size": 4,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "device": "cpu",
        "dtype": "float64",
        "epochs": 2,
    }
    return Training(**(plain | changes))


def written_out(made: Twin, training: Training, seed: int) -> None:
    """SGD on the loss with its proximal term as FedProx prints it."""
    made.to(device="cpu", dtype=torch.float64)
    shared = {entry.name for entry in made.layout.entries}
    parameters = {name: p for name, _, p in made.trainable()}
    start = {name: p.detach().clone() for name, p in parameters.items()}
    data = samples()
    features, labels = torch.tensor(data.features, dtype=torch.float64), torch.tensor(data.labels)
    made.train()
    for batch in indices(len(data), training, seed):
        made.module.zero_grad()
        apart = sum(((p - start[name]) ** 2).sum() for name, p in parameters.items() if name in shared)
        loss = TASK.loss(made.module(features[batch]), labels[batch]) + training.proximal / 2 * apart
        loss.backward()
        if training.clip_norm:
            nn.utils.clip_grad_norm_(list(parameters.values()), training.clip_norm)
        with torch.no_grad():
            for p in parameters.values():
                p.sub_(training.learning_rate * p.grad)  # type: ignore[operator]


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("local", [[], ["*bias*"]])
def test_training_is_that_of_the_loss_with_its_term(clip: float, local: list[str]) -> None:
    training = settings(proximal=0.7, clip_norm=clip)
    one, two, three = twin(local), twin(local), twin(local)
    before = one.read()
    train(one, samples(), training, TASK, seed=3)
    written_out(two, training, 3)
    np.testing.assert_allclose(one.read(), two.read(), rtol=1e-9, atol=1e-12)
    for name, value in one.local_state().items():
        np.testing.assert_allclose(value, two.local_state()[name], rtol=1e-9, atol=1e-12)
    train(three, samples(), settings(clip_norm=clip), TASK, seed=3)
    assert np.abs(one.read() - before).sum() < np.abs(three.read() - before).sum(), "and it holds back"


def test_a_pull_of_nothing_changes_no_bit() -> None:
    one, two = twin(), twin()
    train(one, samples(), settings(proximal=0.0, optimizer="adam"), TASK, seed=3)
    train(two, samples(), settings(optimizer="adam"), TASK, seed=3)
    assert one.read().tobytes() == two.read().tobytes()


def test_batches_that_are_added_up_take_the_term_once() -> None:
    """Two batches of four make one step, as one batch of eight does."""
    one, two = twin(), twin()
    train(one, samples(), settings(proximal=2.0, batch_size=4, accumulate=2), TASK, seed=3)
    train(two, samples(), settings(proximal=2.0, batch_size=8), TASK, seed=3)
    np.testing.assert_allclose(one.read(), two.read(), rtol=1e-6, atol=1e-9)


def test_local_parameters_and_statistics_are_not_pulled() -> None:
    made = decompose(build_model(Model(source="cnn", options={"width": 4, "depth": 2}), (1, 8, 8), 3, seed=0), rank=2)
    names = {name for name, _, _ in made.trainable()} & {entry.name for entry in made.layout.entries}
    pull = Pull(made, 1.0)
    kinds = {entry.name: str(entry.kind) for entry in made.layout.entries}
    assert "statistic" in kinds.values()
    assert len(pull._held) == len(names) == sum(kind != "statistic" for kind in kinds.values())


def test_a_parameter_that_a_batch_does_not_reach_goes_on_being_pulled() -> None:
    made = twin()
    (_, _, moved), (_, _, still) = made.trainable()[:2]
    pull = Pull(made, 2.0)
    with torch.no_grad():
        moved.add_(0.25)
    pull.add()
    assert moved.grad is not None
    assert torch.allclose(moved.grad, torch.full_like(moved, 0.5))
    assert still.grad is None, "weight decay leaves alone what has no gradient"


def test_what_is_not_sent_stays_where_it_was() -> None:
    made = twin()
    before, sent = made.read(), np.random.default_rng(0).random(made.layout.size) < 0.5
    train(
        made,
        samples(),
        settings(proximal=1.0, optimizer="adamw", weight_decay=0.1, dtype="float32"),
        TASK,
        seed=1,
        sent=sent,
    )
    assert (made.read()[~sent] == before[~sent]).all()
    assert (made.read()[sent] != before[sent]).any()


def test_the_start_is_where_each_round_begins() -> None:
    """A second round pulls to the second round's start: not to the first one's."""
    made = twin()
    train(made, samples(), settings(proximal=1e3, learning_rate=1e-3), TASK, seed=1)
    again = copy.deepcopy(made)
    with torch.no_grad():
        for _, _, p in again.trainable():
            p.add_(1.0)
    before = again.read()
    train(again, samples(), settings(proximal=1e3, learning_rate=1e-3, epochs=1), TASK, seed=1)
    assert np.abs(again.read() - before).max() < 0.1
