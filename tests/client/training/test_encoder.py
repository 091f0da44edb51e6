"""A frozen encoder's features: computed once, the same outputs, and never those of another model, mode or sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.training import encoder
from dictpfl.client.training.encoder import features_of, head_after
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate

TASK = load_task("classification")


class Model(nn.Module):
    """An encoder that counts how many samples it saw, and a head."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), *middle)
        self.head = nn.Linear(8, 3)
        self.seen = 0
        self.encoder.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        out: Tensor = self.head(self.encoder(x))
        return out


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def samples(count: int = 10) -> Samples:
    rng = np.random.default_rng(count)
    return Samples(rng.normal(size=(count, 3, 4)), rng.integers(0, 3, count))


def inputs(count: int = 10) -> Tensor:
    return torch.tensor(samples(count).features)


def test_evaluation_is_the_same_bits_and_the_encoder_runs_once() -> None:
    model, own = Model(), samples(200)
    model.head.requires_grad_(False)  # nothing is trained: nothing is kept
    plain = evaluate(model, own, TASK, batch_size=64)
    assert model.seen == 200
    model.head.requires_grad_(True)
    assert [evaluate(model, own, TASK, batch_size=64) for _ in range(3)] == [plain] * 3
    assert model.seen == 400
    with torch.no_grad():
        model.head.weight.add_(1.0)
    moved = evaluate(model, own, TASK, batch_size=64)
    assert model.seen == 400
    assert moved != plain
    model.head.requires_grad_(False)
    assert evaluate(model, own, TASK, batch_size=64) == moved


def test_whatever_features_depend_on_is_noticed() -> None:
    model = Model().eval()
    weight = model.get_parameter("encoder.1.weight")

    def now(x: Tensor) -> Tensor:
        found = features_of(model, x, 4)
        assert found is not None
        assert torch.allclose(found[1], model.encoder(x), atol=1e-6)
        return found[1]

    now(inputs())
    now(inputs() + 1)
    with torch.no_grad():
        weight.mul_(2.0)
    now(inputs())
    model.register_buffer("offset", torch.zeros(1))
    before = model.seen
    now(inputs())
    model.get_buffer("offset").add_(1.0)
    now(inputs())
    assert model.seen == before + 20
    now(inputs())
    assert model.seen == before + 20


@pytest.mark.parametrize(
    ("middle", "training", "kept"),
    [
        ((nn.Dropout(0.5),), True, False),
        ((nn.Dropout(0.5),), False, True),
        ((nn.BatchNorm1d(8),), True, False),
        ((nn.BatchNorm1d(8),), False, True),
        ((nn.LayerNorm(8),), True, True),
    ],
    ids=str,
)
def test_randomness_and_other_samples_of_the_batch_forbid_it(
    middle: tuple[nn.Module, ...], training: bool, kept: bool
) -> None:
    model = Model(*middle)
    model.encoder.requires_grad_(False)
    model.train(training)
    assert (features_of(model, inputs(40), 8) is not None) is kept


def test_a_batch_wise_encoder_is_found_out_by_trying() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(dim=0)

    assert features_of(Model(Centred()).train(), inputs(40), 8) is None


def test_a_head_whose_output_is_not_the_models_is_left_alone() -> None:
    class Scaled(Model):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Twice(Model):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.encoder(x)) + 0 * super().forward(x)
            return out

    assert features_of(Scaled().eval(), inputs(), 4) is None
    assert features_of(Twice().eval(), inputs(), 4) is None
    training = Scaled().train()
    assert features_of(training, inputs(40), 4) is None
    assert training.seen == 2  # samples: a model of which nothing can be kept is found out at little cost


def test_head_after() -> None:
    model = Model()
    assert head_after(model) is model.head
    model.encoder.requires_grad_(True)
    assert head_after(model) is None
    model.requires_grad_(False)
    assert head_after(model) is None

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

    assert head_after(Wrapper()) is None  # the part that is trained is all there is

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Linear(3, 3).requires_grad_(requires_grad=False)
            self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    assert head_after(Blocks()) is None  # a list is never called, so that it has no inputs


def test_large_features_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model().eval()
    monkeypatch.setattr(encoder, "MOST_BYTES", 10 * 8 * 4)
    assert features_of(model, inputs(10), 4) is not None
    assert features_of(model, inputs(11), 4) is None
    # Two that fit alone: the older one goes.
    assert features_of(model, inputs(10) + 1, 4) is not None
    seen = model.seen
    assert features_of(model, inputs(10), 4) is not None
    assert model.seen == seen + 10
