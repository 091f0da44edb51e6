"""Hypothesis profiles and the few fixtures that most tests share. Keys are made here, by the test run itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests go first where workers share the work, or one would be at them when the others are done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


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
