"""Seconds that count are refused where something else ran beside them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lib.paper import alone
from lib.paper.alone import Alone, BusyError


def _work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_own_work_is_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of child processes neither; what the machine does beside this test is let through here."""
    monkeypatch.setattr(alone, "_busy", alone._own)
    with Alone() as measured:
        _work(0.3)
        subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert measured.others == 0.0


def test_another_process_is_seen_and_the_measurement_refused() -> None:
    """A real one, that no child of this process is: it is not waited for meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            with pytest.raises(BusyError, match=r"other processes kept \d\.\d\d cores busy; .*run it again"), Alone():
                time.sleep(1.0)
        finally:
            other.kill()


def test_an_error_inside_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        alone, "_busy", lambda: 5 * time.monotonic()
    )  # of four cores that are always busy, and this one
    with pytest.raises(ValueError, match="invalid literal"), Alone():
        int("of its own")
    with pytest.raises(BusyError), Alone():
        int("1")
