"""Local training: what moves, what must not, and that federated averaging of the shared vectors learns."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import IGNORED, PADDING, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import Twin, decompose
from dictpfl.client.training.baseline import baseline_of
from dictpfl.client.training.measuring import means
from dictpfl.client.training.metric import load_metric
from dictpfl.client.training.metrics.sequence_accuracy import SequenceAccuracy
from dictpfl.client.training.pooled import Metrics
from dictpfl.client.training.task import WithMetric, load_task
from dictpfl.client.training.train import Trained, evaluate, resolve_device, train
from dictpfl.common.errors import ConfigError, DataError, LayoutError, ModelError
from dictpfl.common.law.layout import Kind
from dictpfl.common.settings import Data, Decomposition, Model, Training

CLASSES = load_task("classification")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def images(count: int) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(rng.normal(size=(count, 1, 8, 8)), rng.integers(0, 3, count))


def twin_of(source: str = "cnn", *, options: dict[str, Any] | None = None, **changes: Any) -> Twin:
    small = {"mlp": {"hidden": [16]}, "cnn": {"width": 4, "depth": 2}, "vit_tiny": {"dim": 16, "heads": 2, "depth": 1}}
    model = build_model(Model(source=source, options=small[source] | (options or {})), (1, 8, 8), 3, seed=0)
    return decompose(model, rank=2, **changes)


def settings(**changes: Any) -> Training:
    return Training(**({"batch_size": 4, "learning_rate": 0.01, "device": "cpu"} | changes))


def test_averaging_three_institutions_learns_digits() -> None:
    dataset = load_dataset(Data(), seed=1)
    order = np.random.default_rng(0).permutation(len(dataset.samples))
    test, institutions = dataset.samples.take(order[:360]), np.array_split(order[360:], 3)
    twin = decompose(build_model(Model(), dataset.sample_shape, 10, seed=1), rank=8)
    shared = twin.read()
    for round_ in range(10):
        local = []
        for institution in institutions:
            twin.load(shared)
            train(twin, dataset.samples.take(institution), Training(epochs=2, device="cpu"), CLASSES, seed=round_)
            local.append(twin.read())
        shared = np.mean(local, axis=0)
    twin.load(shared)
    measured = evaluate(twin.module, test, CLASSES)
    assert measured.metric_sum / measured.count > 0.9


@pytest.mark.parametrize("source", ["mlp", "cnn", "vit_tiny"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_everything_shared_moves_and_nothing_else(source: str, optimizer: str) -> None:
    twin = twin_of(source)
    moving = {id(p) for _, _, p in twin.trainable()}
    still = {n: p.detach().clone() for n, p in twin.module.named_parameters() if id(p) not in moving}
    before = twin.read()
    train(
        twin, images(12), settings(optimizer=optimizer, weight_decay=0.1, momentum=0.5, clip_norm=1.0), CLASSES, seed=1
    )
    for e in twin.layout.entries:
        assert (twin.read()[e.span] != before[e.span]).any(), e.name
    for name, value in still.items():
        assert torch.equal(twin.module.get_parameter(name), value), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_freeze_moves_only_what_is_sent(optimizer: str) -> None:
    twin = twin_of("cnn", local=["9.bias"])
    before, local = twin.read(), twin.local_state()["9.bias"]
    sent = np.random.default_rng(0).random(twin.layout.size) < 0.5
    training = settings(optimizer=optimizer, weight_decay=0.1, momentum=0.5, clip_norm=1.0, epochs=2)
    train(twin, images(12), training, CLASSES, seed=1, sent=sent)
    changed = twin.read() != before
    statistics = twin.layout.coordinates(Kind.STATISTIC)
    assert not changed[~sent & ~statistics].any()
    assert changed[sent & ~statistics].mean() > 0.9
    assert changed[statistics].all()
    assert (twin.local_state()["9.bias"] != local).any()


def test_sending_everything_is_plain_training() -> None:
    one, two = twin_of(), twin_of()
    train(one, images(12), settings(), CLASSES, seed=1)
    train(two, images(12), settings(), CLASSES, seed=1, sent=np.ones(two.layout.size, dtype=bool))
    np.testing.assert_array_equal(one.read(), two.read())


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(LayoutError):
        train(twin_of(), images(4), settings(), CLASSES, seed=1, sent=np.ones(3, dtype=bool))


def test_same_seed_same_bits_and_the_callers_random_state_is_kept() -> None:
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        expected = torch.random.get_rng_state()
        twin = twin_of("vit_tiny", options={"dropout": 0.5})
        train(twin, images(12), settings(), CLASSES, seed=5)
        assert torch.equal(torch.random.get_rng_state(), expected)
        found.append(twin.read())
    np.testing.assert_array_equal(found[0], found[1])
    train(twin := twin_of("vit_tiny", options={"dropout": 0.5}), images(12), settings(), CLASSES, seed=6)
    assert (twin.read() != found[0]).any()


@pytest.mark.parametrize(
    ("count", "batch", "steps", "seen"),
    [
        (9, 4, 0, 9),
        (9, 4, 5, 22),
        (12, 4, 2, 8),
        (1, 4, 3, 3),
        (3, 1, 0, 3),
        (5, 8, 2, 10),
    ],
)
def test_samples_seen(count: int, batch: int, steps: int, seen: int) -> None:
    # 9 in fours are batches of 4 and 5: one left over joins the batch before it.
    trained = train(twin_of(), images(count), settings(batch_size=batch, steps=steps), CLASSES, seed=1)
    assert trained.samples_seen == seen
    assert trained.loss_sum > 0


@pytest.mark.parametrize("policy", ["shared", "local", "frozen"])
def test_one_sample_trains_with_batch_norm(policy: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    twin = decompose(model, rank=2, batch_norm=policy)
    before = twin.module.state_dict()["2.running_mean"].clone()
    train(twin, images(1), settings(), CLASSES, seed=1)
    assert torch.equal(twin.module.state_dict()["2.running_mean"], before)
    train(twin, images(5), settings(), CLASSES, seed=1)
    assert torch.equal(twin.module.state_dict()["2.running_mean"], before) == (policy == "frozen")


def test_rates_of_tables_and_dense() -> None:
    twin = twin_of("mlp")
    before = twin.read()
    train(twin, images(4), settings(optimizer="sgd", learning_rate=1e-30, dense_learning_rate=0.1), CLASSES, seed=1)
    moved = np.abs(twin.read() - before)
    assert moved[twin.layout.coordinates(Kind.TABLE)].max() < 1e-20
    assert moved[twin.layout.coordinates(Kind.DENSE)].max() > 1e-4


@pytest.mark.parametrize("head", ["dense", "decomposed"])
def test_a_rate_of_the_head_alone(head: str) -> None:
    twin = twin_of("vit_tiny", head=head)
    assert twin.head == {"head.weight", "head.bias"}
    before = twin.layout.unflatten(twin.read())
    train(twin, images(4), settings(optimizer="sgd", learning_rate=1e-30, head_learning_rate=0.1), CLASSES, seed=1)
    moved = {name: np.abs(value - before[name]).max() for name, value in twin.layout.unflatten(twin.read()).items()}
    assert {name for name, most in moved.items() if most > 1e-4} == twin.head
    assert max(most for name, most in moved.items() if name not in twin.head) < 1e-20


def test_double_precision() -> None:
    twin = twin_of("mlp")
    train(twin, images(4), settings(dtype="float64"), CLASSES, seed=1)
    assert {p.dtype for p in twin.module.parameters()} == {torch.float64}
    x = np.random.default_rng(0).normal(size=twin.layout.size)
    twin.load(x)
    np.testing.assert_array_equal(twin.read(), x)


def test_no_samples_is_refused() -> None:
    empty = Samples(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no training samples"):
        train(twin_of(), empty, settings(), CLASSES, seed=0)
    measured = evaluate(twin_of().module, empty, CLASSES)
    assert (measured.count, measured.loss_sum, measured.metric_sum) == (0, 0.0, 0.0)


def test_divergence_names_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"lower training\.learning_rate"):
        train(twin_of("mlp"), images(40), settings(optimizer="sgd", learning_rate=1e30, epochs=20), CLASSES, seed=1)


def test_measuring_does_not_depend_on_the_batch() -> None:
    module, samples = twin_of().module, images(10)
    one, two = (evaluate(module, samples, CLASSES, batch_size=b) for b in (3, 512))
    assert (one.count, one.metric_sum) == (two.count, two.metric_sum) == (10, two.metric_sum)
    assert one.loss_sum == pytest.approx(two.loss_sum)


def test_outputs_in_the_manner_of_transformers() -> None:
    class Answer:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> Answer:
            return Answer(self.fc(x.flatten(1)))

    assert train(decompose(Wrapped()), images(4), settings(), CLASSES, seed=1).samples_seen == 4


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(ConfigError, match=r"training\.device"):
            resolve_device(name)


def test_the_same_bits_in_another_process() -> None:
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import hashlib, numpy as np, torch
torch.set_num_threads(1)
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import train
from dictpfl.client.model.twin import decompose
from dictpfl.common.settings import Model, Training
rng = np.random.default_rng(0)
samples = Samples(rng.normal(size=(9, 1, 8, 8)), rng.integers(0, 3, 9))
twin = decompose(build_model(Model(source="cnn", options=dict(width=4, depth=2)), (1, 8, 8), 3, seed=0), rank=2)
train(twin, samples, Training(batch_size=4, learning_rate=0.01, device="cpu"), load_task("classification"), seed=1)
print(hashlib.sha256(twin.read().tobytes()).hexdigest())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120).stdout
    twin = twin_of()
    train(twin, images(9), settings(), CLASSES, seed=1)
    assert found.decode().strip() == hashlib.sha256(twin.read().tobytes()).hexdigest()


@pytest.mark.parametrize("task", ["causal-lm", "token-classification"])
def test_a_loss_of_texts_does_not_depend_on_which_share_a_batch(task: str) -> None:
    """Half of them have 2 labels and half 38: a mean over a batch's tokens would weigh them by their company."""
    torch.manual_seed(0)
    ids = np.random.default_rng(0).integers(0, 11, (24, 40))
    labels = np.full((24, 40), IGNORED)
    for row in range(24):
        labels[row, : 3 if row % 2 else 39] = ids[row, : 3 if row % 2 else 39]
    model, made = nn.Embedding(11, 11), load_task(task)
    model.requires_grad_(False)
    whole = evaluate(model, Samples(ids, labels), made, batch_size=24)
    single = [
        float(made.loss(model(torch.tensor(x[None])), torch.tensor(y[None]))) for x, y in zip(ids, labels, strict=True)
    ]
    order = np.argsort((labels != IGNORED).sum(axis=1), kind="stable")
    for samples, size in (
        (Samples(ids, labels), 1),
        (Samples(ids, labels), 8),
        (Samples(ids[order], labels[order]), 8),
    ):
        found = evaluate(model, samples, made, batch_size=size)
        assert found.loss_sum == pytest.approx(sum(single), rel=1e-5)
        assert (found.count, found.metric_sum) == (24, pytest.approx(whole.metric_sum))


