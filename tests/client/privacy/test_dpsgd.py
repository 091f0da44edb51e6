"""DP-SGD: what a step is, what it does not depend on, and how much noise there is."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("opacus", reason="the extra `dp` is not installed")

from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.model.networks.cnn import cnn
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.privacy.dpsgd import Sampling, train_privately
from dictpfl.client.training.proximal import Pull
from dictpfl.client.training.tasks.causal_lm import CausalLM
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.common.errors import DataError, ModelError
from dictpfl.common.protection import Privacy
from dictpfl.common.settings import Training

FEATURES = 6


def samples(count: int = 40, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    return Samples(rng.normal(size=(count, FEATURES)).astype(np.float32), rng.integers(0, 3, count))


def twin() -> Twin:
    torch.manual_seed(0)
    return decompose(mlp((FEATURES,), 3, (8, 8)), rank=2)


def moved(
    data: Samples,
    training: Training,
    *,
    noise: float = 0.0,
    norm: float = 1e9,
    sent: np.ndarray | None = None,
    chance: int = 3,
) -> np.ndarray:
    """How far the shared vector moves; without chance where every sample is drawn and there is no noise."""
    made = twin()
    before = made.read()
    with mock.patch("dictpfl.client.privacy.dpsgd.unpredictable", return_value=np.random.default_rng(chance)):
        train_privately(
            made, data, training, Classification(), privacy=Privacy(max_grad_norm=norm), noise=noise, seed=1, sent=sent
        )
    return made.read() - before


def plain_step(data: Samples, norm: float) -> np.ndarray:
    """One step of SGD of rate 1 on gradients that are clipped one by one."""
    made = twin()
    before = made.read()
    total = [torch.zeros_like(p) for _, _, p in made.trainable()]
    made.train()
    for x, y in zip(torch.tensor(data.features).split(1), torch.tensor(data.labels).split(1), strict=True):
        made.module.zero_grad()
        Classification().loss(made.module(x), y).backward()
        gradients = [p.grad for _, _, p in made.trainable() if p.grad is not None]
        length = torch.sqrt(sum(g.square().sum() for g in gradients))  # type: ignore[arg-type]
        for into, gradient in zip(total, gradients, strict=True):
            into.add_(gradient * torch.clamp(norm / (length + 1e-6), max=1.0))
    with torch.no_grad():
        for (_, _, parameter), gradient in zip(made.trainable(), total, strict=True):
            parameter.sub_(gradient / len(data))
    return made.read() - before


def whole(count: int) -> Training:
    """One step of SGD on all samples, in two parts."""
    return Training(steps=1, batch_size=count // 2, accumulate=2, optimizer="sgd", learning_rate=1.0)


@pytest.mark.parametrize("norm", [1e9, 0.5])
def test_a_step_without_noise_is_the_mean_of_clipped_gradients(norm: float) -> None:
    data = samples()
    np.testing.assert_allclose(moved(data, whole(40), norm=norm), plain_step(data, norm), atol=1e-6)


def test_one_sample_more_moves_the_sum_by_the_norm_at_most() -> None:
    """Sensitivity, measured: one strange sample in place of none."""
    data, norm = samples(), 0.5
    with_it = Samples(
        np.concatenate([data.features, 1e3 * np.ones((1, FEATURES), np.float32)]), np.append(data.labels, 0)
    )
    training = Training(steps=1, batch_size=41, optimizer="sgd", learning_rate=1.0)
    more, less = 41 * moved(with_it, training, norm=norm), 40 * moved(data, training, norm=norm)
    assert 0.1 < np.linalg.norm(more - less) <= norm * (1 + 1e-4)


def test_noise_is_as_strong_as_it_should_be() -> None:
    data, norm, noise = samples(), 0.5, 3.0
    quiet = moved(data, whole(40), norm=norm)
    loud = [moved(data, whole(40), norm=norm, noise=noise, chance=chance) for chance in range(20)]
    found = (np.stack(loud) - quiet) * 40
    assert np.std(found) == pytest.approx(noise * norm, rel=0.08)
    assert abs(np.mean(found)) < 0.2


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_a_proximal_term_comes_after_clipping_and_noise(sigma: float) -> None:
    """It reads no sample: neither does it take part of the norm that a sample may have, nor is it divided by the batch."""
    mu, rate, gone = 0.25, 0.5, []
    training = whole(40).model_copy(update={"learning_rate": rate, "steps": 2, "proximal": mu})
    names = [name for name, _, _ in twin().trainable()]

    def watched(pull: Pull) -> None:
        parts = (parameter.detach() - start for parameter, start in pull._held)
        gone.append(twin().layout.flatten({name: part.numpy() for name, part in zip(names, parts, strict=True)}))

    pulled = moved(samples(), training, noise=sigma, norm=0.5)
    with mock.patch.object(Pull, "add", watched):
        plain = moved(samples(), training, noise=sigma, norm=0.5)
    first, second = gone
    assert not first.any(), "a round begins where nothing pulls"
    assert np.abs(plain - rate * mu * second - pulled).max() < 1e-6
    assert np.abs(rate * mu * second).max() > 1e-3


def test_every_round_draws_its_own_noise() -> None:
    def run() -> np.ndarray:
        made = twin()
        train_privately(made, samples(), whole(40), Classification(), privacy=Privacy(), noise=1.0, seed=1)
        return made.read()

    assert not np.allclose(run(), run())


def test_samples_are_drawn_one_by_one() -> None:
    training = Training(steps=200, batch_size=4)
    assert Sampling.of(40, training) == Sampling(0.1, 200)
    assert Sampling.of(40, Training(epochs=2, batch_size=16)) == Sampling(0.4, 6)
    assert Sampling.of(3, Training(epochs=2, batch_size=16)) == Sampling(1.0, 2)
    trained = train_privately(twin(), samples(), training, Classification(), privacy=Privacy(), noise=1.0, seed=1)
    assert trained.samples_seen == pytest.approx(200 * 4, rel=0.15)


def test_a_step_in_which_nobody_is_drawn_is_noise_alone() -> None:
    training = Training(steps=30, batch_size=1)
    made = twin()
    trained = train_privately(made, samples(3), training, Classification(), privacy=Privacy(), noise=1.0, seed=1)
    assert trained.samples_seen < 90
    assert np.isfinite(made.read()).all()


def test_only_what_is_sent_moves() -> None:
    size = twin().layout.size
    sent = np.random.default_rng(0).random(size) < 0.5
    change = moved(samples(), Training(steps=3, batch_size=8), noise=1.0, norm=1.0, sent=sent)
    assert not change[~sent].any()
    assert change[sent].all()


def test_what_does_not_move_shortens_nothing() -> None:
    """The norm is that of the coordinates that are sent."""
    sent = np.zeros(twin().layout.size, dtype=bool)
    sent[-3:] = True
    change = moved(samples(), whole(40), norm=1e-3, sent=sent)
    assert np.linalg.norm(change) > 1e-4


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(input_ids) * attention_mask.unsqueeze(-1))
        return out


def test_tokens_of_other_samples_do_not_weigh() -> None:
    """A mean over a batch's tokens would tie samples together; each counts by its own mean."""

    def change(rows: np.ndarray) -> np.ndarray:
        torch.manual_seed(0)
        made = decompose(Words(), rank=2, head="dense", embeddings="decomposed")
        before = made.read()
        training = Training(steps=1, batch_size=len(rows), optimizer="sgd", learning_rate=1.0)
        train_privately(
            made,
            Samples(rows, np.where(rows == PADDING, IGNORED, rows)),
            training,
            CausalLM(),
            privacy=Privacy(max_grad_norm=1e9),
            noise=0.0,
            seed=1,
        )
        return len(rows) * (made.read() - before)

    long, short = np.array([[1, 2, 3, 4, 5, 6]]), np.array([[3, 4, *[PADDING] * 4]])
    np.testing.assert_allclose(change(np.concatenate([long, short])), change(long) + change(short), atol=1e-5)


