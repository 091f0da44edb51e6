"""What an institution's operator sees of refused sums, and how sums are opened again."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from dictpfl.client.defences.openings import ANOTHER, NONSENSE, Openings, openings_at
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.memory.record import Memory
from dictpfl.common.errors import ConfigError, DictPFLError, MemoryFileError
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations.checks import deployment_checks
from dictpfl.deploy.operations.metrics import InstitutionMetrics
from dictpfl.deploy.operations.refusals import Refusals
from dictpfl.deploy.operations.settings import NodeSettings
from dictpfl.deploy.operations.status import of_institution
from tests.deploy.operations.test_metrics import scraped


def memory(folder: Path) -> Memory:
    return Memory(folder / "memory", Genesis.load(folder).federation)


def openings(folder: Path) -> Openings:
    """As the institution's own process opens it."""
    most = InstitutionSettings.load(folder).most_refused
    return openings_at(memory(folder).path, Genesis.load(folder).fingerprint, most)


def refuse(folder: Path, count: int, number: int = 4) -> None:
    for attempt in range(count):
        one = (number, RoundKind.UPDATE, attempt, bytes([attempt]) * 32)
        openings(folder).admit(*one)
        openings(folder).refused(*one, "tag")


def typed(*arguments: str | Path, answer: str = "") -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)


def check(folder: Path) -> Any:
    return next(check for check in deployment_checks(folder) if check.name == "refused sums")


def gauges(folder: Path) -> tuple[float, float]:
    numbers = scraped(InstitutionMetrics(folder, NodeSettings(coordinator="a:1")))
    return numbers["dictpfl_refused_sums"][""], numbers["dictpfl_locked"][""]


def test_a_wrong_folder_is_named_before_a_file_is_missed(coordinator: Path, tmp_path: Path) -> None:
    for folder, reason in (
        (tmp_path / "typo", "is no party's folder yet"),
        (coordinator, "is a coordinator's folder, expected an institution's"),
    ):
        done = typed("institution", "unlock", "--folder", folder)
        text = f"{done.output} {done.exception or ''}"
        assert done.exit_code != 0
        assert reason in text
        assert "Errno" not in text


def test_nothing_was_refused(institution: Path) -> None:
    assert of_institution(institution)["refusals"] == {
        "locked": False, "most": 3, "sums": [], "looked_at": 0, "text": "",
    }  # fmt: skip
    assert "refused" not in typed("status", "--folder", institution).output
    assert check(institution).ok is True
    assert gauges(institution) == (0, 0)
    done = typed("institution", "unlock", "--folder", institution)
    assert (done.exit_code, done.output) == (0, "nothing to unlock: no sum was refused since somebody last looked\n")
    assert not list((institution / "memory").glob("*.opened.jsonl")), "looking writes nothing"


def test_one_refusal_is_shown_and_locks_nothing(institution: Path) -> None:
    refuse(institution, 1)
    says = f"1 refused sum, 3 lock this institution; `dictpfl institution unlock --folder {institution}` shows them"
    assert says in typed("status", "--folder", institution).output
    assert (check(institution).ok, check(institution).found) == (None, says)
    assert gauges(institution) == (1, 0)


def test_a_lock_is_said_wherever_an_operator_looks(institution: Path) -> None:
    refuse(institution, 3)
    standing = of_institution(institution)["refusals"]
    assert (standing["locked"], [one["attempt"] for one in standing["sums"]]) == (True, [0, 1, 2])
    says = standing["text"]
    assert says.startswith("locked: 3 refused sums")
    assert f"`dictpfl institution unlock --folder {institution}`" in says
    assert says in typed("status", "--folder", institution).output
    told = json.loads(typed("status", "--folder", institution, "--json").output)
    assert told["refusals"]["locked"] is True
    assert (check(institution).ok, check(institution).found) == (False, says)
    assert gauges(institution) == (3, 1)
    with capture_logs() as logs:
        refusals = Refusals(institution)
        assert refusals.look()
        assert not refusals.look(), "the same thing is said once"
    assert [(line["log_level"], line["event"]) for line in logs] == [("error", says)]


def test_void_sums_count_with_refused_ones_and_say_what_to_compare(institution: Path) -> None:
    refuse(institution, 1)
    for number in (5, 6):
        one = (number, RoundKind.UPDATE, 0, bytes([number]) * 32)
        openings(institution).admit(*one)
        openings(institution).refused(*one, NONSENSE)
    says = of_institution(institution)["refusals"]["text"]
    assert says.startswith("locked: 3 refused sums (2 void), and nothing is opened.")
    assert says in typed("status", "--folder", institution).output
    assert (check(institution).ok, gauges(institution)) == (False, (3, 1))
    done = typed("institution", "unlock", "--folder", institution, "--yes")
    lines = [
        line for line in done.output.splitlines() if "round 5 (update, attempt 0), sum 050505050505: void (" in line
    ]
    assert len(lines) == 1
    assert "compare its digest with the others' before you unlock" in lines[0]
    assert not openings(institution).locked


