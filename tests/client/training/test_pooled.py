"""Metrics from sums: the figures of scikit-learn, whatever institution has which sample; and a sum that is none is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from dictpfl.client.training.metric import METRICS, is_pooled, load_metric, require_sum
from dictpfl.client.training.pooled import Metrics, scalars
from dictpfl.common.errors import ConfigError, DataError, ModelError
from dictpfl.common.law.ledger import Ledger, LedgerForm
from dictpfl.common.settings import Training

COUNT = 600
CLASSES = ("confusion", "auroc", "calibration", "kappa")


def classes(count: int = 3, seed: int = 0, *, rare: bool = False) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    targets = torch.randint(count, (COUNT,), generator=rng)
    if rare:
        targets = (torch.rand(COUNT, generator=rng) < 0.05).long()
    outputs = torch.randn(COUNT, count, generator=rng) + 1.2 * torch.nn.functional.one_hot(targets, count)
    if rare:
        outputs[:, 0] += 6.0
    return outputs, targets


def labels(count: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    targets = (torch.rand(COUNT, count, generator=rng) < 0.4).float()
    return torch.randn(COUNT, count, generator=rng) + targets, targets


def numbers() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    targets = torch.randn(COUNT, 2, generator=rng) * 3 + 1
    return targets + torch.randn(COUNT, 2, generator=rng), targets


def tokens() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    targets = torch.randint(11, (COUNT, 7), generator=rng)
    targets[:, 4:][torch.rand(COUNT, 3, generator=rng) < 0.5] = -100
    return torch.randn(COUNT, 7, 11, generator=rng), targets


def masks() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(4)
    targets = (torch.rand(COUNT, 2, 4, 5, generator=rng) < 0.3).float()
    return torch.randn(COUNT, 2, 4, 5, generator=rng) + targets, targets


GIVEN: dict[str, Any] = {
    "confusion": classes(), "auroc": classes(), "calibration": classes(), "kappa": classes(5), "r2": numbers(), "perplexity": tokens(),
    "accuracy": classes(), "absolute-error": numbers(), "token-accuracy": tokens(), "tag-accuracy": tokens(), "dice": masks(),
    "class-distance": classes(5), "label-accuracy": labels(), "sequence-accuracy": tokens(),
}  # fmt: skip


def measured(name: str, outputs: Tensor, targets: Tensor, **options: Any) -> dict[str, Any]:
    """Figures through an encoded ledger of three institutions, as a federation has them."""
    width = outputs.shape[2 if outputs.ndim == 3 else 1]
    metrics = Metrics.of(Training(metrics=[name], metric_options={name: options} if options else {}), width)
    form = LedgerForm(0, 3, 44, metrics.measures)
    parts = zip(outputs.tensor_split([40, 555]), targets.tensor_split([40, 555]), strict=True)
    uploads = [
        form.write(Ledger(1, 1, 0.0, len(y), 0.0, 0.0, np.zeros(0, np.int64), metrics.sealed(metrics.sums(x, y))))
        for x, y in parts
    ]
    return metrics.opened(form.read(np.sum(uploads, axis=0)).measures)[name]


@pytest.mark.parametrize("name", [name for name in METRICS.own() if getattr(METRICS.own()[name], "additive", True)])
def test_sums_of_parts_are_those_of_the_whole(name: str) -> None:
    """Each metric of this project, split in two and four; rounding is sample by sample, or far below a figure's last digit."""
    outputs, targets = GIVEN[name]
    metrics = Metrics.of(Training(metrics=[name]), outputs.shape[1 if outputs.ndim == 4 else -1])
    (whole,) = metrics.sums(outputs, targets)
    for parts in (2, 4):
        split = zip(outputs.chunk(parts), targets.chunk(parts), strict=True)
        total = sum(metrics.sums(x, y)[0] for x, y in split)
        assert np.abs(total - whole).max() <= (4 if is_pooled(METRICS.load(name)) else parts)


