"""`import machines` from any test here; there are no packages in tests. One founded federation serves several modules."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Three institutions that joined by their bundles, up and running; two more have identities.

    Refusals, the rotation and the search for secrets share it, in this order.
    """
    from ceremonial import Ceremonial

    made = Ceremonial(tmp_path_factory.mktemp("ceremony"), ("berlin", "kyoto", "oslo"), ("quito", "turin"))
    with made.running():
        yield made


_BEGAN = time.monotonic()
_MEASURED: list[str] = []


@pytest.fixture
def measured() -> list[str]:
    """Lines that are printed at the end, whether tests pass or not."""
    return _MEASURED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Wall clock of all of it: `.ci/run` has ninety minutes."""
    for line in _MEASURED:
        terminalreporter.write_line(line)
    if any("deployment" in report.nodeid for report in terminalreporter.getreports("passed")):
        terminalreporter.write_line(f"deployment tests: {time.monotonic() - _BEGAN:.0f} s of wall clock")
