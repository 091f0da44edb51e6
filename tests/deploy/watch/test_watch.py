"""The page of `dictpfl watch`: what it shows of each party, to whom, and how it follows a run."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import dictpfl
from dictpfl.common.errors import ConfigError, ProcessError
from dictpfl.common.files import lock
from dictpfl.deploy.operations.places import LAST_CONTACT
from dictpfl.deploy.operations.status import of_coordinator
from dictpfl.deploy.runs.run import Run, closed_rounds, write_history
from dictpfl.deploy.watch.cli import watch, what_is_watched
from dictpfl.deploy.watch.coordinator import MAY_KNOW, ROUNDS_MAY_KNOW, CoordinatorWatch
from dictpfl.deploy.watch.page import Page, PageServer, Watched
from dictpfl.deploy.watch.view import View
from tests.support.federations import encrypted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("watched") / "run"
    return dictpfl.simulate(encrypted(name="watched <&>", pruning__tau=2), folder, engine="local")


def html(folder: Path) -> str:
    return Page(what_is_watched(folder)).current()


@contextmanager
def served(watched: Watched) -> Iterator[PageServer]:
    server = PageServer(watched, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_a_run_s_page_says_what_its_files_say(run: Run) -> None:
    view = what_is_watched(run.folder).view()
    assert (view.whose, view.done, view.wanted, view.ended) == ("simulation", 4, 4, True)
    shown = {card.label: card.value for card in view.cards}
    assert shown["Test accuracy"] == f"{run.accuracy:.4f}"
    assert view.alarms == []
    tables = {table.title: table for table in view.tables}
    last = [r for r in run.records if r.kind == "update"][-1]
    pruned = tables["Pruned by layer, round 4"]
    assert {row[0] for row in pruned.rows} == set(last.sent_by_tensor)
    sizes = {row[0]: int(str(row[2]).replace(",", "")) for row in pruned.rows}
    for row in pruned.rows:
        assert row[3].value == pytest.approx(1 - last.sent_by_tensor[row[0]] / sizes[row[0]])
    assert any(row[3].value > 0 for row in pruned.rows), "nothing is pruned: the table shows nothing"
    assert [row[0] for row in tables["Last rounds"].rows] == ["measure", "4", "3", "2", "1"]
    assert len(tables["Institutions"].rows) == 3
    text = html(run.folder)
    assert "watched &lt;&amp;&gt;" in text
    assert "watched <&>" not in text


def test_a_run_that_was_stopped_and_one_that_misses_an_institution_say_so(run: Run, tmp_path: Path) -> None:
    for name in ("config.json", "history.jsonl"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    (tmp_path / "institutions").symlink_to(run.folder / "institutions")
    view = what_is_watched(tmp_path).view()
    assert not view.ended
    assert ["no process works here" in alarm for alarm in view.alarms] == [True]
    (tmp_path / ".lock").write_text(str(os.getpid()))
    assert "no process works here" in what_is_watched(tmp_path).view().alarms[0], "another has its number by now"
    _, history = closed_rounds(tmp_path)
    (tmp_path / "history.jsonl").unlink()  # rounds that are there are not taken back
    write_history(tmp_path, [*history[:2], replace(history[2], rejected={"1002": "late"})])
    with closing(os.fdopen(lock(tmp_path / ".lock"))):
        view = what_is_watched(tmp_path).view()
    assert view.done == 3
    assert view.alarms == ["an upload is not in the last sum (node 1002): late"]


def test_an_institution_s_page_has_its_own_figures_and_nobody_else_s(run: Run) -> None:
    folder = run.folder / "institutions" / "institution-000"
    view = what_is_watched(folder).view()
    assert (view.whose, view.done, view.ended) == ("institution", 4, True)
    lines = [json.loads(line) for line in (folder / "diary.jsonl").read_text().splitlines()]
    own = [line["metric"] for line in lines if line["event"] == "uploaded" and line["kind"] == "update"][-1]
    assert {card.label: card.value for card in view.cards}["Own validation accuracy"] == f"{own:.4f}"
    tables = {table.title: table for table in view.tables}
    pruned = tables["Pruned by layer, in the state that all institutions share"]
    assert any(row[3].value > 0 for row in pruned.rows)
    text = html(folder)
    assert run.summary["state_digest"] in text
    assert "site-2" not in text


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        (None, "supernode: process 1 serves; restarts 0, but has not reached the coordinator yet"),
        (600.0, "supernode: process 1 serves; restarts 0, but has not reached the coordinator for 6"),
        (1.0, ""),
    ],
)
def test_an_institution_that_is_up_and_reaches_nobody_is_an_alarm(
    run: Run, tmp_path: Path, reached: float | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(run.folder / "institutions" / "institution-000", tmp_path / "berlin")
    (folder / "run").mkdir(exist_ok=True)
    facts = {"pid": 1, "restarts": 0, "health": 1, "why": ""}
    (folder / "run" / "processes.json").write_text(json.dumps({"supervisor": 1, "programs": {"supernode": facts}}))
    if reached is not None:
        (folder / "run" / LAST_CONTACT).touch()
        os.utime(folder / "run" / LAST_CONTACT, (time.time() - reached,) * 2)
    monkeypatch.setattr("dictpfl.deploy.operations.health.serves", lambda *_: True)
    assert [text[: len(said)] for text in what_is_watched(folder).view().alarms] == ([said] if said else [])


@pytest.mark.parametrize("party", ["coordinator", "institutions/institution-000"])
def test_a_party_whose_up_was_killed_is_an_alarm(run: Run, tmp_path: Path, party: str) -> None:
    """What `up` noted of its programs stays, with their process ids; whoever stops it takes that away."""
    folder = shutil.copytree(run.folder / party, tmp_path / "party")
    before = what_is_watched(folder).view().alarms
    (folder / "run").mkdir(exist_ok=True)
    facts = {"pid": 1, "restarts": 0, "health": 1, "why": ""}
    (folder / "run" / "processes.json").write_text(json.dumps({"supervisor": 1, "programs": {"superexec": facts}}))
    after = what_is_watched(folder).view().alarms
    assert [text for text in after if text not in before] == [
        "superexec: `up` (process 1) was killed, and its programs with it: start `up` again; see logs/superexec.log"
    ]


def test_a_coordinator_s_page_is_made_of_what_it_may_know_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/reference/what-each-party-sees.md is the list; whatever else finds its way into the standing is not shown."""
    folder = run.folder / "coordinator"
    standing = of_coordinator(folder)
    assert set(standing) == MAY_KNOW, "a new fact: decide whether the coordinator may know it, and its page show it"
    assert all(set(one) == ROUNDS_MAY_KNOW for one in standing["rounds"])

    def of_more(folder: Path) -> dict[str, object]:
        told = of_coordinator(folder)
        return told | {"accuracy": "LEAKED", "rounds": [one | {"loss": "LEAKED"} for one in told["rounds"]]}

    before = Page(CoordinatorWatch(folder)).current()
    monkeypatch.setattr("dictpfl.deploy.watch.coordinator.of_coordinator", of_more)
    assert Page(CoordinatorWatch(folder)).current() == before


