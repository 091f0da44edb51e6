"""Void rounds, refused sums and locks of a run: gathered, printed, and on the report's page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dictpfl.client.defences.openings import openings_at
from dictpfl.client.memory.diary import Diary
from dictpfl.client.memory.record import Memory
from dictpfl.common.errors import EngineError
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations.status import of_institution
from dictpfl.deploy.reports.report import write_report
from dictpfl.deploy.reports.troubles import told
from dictpfl.deploy.review.page import write_review
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation import simulate as module
from dictpfl.deploy.simulation.founding import Founded
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.deploy.simulation.troubles import troubles_of
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, open_journal
from tests.support.federations import tiny

QUIET: dict[str, Any] = {"void": [], "refused": [], "locked": []}


def trouble(founded: Founded) -> None:
    """What institutions write where sums are refused: two refuse one, all find a round void, one locks."""
    for index in range(3):
        diary = Diary(founded.home(index), "any")
        if index < 2:
            for _ in range(2):  # asked again
                diary.note("refused", 1, 100, reason="tag", attempt=0)
        diary.note("void", 2, 100, reason="guard", attempt=0)
    with (founded.home(0) / "diary.jsonl").open("a") as file:
        file.write('{"event": "void", "rou')  # cut off by a crash
    memory = Memory(founded.home(0) / "memory", founded.genesis.federation).path
    openings = openings_at(memory, founded.genesis.fingerprint, 3)
    for attempt in range(3):
        openings.refused(9, RoundKind.UPDATE, attempt, bytes(32), "tag")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tiny(federation__rounds=2), tmp_path_factory.mktemp("quiet") / "run", engine="local")


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    founded: list[Founded] = []
    folder = tmp_path_factory.mktemp("troubled") / "run"
    run = simulate(tiny(federation__rounds=2), folder, engine="local", on_founded=founded.append)
    trouble(founded[0])
    summary = dict(run.summary) | {"troubles": troubles_of(founded[0].genesis, [founded[0].home(i) for i in range(3)])}
    (run.folder / "summary.json").write_text(json.dumps(summary))
    run = Run.load(run.folder)
    write_report(run, founded[0].genesis, run.folder / "report.html")
    return run


def test_a_run_without_trouble_says_nothing(quiet: Run) -> None:
    assert quiet.summary["troubles"] == QUIET
    assert told(QUIET) == told(None) == []
    shown = CliRunner().invoke(app, ["inspect", str(quiet.folder)]).output
    page = (quiet.folder / "report.html").read_text()
    for word in ("void round", "refused sum", "locked"):
        assert word not in shown.lower()
        assert word not in page.lower()


def test_trouble_is_gathered_once_for_each_sum(troubled: Run) -> None:
    assert troubled.summary["troubles"] == {
        "void": [2],
        "refused": [{"round": 1, "reason": "tag", "institutions": ["institution-000", "institution-001"]}],
        "locked": ["institution-000"],
    }


def test_trouble_is_printed_and_on_the_page(troubled: Run) -> None:
    shown = " ".join(CliRunner().invoke(app, ["inspect", str(troubled.folder)]).output.split())
    page = " ".join((troubled.folder / "report.html").read_text().split())
    for text in (
        "round 2: nothing of the sum was applied, at any institution",
        "round 1 at institution-000, institution-001 (tag)",
        "institution-000: too many refused sums",
    ):
        assert text in shown
        assert text in page
    assert re.search(r"<strong>Void rounds</strong>: round 2", page)


def test_a_run_of_an_earlier_release_is_still_shown(quiet: Run, tmp_path: Path) -> None:
    for name in ("config.json", "history.jsonl"):
        (tmp_path / name).write_bytes((quiet.folder / name).read_bytes())
    summary = {name: value for name, value in quiet.summary.items() if name != "troubles"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert CliRunner().invoke(app, ["inspect", str(tmp_path)]).exit_code == 0


def test_a_run_that_stands_says_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stands(engine: str, founded: Founded, *_: object) -> None:
        trouble(founded)

    monkeypatch.setattr(module, "_run", stands)
    with pytest.raises(
        EngineError, match=r"Refused sums: round 1 at institution-000, institution-001 \(tag\)"
    ) as stopped:
        simulate(tiny(), tmp_path / "run", engine="local")
    assert "Locked: institution-000" in str(stopped.value)


def test_an_epsilon_that_cannot_be_had_ends_a_run_in_the_institutions_own_words(tmp_path: Path) -> None:
    """Institutions cannot even be opened, so that none of them could note why it does not answer."""
    private = tiny(privacy__mechanism="example", privacy__epsilon=1e-6)
    with pytest.raises(
        EngineError, match=r"institution-002: privacy.epsilon 1e-06 at delta 1e-05 cannot be had in \d+ steps"
    ):
        simulate(private, tmp_path / "run", engine="local")
    home = tmp_path / "run" / "institutions" / "institution-001"
    assert "privacy.epsilon 1e-06" in of_institution(home)["not_answered"]
    coordinator = tmp_path / "run" / "coordinator"
    journal = open_journal(coordinator, Agreement.load(coordinator / AGREEMENT))
    asked = journal.asked_again()
    journal.close()
    assert asked
    assert set(asked.reasons.values()) == {"privacy"}, "a bare code has left, and no word of it"


def test_the_review_says_how_many_refusals_an_institution_bears(quiet: Run) -> None:
    page = write_review(quiet.folder).read_text()
    assert "After 3 refused or void ones in an epoch it opens nothing until its operator has looked" in page
    assert "at most 20 files of evidence" in page
