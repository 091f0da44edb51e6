"""Pages in the system's Chromium: what they ask for, what they complain of, and whether everybody can read them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs the extra `dev` (axe-playwright-python)"
)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `dev` (playwright)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


@contextmanager
def chromium() -> Iterator[sync_api.Browser]:
    """The system's Chromium, without a window."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


class Opened:
    """A page, with what it asked for and complained about."""

    def __init__(self, browser: sync_api.Browser, url: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": 1100, "height": 900})
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def violations(self) -> list[str]:
        """All findings of axe-core."""
        found = axe.Axe().run(self.page).response["violations"]
        return [f"{v['impact']} {v['id']}: {v['nodes'][0]['target']}" for v in found]

    def serious(self) -> list[str]:
        """Findings of axe-core that keep somebody from reading the page."""
        return [line for line in self.violations() if line.startswith(("serious", "critical"))]

    def width(self) -> int:
        """Width of the document; more than the window's: somebody has to scroll sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))
