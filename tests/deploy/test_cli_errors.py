"""What a newcomer mistypes or interrupts: each command as it is typed, in a process of its own, answered in one sentence."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from dictpfl.deploy.runs.run import Run
from tests.support.federations import as_toml
from tests.support.forking import ran

pytestmark = pytest.mark.slow  # each command is a process


def started(words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dictpfl.deploy.cli", *shlex.split(words)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "160"},
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 -- nothing here has threads
    )  # fmt: skip


def typed(words: str, cwd: Path) -> tuple[int, str]:
    done = ran(shlex.split(words), cwd, timeout=300, env=os.environ | {"COLUMNS": "160"})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.toml").write_text(as_toml(name="tiny", federation__rounds=2, data__limit=150, training__steps=2))
    code, said = typed("simulate tiny.toml --engine local --out run", folder)
    assert code == 0, said
    return folder


def test_a_line_for_the_last_round_where_there_is_no_terminal(place: Path) -> None:
    shutil.rmtree(place / "told", ignore_errors=True)
    code, said = typed("simulate tiny.toml --engine local --out told", place)
    assert code == 0
    lines = [line for line in said.splitlines() if line.startswith("tiny (dictpfl) round")]
    assert [line.split(":")[0] for line in lines] == ["tiny (dictpfl) round 2 of 2"]
    assert "test " in lines[0]
    assert [str(record.kind) for record in Run.load(place / "told").records] == ["update", "update", "measure"]


@pytest.mark.parametrize(
    ("command", "name"), [("simulate", "../../outside"), ("simulate", ""), ("compare", "n" * 300), ("attack", "../out")]
)
def test_a_name_leads_nowhere_but_into_runs(command: str, name: str, place: Path) -> None:
    (place / "named.toml").write_text(as_toml(name=name, federation__rounds=1))
    before = sorted(place.parent.rglob("*"))
    code, said = typed(f"{command} named.toml", place)
    assert code == 1, said
    assert "the run's folder is named after it" in said
    assert "--out" in said
    assert sorted({*place.parent.rglob("*")} - {place / "named.toml"}) == sorted({*before} - {place / "named.toml"})


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("init missing/a.toml", "expected a folder missing, found none"),
        ("export run -o missing/x.safetensors", "expected a folder missing, found none"),
        ("export run -o x.pt", "name it x.safetensors"),
        ("report run -o missing/r.html", "expected a folder missing, found none"),
        ("export run -o sealed/x.safetensors", "may not be written by you"),
        ("evaluate run --data nosuch.csv", "data.source 'digits' reads no file"),
        ("evaluate run --set data.limit=100", "samples that it was trained on included"),
        ("simulate tiny.toml --set data.path=mine.csv --out other", "data.source 'digits' reads no file"),
        ("inspect nothing", "nor one that was begun"),
        ("compare tiny.toml --seeds 1,b", "expected numbers separated by commas"),
        ("compare tiny.toml --methods majority", "trains nothing"),
        ("compare tiny.toml --set method=plaintext --out other", "--set method: --methods says which"),
        ("compare tiny.toml --seeds 1,2 --set seed=3 --out other", "--set seed: --seeds says which"),
        ("simulate tiny.toml --method dictpfl --set method=plaintext --out other", "--set method: --method says it"),
        ("simulate tiny.toml --gpus 0 --set resources.gpus=1 --out other", "--set resources.gpus: --gpus says it"),
        ("simulate tiny.toml --sealer ckks --set encryption.sealer=identity --out other", "--sealer says it"),
    ],
)
def test_it_is_refused_in_one_sentence_and_nothing_is_written(command: str, words: str, place: Path) -> None:
    (place / "sealed").mkdir(exist_ok=True)
    (place / "sealed").chmod(0o500)
    if "sealed" in command and os.access(place / "sealed", os.W_OK):
        pytest.skip("this user may write anywhere")
    before = sorted(path.name for path in place.iterdir())
    code, said = typed(command, place)
    assert code == 1
    assert words in said
    assert "Traceback" not in said
    assert said.count("\n") <= 2
    assert sorted(path.name for path in place.iterdir()) in (before, sorted([*before, "other"]))


OWN = """
from torch import nn


def small(sample_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def broken(sample_shape, outputs):
    raise ValueError("the user's own mistake")


class tiring(nn.Sequential):
    seen = 0

    def __init__(self, sample_shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, outputs))

    def forward(self, x):
        tiring.seen += self.training
        if tiring.seen > 8 and self.training:
            raise ValueError("no more than eight batches")
        return super().forward(x)
