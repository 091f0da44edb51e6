"""Hypothesis profiles and the few fixtures that most tests share. Keys are made here, by the test run itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from common.keys import FederationKey, make_key
from common.parameters import CKKSParameters
from common.settings import Encryption

# `ci` finds the same cases on every machine; `explore` looks for new ones (HYPOTHESIS_PROFILE=explore).
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, print_blob=True)
settings.register_profile(
    "explore", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


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
