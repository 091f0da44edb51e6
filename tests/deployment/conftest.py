"""Deployments on loopback, one after another in one session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import harness`; tests have no packages

pytest_plugins: list[str] = []


@pytest.fixture(autouse=True)
def nothing_left_running():
    """Every test cleans up after itself, or says so."""
    yield