class Reader(nn.Module):
    """Takes a mask, as transformers' models do, so that a batch is cut to its longest row."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 11).requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        made: Tensor = self.words(input_ids) * attention_mask.unsqueeze(-1)
        return made


class Together(SequenceAccuracy):
    """A figure of a whole split, as F1 of entities is."""

    additive = False


@pytest.mark.parametrize("task", ["causal-lm", "token-classification"])
def test_a_figure_of_a_whole_split_of_texts_of_many_lengths(task: str) -> None:
    ids = np.random.default_rng(0).integers(0, 11, (24, 40))
    for row in range(24):
        ids[row, 2 + row :] = PADDING
    samples, inner = Samples(ids, np.where(ids == PADDING, IGNORED, ids)), load_task(task)
    model, made = Reader(), WithMetric(inner, Together())
    plain = evaluate(model, samples, WithMetric(inner, SequenceAccuracy()))
    for size in (24, 5):
        found = evaluate(model, samples, made, batch_size=size)
        assert (found.count, found.metric_sum) == (24, plain.metric_sum)
        assert found.loss_sum == pytest.approx(plain.loss_sum, rel=1e-5)


class Broken(nn.Module):
    """Outputs (batch, 2), no numbers for samples from `first` on."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.first, self.scale = first, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] < self.first, 1.0, torch.nan) * self.scale * torch.tensor([1.0, 0.0])


