"""One founded federation of real processes serves several modules, and the time that all of it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = ("test_refusals", "test_rotation", "test_secrets")
"""Modules that use one `world`, in this order."""
LONG = (*SHARED, "test_docs_deploy", "test_deploy", "test_faults_together")
"""Modules that take longest, which go first: two are at work at a time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first."""
    ours = [item for item in items if item.get_closest_marker("deployment")]
    names = [*LONG, *(item.path.stem for item in ours)]
    ours.sort(key=lambda item: names.index(item.path.stem))
    items[:] = [item for item in items if not item.get_closest_marker("deployment")] + ours


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep a module's tests on one worker, and those of all modules that share `world`."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "world" if Path(nodeid.split("::", maxsplit=1)[0]).stem in SHARED else super()._split_scope(nodeid)

    return Together(config, log)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Three institutions that joined by their bundles, up and running; two more have identities.

    Those in `SHARED` use it.
    """
    from tests.support.ceremonial import Ceremonial

    made = Ceremonial(tmp_path_factory.mktemp("ceremony"), ("berlin", "kyoto", "oslo"), ("quito", "turin"))
    with made.running():
        yield made


_BEGAN = time.monotonic()


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Iterator[list[str]]:
    """Lines that are printed at the end, whether tests pass or not; they travel with the report from a worker."""
    lines: list[str] = []
    yield lines
    for line in lines:
        record_property("measured", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, and the wall clock of all of it: `.ci/run` has ninety minutes."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    for report in reports:
        if getattr(report, "when", None) == "teardown":
            for name, line in report.user_properties:
                if name == "measured":
                    terminalreporter.write_line(str(line))
    if any("processes" in report.nodeid for report in terminalreporter.getreports("passed")):
        terminalreporter.write_line(f"deployment tests: {time.monotonic() - _BEGAN:.0f} s of wall clock")
