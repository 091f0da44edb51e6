"""What programs write: kept, bounded, one JSON object a line where that is wanted, and searched for exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from dictpfl.common.errors import KeyFileError
from dictpfl.deploy.operations import logs
from dictpfl.deploy.operations.log_format import LOG_JSON, as_json_line, configure, wants_json
from dictpfl.deploy.operations.logs import ProgramLog
from dictpfl.deploy.operations.places import environment


@pytest.fixture(autouse=True)
def _restore():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def written(log: ProgramLog, text: str) -> list[str]:
    process = subprocess.Popen([sys.executable, "-c", f"print({text!r})"], stdout=subprocess.PIPE)
    log.follow(process)
    process.wait()
    log.close()
    return log.path.read_text(encoding="utf-8").splitlines()


def test_lines_are_kept_without_colours(tmp_path: Path) -> None:
    assert written(ProgramLog(tmp_path / "logs" / "superlink.log"), "\x1b[92mINFO \x1b[0m: ready")[0] == "INFO : ready"


def test_every_line_is_an_object_where_json_is_wanted(tmp_path: Path) -> None:
    event = json.dumps({"event": "round closed", "round": 3, "level": "info"})
    text = f"INFO :      Starting\n\nWARNING :   slow\n{event}\nTraceback\n[1, 2]\n{{broken"
    lines = [json.loads(line) for line in written(ProgramLog(tmp_path / "logs" / "x.log", as_json=True), text) if line]
    assert [line["event"] for line in lines] == ["Starting", "slow", "round closed", "Traceback", "[1, 2]", "{broken"]
    assert [line["level"] for line in lines] == ["info", "warning", "info", "info", "info", "info"]
    assert {line["program"] for line in lines} == {"x"}
    assert lines[2]["round"] == 3


def test_exit_code_and_reason_are_found_in_either_form(tmp_path: Path) -> None:
    text = "ERROR :   Exit Code: 602\nERROR :   no address\n"
    for as_json in (False, True):
        log = ProgramLog(tmp_path / "logs" / f"{as_json}.log", as_json=as_json)
        written(log, text)
        assert (log.exit_code, log.reason) == (602, "no address")


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BYTES", 1000)
    log = ProgramLog(tmp_path / "logs" / "x.log")
    written(log, "\n".join(f"line {number:06d}" for number in range(2000)))
    kept = sorted((tmp_path / "logs").iterdir())
    assert len(kept) == 4, "the log and three before it"
    assert all(path.stat().st_size <= 1000 for path in kept)
    assert "line 001999" in "".join(path.read_text() for path in kept)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o755)
    with pytest.raises(KeyFileError, match="0755"):
        ProgramLog(tmp_path / "logs" / "x.log")


@pytest.mark.parametrize("as_json", [True, False])
def test_our_own_events(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure(as_json=as_json)
    structlog.get_logger("x").warning("institution skipped", node=7)
    line = stream.getvalue()
    if as_json:
        assert json.loads(line)["node"] == 7
        assert {"event", "level", "timestamp"} <= set(json.loads(line))
        assert json.loads(as_json_line(line, "superexec")) == json.loads(line) | {"program": "superexec"}
    else:
        assert "node=7" in line


def test_supervised_processes_are_told(tmp_path: Path) -> None:
    for wanted in (True, False):
        given = environment(tmp_path, heartbeat=10.0, bundle="00", kind="clientapp", log_json=wanted)
        assert wants_json(given) is wanted
    assert not wants_json({})
    assert not wants_json({LOG_JSON: "yes"})