@pytest.mark.parametrize("first", [0.0, 6.0])
@pytest.mark.parametrize(("name", "floats"), [("classification", False), ("multi-label", True), ("regression", True)])
def test_outputs_that_are_no_numbers_are_no_answer(name: str, floats: bool, first: float) -> None:
    """Nor an error of the metric: class 0, or no label, is what most samples may have, and such a model would be the best."""
    rows = np.arange(8, dtype=np.float32)[:, None]
    labels = np.zeros((8, 2), np.float32) if floats else np.zeros(8, np.int64)
    task, samples = load_task(name), Samples(rows, labels)
    found = evaluate(Broken(first), samples, task, batch_size=4)
    assert found.count == 8
    assert np.isnan([found.loss_sum, found.metric_sum]).all()
    own = {"classification": "accuracy", "multi-label": "label-accuracy", "regression": "absolute-error"}[name]
    metrics = Metrics.of(Training(metrics=[own]), 2)
    with pytest.raises(DataError, match="no numbers"):
        evaluate(Broken(first), samples, task, batch_size=4, metrics=metrics)
    assert not np.isnan(evaluate(Broken(8.0), samples, task, batch_size=4).metric_sum)


@pytest.mark.parametrize("task", ["causal-lm", "token-classification"])
def test_texts_without_a_label_make_no_step_smaller_and_no_loss(task: str) -> None:
    """Answers that were cut away made whole batches of nothing: a loss of 0 in the mean, and a share of an accumulated step."""
    ids = np.arange(24).reshape(4, 6) % 7
    labels = ids.copy()
    labels[1:3] = IGNORED
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7))

    def trained(samples: Samples, accumulate: int) -> tuple[Trained, list[Tensor]]:
        twin = Twin(copy.deepcopy(model), Decomposition(enabled=False), {})
        said = Training(
            task=task, batch_size=1, accumulate=accumulate, optimizer="sgd", momentum=0.0, learning_rate=0.5
        )
        found = train(twin, samples, said, load_task(task), seed=1)
        return found, [p.detach() for p in twin.module.parameters()]

    whole, moved = trained(Samples(ids, labels), 4)
    known, alike = trained(Samples(ids[[0, 3]], labels[[0, 3]]), 2)
    assert whole.samples_seen == known.samples_seen == 2
    assert whole.loss_sum == pytest.approx(known.loss_sum, rel=1e-6)
    for one, other in zip(moved, alike, strict=True):
        torch.testing.assert_close(one, other)
    nothing, still = trained(Samples(ids[1:3], labels[1:3]), 1)
    assert (nothing.samples_seen, nothing.loss_sum) == (0, 0.0)
    assert all(torch.equal(one, other) for one, other in zip(still, model.parameters(), strict=True))