def test_a_coordinator_s_page_does_not_depend_on_data(tmp_path: Path) -> None:
    """Two federations on other samples and labels: the same page, but for ids and times."""
    pages = []
    for name, seed in (("one", 1), ("two", 2)):
        made = encrypted(seed=seed, pruning__s=0.0)
        run = dictpfl.simulate(made, tmp_path / name, engine="local")
        view = what_is_watched(run.folder / "coordinator").view()
        pages.append((run.accuracy, _without_times(view)))
    (_, first), (_, second) = pages
    assert pages[0][0] != pages[1][0], "both learnt the same: the test shows nothing"
    assert first == second


def _without_times(view: View) -> list[object]:
    timed = {"seconds", "of it adding", "ended (UTC)"}
    kept: list[object] = [view.lead, view.done, view.wanted, list(view.alarms)]
    for table in view.tables:
        if table.title != "The federation":  # its ids
            places = [i for i, heading in enumerate(table.headings) if heading not in timed]
            kept.append([[row[i] for i in places] for row in table.rows])
    kept += [(card.label, card.value) for card in view.cards if "took" not in card.label]
    return [*kept, view.charts[0].svg]


def test_a_coordinator_s_watcher_loads_nothing_that_opens(run: Run) -> None:
    code = f"""
import sys
from pathlib import Path
from dictpfl.deploy.watch.cli import what_is_watched
from dictpfl.deploy.watch.page import Page
assert "exchanges" in Page(what_is_watched(Path({str(run.folder / "coordinator")!r}))).current()
loaded = [m for m in sys.modules if m in ("torch", "tenseal") or m.startswith(("dictpfl.common.ckks.opening", "dictpfl.common.ckks.keys",
          "dictpfl.common.law", "dictpfl.common.genesis"))]
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-600:]


def test_nobody_is_let_in_without_the_token(run: Run) -> None:
    with served(what_is_watched(run.folder)) as server:
        plain = server.address.partition("?")[0]
        for path in ("", "events", "watch.js", "style.css", "?token=", "?token=wrong"):
            answer = httpx.get(plain + path, headers={"authorization": "Bearer no"})
            assert answer.status_code == 403
            assert "accuracy" not in answer.text
        moved = httpx.get(server.address)
        assert moved.status_code == 303
        assert moved.headers["location"] == "/", "the token stays out of the address"
        cookie = moved.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        page = httpx.get(server.address, follow_redirects=True)
        assert page.status_code == 200
        for answer in (moved, page, httpx.get(plain)):
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
        assert httpx.get(plain, headers={"authorization": f"Bearer {server.token}"}).status_code == 200
        assert httpx.post(plain, headers={"authorization": f"Bearer {server.token}"}).status_code == 405


class Changing:
    """A view that changes when it is told to, and fails when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.view_now = what_is_watched(folder).view()
        self.error: Exception | None = None

    def view(self) -> View:
        if self.error:
            raise self.error
        return self.view_now


