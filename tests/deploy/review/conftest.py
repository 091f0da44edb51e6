"""A recorded run, a ceremony's folders and made-up results of an attack, to report on."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dictpfl.deploy.attacks.results import (
    PICTURES,
    Check,
    CiphertextCheck,
    Detection,
    Finding,
    Interval,
    PrivacyResults,
    Seen,
)
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted

TINY: dict[str, Any] = {
    "name": "tiny <script>alert(1)</script>",
    "federation__rounds": 3,
    "federation__participants": 8,
    "data__limit": 300,
    "training__steps": 2,
    "training__device": "cpu",
}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Eight institutions, more than a table has columns; every upload recorded."""
    folder = tmp_path_factory.mktemp("review") / "run"
    return simulate(encrypted(**TINY), folder, engine="local", record=True)


def interval(value: float, width: float = 0.05) -> Interval:
    return Interval(value=value, low=value - width, high=value + width)


def finding(method: str, value: float, **changes: Any) -> Finding:
    facts: dict[str, Any] = {
        "family": "inversion", "attack": "cosine", "source": "Geiping et al. 2020", "adversary": "server",
        "method": method, "encrypted": method != "plaintext", "setting": {"batch": 1, "steps": 1}, "metric": "SSIM",
        "found": interval(value), "blind": interval(0.3), "gain": interval(value - 0.3), "success": 0.6, "trials": 6,
        "method_of_interval": "bootstrap",
    }  # fmt: skip
    return Finding(**(facts | changes))


def results(**changes: Any) -> PrivacyResults:
    facts: dict[str, Any] = {
        "name": "example",
        "config": encrypted(**(TINY | {"name": "attacked", "training__batch_size": 1})).model_dump(mode="json"),
        "granted": ["the model", "the seed"],
        "seen": [Seen(party="server", what="uploads, encrypted", count=6, bytes=200_000, readable=False)],
        "findings": [
            finding("plaintext", 0.95, picture="plaintext.png"),
            finding("FedML-HE, 30% encrypted", 0.8),
            finding("dictpfl, NOT encrypted", 0.3, picture="dictpfl.png"),
            finding("dictpfl", 0.99, family="collusion", attack="open another's upload", adversary="collusion"),
            finding("dictpfl", 0.45, family="aggregate", attack="span check", adversary="institution"),
        ],
        "checks": [Check(attack="cosine", metric="SSIM", required=0.6, found=0.95)],
        "ciphertexts": [
            CiphertextCheck(
                topic="seeds are distinct",
                method="dictpfl",
                what="seeds are distinct over the run",
                count=80,
                verdict="ok",
            )
        ],
        "detections": [
            Detection(attack="twice", adversary="server", outcome="detected", by="RoundError", meaning="refused"),
            Detection(attack="add a number", adversary="server", outcome="not detected", by="", meaning="model moves"),
        ],
        "machine": {"python": "3", "versions": {"dictpfl": "0"}},
    }
    return PrivacyResults(**(facts | changes))


def png() -> bytes:
    """A grey picture of 40 by 12."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(40)) for _ in range(12))
    head = struct.pack(">IIBBBBB", 40, 12, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def attacked(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of results."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / "attack"
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        results(**changes).save(folder)
        for name in ("plaintext.png", "dictpfl.png"):
            (folder / PICTURES / name).write_bytes(png())
        return folder

    return write
