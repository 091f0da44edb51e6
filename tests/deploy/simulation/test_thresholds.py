"""A federation of thresholds: the same masks at all institutions, encrypted or not, and in what is exported."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import dictpfl
from dictpfl.client.data.samples import Samples
from dictpfl.client.folder import TRAIN
from dictpfl.client.model.sparse.federated import ranks_of_sums
from dictpfl.client.model.sparse.scores import ranks, wanda
from dictpfl.client.model.sparse.twin import ThresholdTwin
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.layout import Kind
from dictpfl.deploy import console
from dictpfl.deploy.exports.exporter import load_exporter
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.printed import _KINDS, print_summary
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted, tiny

pytestmark = pytest.mark.usefixtures("quiet")
LUA: dict[str, Any] = {
    "sparsity__method": "lua", "sparsity__target": 0.8, "sparsity__calibration": 40, "model__options": {"hidden": [24, 24]},
    "training__steps": 4, "training__optimizer": "adamw", "training__learning_rate": 0.02, "federation__rounds": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Encrypted, and not."""
    folder = tmp_path_factory.mktemp("thresholds")
    return (
        simulate(encrypted(**LUA), folder / "ckks", engine="local"),
        simulate(tiny(**LUA), folder / "identity", engine="local"),
    )


def homes(run: Run) -> list[Path]:
    return sorted((run.folder / "institutions").iterdir())


def digest_of(folder: Path) -> str:
    finished = Finished.load(folder)
    masks = finished.bench().masks_at(finished.state)
    assert masks is not None
    return masks.digest


