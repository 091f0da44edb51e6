"""The schedule of faults, and the checks after them, without processes; tests/processes/test_faults.py plays some."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.faults import page
from tests.support.faults.ground import NAMES, flip, unflip
from tests.support.faults.lines import CUT, HANDSHAKE, OPEN, SLOW, Line
from tests.support.faults.played import STOPPED, UNEXPLAINED, Row
from tests.support.faults.schedule import BACKED_UP, COORDINATOR, FLIPS, KINDS, LATE, REPLACED, drawn
from tests.support.faults.whole import Outcome, Report, table, wrong_of

FOUR = NAMES[:4]


@pytest.mark.parametrize("seed", range(1, 51))
def test_each_kind_occurs_and_all_follows_from_the_seed(seed: int) -> None:
    schedule = drawn(seed, FOUR, 12)
    assert sorted(fault.kind for fault in schedule) == sorted(KINDS)
    assert schedule == drawn(seed, FOUR, 12)
    assert schedule != drawn(seed + 1, FOUR, 12)
    assert [fault.after for fault in schedule] == sorted(fault.after for fault in schedule)
    assert schedule[-1].kind == REPLACED, "what comes after it cannot be compared with an undisturbed run"
    for fault in schedule:
        assert (fault.where == COORDINATOR) == (KINDS[fault.kind] == COORDINATOR)
        assert fault.where in (*FOUR, COORDINATOR)
        assert 1 <= fault.after <= 10, "there are rounds before it and after it"
        assert fault.after > BACKED_UP or fault.kind not in LATE


def test_seeds_differ_in_order_and_victims() -> None:
    schedules = [drawn(seed, FOUR, 12) for seed in range(1, 21)]
    assert len({tuple(fault.kind for fault in schedule) for schedule in schedules}) > 15
    assert {fault.where for schedule in schedules for fault in schedule} == {*FOUR, COORDINATOR}


def test_only_some_kinds() -> None:
    assert [fault.kind for fault in drawn(1, FOUR, 4, ["line cut"])] == ["line cut"]
    with pytest.raises(ValueError, match="no kinds of fault"):
        drawn(1, FOUR, 4, ["earthquake"])


def test_a_bit_is_flipped_in_place_and_what_came_since_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "custody.jsonl"
    file.write_bytes(b"one\n")
    whole, damaged = flip(file, 9)
    assert file.read_bytes() == damaged != whole
    file.write_bytes(damaged + b"two\n")
    unflip(file, whole, damaged)
    assert file.read_bytes() == b"one\ntwo\n"


# the checks


def reported(digests: list[str], updates: int = 3, rounds: int = 4) -> Report:
    report = Report(1, 3, 4)
    report.undisturbed = Outcome(dict.fromkeys(FOUR, "aa"), 3, 4)
    report.disturbed = Outcome(dict(zip(FOUR, digests, strict=True)), updates, rounds)
    return report


def test_equal_runs_are_equal() -> None:
    assert list(wrong_of(reported(["aa"] * 4), [])) == []


def test_after_an_old_memory_other_digests_are_no_fault() -> None:
    report = reported(["bb"] * 4)
    assert len(list(wrong_of(report, []))) == 4
    report.replaced = 2
    assert list(wrong_of(report, [])) == []


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (reported(["aa", "aa", "bb", "aa"]), "oslo holds bb"),
        (reported(["aa"] * 4, updates=4, rounds=5), "4 updates in 5 rounds"),
        (reported(["aa"] * 4, updates=3, rounds=5), "3 updates in 5 rounds"),
    ],
)
def test_what_differs_is_said(report: Report, said: str) -> None:
    (wrong,) = wrong_of(report, [])
    assert said in wrong


def test_an_unexplained_stop_and_a_fault_that_was_not_played_are_wrong() -> None:
    report = reported(["aa"] * 4)
    report.rows.append(Row("line cut", "oslo", "", 3, "", "", "", UNEXPLAINED, 1.0))
    first, second = wrong_of(report, drawn(1, FOUR, 12, ["line cut", "line slow"]))
    assert "line cut (oslo) stopped something" in first
    assert "not played: ['line slow']" in second


def test_the_table_is_markdown() -> None:
    lines = table([Row("line cut", "oslo", "", 3, COORDINATOR, "oslo: offline | 9 s", "", STOPPED, 1.0)]).splitlines()
    assert len(lines) == 3
    assert "offline \\| 9 s" in lines[2]


def test_the_page_shows_what_was_measured() -> None:
    """`python tools/faults.py --render` changes nothing; another figure would show."""
    text, found = page.PAGE.read_text(encoding="utf-8"), page.reports()
    assert page.rendered(text, found) == text
    for one in found:
        assert one["wrong"] == [], one["seed"]
        assert {row["kind"] for row in one["rows"]} == set(KINDS)


def test_seeds_and_table_of_the_page() -> None:
    rows = [
        Row("line cut", "oslo", "", 3, COORDINATOR, "oslo: offline, seen 21 s ago", "the line is whole again", STOPPED, 1.0),
        Row(FLIPS["institution"], "oslo", "node.key, bit 3 of byte 9", 4, "oslo", "CANNOT TAKE PART: key", "put back", STOPPED, 1.0),
    ]  # fmt: skip
    report = reported(["aa"] * 4)
    report.rows += rows
    report.facts |= {"seconds": 90, "date": "2026-11-27", "processor": "one", "cores": 2, "commit": "abc"}
    made = page.rendered("<!-- faults: begin -->\nold\n<!-- faults: end -->", [report.to_json()])
    assert "old" not in made
    same = "- Seed 1: 2 faults, 3 updates, digest `aa`. Under faults: the same at all; read afresh: equal ("
    assert same in made
    assert "| line cut | 1 | stopped | coordinator | the line is whole again |" in made
    assert "| flipped bits at an institution: `node.key` | 1 | stopped | institution | put back |" in made
    report.disturbed = Outcome(dict.fromkeys(FOUR, "bb"), 3, 4)
    report.replaced = 2
    then = "the same in each of 2 rounds, then one everywhere; read afresh: equal ("
    assert then in page.rendered(made, [report.to_json()])
    report.wrong = ["after round 1 the sums give another state than those of the undisturbed run"]
    assert "read afresh: DIFFERS (" in page.rendered(made, [report.to_json()])
    report.replaced = None
    assert "Under faults: DIFFER;" in page.rendered(made, [report.to_json()])


# lines


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that gives back what comes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    one, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(one,), daemon=True).start()

        def answer(one: socket.socket) -> None:
            with suppress(OSError), one:
                while piece := one.recv(4096):
                    one.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def said(line: Line, text: bytes) -> bytes:
    """What comes back through a line until it is whole or cut."""
    back = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", line.port), timeout=10) as near:
        near.sendall(text)
        while len(back) < len(text) and (piece := near.recv(4096)):
            back += piece
    return back


def test_a_line_is_cut_slowed_and_cut_in_the_middle(echo: int) -> None:
    line = Line(echo)
    try:
        assert said(line, b"x" * 5000) == b"x" * 5000
        line.set(CUT)
        assert said(line, b"x") == b""
        line.handshake_bytes = 100
        line.set(HANDSHAKE)
        assert len(said(line, b"x" * 5000)) <= 100
        assert line.cuts == 2
        line.bytes_a_second = 10_000
        line.set(SLOW)
        assert said(line, b"x" * 2000) == b"x" * 2000
        line.set(OPEN)
        assert said(line, b"x") == b"x"
    finally:
        line.close()
