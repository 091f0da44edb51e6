"""The command line as a user meets it: in a process of its own, with its exit codes and messages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.federations import as_toml
from tests.support.forking import ran

pytestmark = pytest.mark.slow  # each command is a process, which loads torch
TINY = as_toml(name="tiny", federation__rounds=3, data__limit=150, training__steps=2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


def dictpfl(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return ran(arguments, cwd, timeout=300, env=os.environ | {"COLUMNS": "160"})


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


FIXED_KEYS = {
    "method", "dataset", "model", "participants", "rounds", "encrypted", "accuracy", "accuracy_history", "values",
    "bytes", "seconds", "state_digest", "model_sha256", "seed", "versions",
}  # fmt: skip


def test_simulate_leaves_a_whole_run_folder_and_identity_gives_the_same_model(config: Path, tmp_path: Path) -> None:
    done = dictpfl("simulate", config, "--engine", "local", "--out", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    found = summary(tmp_path / "a")
    assert set(found) >= FIXED_KEYS
    assert set(found["values"]) == {"model", "shared", "sent"}
    assert set(found["bytes"]) == {"up", "down"}
    assert set(found["seconds"]) >= {"total", "train", "seal", "fold", "open", "evaluate"}
    assert found["encrypted"] is True
    assert len(found["accuracy_history"]) == found["rounds"] == 3
    assert found["accuracy"] == found["accuracy_history"][-1]
    assert len((tmp_path / "a" / "history.jsonl").read_text().splitlines()) == 4  # three updates and a measurement
    assert (tmp_path / "a" / "model.safetensors").exists()
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))
    closed = [path for path in (tmp_path / "a").rglob("*") if path.is_dir() and not path.stat().st_mode & 0o077]
    open_to_all = [p for p in (tmp_path / "a").rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
    assert [p.name for p in open_to_all if not {*p.parents} & {*closed}] == []
    assert not [p.name for p in open_to_all if p.name in ("diary.jsonl", "engine.log")]

    plain = dictpfl("simulate", config, "--engine", "local", "--sealer", "identity", "--out", "b", cwd=tmp_path)
    assert plain.returncode == 0
    assert "INSECURE" in plain.stderr
    other = summary(tmp_path / "b")
    assert other["encrypted"] is False
    assert other["insecure"]
    assert (other["state_digest"], other["model_sha256"]) == (found["state_digest"], found["model_sha256"])
    assert "Insecure federation" in (tmp_path / "b" / "report.html").read_text()
    assert "Insecure federation" not in (tmp_path / "a" / "report.html").read_text()


def test_inspect_and_export(config: Path, tmp_path: Path) -> None:
    dictpfl("simulate", config, "--engine", "local", "--out", "run", cwd=tmp_path)
    shown = dictpfl("inspect", "run", cwd=tmp_path)
    assert shown.returncode == 0
    assert summary(tmp_path / "run")["model_sha256"] in shown.stdout
    exported = dictpfl("export", "run", "-o", "out.safetensors", cwd=tmp_path)
    assert exported.returncode == 0
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()
    with (tmp_path / "run" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert dictpfl("export", "run", "-o", "no.safetensors", cwd=tmp_path).returncode == 1
    assert not (tmp_path / "no.safetensors").exists()


def test_evaluate_and_merged_export(config: Path, tmp_path: Path) -> None:
    assert dictpfl("simulate", config, "--engine", "local", "--out", "run", cwd=tmp_path).returncode == 0
    own = dictpfl("evaluate", "run", cwd=tmp_path)
    assert own.returncode == 0, own.stderr
    assert f"accuracy {summary(tmp_path / 'run')['accuracy']:.4f}" in own.stdout
    assert "samples 30" in own.stdout
    same = dictpfl("evaluate", "run", "--data", "run/test.npz", cwd=tmp_path)
    assert same.stdout == own.stdout
    ignored = dictpfl("evaluate", "run", "--data", "run/test.npz", "--set", "data.limit=40", cwd=tmp_path)
    assert ignored.returncode == 1
    assert "data.limit would be ignored" in ignored.stderr
    institution = dictpfl("evaluate", "run/institutions/institution-000", cwd=tmp_path)
    assert institution.returncode == 0, institution.stderr
    wrong = dictpfl("evaluate", "run", "--set", "data.source=breast_cancer", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "the data have classes malignant, benign, the federation 0, 1, 2" in wrong.stderr
    assert dictpfl("evaluate", "run", "--set", "training.epochs=2", cwd=tmp_path).returncode == 1
    merged = dictpfl("export", "run", "--format", "merged", "-o", "merged", cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    assert {p.name for p in (tmp_path / "merged").iterdir()} == {"README.md", "model.safetensors"}
    again = dictpfl("export", "run", "--format", "peft", "-o", "merged", cwd=tmp_path)
    assert "holds something" in again.stderr


def test_the_best_round_and_stopping_early(config: Path, tmp_path: Path) -> None:
    stalls = ["--set", "selection.patience=1", "--set", "selection.min_delta=0.9"]  # no round is that much better
    done = dictpfl("simulate", config, "--engine", "local", "--out", "run", *stalls, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "run")
    assert found["stopped"] is True
    assert found["rounds"] == 2
    assert f"best by validation  {found['best']['figure']:.4f} after {found['best']['updates']} rounds" in done.stdout
    assert "stopped early" in done.stdout
    assert "when institutions stop" in (tmp_path / "run" / "report.html").read_text()
    for folder in ("run", "run/institutions/institution-000"):
        exported = dictpfl("export", folder, "--checkpoint", "best", "-o", "best.safetensors", cwd=tmp_path)
        assert exported.returncode == 0, exported.stderr
        assert f"after {found['best']['updates']} updates, sha256" in exported.stdout
        measured = dictpfl("evaluate", folder, "--checkpoint", "best", "--data", "run/test.npz", cwd=tmp_path)
        if found["best"]["test"] is not None:
            assert f"accuracy {found['best']['test']:.4f}" in measured.stdout
    nothing = ["--set", "selection.by=none"]
    assert dictpfl("simulate", config, "--engine", "local", "--out", "no", *nothing, cwd=tmp_path).returncode == 0
    refused = dictpfl("export", "no", "--checkpoint", "best", "-o", "no.safetensors", cwd=tmp_path)
    assert refused.returncode == 1
    assert "knows no best model" in refused.stderr


def test_compare_runs_every_method_and_labels_the_insecure(config: Path, tmp_path: Path) -> None:
    methods = "plaintext,fedhe-full,fedhe-topk,fedml-he,dictpfl"
    done = dictpfl("compare", config, "--methods", methods, "--engine", "local", "--out", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compared = json.loads((tmp_path / "all" / "compare.json").read_text())
    assert compared["format"] == 2
    rows = compared["methods"]
    assert [row["method"] for row in rows] == methods.split(",")
    assert [bool(row["insecure"]) for row in rows] == [True, False, False, True, False]
    assert done.stdout.count("INSECURE") == 2
    by = {row["method"]: row for row in rows}
    full = by["plaintext"]["values"]
    # Plaintext counts as float32: four bytes a value, plus the header and a ledger of one block a round.
    assert 4 * full["sent"] < by["plaintext"]["bytes"]["up"] < 4 * full["sent"] + 4 * 33_100
    assert full["sent"] == by["fedhe-full"]["values"]["sent"] == 3 * full["model"]
    assert by["dictpfl"]["values"]["sent"] < by["fedhe-full"]["values"]["sent"]


def test_killed_simulation_resumes_to_the_same_model(config: Path, tmp_path: Path) -> None:
    rounds = ("--set", "federation.rounds=8", "--set", "training.steps=20")
    whole = dictpfl("simulate", config, *rounds, "--engine", "local", "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [
        sys.executable,
        "-m",
        "dictpfl.deploy.cli",
        "simulate",
        str(config),
        *rounds,
        "--engine",
        "local",
        "--out",
        "cut",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    diary = tmp_path / "cut" / "institutions" / "institution-001" / "diary.jsonl"
    deadline = time.monotonic() + 120
    while not (diary.exists() and diary.read_text().count("uploaded") >= 3):
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    refused = dictpfl("simulate", config, *rounds, "--engine", "local", "--out", "cut", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    resumed = dictpfl("simulate", config, *rounds, "--engine", "local", "--out", "cut", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    first, second = summary(tmp_path / "whole"), summary(tmp_path / "cut")
    assert second["state_digest"] == first["state_digest"]
    assert second["model_sha256"] == first["model_sha256"]
    assert second["accuracy_history"] == first["accuracy_history"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("simulate", "missing.toml"), "no configuration file"),
        (("simulate", "tiny.toml", "--set", "trainng.epochs=2"), "nearest known key is 'training'"),
        (("simulate", "tiny.toml", "--set", "training.epoch=2"), "nearest known key is 'training.epochs'"),
        (("simulate", "tiny.toml", "--set", "nonsense"), "expected KEY=VALUE"),
        (("simulate", "tiny.toml", "--method", "magic"), "unknown method"),
        (("simulate", "tiny.toml", "--set", "federation.participants=2"), "no round could ever close"),
        (
            ("simulate", "tiny.toml", "--set", "federation.participants=2", "--set", "federation.min_participants=2"),
            "toy_insecure",
        ),
        (("simulate", "tiny.toml", "--set", "encryption.sealer=identity"), "toy_insecure"),
        (("simulate", "tiny.toml", "--set", "encryption.ring_degree=2048"), "ring_degree"),
        (("compare", "tiny.toml", "--methods", "dictpfl,magic"), "unknown method"),
        (("compare", "tiny.toml", "--methods", ""), "at least one"),
        (("inspect", "."), "no finished run"),
        (("export", ".", "-o", "x"), "no finished run"),
        (("init", "tiny.toml"), "not overwritten"),
    ],
)
def test_bad_input_is_one_clear_message(config: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = dictpfl(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert config.read_text() == TINY


def test_init_writes_a_configuration_that_runs(tmp_path: Path) -> None:
    assert dictpfl("init", "mine.toml", cwd=tmp_path).returncode == 0
    short = ("--set", "federation.rounds=1", "--set", "data.limit=120")
    done = dictpfl("simulate", "mine.toml", *short, "--engine", "local", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    done = dictpfl("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "CKKS self-test" in done.stdout
    assert "FAIL" not in done.stdout


def test_unicode_and_spaces_in_paths(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Krankenhaus Köln, 医院"
    folder.mkdir()
    done = dictpfl("simulate", config, "--engine", "local", "--out", folder / "Lauf 1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert summary(folder / "Lauf 1")["rounds"] == 3


def test_help_shows_what_an_argument_is_and_names_in_brackets(tmp_path: Path) -> None:
    done = dictpfl("prune", "--help", cwd=tmp_path)
    said = " ".join(done.stdout.replace("│", " ").split())
    assert (
        "A folder of a run or an institution; with --config, one of `cut` or `distil`, transformers:FOLDER or timm:NAME."
        in said
    )
    assert "[data] and [training] of what is no federation's." in said
    assert "Override a key of [data] or [training]." in said
