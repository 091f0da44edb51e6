"""The live page in Chromium: it renders, follows, fetches nothing from elsewhere, and can be read by everybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import dictpfl
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.watch.cli import what_is_watched
from dictpfl.deploy.watch.page import PageServer
from dictpfl.deploy.watch.view import View
from tests.support.federations import encrypted

browsing = pytest.importorskip("tests.support.browsing", reason="needs the extra `dev` (playwright)")
pytestmark = [browsing.needs_chromium, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("shown") / "run"
    return dictpfl.simulate(encrypted(name="shown", pruning__tau=2), folder, engine="local")


class Still:
    """A view that changes when a test says so."""

    def __init__(self, view: View) -> None:
        self.now = view

    def view(self) -> View:
        return self.now


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.chromium() as opened:
        yield opened


@pytest.fixture
def serve() -> Iterator[Callable[[Any], PageServer]]:
    servers: list[tuple[PageServer, threading.Thread]] = []

    def started(watched: Any) -> PageServer:
        server = PageServer(watched, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        return server

    yield started
    for server, thread in servers:
        server.stop()
        thread.join(timeout=20)


@pytest.fixture
def open_page(browser: Any, serve: Callable[[Any], PageServer]) -> Callable[[Any], Any]:
    def opened(watched: Any) -> Any:
        server = serve(watched)
        made = browsing.Opened(browser, server.address)
        made.server = server
        return made

    return opened


@pytest.mark.parametrize("place", [".", "coordinator", "institutions/institution-000"])
def test_each_party_s_page(place: str, run: Run, open_page: Callable[[Any], Any]) -> None:
    one = open_page(what_is_watched(run.folder / place))
    one.page.wait_for_selector("#connection.live")
    assert "token" not in one.page.url
    here = one.page.url
    assert all(url.startswith((here, "data:")) for url in one.requests)
    assert one.complaints == []
    assert one.violations() == []
    assert one.page.locator("figure svg").count() >= 2
    assert one.page.locator("h1").is_visible()
    one.page.set_viewport_size({"width": 390, "height": 800})
    assert one.width() <= 390, "a telephone has to scroll sideways"


def test_it_follows_and_leaves_alone_what_has_not_changed(run: Run, open_page: Callable[[Any], Any]) -> None:
    watched = Still(replace(what_is_watched(run.folder).view(), done=2, ended=False))
    one = open_page(watched)
    one.page.wait_for_selector("#connection.live")
    assert one.page.locator(".standing").inner_text() == "Round 2 of 4"
    one.page.evaluate("document.querySelector('#charts svg').dataset.kept = 'yes'")
    watched.now = replace(watched.now, done=3, alarms=["<script>alert(1)</script> is late"])
    one.page.wait_for_selector(".standing:text('Round 3 of 4')")
    assert one.page.title() == "shown: dictpfl: round 3 of 4"
    assert one.page.locator(".alarms li").inner_text() == "<script>alert(1)</script> is late"
    assert one.page.locator("#charts svg").first.get_attribute("data-kept") == "yes"
    assert one.violations() == []
    # The watcher ends: the page stays, and says that it is no longer live.
    one.server.stop()
    one.page.wait_for_selector("#connection.gone")
    assert one.page.locator(".standing").inner_text() == "Round 3 of 4"


def test_it_can_be_read_without_javascript(run: Run, browser: Any, serve: Callable[[Any], PageServer]) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(serve(what_is_watched(run.folder)).address)
    assert page.locator(".standing").inner_text() == "Round 4 of 4, ended"
    page.context.close()


def test_no_label_of_a_chart_is_cut_off(run: Run, open_page: Callable[[Any], Any]) -> None:
    one = open_page(what_is_watched(run.folder))
    one.page.wait_for_selector("#connection.live")
    outside = one.page.evaluate(
        """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
            const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
            }).map(text => text.textContent);
        })"""
    )
    assert outside == []