def test_a_baseline_holds_its_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One text without a label, and the answer was copied for each of 256 others: tokens times a vocabulary, 26 GB for GPT-2."""
    task, labels, held = load_task("causal-lm"), np.arange(60).reshape(10, 6) % 7, list[int]()
    labels[4] = IGNORED
    own = task.metric

    def watched(outputs: Tensor, targets: Tensor) -> Tensor:
        held.append(outputs.untyped_storage().nbytes())
        return own(outputs, targets)

    monkeypatch.setattr(task, "metric", watched)
    assert baseline_of(task, labels, labels, 500) is not None
    assert held == [4 * 500]


@pytest.mark.parametrize(
    ("task", "metric"), [("causal-lm", "token-accuracy"), ("token-classification", "tag-accuracy")]
)
def test_texts_without_a_label_count_neither_as_sure_nor_as_wrong(task: str, metric: str) -> None:
    ids = np.arange(24).reshape(4, 6) % 7
    labels = ids.copy()
    labels[1:3] = IGNORED
    if task == "causal-lm":
        labels[1, 0] = 3  # of the first token nothing is foretold
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7))
    pooled = Metrics.of(Training(metrics=[metric]), 7)
    known = [0, 3]
    for one in (load_task(task), WithMetric(load_task(task), load_metric(metric))):
        found = evaluate(model, Samples(ids, labels), one, batch_size=2, metrics=pooled)
        wanted = evaluate(model, Samples(ids[known], labels[known]), one, batch_size=1, metrics=pooled)
        assert found.count == 2
        assert found.loss_sum == pytest.approx(wanted.loss_sum)
        assert found.metric_sum == pytest.approx(wanted.metric_sum)
        assert pooled.figures(found.sums) == pooled.figures(wanted.sums)
        nothing = evaluate(model, Samples(ids[1:3], labels[1:3]), one)
        assert nothing.count == 0
        with pytest.raises(DataError, match="no token of any has a label"):
            means(nothing)
        of_known = baseline_of(one, labels, labels[known], 7)
        assert of_known is not None
        assert baseline_of(one, labels, labels, 7) == of_known
        assert baseline_of(one, labels, labels[1:3], 7) is None
        with pytest.raises(ModelError, match="expected outputs"):
            evaluate(model, Samples(ids, np.zeros(4, np.int64)), one)
