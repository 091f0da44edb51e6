"""Hypothesis profiles and the few fixtures that most tests share. Keys are made here, by the test run itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.protection import Encryption

pytest.register_assert_rewrite("tests.support")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # every core has its worker already

# `ci` finds the same cases on every machine; `explore` looks for new ones (HYPOTHESIS_PROFILE=explore).
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, print_blob=True)
settings.register_profile(
    "explore", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# No power fails while tests run. What a test says of syncing, it puts in this function's place; commands in processes of their own
# sync as ever.
os.fsync = lambda descriptor: None

LONG = ("system", "ecosystem", "deploy", "attacks", "processes")
"""Folders whose modules go first where workers share the work, or one would be at a long one when the others are done."""
PICTURED = ("reports", "review", "runs")
"""Folders whose tests look at the pictures of a run's report."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long modules first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] not in LONG)


@pytest.fixture(scope="module", autouse=True)
def _blank_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the pictures in a run's report blank but for their titles: drawing them takes two thirds of a small federation's time."""

    def titled(figure: Any, caption: str) -> dict[str, str]:
        titles = " ".join(ax.get_title(loc="left") for ax in figure.axes)
        return {"svg": f"<svg><text>{escape(titles)}</text></svg>", "caption": caption}

    with pytest.MonkeyPatch.context() as patched:
        if "dictpfl.deploy" in sys.modules and request.path.parent.name not in PICTURED:
            patched.setattr("dictpfl.deploy.reports.report._figure", titled)
        yield


@pytest.fixture(scope="module", autouse=True)
def _own_logging() -> Iterator[None]:
    """Take back what a module's commands, which run in this process, set of logs."""
    before, is_set = structlog.get_config(), structlog.is_configured()
    yield
    if is_set:
        structlog.configure(**before)
    else:
        structlog.reset_defaults()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence logs where many federations run."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def parameters() -> CKKSParameters:
    """The default parameters, for sums of three."""
    return CKKSParameters.choose(Encryption(), 3)


@pytest.fixture(scope="session")
def key(parameters: CKKSParameters) -> FederationKey:
    """A key of this test run."""
    return make_key(parameters)
