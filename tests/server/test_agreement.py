"""The coordinator's half of genesis: comes back as it was, or is refused by name."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.common.messages.wire import Limits
from dictpfl.common.protection import Encryption
from dictpfl.server.agreement import Agreement

LIMITS = Limits(b"f" * 32, b"k" * 32, word_bits=40, max_words=500, max_clear=40, max_contributors=3)


@pytest.fixture
def agreement() -> Agreement:
    parameters = CKKSParameters.choose(Encryption(), 3)
    return Agreement(parameters, True, LIMITS, 20, 1, 3, 60.0, ("it protects nobody",))


def test_it_comes_back(agreement: Agreement, tmp_path: Path) -> None:
    agreement.save(tmp_path / "federation.json")
    assert Agreement.load(tmp_path / "federation.json") == agreement
    assert stat.S_IMODE((tmp_path / "federation.json").stat().st_mode) == 0o600


def test_one_from_before_there_were_epochs(agreement: Agreement, tmp_path: Path) -> None:
    path = tmp_path / "federation.json"
    agreement.save(path)
    document = json.loads(path.read_bytes())
    del document["epoch"], document["first_round"]
    path.write_text(json.dumps(document))
    assert Agreement.load(path) == agreement


def test_one_from_before_there_were_snapshots(agreement: Agreement, tmp_path: Path) -> None:
    path = tmp_path / "federation.json"
    agreement.save(path)
    document = json.loads(path.read_bytes())
    for field in ("snapshot_every", "snapshots_kept", "snapshot_length", "snapshot_growth"):
        del document[field]
    path.write_text(json.dumps(document))
    found = Agreement.load(path)
    assert (found.snapshot_every, found.snapshots_kept, found.snapshot_most(7)) == (0, 0, 0)


def test_how_long_a_snapshot_may_be(agreement: Agreement) -> None:
    growing = replace(agreement, snapshot_length=1000, snapshot_growth=10)
    assert [growing.snapshot_most(number) for number in (0, 1, 50)] == [1000, 1010, 1500]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ask the authority"):
        Agreement.load(tmp_path / "federation.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"7", b'"text"', b"{}", b"\xff\xfe", b'{"format": "other"}']
)
def test_no_agreement(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "federation.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        Agreement.load(path)


FIELDS = [
    "encrypted", "insecurities", "rounds", "score_rounds", "min_participants", "deadline_seconds",
    "parameters", "uploads",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["missing", None, [], "text", {"a": 1}, -1])
def test_a_field_of_another_kind(field: str, value: Any, agreement: Agreement, tmp_path: Path) -> None:
    """What a person edited is refused at the start, not in the middle of a round."""
    if (field, value) == ("insecurities", []):
        pytest.skip("an empty list is what it should be")
    path = tmp_path / "federation.json"
    agreement.save(path)
    document = json.loads(path.read_bytes())
    if value == "missing":
        del document[field]
    else:
        document[field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(DictPFLError):
        Agreement.load(path)


@pytest.mark.parametrize("field", ["federation", "fingerprint"])
@pytest.mark.parametrize("value", ["zz", "", "00", 5])
def test_an_id_of_another_form(field: str, value: Any, agreement: Agreement, tmp_path: Path) -> None:
    path = tmp_path / "federation.json"
    agreement.save(path)
    document = json.loads(path.read_bytes())
    document["uploads"][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError):
        Agreement.load(path)
