"""Refusals leave at whole seconds whatever was wrong, and evidence fills no disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dictpfl.client.defences import limits
from dictpfl.client.defences.evidence import Evidence, keep
from dictpfl.client.defences.limits import MOST_EVIDENCE, has_room, waiting
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.protocol import Aggregate
from tests.support.timing import Bring, Refused, measure, require_alike

WORK = {"members": 0.0, "first word": 0.005, "last word": 0.005, "digest": 0.0, "locked": 0.0}
"""Reasons of refusals, and seconds of work until a planted fault would answer."""


@given(passed=st.floats(0, 1000), every=st.one_of(st.just(0.0), st.floats(0.01, 100)))
def test_refusals_leave_at_whole_multiples_of_a_second(passed: float, every: float) -> None:
    wait = waiting(passed, every, refuses=True)
    step = every * math.ceil(1 / every) if every else 1.0
    assert step >= 1.0
    assert 0 <= wait <= step
    left = (passed + wait) / step
    assert left == pytest.approx(round(left), abs=1e-6)
    if every:  # and at multiples of `reply_every_seconds`, as its page says of all answers
        assert (passed + wait) / every == pytest.approx(round((passed + wait) / every), abs=1e-4)


def test_answers_that_accept_wait_only_where_the_institution_says_so() -> None:
    assert waiting(0.3, 0.0, refuses=False) == 0
    assert waiting(0.3, 0.4, refuses=False) == pytest.approx(0.1)
    assert waiting(0.3, 0.0, refuses=True) == pytest.approx(0.7)
    assert waiting(0.3, 0.4, refuses=True) == pytest.approx(0.9)
    assert waiting(1.3, 2.0, refuses=True) == pytest.approx(0.7)


class Fake:
    """Institution that refuses everything: its work depends on the reason, its answers should not."""

    def __init__(self, *, held: bool, says: Callable[[str], bytes] = lambda reason: b"refused") -> None:
        self.held, self.says = held, says

    def refusals(self) -> Mapping[str, Callable[[], Bring]]:
        return {reason: lambda reason=reason: partial(self.handle, reason) for reason in WORK}  # type: ignore[misc]

    def handle(self, reason: str) -> bytes:
        began = time.perf_counter()
        time.sleep(WORK[reason])
        if self.held:
            time.sleep(waiting(time.perf_counter() - began, 0.0, refuses=True))
        return self.says(reason)


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 50 ms instead of a second, ten times the work."""
    monkeypatch.setattr(limits, "REFUSAL_SECONDS", 0.05)


@pytest.mark.usefixtures("short_steps")
def test_held_refusals_cannot_be_told_apart() -> None:
    require_alike(measure(Fake(held=True).refusals()))


def test_a_delay_of_five_milliseconds_that_depends_on_the_reason_is_noticed() -> None:
    refused = measure(Fake(held=False).refusals())
    with pytest.raises(AssertionError, match="times tell the reason"):
        require_alike(refused)
    assert ("members", "last word") in refused.told_apart()
    assert ("first word", "last word") not in refused.told_apart()


@pytest.mark.usefixtures("short_steps")
def test_a_byte_that_depends_on_the_reason_is_noticed() -> None:
    says = {"locked": b"locked"}
    refused = measure(Fake(held=True, says=lambda reason: says.get(reason, b"refused")).refusals(), times=10)
    require_alike(refused, public=["locked"])
    with pytest.raises(AssertionError, match="the replies differ"):
        require_alike(refused)
    with pytest.raises(AssertionError, match="two replies"):
        require_alike(Refused({"locked": [0.0]}, {"locked": {b"a", b"b"}, "tag": {b"c"}}), public=["locked"])


def test_evidence_is_capped_and_the_oldest_stays(tmp_path: Path) -> None:
    assert has_room(tmp_path / "none")
    for number in range(MOST_EVIDENCE):
        assert has_room(tmp_path)
        (tmp_path / f"round-{number:06d}-tag.json").write_text("{}")
    with capture_logs() as logs:
        assert not has_room(tmp_path)
    assert [(line["log_level"], line["most"]) for line in logs] == [("warning", MOST_EVIDENCE)]
    (tmp_path / "round-000000-tag.json").unlink()
    assert has_room(tmp_path)


def test_institutions_keep_no_more_evidence_than_that(tmp_path: Path) -> None:
    evidence = Evidence("tag", "why", 0, Roster(()), Aggregate(7, b"sum"), b"")
    key = Ed25519PrivateKey.generate()
    first = keep(tmp_path, evidence, key)
    assert first is not None
    for number in range(MOST_EVIDENCE - 1):
        assert keep(tmp_path, replace(evidence, aggregate=Aggregate(8 + number, b"sum")), key)
    assert keep(tmp_path, replace(evidence, aggregate=Aggregate(99, b"sum")), key) is None
    assert keep(tmp_path, evidence, key) == first, "what is there already is still named"
    assert len(list(first.parent.iterdir())) == MOST_EVIDENCE
