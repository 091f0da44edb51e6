"""Every institution's own test figure: measured on its part, kept in the run folder, shown in summary and report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DataError
from dictpfl.deploy.cli import app
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.groups import TestSplit, mean_of, write_groups
from dictpfl.deploy.simulation.simulate import simulate

CENTRES = ("north", "south", "west")


class FirstColumn(nn.Module):
    """The first feature is the output."""

    def forward(self, features: Tensor) -> Tensor:
        """(n, 1)."""
        return features[:, :1]


def patients(count: int, seed: int = 0) -> tuple[Samples, np.ndarray]:
    """Patients whose first feature shortens their time, and the centre of each."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 3))
    times = np.exp(3 - features[:, 0] + random.normal(size=count))
    labels = np.stack([np.round(times, 2), random.random(count) < 0.6], axis=1)
    return Samples(features, labels), np.array(CENTRES)[random.integers(0, 3, count)]


def test_each_part_is_measured_alone() -> None:
    samples, names = patients(60)
    task = load_task("cox")
    whole, figures = TestSplit(samples, names).measure(FirstColumn(), task)
    together = evaluate(FirstColumn(), samples, task)
    assert whole == together
    for name in CENTRES:
        own = evaluate(FirstColumn(), samples.take(np.flatnonzero(names == name)), task)
        assert figures[name] == own.metric_sum / own.count
    assert len(set(figures.values())) == 3
    assert mean_of(figures) == pytest.approx(sum(figures.values()) / 3)
    assert mean_of(figures) != pytest.approx(whole.metric_sum / 60)


def test_sums_over_samples_are_not_measured_twice() -> None:
    random = np.random.default_rng(1)
    samples = Samples(random.normal(size=(40, 4)), random.integers(0, 4, 40))
    names = np.array(["a", "b"])[random.integers(0, 2, 40)]
    called: list[int] = []
    model = nn.Identity()
    model.register_forward_hook(lambda _module, _given, out: called.append(len(out)))
    whole, figures = TestSplit(samples, names).measure(model, load_task("classification"))
    assert sum(called) == 40
    together = evaluate(nn.Identity(), samples, load_task("classification"))
    assert (whole.count, whole.metric_sum) == (40, together.metric_sum)
    assert whole.loss_sum == pytest.approx(together.loss_sum)
    counts = TestSplit(samples, names).counts
    assert sum(counts[name] * figures[name] for name in counts) == pytest.approx(whole.metric_sum)


def test_nobody_knows_the_institutions(tmp_path: Path) -> None:
    samples, _ = patients(9)
    write_groups(None, tmp_path)
    split = TestSplit.load(samples, tmp_path)
    assert not list(tmp_path.iterdir())
    assert (split.counts, split.measure(FirstColumn(), load_task("cox"))[1], mean_of({})) == ({}, {}, None)


def test_names_of_another_split_are_refused(tmp_path: Path) -> None:
    samples, names = patients(9)
    write_groups(names[:8], tmp_path)
    with pytest.raises(DataError, match="the institutions of 8 test samples, there are 9"):
        TestSplit.load(samples, tmp_path)
    (tmp_path / "test_groups.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot read .*test_groups\.npy"):
        TestSplit.load(samples, tmp_path)


def survivors(folder: Path, **changes: Any) -> FederationConfig:
    """A federation of three centres on a table with times, events, centres and its own split."""
    samples, names = patients(150)
    split = np.where(np.random.default_rng(2).random(150) < 0.3, "test", "train")
    rows = [
        f"{','.join(f'{v:.4f}' for v in x)},{t:.2f},{int(e)},{name},{part}"
        for x, (t, e), name, part in zip(samples.features, samples.labels, names, split, strict=True)
    ]
    path = folder / "table.csv"
    path.write_text("\n".join(["one,two,three,days,died,centre,split", *rows]) + "\n", encoding="utf-8")
    chosen = {
        "method": "fedhe-full", "federation.rounds": 3, "federation.participants": 3, "data.source": "csv",
        "data.path": str(path), "data.label": "days", "data.options": {"event": "died"}, "data.column": "centre",
        "data.partition": "column", "data.split_column": "split", "model.source": "mlp", "model.options": {"hidden": []},
        "training.task": "cox", "training.batch_size": 16, "training.learning_rate": 0.05, "training.steps": 30, "aggregation.rule": "adam",
        "aggregation.rate": 0.2, "toy_insecure": True,
    }  # fmt: skip
    return FederationConfig.of({}, chosen | changes)


@pytest.mark.slow
def test_a_run_of_survival_by_centres(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    sealed = simulate(survivors(tmp_path), tmp_path / "ckks", engine="local")
    clear = simulate(survivors(tmp_path, **{"encryption.sealer": "identity"}), tmp_path / "clear", engine="local")
    assert sealed.summary["state_digest"] == clear.summary["state_digest"]
    assert sealed.summary["metric"] == "concordance"
    groups = sealed.summary["test_by_group"]
    assert sorted(groups) == sorted(CENTRES)
    assert groups == clear.summary["test_by_group"]
    samples = Samples.load(tmp_path / "ckks" / "test.npz")
    assert sum(group["samples"] for group in groups.values()) == len(samples)
    assert sealed.summary["test_mean_of_groups"] == pytest.approx(sum(g["figure"] for g in groups.values()) / 3)
    assert sealed.summary["test_mean_of_groups"] > 0.65, "it learnt nothing of a strong effect"
    last = [record for record in Run.load(tmp_path / "ckks").records if record.kind == "update"][-1]
    assert last.test_by_group == {name: group["figure"] for name, group in groups.items()}
    report = (tmp_path / "ckks" / "report.html").read_text(encoding="utf-8")
    for name, group in groups.items():
        assert (
            f'<th scope="row">{name}</th><td class="n">{group["samples"]}</td><td class="n">{group["figure"]:.4f}'
            in report
        )


class OfMany:
    """A figure that few samples have none of, as an area under a curve has none of a single class."""

    name, higher_is_better, additive = "of many", True, False

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The number of samples, or NaN."""
        return torch.tensor(float(len(outputs)) if len(outputs) > 30 else math.nan)


def strictly(text: str) -> Any:
    """Parse JSON as other programs do, which know no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_figure_that_is_no_number_is_null_in_json_and_nan_where_it_is_read(tmp_path: Path) -> None:
    config = survivors(
        tmp_path, **{"training.metric": f"{__name__}:OfMany", "encryption.sealer": "identity", "training.steps": 1}
    )
    run = simulate(config, tmp_path / "run", engine="local")
    home = run.folder / "institutions" / "institution-000"
    assert "null" in json.dumps(strictly((run.folder / "summary.json").read_text(encoding="utf-8"))["test_by_group"])
    for line in (run.folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
        strictly(line)
    diary = [strictly(line) for line in (home / "diary.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["metric"] for line in diary if line["event"] == "uploaded"} == {None}
    read = Run.load(run.folder)
    assert read.test == run.test == 1.0
    assert [math.isnan(group["figure"]) for group in read.summary["test_by_group"].values()] == [True] * 3
    last = [record for record in read.records if record.kind == "update"][-1]
    assert [math.isnan(figure) for figure in last.test_by_group.values()] == [True] * 3
    for arguments in (["inspect", str(run.folder)], ["status", "--folder", str(home)], ["report", str(run.folder)]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
    strictly(CliRunner().invoke(app, ["status", "--folder", str(home), "--json"]).output)