def test_what_was_refused_is_shown_before_it_is_asked(institution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(institution, 2)
    with pytest.raises(DictPFLError):
        openings(institution).admit(4, RoundKind.UPDATE, 1, bytes(32))
    (institution / "evidence").mkdir(mode=0o700)
    evidence = institution / "evidence" / "round-000004-tag-0123456789ab.json"
    evidence.write_text("{}")
    done = typed("institution", "unlock", "--folder", institution)
    assert done.exit_code == 1
    assert "--yes" in str(done.exception)
    lines = done.output.splitlines()
    assert [bool(re.search(rf"round 4 \(update, attempt {n}\), sum .*: tag$", lines[1 + 2 * n])) for n in (0, 1)] == [
        True
    ] * 2
    assert f"  evidence: {evidence}" in lines
    assert f"{ANOTHER} (a second sum of the same round and attempt; it was not opened)" in done.output
    assert openings(institution).locked

    monkeypatch.setattr(sys.modules["dictpfl.deploy.operations.unlocking"], "_at_terminal", lambda: True)
    assert typed("institution", "unlock", "--folder", institution, answer="n\n").exit_code == 1
    assert openings(institution).locked
    done = typed("institution", "unlock", "--folder", institution, answer="y\n")
    assert done.exit_code == 0
    assert done.output.endswith("3 refused sums looked at; counting begins anew\n")
    assert not openings(institution).locked


def test_yes_unlocks_unattended_and_a_running_institution_goes_on(institution: Path) -> None:
    refuse(institution, 3)
    running = openings(institution)
    assert running.locked
    watching = Refusals(institution)
    watching.look()
    assert typed("institution", "unlock", "--folder", institution, "--yes").exit_code == 0
    running.admit(4, RoundKind.UPDATE, 3, bytes(32))
    with capture_logs() as logs:
        assert watching.look()
    assert [line["log_level"] for line in logs] == ["info"]
    assert of_institution(institution)["refusals"]["looked_at"] == 3
    assert gauges(institution) == (0, 0)
    assert "nothing to unlock" in typed("institution", "unlock", "--folder", institution).output


def test_unlocking_waits_for_what_the_institution_does(institution: Path) -> None:
    refuse(institution, 3)
    refusals = Refusals(institution)
    shown = refusals.standing()
    thread = threading.Thread(target=refusals.unlock, args=(shown,))
    with memory(institution).locked():
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive()
        assert openings(institution).locked
    thread.join()
    assert not openings(institution).locked


def test_a_refusal_that_came_while_somebody_looked_still_counts(institution: Path) -> None:
    refuse(institution, 1)
    refusals = Refusals(institution)
    shown = refusals.standing()
    refuse(institution, 1, number=5)
    assert refusals.unlock(shown) == 1
    assert [one.sum.round for one in openings(institution).refusals] == [5]


def test_the_limit_is_the_institutions_own(institution: Path) -> None:
    settings = InstitutionSettings.load(institution)
    assert settings.most_refused == 3
    settings.model_copy(update={"most_refused": 1}).save(institution)
    assert InstitutionSettings.load(institution).most_refused == 1
    refuse(institution, 1)
    assert of_institution(institution)["refusals"]["locked"]
    for wrong in ("0", "-1", '"many"'):
        (institution / "institution.toml").write_text(f"most_refused = {wrong}\n")
        with pytest.raises(DictPFLError, match="most_refused"):
            InstitutionSettings.load(institution)


def test_settings_may_begin_with_a_byte_order_mark_and_end_in_no_traceback(institution: Path) -> None:
    """As those that an editor on Windows saved; the audit reads the name in them by itself."""
    path = institution / "institution.toml"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert InstitutionSettings.load(institution).name == "site-1"
    for endless in ("[" * 9999, "9" * 9999):
        path.write_text(f"{text}most_rounds = {endless}\n")
        with pytest.raises(ConfigError, match=r"cannot use .*institution\.toml"):
            InstitutionSettings.load(institution)


def test_an_epoch_begins_without_refusals(institution: Path) -> None:
    refuse(institution, 3)
    refusals = Refusals(institution)
    assert refusals.standing().locked
    epoch = institution / "epochs" / "0002"
    epoch.mkdir(parents=True)
    for path in institution.glob("genesis*"):
        (epoch / path.name).write_bytes(path.read_bytes())
    document = json.loads((epoch / DOCUMENT).read_bytes())
    document["fingerprint"] = "ab" * 32
    (epoch / DOCUMENT).write_text(json.dumps(document))
    assert Genesis.load(epoch).fingerprint == bytes.fromhex("ab" * 32)
    assert not refusals.standing().locked


def test_a_damaged_record_is_said_and_hides_nothing_else(institution: Path) -> None:
    refuse(institution, 3)
    (path,) = (institution / "memory").glob("*.opened.jsonl")
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(MemoryFileError, match="restore it from backup"):
        Refusals(institution).standing()
    assert check(institution).ok is False
    assert "restore it from backup" in check(institution).found
    numbers = scraped(InstitutionMetrics(institution, NodeSettings(coordinator="a:1")))
    assert "dictpfl_locked" not in numbers
    assert numbers["dictpfl_uploads_total"] == {"": 0}
    done = typed("institution", "unlock", "--folder", institution, "--yes")
    assert isinstance(done.exception, MemoryFileError)


def test_void_rounds_are_said(institution: Path) -> None:
    lines = [
        {"event": "void", "round": number, "bytes": 9, "seconds": {}, "at": 1.0, "reason": "guard"} for number in (3, 7)
    ]
    (institution / "diary.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line["round"] for line in of_institution(institution)["void"]] == [3, 7]
    assert "void lately, for every institution: round 3, 7." in typed("status", "--folder", institution).output
    numbers = scraped(InstitutionMetrics(institution, NodeSettings(coordinator="a:1")))
    assert numbers["dictpfl_rounds_void_total"] == {"": 2}


def test_only_its_owner_reads_the_record(institution: Path) -> None:
    refuse(institution, 1)
    (path,) = (institution / "memory").glob("*.opened.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600