def events(server: PageServer) -> Iterator[str]:
    url, token = server.address.partition("?")[0] + "events", {"authorization": f"Bearer {server.token}"}
    with httpx.stream("GET", url, headers=token, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_a_change_is_told_once_and_an_unreadable_folder_is_no_end(run: Run) -> None:
    watched = Changing(run.folder)
    with served(watched) as server:
        told = events(server)
        assert "Round 4 of 4" in next(told)
        watched.view_now = replace(watched.view_now, done=3, ended=False)
        assert "Round 3 of 4" in next(told)
        watched.error = ConfigError("history.jsonl is damaged")
        broken = next(told)
        assert "Cannot be read just now" in broken
        assert "Round 3 of 4" in broken
        watched.error = None
        assert "Cannot be read just now" not in next(told)
        began = time.monotonic()
    assert time.monotonic() - began < 10, "an open stream keeps the server from ending"


def test_at_all_addresses_the_page_is_found_by_the_machine_s_name(run: Run) -> None:
    """Nobody elsewhere can open http://0.0.0.0, which was printed for them."""
    server = PageServer(Changing(run.folder), "0.0.0.0", 0)  # noqa: S104 -- that is what is asked for
    server.stop()
    server.run()
    opened = urlsplit(server.address)
    assert (opened.hostname, opened.port) == (socket.gethostname().lower(), server.port)
    assert opened.query == f"token={server.token}"


def test_a_look_that_took_long_does_not_hold_up_the_next(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one waits for a busy machine and loads templates; the page stood still for ten times as long."""
    now, view = [0.0], what_is_watched(run.folder).view()

    class Slow:
        def view(self) -> View:
            now[0] += 8.0
            return replace(view, done=int(now[0]))

    page = Page(Slow())
    monkeypatch.setattr("dictpfl.deploy.watch.page.time.monotonic", lambda: now[0])
    first = page.current()
    now[0] += 5.1
    assert page.current() != first


def test_a_taken_port_is_told(run: Run) -> None:
    watched = what_is_watched(run.folder)
    first = PageServer(watched, "127.0.0.1", 0)
    with pytest.raises(ProcessError, match="choose another --port"):
        PageServer(watched, "127.0.0.1", first.port)
    first._socket.close()


def test_an_address_of_nobody_is_told_with_the_default_port(run: Run) -> None:
    with pytest.raises(ProcessError, match=r"cannot serve the page at 300\.1\.1\.1:8643"):
        watch(run.folder, host="300.1.1.1")


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_no_number_is_left_out_of_the_chart(run: Run, tmp_path: Path, wrong: float) -> None:
    (tmp_path / "config.json").write_bytes((run.folder / "config.json").read_bytes())
    (tmp_path / "institutions").symlink_to(run.folder / "institutions")
    _, (first, *rest) = closed_rounds(run.folder)
    write_history(tmp_path, [replace(first, test_loss=wrong), *rest])
    (chart,) = [one for one in what_is_watched(tmp_path).view().charts if one.caption.startswith("Loss")]
    assert chart.svg.count("<polyline") == 3
    assert "nan" not in chart.svg
    assert "inf" not in chart.svg


def test_a_certificate_that_cannot_be_used_is_named_before_the_page_is_announced(run: Run, tmp_path: Path) -> None:
    watched, key = what_is_watched(run.folder), tmp_path / "page.key"
    with pytest.raises(ConfigError, match=r"page\.pem"):
        PageServer(watched, "127.0.0.1", 0, certificate=tmp_path / "page.pem", key=key)
    for path in (tmp_path / "page.pem", key):
        path.write_text("neither\n")
    with pytest.raises(ConfigError, match=r"page\.pem.*page\.key"):
        PageServer(watched, "127.0.0.1", 0, certificate=tmp_path / "page.pem", key=key)


def test_what_is_nobody_s_folder_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run folder"):
        what_is_watched(tmp_path)
    (tmp_path / "dictpfl").symlink_to(run.folder)
    with pytest.raises(ConfigError, match=f"it holds runs: name one of {tmp_path}/dictpfl"):
        what_is_watched(tmp_path)


@pytest.mark.slow
def test_as_typed_while_a_run_goes_on(tmp_path: Path) -> None:
    from tests.support.federations import as_toml

    (tmp_path / "long.toml").write_text(as_toml(name="long", federation__rounds=400, data__limit=150))
    command = [sys.executable, "-m", "dictpfl.deploy.cli"]
    quiet = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = subprocess.Popen([*command, "simulate", "long.toml", "--engine", "local", "--out", "run"], **quiet)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "run" / ".lock").exists() or not (tmp_path / "run" / ".lock").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        watches = subprocess.Popen([*command, "watch", "run", "--port", "0"], **quiet, preexec_fn=_interruptible)  # noqa: PLW1509
        try:
            said = ""
            while "http://" not in said:
                line = watches.stdout.readline()
                assert line, said
                said += line
            address = next(word for word in said.split() if word.startswith("http://"))
            plain, token = address.split("?token=")
            with httpx.stream(
                "GET", plain + "events", headers={"authorization": f"Bearer {token}"}, timeout=60
            ) as answer:
                seen = set()
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        seen.add(line.partition("Round ")[2].partition(" of 400")[0])
                    if len(seen) > 2:
                        break
            assert len(seen) > 2, "the page does not follow the run"
            watches.send_signal(signal.SIGINT)
            out, _ = watches.communicate(timeout=30)
            assert watches.returncode == 0, out
            assert "page closed; what it showed goes on" in out
            assert "Traceback" not in out
        finally:
            watches.kill()
        assert runs.poll() is None, "closing the page ended the run"
    finally:
        runs.kill()
        runs.communicate()


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
