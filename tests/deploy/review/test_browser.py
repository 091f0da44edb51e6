"""Reports in a browser: they render, fetch nothing, can be read by everybody, and print."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dictpfl.deploy.review.page import write_review
from dictpfl.deploy.runs.run import Run

pypdf = pytest.importorskip("pypdf", reason="needs the extra `dev` (pypdf)")
browsing = pytest.importorskip("tests.support.browsing", reason="needs the extra `dev` (playwright)")
pytestmark = [browsing.needs_chromium, pytest.mark.slow]
A4 = 841  # points


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.chromium() as opened:
        yield opened


class Opened(browsing.Opened):  # type: ignore[misc]
    """A page of a file, which can be printed."""

    def __init__(self, browser: Any, path: Path) -> None:
        super().__init__(browser, path.as_uri())

    def printed(self) -> pypdf.PdfReader:
        return pypdf.PdfReader(io.BytesIO(self.page.pdf(format="A4")))


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[Path], Opened]]:
    made: list[Opened] = []

    def of(path: Path) -> Opened:
        made.append(Opened(browser, path))
        return made[-1]

    yield of
    for one in made:
        one.page.close()


def require_good(one: Opened, path: Path, *, pages: int) -> None:
    assert [url for url in one.requests if not url.startswith("data:")] == [path.as_uri()]
    assert one.complaints == []
    assert one.page.locator("h1").is_visible()
    assert one.serious() == []
    printed = one.printed()
    assert 2 <= len(printed.pages) <= pages
    assert all(len(page.extract_text().strip()) > 40 for page in printed.pages), "a page is (nearly) empty"
    assert all(abs(float(page.mediabox.height) - A4) < 2 for page in printed.pages)


def test_the_privacy_report(
    run: Run, attacked: Callable[..., Path], opened: Callable[[Path], Opened], tmp_path: Path
) -> None:
    path = write_review(run.folder, tmp_path / "privacy.html", attack=attacked())
    one = opened(path)
    require_good(one, path, pages=14)
    pictures = one.page.locator("figure img").all()
    assert len(pictures) == 2
    assert all(picture.evaluate("image => image.complete && image.naturalWidth === 40") for picture in pictures)
    one.page.set_viewport_size({"width": 390, "height": 800})
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390, "a telephone has to scroll sideways"
    text = " ".join("".join(page.extract_text() for page in one.printed().pages).split())
    assert "Checklist for a review" in text
    assert "Whoever has it and gets a single upload" in text


def test_the_run_report(run: Run, opened: Callable[[Path], Opened]) -> None:
    path = run.folder / "report.html"
    one = opened(path)
    require_good(one, path, pages=12)
    assert one.page.locator("figure svg").count() == 6
    assert one.page.evaluate("document.querySelectorAll('script').length") == 0


def test_a_page_that_is_bad_is_found_out(opened: Callable[[Path], Opened], tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<title>x</title><p style="color:#ccc">pale</p><img src="http://127.0.0.1:9/x.png"><script>f()</script>'
    )
    one = opened(path)
    assert any("color-contrast" in line for line in one.serious())
    assert any("image-alt" in line for line in one.serious())
    assert len(one.requests) == 2
    assert any("f is not defined" in line for line in one.complaints)
