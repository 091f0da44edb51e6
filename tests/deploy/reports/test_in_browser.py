"""report.html and compare.html in Chromium: what is asked first stands first, nothing is fetched, and everybody can read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dictpfl.deploy.simulation.comparison import compare
from tests.support.federations import encrypted

browsing = pytest.importorskip("tests.support.browsing", reason="needs the extra `dev` (playwright)")
pytestmark = [browsing.needs_chromium, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compared")
    methods = {"dictpfl": False, "plaintext": True}
    compare(
        {method: encrypted(method=method, toy_insecure=toy) for method, toy in methods.items()}, place, engine="local"
    )
    return place


@pytest.mark.parametrize("page", ["compare.html", "dictpfl/report.html", "plaintext/report.html"])
def test_a_report(page: str, folder: Path, browser: Any) -> None:
    url = (folder / page).as_uri()
    one = browsing.Opened(browser, url)
    assert [asked for asked in one.requests if not asked.startswith("data:")] == [url]
    assert one.complaints == []
    assert one.violations() == []
    one.page.set_viewport_size({"width": 390, "height": 800})
    assert one.width() <= 390, "a telephone has to scroll sideways"
    one.page.close()


def test_what_is_asked_first_stands_first(folder: Path, browser: Any) -> None:
    one = browsing.Opened(browser, (folder / "dictpfl" / "report.html").as_uri())
    asked = one.page.locator("dl.cards dt")
    assert asked.all_inner_texts()[:3] == ["Did it work?", "What did it cost?", "Who saw what?"]
    assert all(one.page.locator("dl.cards dd").nth(i).bounding_box()["y"] < 900 for i in range(3)), (
        "below the first screen"
    )
    rows = one.page.locator("table:has-text('in place of') tbody th").all_inner_texts()
    assert rows[0] == "bytes sent", "values come before bytes"
    assert one.page.locator("tr.ours").count() == 1, "the best round is marked, once"
    one.page.close()