def test_two_classes_as_scikit_learn() -> None:
    outputs, targets = classes(2)
    said, chance = outputs.argmax(1), outputs.double().softmax(1)[:, 1]
    found = measured("confusion", outputs, targets)
    assert found["matrix"] == sk.confusion_matrix(targets, said).tolist()
    assert found["sensitivity"] == pytest.approx(sk.recall_score(targets, said))
    assert found["specificity"] == pytest.approx(sk.recall_score(targets, said, pos_label=0))
    assert found["precision"] == pytest.approx(sk.precision_score(targets, said))
    assert found["f1"] == pytest.approx(sk.f1_score(targets, said))
    assert found["balanced accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, said))
    assert found["majority"] == pytest.approx(float(max(targets.float().mean(), 1 - targets.float().mean())))
    assert measured("calibration", outputs, targets)["brier"] == pytest.approx(
        sk.brier_score_loss(targets, chance), abs=1e-4
    )


def test_a_class_that_does_not_occur_is_in_no_mean_of_specificity() -> None:
    """Nobody has it and the model hardly says it: its specificity near 1 would raise the mean."""
    outputs, targets = classes(3)
    targets[targets == 2] = 0
    found = measured("confusion", outputs, targets)
    first, second, third = found["specificity by class"]
    assert third is not None
    assert third != pytest.approx((first + second) / 2)
    assert found["specificity"] == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("rare", [False, True])
def test_areas_are_within_their_own_error_and_five_thousandths(*, rare: bool) -> None:
    """Also of a class that is rare, whose probabilities are all next to 0."""
    outputs, targets = classes(2, rare=rare)
    chance = outputs.double().softmax(1)[:, 1]
    found = measured("auroc", outputs, targets)
    for name, true in (
        ("auroc", sk.roc_auc_score(targets, chance)),
        ("average precision", sk.average_precision_score(targets, chance)),
    ):
        assert abs(found[name] - true) <= found[f"{name} error"] + 1e-9
        assert abs(found[name] - true) < 0.005
    coarse = measured("auroc", outputs, targets, bins=4)
    assert coarse["auroc error"] > 10 * found["auroc error"]
    assert abs(coarse["auroc"] - sk.roc_auc_score(targets, chance)) <= coarse["auroc error"]


def test_more_classes_and_labels() -> None:
    outputs, targets = classes(4)
    chance, said = outputs.double().softmax(1), outputs.argmax(1)
    found = measured("auroc", outputs, targets)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets, chance, multi_class="ovr"), abs=0.005)
    assert measured("confusion", outputs, targets)["f1"] == pytest.approx(sk.f1_score(targets, said, average="macro"))
    outputs, targets = labels()
    there = outputs > 0
    found = measured("confusion", outputs, targets)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, there))
    assert found["f1 by class"] == pytest.approx(sk.f1_score(targets, there, average=None))
    assert measured("auroc", outputs, targets)["auroc"] == pytest.approx(sk.roc_auc_score(targets, outputs), abs=0.005)
    each = [sk.balanced_accuracy_score(targets[:, label], there[:, label]) for label in range(2)]
    assert found["balanced accuracy"] == pytest.approx(np.mean(each))


def test_a_class_that_is_never_said_counts_as_imprecise() -> None:
    """Left out of the mean, a model that always says one of three classes had a third, and scikit-learn a ninth."""
    outputs, targets = torch.eye(3)[[0] * 600], torch.arange(600) % 3
    found = measured("confusion", outputs, targets)
    assert found["precision"] == pytest.approx(
        sk.precision_score(targets, outputs.argmax(1), average="macro", zero_division=0)
    )
    assert found["precision by class"] == [pytest.approx(1 / 3), None, None]


def test_tokens_and_pixels_are_counted_one_by_one() -> None:
    outputs, targets = tokens()
    known = targets != -100
    found = measured("confusion", outputs, targets)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets[known], outputs.argmax(-1)[known]))
    outputs, targets = masks()
    flat = [part.movedim(1, -1).reshape(-1, 2) for part in (outputs > 0, targets)]
    assert measured("confusion", outputs, targets)["f1 by class"] == pytest.approx(
        sk.f1_score(flat[1], flat[0], average=None)
    )


