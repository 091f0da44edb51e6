"""docs/tutorial/first-hour.md, as a newcomer types it: an empty folder, an installed wheel, nothing of the repository.

The commands are those of the page. Each step has to work; the last one runs where dictpfl cannot be imported.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import loading
from dictpfl.client.data.source import load_dataset
from dictpfl.common.settings import Data, Preprocessing
from dictpfl.deploy.runs.run import Run
from tests.support import ROOT
from tools import wheels

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "tutorial" / "first-hour.md").read_text(encoding="utf-8")
TYPED, ELSEWHERE, PLAIN = (
    re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("bash", "console", "python")
)
RUN = Path("ward", "runs", "ward-dictpfl")
PATIENCE_SECONDS = 240


class Newcomer:
    """Somebody with a folder and a terminal, in which `dictpfl` is what pip installed."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.here = self.home = home
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        self.environment = kept | {"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def types(self, block: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-eu"], input=block, cwd=self.here, env=self.environment, text=True, capture_output=True, check=False,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said[-4000:]
        if done.returncode == 0 and (moved := re.search(r"^cd (\S+)$", block, re.MULTILINE)):
            self.here = self.home / moved[1]
        return done.returncode, said

    def does(self, block: str) -> str:
        code, said = self.types(block)
        assert code == 0, f"{block}\n{said[-4000:]}"
        return said

    def begins(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command.split(), cwd=self.here, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            executable=shutil.which(command.split(maxsplit=1)[0], path=self.environment["PATH"]),
        )  # fmt: skip


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    (wheel,) = wheels.build(wheels.ROOT, tmp_path_factory.mktemp("wheel"), "wheel")
    python = wheels.environment(tmp_path_factory.mktemp("installed") / "venv", wheel, "simulation")
    return Newcomer(tmp_path_factory.mktemp("home"), python.parent)


def until(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def watched(newcomer: Newcomer) -> Iterator[Callable[[str], object]]:
    """The live page in Chromium, where there is one; gives a function that waits until its headline has some words."""
    browsing = pytest.importorskip("tests.support.browsing") if shutil.which("chromium") else None
    watching = newcomer.begins(ELSEWHERE[0])
    try:
        assert watching.stdout is not None
        (address,) = re.findall(r"open (http\S+)", watching.stdout.readline())
        if browsing is None:
            yield lambda words: words
            return
        with browsing.chromium() as browser:
            one = browsing.Opened(browser, address)
            one.page.wait_for_selector("#connection.live")
            yield lambda words: one.page.wait_for_selector(
                f".standing:has-text('{words}')", timeout=1000 * PATIENCE_SECONDS
            )
            assert one.complaints == []
            assert one.violations() == []
    finally:
        watching.terminate()
        watching.communicate(timeout=30)


def test_the_page_has_the_steps_in_their_order() -> None:
    commands = [line for block in TYPED for line in block.splitlines() if line.startswith("dictpfl ")]
    assert [line.split()[1] for line in commands] == ["new", "describe", "simulate", "inspect", "simulate", "export"]
    assert [block.split()[:2] for block in ELSEWHERE] == [["dictpfl", "watch"], ["kill", "-9"]]


def test_the_lines_without_dictpfl_read_categories_as_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pandas reads a site "01" as 1, and a drug "None" as a gap: the page's lines took them for others, in silence."""
    table = "site,drug,arm,ill\n01,None,1.0,0\n02,NA,2.0,1\n03,a,,0\n01,,3.0,1\n02,b,1.0,0\n"
    (tmp_path / "west.csv").write_text(table)
    named = {"site": ["01", "02"], "drug": ["None", "NA", "a"], "arm": ["1", "2"]}
    read = load_dataset(
        Data(source="csv", path=str(tmp_path / "west.csv"), label="ill", preprocessing=Preprocessing(categories=named)),
        1,
    )
    columns = [{"name": name, "categories": words, "kept": [True] * len(words)} for name, words in named.items()]
    monkeypatch.setitem(sys.modules, "model", SimpleNamespace(network=None))
    lines: dict[str, Any] = {}
    exec(PLAIN[0].partition("said = ")[0], lines)  # noqa: S102 -- our own page
    made = lines["prepared"](lines["read"](tmp_path / "west.csv", columns), columns)
    place = 0
    for number, words in enumerate(named.values()):
        ours = read.samples.features[:, number].astype(int)  # -1: others, which come last
        assert made[:, place : place + len(words) + 1].tolist() == np.eye(len(words) + 1)[ours].tolist()
        place += len(words) + 1
    assert made.shape[1] == place


def test_an_hour(newcomer: Newcomer, tmp_path: Path) -> None:
    project, tables, configuration, describe, simulate, resume, export = TYPED
    for block in (project, tables, configuration):
        newcomer.does(block)
    said = newcomer.does(describe)
    assert "a table of rank 4 for 32 x 9" in said
    assert "a round each for columns, quantiles, sealed" in said

    running, diary = (
        newcomer.begins(simulate),
        newcomer.home / RUN / "institutions" / "institution-001" / "diary.jsonl",
    )
    try:
        until(lambda: diary.exists() and diary.read_text().count('"uploaded"') >= 5, running)
        newcomer.does(ELSEWHERE[1])
        lines, _ = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == -9, lines

    with watched(newcomer) as shows:
        shows("of 20")
        said = newcomer.does(resume)
        shows("Round 20 of 20, ended")
    assert re.search(r"unfinished: \d+ of 20 rounds; `dictpfl simulate runs/ward-dictpfl --resume` goes on", said)
    run = Run.load(newcomer.home / RUN)
    assert run.summary["encrypted"]
    assert 37 in [record.sent for record in run.records if record.update == 0], "sums before round 1"
    assert run.summary["baseline"]["passed"]
    assert run.summary["metrics"]["test"]["auroc"]["auroc"] > 0.75
    assert [record.update for record in run.records if record.kind == "update"] == list(range(1, 21))

    assert "model.columns.json  how its columns are prepared" in newcomer.does(export)
    elsewhere = loading.fresh_environment(tmp_path / "plain", str(Path(torch.__file__).parents[1]))
    (newcomer.here / "use.py").write_text(
        f"import importlib.util\nassert not importlib.util.find_spec('dictpfl')\n{PLAIN[0]}"
    )
    said = newcomer.does(f"{elsewhere} use.py")
    # It says what dictpfl's own measuring says of the same rows.
    (share,) = re.findall(r"right for ([\d.]+)% of 300", said)
    measured = newcomer.does("dictpfl evaluate runs/ward-dictpfl --data sites/west.csv")
    assert float(share) / 100 == pytest.approx(float(re.findall(r"^accuracy ([\d.]+)", measured)[0]), abs=2e-4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("runs/ward-dictpfl", "expected a configuration, or `dictpfl simulate runs/ward-dictpfl --resume`"),
        ("federation.toml --out runs/none --resume", "nothing to resume in runs/none"),
        (
            "federation.toml --resume --set training.learning_rate=0.5 --set seed=3",
            "seed is 1 there and 3 here; training.learning_rate is 0.003 there and 0.5 here",
        ),
    ],
)
def test_what_cannot_be_resumed_says_why(words: str, expected: str, newcomer: Newcomer) -> None:
    code, said = newcomer.types(f"dictpfl simulate {words}")
    assert code == 1
    assert expected in said