def test_samples_without_a_label_are_not_in_the_mean_loss() -> None:
    torch.manual_seed(0)
    made = decompose(Words(), rank=2, head="dense", embeddings="decomposed")
    rows = np.array([[1, 2, 3, 4], [5, 6, 0, 1]])
    labels = np.stack([rows[0], np.full(4, IGNORED)])
    with torch.no_grad():
        outputs = made.module(torch.tensor(rows), torch.ones(2, 4))
        loss = float(CausalLM().loss(outputs[:1], torch.tensor(labels[:1])))
    training = Training(steps=1, batch_size=2, optimizer="sgd")
    trained = train_privately(made, Samples(rows, labels), training, CausalLM(), privacy=Privacy(), noise=1.0, seed=1)
    assert trained.samples_seen == 1
    assert trained.loss_sum == pytest.approx(loss, rel=1e-5)


def test_what_cannot_be_trained() -> None:
    made = decompose(cnn((1, 8, 8), 3, width=4, depth=2), rank=2)
    images = Samples(np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64))
    with pytest.raises(ModelError, match="GroupNorm"):
        train_privately(made, images, Training(), Classification(), privacy=Privacy(), noise=1.0, seed=1)
    with pytest.raises(DataError, match="no training samples"):
        train_privately(twin(), samples(0), Training(), Classification(), privacy=Privacy(), noise=1.0, seed=1)
    strange = samples()
    strange.features[0] = np.inf
    with pytest.raises(ModelError, match="max_grad_norm"):
        train_privately(twin(), strange, whole(40), Classification(), privacy=Privacy(), noise=1.0, seed=1)
