"""Pooled metrics in whole encrypted federations: those of all institutions' samples together, in every place that shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn import metrics as sk

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.folder import VALIDATION
from dictpfl.client.model.build import build_model
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DictPFLError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.exports.evaluation import evaluate_on
from dictpfl.deploy.runs.run import Run, first_institution
from dictpfl.deploy.simulation.cli import inspect
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted, tiny

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.filterwarnings("ignore:Only one class")]
SETTINGS: dict[str, Any] = {
    "data__source": "breast_cancer",
    "data__limit": 0,
    "training__steps": 10,
    "federation__rounds": 3,
    "training__metrics": ["confusion", "auroc", "calibration", "accuracy"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(encrypted(**SETTINGS), tmp_path_factory.mktemp("metrics") / "run", engine="local", record=True)


def pooled(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Probability of class 1 and label of every institution's validation samples together."""
    genesis = Genesis.load(first_institution(run.folder))
    model = build_model(run.config.model, genesis.sample_shape, genesis.outputs, run.config.seed).eval()
    model.load_state_dict(load_file(run.folder / "model.safetensors"))
    parts = [Samples.load(path) for path in sorted(run.folder.glob(f"institutions/*/{VALIDATION}"))]
    assert len(parts) == 3
    with torch.no_grad():
        outputs = torch.cat([model(torch.from_numpy(part.features)) for part in parts])
    return outputs.double().softmax(1)[:, 1].numpy(), np.concatenate([part.labels for part in parts])


def test_figures_are_those_of_the_pooled_predictions(run: Run) -> None:
    """The last round measures the final model: three institutions, encrypted, beside scikit-learn in one place."""
    chance, labels = pooled(run)
    last = run.records[-1]
    assert last.kind == "measure"
    found, said = last.validation_metrics, chance > 0.5
    true = sk.roc_auc_score(labels, chance)
    assert abs(found["auroc"] - true) < 0.005
    assert abs(found["auroc"] - true) <= found["auroc error"] + 1e-6
    assert abs(found["average precision"] - sk.average_precision_score(labels, chance)) < 0.005
    assert found["brier"] == pytest.approx(sk.brier_score_loss(labels, chance), abs=1e-4)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, said))
    assert found["f1"] == pytest.approx(sk.f1_score(labels, said))
    assert run.summary["metrics"]["validation"]["confusion"]["matrix"] == sk.confusion_matrix(labels, said).tolist()
    assert run.summary["metrics"]["test"]["confusion"]["accuracy"] == pytest.approx(run.accuracy)
    assert set(run.records[0].test_metrics) == set(found)


def test_an_auditor_s_own_reading_finds_the_same_states(run: Run) -> None:
    assert [f"{check.what}: {check.detail}" for check in audited(run.folder) if check.failed] == []


def test_small_metrics_take_no_ciphertext_more_and_change_no_model(run: Run, tmp_path: Path) -> None:
    plain = simulate(encrypted(**{**SETTINGS, "training__metrics": []}), tmp_path / "plain", engine="local")
    assert [r.ciphertexts for r in run.records] == [r.ciphertexts for r in plain.records]
    assert run.summary["model_sha256"] == plain.summary["model_sha256"]
    assert plain.summary["metrics"] == {"test": {}, "validation": {}}


def test_the_report_and_inspect_show_them(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert "calibration error" in page
    assert "average precision" in page


def test_a_model_that_says_the_majority_always_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the larger class counts in its loss, so that it says that one: a good figure for nothing, and the run says so."""
    majority = {
        "training__task_options": {"class_weights": [0, 1]},
        "training__learning_rate": 1e-2,
        "training__steps": 30,
    }
    run = simulate(tiny(**{**SETTINGS, **majority}), tmp_path / "run", engine="local")
    assert run.summary["baseline"] == {
        "what": "always the most frequent class",
        "figure": run.accuracy,
        "passed": False,
    }
    assert 0.5 < run.accuracy < 0.75
    assert "No better than the baseline" in (run.folder / "report.html").read_text()
    inspect(run.folder)
    said = capsys.readouterr()
    assert "warning the model has learnt nothing that its figure shows: test accuracy" in said.err
    assert "by always the most frequent class" in said.out


def test_a_model_that_is_above_is_not(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(run.folder)
    said = capsys.readouterr()
    assert run.summary["baseline"]["passed"]
    assert "warning" not in said.err
    assert "validation auroc" in said.out


def test_evaluate_measures_them_too(run: Run) -> None:
    reached = evaluate_on(run.folder)
    assert reached.figures["confusion"] == run.summary["metrics"]["test"]["confusion"]
    assert reached.figures["auroc"]["auroc"] == pytest.approx(
        run.summary["metrics"]["test"]["auroc"]["auroc"], abs=1e-3
    )


def test_what_is_no_share_is_no_percentage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A regression's error, in the rounds of a run and in its summary."""
    source = {"data__source": f"{__name__}:slopes", "training__task": "regression", "training__metrics": ["r2"]}
    run = simulate(tiny(**{**SETTINGS, **source}), tmp_path / "run", engine="local")
    inspect(run.folder)
    said = capsys.readouterr().out
    assert run.records[0].metric == "absolute error"
    assert f"{run.records[0].accuracy:.4g}" in said
    assert "accuracy" not in said
    assert set(re.findall(r"[\d.]+ %", said)) <= {"100.0 %"}


def slopes() -> Dataset:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(240, 5)).astype(np.float32)
    return Dataset(Samples(features, features.sum(axis=1)), outputs=1)


class Area:
    """What somebody writes who does not know that areas do not add up."""

    name = "area"
    higher_is_better = True

    def total(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.tensor(sk.roc_auc_score(targets, outputs[:, 1]) * len(targets))


def test_a_metric_that_is_no_sum_is_refused_before_round_1(tmp_path: Path) -> None:
    config: FederationConfig = tiny(**{**SETTINGS, "training__metric": f"{__name__}:Area"})
    with pytest.raises(DictPFLError, match=r"metric 'area' is no sum over samples.*training\.metrics"):
        simulate(config, tmp_path / "run", engine="local")
    assert not (tmp_path / "run" / "history.jsonl").exists()