"""


def test_too_few_outputs_are_said_before_anything_begins(place: Path) -> None:
    (place / "own.py").write_text(OWN)
    words = "simulate tiny.toml --engine local --set model.source=own:small --set model.options={} --out outputs"
    code, said = typed(words, place)
    assert code == 1
    assert "a label is outside of 0..2, the model's 3 classes" in said


def test_why_institutions_could_not_go_on_is_told_to_who_simulates(place: Path) -> None:
    (place / "own.py").write_text(OWN)
    words = "simulate tiny.toml --engine local --set model.source=own:tiring --set model.options={} --out tired"
    code, said = typed(words, place)
    assert code == 1
    told = said.rpartition("error")[2]
    assert "institutions could not go on. institution-00" in said
    assert "ValueError: no more than eight batches (in own.py, line" in said
    assert "Traceback" not in said
    assert "Expected progress within" not in told


def test_a_mistake_in_user_code_keeps_its_traceback_where_it_is_asked_for(place: Path) -> None:
    (place / "own.py").write_text(OWN)
    words = "simulate tiny.toml --engine local --set model.source=own:broken --set model.options={} --out mistake"
    code, said = typed(words, place)
    assert code == 1
    assert "the user's own mistake" in said
    assert "Traceback" not in said
    code, said = typed(f"{words} -v", place)
    assert code == 1
    assert 'raise ValueError("the user\'s own mistake")' in said


def test_a_misspelt_folder_is_no_name_of_a_hub(place: Path) -> None:
    (place / "models").mkdir(exist_ok=True)
    code, said = typed("simulate tiny.toml --engine local --set model.source=transformers:models/brt --out hub", place)
    assert code == 1
    assert "no folder 'models/brt'" in said
    assert said.count("\n") <= 2


def test_a_hub_out_of_reach_is_asked_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refuses at once, with a network or without
    words = "simulate tiny.toml --engine local --set model.source=transformers:nobody/nothing --set model.options={} --out hub"
    process = started(words, place)  # the library asks for its address as it is loaded
    said = "".join(process.communicate(timeout=300))
    assert process.returncode == 1
    assert "model.source 'transformers:nobody/nothing' cannot be built" in said
    assert "Without a network: download it" in said
    assert said.count("\n") <= 2, "a library's warnings"


def test_version(place: Path) -> None:
    code, said = typed("--version", place)
    assert code == 0
    assert said.startswith("dictpfl ")


def until(found: object, process: subprocess.Popen[str]) -> None:
    """Wait for a condition while the process lives."""
    assert callable(found)
    end = time.monotonic() + 120
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def rounds(folder: Path) -> int:
    history = folder / "history.jsonl"
    return len(history.read_text().splitlines()) if history.exists() else 0


@pytest.mark.parametrize("engine", ["local", "flower"])
def test_a_run_is_watched_kept_alone_interrupted_and_gone_on_with(engine: str, tmp_path: Path) -> None:
    if engine == "flower":
        pytest.importorskip("ray")
    long = as_toml(name="long", federation__rounds=400, data__limit=150, training__steps=1)
    (tmp_path / "long.toml").write_text(long)
    process = started(f"simulate long.toml --engine {engine} --out run", tmp_path)
    try:
        until(lambda: rounds(tmp_path / "run") >= 3, process)
        # Its rounds can be read, and nobody else may write there.
        code, said = typed("inspect run", tmp_path)
        assert code == 0, said
        assert "unfinished: " in said
        assert "of 400 rounds" in said
        code, said = typed(f"simulate long.toml --engine {engine} --out run --resume", tmp_path)
        assert code == 1
        assert f"process {process.pid} runs a federation in" in said
        process.send_signal(signal.SIGINT)
        said = "".join(process.communicate(timeout=60))
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert f"dictpfl simulate long.toml --engine {engine} --out run --resume` goes on" in said
    assert "Traceback" not in said
    before = rounds(tmp_path / "run")
    code, said = typed(
        f"simulate long.toml --engine local --out run --resume --set federation.rounds={before + 2}", tmp_path
    )
    assert code == 0, said
    assert "the run was founded for 400 rounds" in said
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [record["update"] for record in history if record["kind"] == "update"] == list(range(1, before + 3))


def test_a_full_disk_is_told_in_one_sentence(place: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code, said = typed("init /dev/full", place)
    assert code == 1
    assert "Traceback" not in said
