"""Start-up: a command loads what it needs, when it needs it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {"torch", "numpy", "flwr", "pandas", "matplotlib", "scipy", "sklearn", "pydantic", "structlog", "cryptography"}
MOST_SECONDS = 0.75
"""Of one processor. It takes about a third of that; a busy machine must not fail the test."""


def imported(*arguments: str) -> set[str]:
    """Return the top-level modules that Python loads for these arguments."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in re.findall(r"\|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE)}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "dictpfl.deploy.cli", "--help"),
        ("-m", "dictpfl.deploy.cli", "coordinator", "--help"),
        ("-m", "dictpfl.deploy.cli", "simulate", "--help"),
        ("-c", "import dictpfl"),
    ],
)
def test_help_and_the_package_load_nothing_slow(arguments: tuple[str, ...]) -> None:
    modules = imported(*arguments)
    assert "dictpfl" in modules
    assert modules & SLOW == set()


@pytest.mark.parametrize("name", ["child", "slots", "task"])
def test_processes_that_fork_load_no_numpy_of_their_own_accord(name: str) -> None:
    """A process with numpy's threads must not fork; `task` limits these before it loads numpy."""
    assert imported("-c", f"import dictpfl.deploy.operations.{name}") & {"numpy", "torch"} == set()


@pytest.mark.parametrize("name", ["institution", "coordinator"])
def test_a_process_that_waits_for_rounds_loads_no_torch(name: str) -> None:
    """It lives as long as the federation, and thirty of them may share a machine: torch is a hundred megabytes in each."""
    modules = imported("-c", f"import dictpfl.deploy.operations.{name}")
    assert modules & {"torch", "sklearn", "matplotlib", "transformers"} == set()


def test_help_comes_at_once(tmp_path: Path) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "dictpfl.deploy.cli", "--help"],
            cwd=tmp_path, capture_output=True, check=True, timeout=60, env=os.environ,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < MOST_SECONDS
