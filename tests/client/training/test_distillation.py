"""A loss with a teacher: the published formula, nothing of padding, and no label where the teacher alone counts."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.compress.distil import distil
from dictpfl.client.data.samples import IGNORED, Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import decompose
from dictpfl.client.training.distillation import Distillation
from dictpfl.client.training.task import WithMetric, training_loss
from dictpfl.client.training.tasks.causal_lm import CausalLM
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model, Training


def network(seed: int, outputs: int = 4, hidden: int = 12) -> nn.Module:
    return build_model(Model(source="mlp", options={"hidden": [hidden]}), (6,), outputs, seed=seed)


def samples(count: int = 40) -> Samples:
    random = np.random.default_rng(0)
    return Samples(random.normal(size=(count, 6)).astype(np.float32), random.integers(0, 4, count))


class Language(nn.Module):
    """Logits of each token from its id alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x)


def by_hand(teacher: Tensor, student: Tensor, t: float) -> float:
    total = 0.0
    for a, b in zip(teacher.tolist(), student.tolist(), strict=True):
        p = [math.exp(v / t) for v in a]
        q = [math.exp(v / t) for v in b]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return t * t * total / len(teacher)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_published_formula(weight: float, temperature: float) -> None:
    teacher, student = network(1).double(), network(2).double()
    task = Distillation("classification", teacher, temperature=temperature, weight=weight)
    x, y = torch.from_numpy(samples().features).double(), torch.from_numpy(samples().labels)
    outputs = student(x).detach()
    expected = weight * by_hand(teacher(x), outputs, temperature) + (1 - weight) * float(
        Classification().loss(outputs, y)
    )
    assert float(training_loss(task, x, outputs, y)) == pytest.approx(expected, rel=1e-10)
    assert float(task.loss(outputs, y)) == float(Classification().loss(outputs, y))


def test_a_model_that_agrees_with_its_teacher_learns_nothing() -> None:
    student = network(1)
    task = Distillation("classification", copy.deepcopy(student))
    x = torch.from_numpy(samples().features)
    loss = training_loss(task, x, student(x), torch.zeros(40, dtype=torch.int64))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert max(float(p.grad.abs().max()) for p in student.parameters()) < 1e-6


def test_padding_and_what_is_not_learnt_carry_nothing() -> None:
    teacher, student = Language(1), Language(2)
    task = Distillation("causal-lm", teacher)
    x = torch.randint(0, 9, (3, 7), generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[0, 4:], y[1, :3] = IGNORED, IGNORED
    real = torch.stack([y[b, t + 1] != IGNORED for b in range(3) for t in range(6)]).reshape(3, 6)
    outputs = student(x)
    expected = by_hand(teacher(x)[:, :-1][real].double(), outputs[:, :-1][real].double(), 1.0)
    assert float(training_loss(task, x, outputs.detach(), y)) == pytest.approx(expected, rel=1e-5)
    none = training_loss(task, x, outputs, torch.full_like(x, IGNORED))
    none.backward()
    assert float(none.detach()) == 0.0


def trained(labels: np.ndarray, weight: float) -> dict[str, Tensor]:
    twin = decompose(network(2), rank=2)
    own = Samples(samples().features, labels)
    task = Distillation("classification", network(1), weight=weight)
    train(twin, own, Training(steps=6, batch_size=8, device="cpu"), task, seed=3)
    return twin.merge().state_dict()


def test_the_teacher_alone_never_looks_at_labels() -> None:
    right, wrong = samples().labels, np.random.default_rng(9).permutation(samples().labels)
    one, other = trained(right, 1.0), trained(wrong, 1.0)
    assert all(torch.equal(one[n], other[n]) for n in one)
    one, other = trained(right, 0.9), trained(wrong, 0.9)
    assert not all(torch.equal(one[n], other[n]) for n in one)


def test_what_is_measured_is_the_inner_tasks() -> None:
    student = network(2)
    task = Distillation("classification", network(1))
    assert evaluate(student, samples(), task) == evaluate(student, samples(), Classification())
    assert (task.metric_name, task.higher_is_better) == ("accuracy", True)
    assert Distillation("causal-lm", Language(1)).metric_name == CausalLM().metric_name


def test_the_teacher_stays_as_it_was_and_another_metric_keeps_the_teacher() -> None:
    teacher = network(1)
    before = copy.deepcopy(teacher.state_dict())
    task = Distillation("classification", teacher)
    assert training_loss(
        WithMetric(task, task._metric), torch.zeros(2, 6), torch.ones(2, 4), torch.zeros(2).long()
    ) != task.loss(torch.ones(2, 4), torch.zeros(2).long())
    distil(network(2), teacher, samples(), Training(steps=3, device="cpu"), seed=0)
    assert all(torch.equal(before[n], t) for n, t in teacher.state_dict().items())
    assert not teacher.training


def test_every_parameter_of_a_student_at_home_is_trained() -> None:
    student = network(2)
    before = copy.deepcopy(student.state_dict())
    small, found = distil(student, network(1), samples(), Training(steps=30, batch_size=40, device="cpu"), seed=0)
    assert found.samples_seen == 30 * 40
    assert all(not torch.equal(before[n], t) for n, t in small.state_dict().items())
    assert all(torch.equal(before[n], t) for n, t in student.state_dict().items())
    pulled, _ = distil(
        student, network(1), samples(), Training(steps=30, batch_size=40, device="cpu", proximal=5.0), seed=0
    )
    assert all(torch.equal(pulled.state_dict()[n], t) for n, t in small.state_dict().items()), "nobody is shared with"
    labels, _ = distil(student, None, samples(), Training(steps=30, batch_size=40, device="cpu"), weight=0.0, seed=0)
    assert not torch.equal(labels.state_dict()["1.weight"], small.state_dict()["1.weight"])


def test_what_cannot_teach_is_refused() -> None:
    with pytest.raises(ConfigError, match="the teacher knows 5 classes or tokens, the student 4"):
        distil(network(2), network(1, outputs=5), samples(), Training(steps=1, device="cpu"))
    with pytest.raises(ConfigError, match="causal-lm and classification"):
        Distillation("regression", network(1))
    with pytest.raises(ConfigError, match=r"temperature 0\.0 must"):
        Distillation("classification", network(1), temperature=0.0)
    with pytest.raises(ConfigError, match=r"weight 1\.5"):
        Distillation("classification", network(1), weight=1.5)
    with pytest.raises(ConfigError, match="no teacher"):
        distil(network(2), None, samples(), Training(steps=1, device="cpu"))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_options_of_the_task_count_in_distillation(weight: float) -> None:
    teacher = network(1) if weight else None

    def made(**options: object) -> Tensor:
        said = Training(steps=3, batch_size=40, device="cpu", task_options=options)
        small, _ = distil(network(2), teacher, samples(), said, weight=weight, seed=0)
        return torch.cat([parameter.flatten() for parameter in small.parameters()])

    assert torch.equal(made(), made())
    assert not torch.equal(made(), made(label_smoothing=0.3))
    with pytest.raises(ConfigError, match=r"training\.task_options"):
        made(no_such_option=1)