def test_a_summary_says_thresholds(runs: tuple[Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    summary = runs[0].summary
    assert summary["trained"] == {"values": {"threshold": summary["values"]["shared"]}, "head": "frozen"}
    values, reduction = summary["values"], summary["reduction"]
    assert values["sent"] - reduction["besides"] == 3 * values["shared"] < values["sent"], (
        "norms of inputs were tallied besides"
    )
    assert reduction["pruning"] == 1.0, "thresholds are not pruned, and a tally is no pruning"
    assert reduction["decomposition"] * reduction["scores"] == pytest.approx(reduction["values"])
    assert "values of scores and tallies were sent beside updates" in (runs[0].folder / "report.html").read_text(
        "utf-8"
    )
    print_summary(summary)
    assert f"{summary['values']['shared']} thresholds; head frozen" in capsys.readouterr().out
    assert {str(kind) for kind in Kind} < set(_KINDS), "a kind without a word ends `dictpfl simulate` in a traceback"


def test_digests_are_shown_to_their_end_on_a_narrow_terminal(
    runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ended in `…`, and nobody could compare them."""
    narrow = Console(width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "out", narrow)
    summary = runs[0].summary
    print_summary(summary)
    shown = "".join(narrow.export_text().split())
    for digest in (summary["state_digest"], summary["model_sha256"], summary["sparsity"]["masks_sha256"]):
        assert digest in shown


def test_every_institution_has_the_same_masks_with_and_without_encryption(runs: tuple[Run, Run]) -> None:
    one, other = runs
    assert one.summary["state_digest"] == other.summary["state_digest"]
    assert one.summary["model_sha256"] == other.summary["model_sha256"]
    digests = {digest_of(folder) for run in runs for folder in (run.folder, *homes(run))}
    assert digests == {one.summary["sparsity"]["masks_sha256"]}
    assert (
        one.summary["sparsity"]["kept"]
        == one.summary["sparsity"]["entries"] - one.summary["sparsity"]["entries"] * 8 // 10
    )
    assert one.summary["values"]["shared"] == 48  # a threshold a row
    report = (one.folder / "report.html").read_text()
    assert "What stays of the model" in report
    assert "What stays of each part" in report


def test_the_export_has_these_masks_and_comes_back_bit_for_bit(runs: tuple[Run, Run], tmp_path: Path) -> None:
    run = runs[0]
    load_exporter("sparse").export(run.folder, tmp_path / "sparse")
    assert json.loads((tmp_path / "sparse" / "sparsity.json").read_text())["masks_sha256"] == digest_of(run.folder)
    own, expected = (
        dictpfl.load_sparse(tmp_path / "sparse").state_dict(),
        Finished.load(run.folder).merged().state_dict(),
    )
    assert all(torch.equal(own[name], expected[name]) for name in expected)


def test_the_merged_export_counts_its_zeros_and_loads_without_this_project(
    runs: tuple[Run, Run], tmp_path: Path
) -> None:
    run = runs[0]
    load_exporter("merged").export(run.folder, tmp_path / "merged")
    said = json.loads((tmp_path / "merged" / "sparsity.json").read_text())
    assert (said["method"], said["masks_sha256"]) == ("lua", digest_of(run.folder))
    code = (
        "import sys; sys.modules['dictpfl'] = None\n"
        "import numpy as np, torch\nfrom safetensors.torch import load_file\nfrom torch import nn\n"
        "m = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))\n"
        "m.load_state_dict(load_file('merged/model.safetensors'))\n"
        "masks = load_file('merged/masks.safetensors')\n"
        "for name, bits in masks.items():\n"
        "    w = m.get_parameter(name).detach().numpy()\n"
        "    stays = np.unpackbits(bits.numpy(), count=w.size).reshape(w.shape).astype(bool)\n"
        "    assert not w[~stays].any(), name\n"
        "print(len(masks), m(torch.ones(3, 1, 8, 8)).double().sum().item().hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    weights, total = done.stdout.split()
    assert int(weights) == 2
    own = Finished.load(run.folder).merged()(torch.ones(3, 1, 8, 8)).double().sum().item()
    assert float.fromhex(total) == pytest.approx(own, abs=1e-6)


def test_ranks_are_wanda_s_by_the_inputs_of_all_institutions(runs: tuple[Run, Run]) -> None:
    """By hand: each institution's mean squares, normalised, weighted by its samples, added."""
    finished = Finished.load(runs[0].folder)
    genesis, bench = finished.genesis, finished.bench()
    twin = bench.twin_at(finished.state, {})
    assert isinstance(twin, ThresholdTwin)
    total: dict[str, np.ndarray[Any, Any]] = {}
    from dictpfl.client.tallies.activations import Activations
    from dictpfl.client.training.tally import Own, Subject
    from dictpfl.client.training.task import task_of

    subject = Subject(twin, genesis.config, genesis.outputs, genesis.sample_shape)
    for folder in homes(runs[0]):
        samples = Samples.load(folder / TRAIN)
        own = Own(samples, samples, task_of(genesis.config.training), folder)
        values = Activations().local(subject, own, genesis.tallies[0])
        for entry in genesis.tallies[0].layout.entries:
            part = values[entry.span]
            assert part.mean() == pytest.approx(1.0)
            total[entry.name] = total.get(entry.name, 0.0) + genesis.law.weight(len(samples)) * part
    expected = {n: ranks(wanda(w, np.sqrt(total[n]).reshape(1, -1))) for n, w in twin.plain.items()}
    found = ranks_of_sums(twin.plain, genesis.tallies[0].layout, finished.state.tallies[0].sums)
    for name, wanted in expected.items():
        assert (found[name] == wanted).mean() > 0.99  # the sum is of rounded values
        by_size = ranks(np.abs(twin.plain[name].matrix.double().numpy()))
        assert (found[name] == by_size).mean() < 0.9


def test_magnitude_needs_no_tally_and_learns_too(tmp_path: Path) -> None:
    magnitude = {key: value for key, value in LUA.items() if key != "sparsity__calibration"}  # of activations
    magnitude["sparsity__scores"] = "magnitude"
    run = simulate(tiny(**magnitude), tmp_path / "run", engine="local")
    assert not run.config.tallies.opening
    start = simulate(tiny(**magnitude | {"training__learning_rate": 1e-9}), tmp_path / "start", engine="local")
    assert run.summary["sparsity"]["masks_sha256"] != start.summary["sparsity"]["masks_sha256"]
    rows = [part["rows"] for part in run.summary["sparsity"]["blocks"].values()]
    assert any(quartiles[0] < quartiles[-1] for quartiles in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decomposition.dense": ["1.weight"]}, "nothing is"),
        (
            {"privacy.mechanism": "example", "privacy.noise_multiplier": 1.0, "sparsity.scores": "magnitude"},
            "single samples",
        ),
        ({"tallies.opening": []}, "needs the tally"),
        ({"sparsity.scores": "magnitude", "tallies.opening": ["activations"]}, "no use for"),
        ({"sparsity.method": "none", "sparsity.target": 0.7}, 'is "none"'),
    ],
)  # fmt: skip
def test_what_contradicts_thresholds_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FederationConfig.of({"sparsity": {"method": "lua"}}, changes)


def test_running_statistics_must_be_frozen_and_the_tally_wants_thresholds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_norm"):
        simulate(tiny(**LUA | {"model__source": "cnn", "model__options": {}}), tmp_path / "cnn", engine="local")
    with pytest.raises(ConfigError, match="none"):
        simulate(tiny(tallies__opening=["activations"]), tmp_path / "tables", engine="local")


def test_updates_of_thresholds_are_not_pruned_unless_it_is_said() -> None:
    assert not FederationConfig.of({"sparsity": {"method": "lua"}}).pruning.enabled
    assert FederationConfig.of({"sparsity": {"method": "lua"}, "pruning": {"enabled": True}}).pruning.enabled
    assert FederationConfig.of({}).pruning.enabled