def test_many_classes_have_no_matrix() -> None:
    outputs, targets = classes(40)
    found = measured("confusion", outputs, targets)
    assert "matrix" not in found
    assert found["balanced accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, outputs.argmax(1)))


def test_errors_of_a_regression_as_scikit_learn() -> None:
    outputs, targets = numbers()
    found = measured("r2", outputs, targets)
    assert found["r2"] == pytest.approx(sk.r2_score(targets, outputs), abs=1e-4)
    assert found["squared error"] == pytest.approx(sk.mean_squared_error(targets, outputs), rel=1e-3)
    assert found["absolute error"] == pytest.approx(sk.mean_absolute_error(targets, outputs), rel=1e-3)
    assert found["clipped"] == 0
    large = measured("r2", outputs * 1e5, targets * 1e5, unit=1e5)
    assert large["r2"] == pytest.approx(sk.r2_score(targets, outputs), abs=1e-4)
    assert measured("r2", outputs * 1e5, targets * 1e5)["clipped"] > 0


@pytest.mark.parametrize("constant", [0.01, 0.21, 0.41, 7.3, 99.97])
def test_targets_that_do_not_vary_have_no_r2(constant: float) -> None:
    """Steps of 2^-16 made a spread of their own: R2 was -465 to -6,478."""
    targets = torch.full((600, 1), constant)
    assert measured("r2", targets + 0.1 * torch.randn(600, 1), targets)["r2"] is None


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("deviation", [1e-3, 1e-2, 0.05, 0.1, 1.0])
def test_targets_that_vary_by_little_of_a_unit_have_no_r2_that_is_not_theirs(mean: float, deviation: float) -> None:
    """At a deviation of 0.001 squared errors were rounded to nothing, and R2 was 1."""
    draw = np.random.default_rng(3)
    targets = torch.from_numpy(mean + deviation * draw.normal(size=(600, 1)))
    outputs = targets + 0.5 * deviation * torch.from_numpy(draw.normal(size=(600, 1)))
    found = measured("r2", outputs, targets)["r2"]
    assert (found is None) == (deviation < 0.03)
    if found is not None:
        assert found == pytest.approx(sk.r2_score(targets, outputs), abs=0.01)
    in_its_unit = measured("r2", outputs - mean, targets - mean, unit=deviation)["r2"]
    assert in_its_unit == pytest.approx(sk.r2_score(targets, outputs), abs=1e-4)


def test_kappa_and_perplexity() -> None:
    outputs, targets = classes(5)
    expected = sk.cohen_kappa_score(targets, outputs.argmax(1), weights="quadratic")
    assert measured("kappa", outputs, targets)["quadratic kappa"] == pytest.approx(expected)
    outputs, targets = tokens()
    logits, following = outputs[:, :-1].reshape(-1, 11), targets[:, 1:].reshape(-1)
    loss = float(torch.nn.functional.cross_entropy(logits.double(), following, ignore_index=-100))
    assert measured("perplexity", outputs, targets)["perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)


@pytest.mark.parametrize("name", ["auroc", "calibration", "confusion", "kappa", "r2", "perplexity", "absolute-error"])
def test_outputs_that_are_no_numbers_have_no_figures(name: str) -> None:
    outputs, targets = (part.clone() for part in GIVEN[name])
    outputs[1] = torch.nan
    metrics = Metrics.of(Training(metrics=[name]), outputs.shape[-1])
    with pytest.raises(DataError, match=r"outputs that are no numbers.*diverged"):
        metrics.sums(outputs, targets)


def test_nothing_measured_is_no_figure() -> None:
    for name, (outputs, _) in GIVEN.items():
        metrics = Metrics.of(Training(metrics=[name]), outputs.shape[1 if outputs.ndim == 4 else -1])
        values = [v for v in scalars(metrics.figures(metrics.nothing)).values() if v]
        assert set(values) <= {float(getattr(metrics.parts[name], "_bins", 0))}, name


class WrongArea:
    """The area of a batch times its samples, as somebody would write it who does not know that areas do not add up."""

    name = "wrong area"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor(sk.roc_auc_score(targets, outputs[:, 1]) * len(targets))


class Mean:
    """A mean, where a sum is wanted."""

    name = "mean"
    higher_is_better = True

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()


class Fussy(Mean):
    """Raises where a class is missing, as older releases of scikit-learn do."""

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not 0 < int(targets.sum()) < len(targets):
            raise ValueError("only one class")
        return super().total(outputs, targets)


@pytest.mark.filterwarnings("ignore:Only one class")
@pytest.mark.parametrize("metric", [WrongArea(), Mean()])
def test_what_is_no_sum_is_refused_by_name_with_the_remedy(metric: Any) -> None:
    outputs, targets = classes(2)
    with pytest.raises(
        ModelError,
        match=rf"metric '{metric.name}' is no sum over samples: of 128 .*training\.metrics .*additive = False",
    ):
        require_sum(metric, outputs[:128], targets[:128])
    half = torch.cat([torch.zeros(16), torch.ones(48)]).long()
    with pytest.raises(ModelError, match=r"alone it cannot .*only one class"):
        require_sum(Fussy(), outputs[:64], half)
    with pytest.raises(ModelError, match=r"is no sum over samples"):
        require_sum(WrongArea(), outputs[:64], half)


def test_own_metrics_pass() -> None:
    for name in set(GIVEN) - {name for name, part in METRICS.own().items() if is_pooled(part)}:
        require_sum(load_metric(name), *GIVEN[name])
    require_sum(load_metric("accuracy"), *(part[:1] for part in GIVEN["accuracy"]))


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        ({"metrics": ["concordance"]}, "is no sum over samples"),
        ({"metrics": ["nothing"]}, "unknown"),
        ({"metrics": ["auroc"], "metric_options": {"auroc": {"bin": 9}}}, r"metric_options\.auroc"),
        ({"metric_options": {"auroc": {"bins": 9}}}, "does not name"),
        ({"metrics": ["auroc"], "metric_options": {"auroc": {"bins": 1}}}, "2 or more"),
        ({"metrics": ["auroc"], "metric_options": {"auroc": {"bins": 10**9}}}, "bins is 1000000000.*65,536 at most"),
        ({"metrics": ["calibration"], "metric_options": {"calibration": {"bins": 0}}}, "1 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(training: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Metrics.of(Training(**training), 2)


def test_a_pooled_metric_is_none_to_select_by() -> None:
    with pytest.raises(ConfigError, match=r"name it in training\.metrics"):
        load_metric("auroc")
