"""Batches, schedules, accumulation, autocast, checkpointing: what they change, and what they must not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.batches import batches, indices
from dictpfl.client.training.speed import Precision, rate
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import train
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Model, Training

CPU = torch.device("cpu")


def settings(**changes: Any) -> Training:
    return Training(**({"device": "cpu", "batch_size": 8, "learning_rate": 1e-2} | changes))


def images(count: int = 33) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(count, 1, 8, 8)), rng.integers(0, 3, count))


def trained(samples: Samples | None = None, source: str = "cnn", **changes: Any) -> Twin:
    twin = decompose(build_model(Model(source=source), (1, 8, 8), 3, seed=1), rank=2)
    factor = changes.pop("rate", 1.0)
    train(twin, samples or images(), settings(**changes), Classification(), seed=5, rate=factor)
    return twin


def test_workers_make_the_same_batches_and_the_same_model() -> None:
    plain = trained(epochs=2).read()
    assert np.array_equal(trained(epochs=2, workers=2).read(), plain)
    changed = {"augment": ["flip", "shift"], "epochs": 2}
    assert np.array_equal(trained(**changed).read(), trained(**changed, workers=2).read())
    assert not np.array_equal(trained(**changed).read(), plain)


def test_every_sample_once_an_epoch() -> None:
    for count, size in ((33, 8), (7, 8), (9, 1)):
        seen = torch.cat(list(indices(count, settings(epochs=2, batch_size=size), 3)))
        assert sorted(seen.tolist()) == sorted([*range(count)] * 2)
        assert len(list(indices(count, settings(steps=5, batch_size=size), 3))) == 5


def test_augmented_images_are_moved_and_mirrored_copies() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8).repeat(16, 1, 1, 1) + 1
    y = torch.arange(16)
    (only,) = list(batches(x, y, settings(batch_size=16, augment=["flip"]), 1, CPU))
    kinds = {
        "same" if torch.equal(a, x[0]) else "mirrored" if torch.equal(a, x[0].flip(-1)) else "other" for a in only[0]
    }
    assert kinds == {"same", "mirrored"}
    (moved,) = list(batches(x, y, settings(batch_size=16, augment=["shift"]), 1, CPU))
    assert sorted(moved[1].tolist()) == list(range(16))
    for a in moved[0]:
        assert any(
            torch.equal(a[0, 1 + dy : 7 + dy, 1 + dx : 7 + dx], x[0, 0, 1:7, 1:7])
            for dy, dx in itertools.product((-1, 0, 1), repeat=2)
        )
    assert len({tuple(a.flatten().tolist()) for a in moved[0]}) > 3


@pytest.mark.parametrize("channels", [0, 2])
def test_masks_move_with_their_images(channels: int) -> None:
    x = (torch.rand(16, 1, 8, 8) > 0.5).float()
    y = x[:, 0] if not channels else x.repeat(1, channels, 1, 1)
    for workers in (0, 1):
        changed = settings(batch_size=16, augment=["flip", "shift"], workers=workers)
        ((pictures, masks),) = list(batches(x, y, changed, 1, CPU))
        assert not torch.equal(pictures, x)
        assert torch.equal(masks, pictures[:, 0] if not channels else pictures.repeat(1, channels, 1, 1))
    with pytest.raises(DataError, match=r"masks of \(4, 4\) cannot be moved with images of \(8, 8\)"):
        list(batches(x, y[..., ::2, ::2], settings(augment=["flip"]), 1, CPU))


def test_only_images_are_augmented() -> None:
    with pytest.raises(ConfigError, match="augment changes images"):
        list(batches(torch.ones(4, 3), torch.ones(4), settings(augment=["flip"]), 1, CPU))


def test_accumulation_is_one_step_on_the_mean() -> None:
    """Without BatchNorm, two halves make the step of the whole."""
    kind: dict[str, Any] = {"source": "mlp", "optimizer": "sgd", "learning_rate": 0.5}
    samples = images(16)
    whole = trained(samples, batch_size=16, epochs=1, **kind).read()
    halves = trained(samples, batch_size=8, accumulate=2, epochs=1, **kind).read()
    np.testing.assert_allclose(halves, whole, atol=1e-6)
    assert not np.allclose(trained(samples, batch_size=8, epochs=1, **kind).read(), whole, atol=1e-4)


def test_steps_are_those_of_the_optimiser_however_many_batches_make_one() -> None:
    twin = decompose(build_model(Model(source="mlp"), (1, 8, 8), 3, seed=1), rank=2)
    done = train(twin, images(16), settings(batch_size=4, steps=3, accumulate=2), Classification(), seed=1)
    assert (done.steps, done.samples_seen) == (3, 24)


def test_rates_over_the_rounds() -> None:
    assert [rate(settings(), r, 9) for r in (0, 5, 100)] == [1.0] * 3
    linear = [rate(settings(schedule="linear"), r, 4) for r in range(6)]
    assert linear == [1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
    cosine = [rate(settings(schedule="cosine", warmup_rounds=2), r, 6) for r in range(8)]
    assert cosine[:3] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert all(a > b > 0 for a, b in itertools.pairwise(cosine[2:6]))
    assert cosine[5] == cosine[6] == cosine[7]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_rate_is_always_above_zero(schedule: str) -> None:
    for rounds, warm in itertools.product((1, 2, 7), (0, 1, 9)):
        chosen = settings(schedule=schedule, warmup_rounds=warm)
        assert all(0 < rate(chosen, r, rounds) <= 1 for r in range(20))


def test_factor_and_warm_up_shorten_the_way() -> None:
    start = decompose(build_model(Model(source="mlp"), (1, 8, 8), 3, seed=1), rank=2).read()
    kind: dict[str, Any] = {"source": "mlp", "optimizer": "sgd", "steps": 1}
    full = trained(**kind).read() - start
    np.testing.assert_allclose(trained(**kind, rate=0.5).read() - start, full / 2, atol=1e-7)
    np.testing.assert_allclose(trained(**kind, warmup_steps=3).read() - start, full / 4, atol=1e-7)
    many = kind | {"steps": 6}
    assert not np.allclose(trained(**many, warmup_steps=3).read(), trained(**many).read())


def test_autocast_on_this_device() -> None:
    plain, narrow = trained(steps=4).read(), trained(steps=4, autocast="bfloat16").read()
    assert not np.array_equal(plain, narrow)
    assert np.abs(narrow - plain).mean() < 0.02
    assert np.array_equal(trained(steps=4, autocast="auto").read(), plain)
    with pytest.raises(ConfigError, match="float16"):
        Precision(settings(autocast="float16"), CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("autocast", ["auto", "bfloat16", "float16"])
def test_autocast_on_a_gpu(autocast: str) -> None:
    assert np.isfinite(trained(steps=4, device="cuda", autocast=autocast).read()).all()


def test_checkpointing_of_a_model_without_it() -> None:
    with pytest.raises(ConfigError, match="does not offer it"):
        trained(gradient_checkpointing=True)


class Twice(nn.Module):
    """Offers checkpointing as timm's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.asked = nn.Linear(64, 64), nn.Linear(64, 3), []

    def set_grad_checkpointing(self, enable: bool) -> None:
        self.asked.append(enable)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x.flatten(1))))


def test_checkpointing_is_on_while_training_only() -> None:
    twin = decompose(Twice(), rank=2)
    train(twin, images(), settings(steps=1, gradient_checkpointing=True), Classification(), seed=1)
    assert twin.module.asked == [True, False]
