"""Evidence of a refused sum: read as it was written, signed by who refused, and checked again with and without a genesis."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.defences.evidence import Evidence, keep
from dictpfl.client.defences.limits import MOST_EVIDENCE
from dictpfl.client.defences.pairs import OwnKeys
from dictpfl.common.errors import EvidenceError, IntegrityError
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.manifest import Manifest, joined
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Entry, Header, write

KEYS = [OwnKeys.make(f"member {n}") for n in range(3)]
ROSTER = Roster(tuple(keys.public for keys in KEYS))
HEADER = Header(UPLOAD, RoundKind.UPDATE, 4, 0, b"f" * 32, b"k" * 32, b"t" * 32)
ENTRIES = [Entry(n, bytes([n]) * 16, b"s" * 32) for n in range(3)]


def manifests() -> list[Manifest]:
    uploads = [write(HEADER, [entry], np.array([1, 2, 3], np.uint64), 47) for entry in ENTRIES]
    return [Manifest.of(upload).signed(keys.signing) for upload, keys in zip(uploads, KEYS, strict=True)]


def evidence(signed: list[Manifest] | None = None, number: int = 4) -> Evidence:
    blob = write(replace(HEADER, direction=AGGREGATE, round=number), ENTRIES, np.array([3, 6, 9], np.uint64), 47)
    aggregate = Aggregate(number, blob, manifests=joined(manifests() if signed is None else signed))
    return Evidence("tag", "the sum's tags do not fit", 1, ROSTER, aggregate, manifests()[1].to_bytes())


def test_evidence_comes_back_as_it_was_written() -> None:
    made = evidence()
    assert Evidence.of_bytes(made.to_bytes(KEYS[1].signing), "here") == made
    assert (made.institution, made.header.round) == ("member 1", 4)


def test_evidence_is_signed_by_who_refused() -> None:
    with pytest.raises(EvidenceError, match="altered"):
        Evidence.of_bytes(evidence().to_bytes(KEYS[0].signing), "here")


def test_no_alteration_passes() -> None:
    document = json.loads(evidence().to_bytes(KEYS[1].signing))
    for name, value in document.items():
        if isinstance(value, int):
            changed: object = value + 1
        else:
            changed = value[:-2] + ("00" if value[-2:] != "00" else "11")
        for altered in ({**document, name: changed}, {k: v for k, v in document.items() if k != name}):
            with pytest.raises(EvidenceError):
                Evidence.of_bytes(json.dumps(altered).encode(), "here")
    with pytest.raises(EvidenceError):
        Evidence.of_bytes(json.dumps({**document, "more": 1}).encode(), "here")


def test_manifests_are_checked_again_without_any_secret() -> None:
    assert evidence().look_again() == ""
    assert evidence(manifests()[:2]).look_again() == "count"
    unsigned = [*manifests()[:2], replace(manifests()[2], signature=bytes(64))]
    assert evidence(unsigned).look_again() == "invented"
    assert evidence(number=5).look_again() == "cross-round"
    assert evidence([]).look_again() == "", "without manifests, whoever has no genesis can check nothing"
    assert replace(evidence(), aggregate=Aggregate(4, b"nothing", manifests=b"x" * 183)).look_again() == "not-a-blob"


def test_each_sum_is_kept_once_and_the_folder_is_bounded(tmp_path: Path) -> None:
    first = keep(tmp_path, evidence(), KEYS[1].signing)
    assert first is not None
    assert keep(tmp_path, evidence(), KEYS[1].signing) == first
    kept = [keep(tmp_path, evidence(number=n), KEYS[1].signing) for n in range(5, 5 + MOST_EVIDENCE)]
    assert [path is None for path in kept] == [False] * (MOST_EVIDENCE - 1) + [True]
    assert len(list((tmp_path / "evidence").iterdir())) == MOST_EVIDENCE
    assert Evidence.of_bytes(first.read_bytes(), str(first)) == evidence()
    assert "tag" in IntegrityError.reasons
    assert first.name.startswith("round-000004-tag-")
