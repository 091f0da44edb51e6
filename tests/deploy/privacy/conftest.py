"""A recorded run to look at, and small results for whoever shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.config import FederationConfig
from deploy.privacy.results import Check, Detection, Finding, Interval, PrivacyResults, Seen
from deploy.privacy.stage import Stage, play

TINY: dict[str, Any] = {
    "federation": {"rounds": 2, "participants": 3},
    "data": {"source": "digits", "limit": 200},
    "model": {"source": "mlp", "options": {"hidden": [16]}},
    "training": {"steps": 1, "batch_size": 1, "optimizer": "sgd", "learning_rate": 0.1, "device": "cpu"},
}


def made(**changes: Any) -> FederationConfig:
    """A federation that takes a second; dots in names are written as two underscores."""
    return FederationConfig.of(TINY, {name.replace("__", "."): value for name, value in changes.items()})


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
        findings=[finding("plaintext", 0.95, encrypted=False), finding("dictpfl", 0.28, encrypted=True)],
        checks=[Check(attack="cosine", metric="SSIM", required=0.6, found=0.95)],
        detections=[
            Detection(
                attack="an upload twice", adversary="server", outcome="detected", by="RoundError", meaning="refused"
            )
        ],
    )


@pytest.fixture(scope="session")
def encrypted_stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return play(made(), tmp_path_factory.mktemp("encrypted"))


@pytest.fixture(scope="session")
def plain_stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return play(made(method="plaintext", toy_insecure=True), tmp_path_factory.mktemp("plain"))
