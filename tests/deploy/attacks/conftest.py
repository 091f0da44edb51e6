"""A recorded run to look at, and small results for whoever shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.recorded import RecordedRun, play
from dictpfl.deploy.attacks.results import (
    Check,
    CiphertextCheck,
    Detection,
    Finding,
    Interval,
    PrivacyResults,
    Seen,
)
from tests.support.federations import encrypted


def made(**changes: Any) -> FederationConfig:
    """The smallest federation, for two rounds of one plain gradient step on one sample: what attacks read most from."""
    steps = {"training__batch_size": 1, "training__optimizer": "sgd", "training__learning_rate": 0.1}
    return encrypted(**({"federation__rounds": 2, "training__device": "cpu"} | steps | changes))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., FederationConfig]:
    return made


def interval(value: float, width: float = 0.05) -> Interval:
    return Interval(value=value, low=value - width, high=value + width)


def finding(method: str, value: float, *, encrypted: bool) -> Finding:
    return Finding(
        family="inversion", attack="cosine", source="Geiping et al. 2020", adversary="server", method=method,
        encrypted=encrypted, setting={"batch": 1, "steps": 1}, metric="SSIM", found=interval(value),
        blind=interval(0.3), gain=interval(value - 0.3), success=0.6, trials=6, method_of_interval="Student's t",
    )  # fmt: skip


@pytest.fixture
def example_results() -> PrivacyResults:
    """Made up, in the schema of a real attack."""
    return PrivacyResults(
        name="example",
        config=made().model_dump(mode="json"),
        granted=["the model"],
        seen=[Seen(party="server", what="uploads, encrypted", count=6, bytes=200_000, readable=False)],
        findings=[
            finding("plaintext", 0.95, encrypted=False),
            finding("FedML-HE, 90% encrypted", 0.28, encrypted=False),
        ],
        checks=[Check(attack="cosine", metric="SSIM", required=0.6, found=0.95)],
        ciphertexts=[
            CiphertextCheck(
                topic="seeds are distinct",
                method="dictpfl",
                what="seeds are distinct over the run",
                count=6,
                verdict="ok",
            )
        ],
        detections=[
            Detection(
                attack="an upload twice", adversary="server", outcome="detected", by="RoundError", meaning="refused"
            )
        ],
    )


@pytest.fixture(scope="session")
def encrypted_run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return play(made(), tmp_path_factory.mktemp("encrypted"))


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return play(made(method="plaintext", toy_insecure=True), tmp_path_factory.mktemp("plain"))
