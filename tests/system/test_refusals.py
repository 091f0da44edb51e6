"""An institution that refuses a sum: neither its reply nor the time of it tells the coordinator what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dictpfl.client import institution as module
from dictpfl.client.defences import evidence
from dictpfl.client.defences.openings import Openings, openings_of
from dictpfl.client.institution import Institution
from dictpfl.common.messages.protocol import LOCKED, REFUSED, Reply, Request, Status
from dictpfl.common.messages.wire import AGGREGATE, Blob, write
from dictpfl.deploy.cli import app
from tests.support.failing_disks import full_disk
from tests.support.federations import encrypted
from tests.support.harness import Killed, World, dies_before
from tests.support.timing import Bring, measure, require_alike

pytestmark = [pytest.mark.usefixtures("quiet")]
REASONS = ("members", "upload id", "first word", "last word", "digest", "locked")


class Victim:
    """Institution after a round, and a coordinator that brings sums of that round which are wrong in different ways."""

    def __init__(self, world: World) -> None:
        world.exchange()
        self.request: Request = world.coordinator.begin(world.nodes)[0]
        (self.aggregate,) = self.request.aggregates
        self.folder = world.home(0)
        self.genesis = world.genesis
        self.institution: Institution = world.institution(0)
        header = Blob.own(self.aggregate.blob, self.genesis.limits.word_bits).header
        self.sum = Blob.parse(
            self.aggregate.blob, self.genesis.limits, direction=AGGREGATE, kind=header.kind, round=header.round
        )

    def altered(self, reason: str, attempt: int = 0) -> Request:
        words, entries = self.sum.words().copy(), list(self.sum.entries)
        if reason == "members":
            entries[-1] = replace(entries[-1], member=40_000)
        elif reason == "upload id":
            entries[0] = replace(entries[0], upload_id=bytes(16))
        elif reason == "first word":
            words[0] ^= np.uint64(1)
        else:
            words[-3 if reason == "last word" else 1] ^= np.uint64(1)
        blob = write(
            replace(self.sum.header, attempt=attempt), entries, words, self.sum.word_bits, bytes(self.sum.clear)
        )
        return replace(self.request, aggregates=(replace(self.aggregate, blob=blob),))

    def prepared(self, reason: str) -> Bring:
        """An institution to which nobody brought anything yet, but what the reason needs; and the message for it."""
        for path in (self.folder / "memory").glob("*.opened.jsonl"):
            path.unlink()
        openings = openings_of(self.institution._keys, self.institution._memory.path, 3)
        header = self.sum.header
        if reason == "digest":
            openings.admit(header.round, header.kind, header.attempt, bytes(32))
        elif reason == "locked":
            for attempt in range(3):
                openings.refused(header.round, header.kind, 7 + attempt, bytes(32), "tag")
        self.institution._sums.openings = openings
        request = self.altered(reason)
        return lambda: said(self.institution.handle(request))

    def refusals(self) -> Mapping[str, Callable[[], Bring]]:
        return {reason: lambda reason=reason: self.prepared(reason) for reason in REASONS}  # type: ignore[misc]


def said(reply: Reply) -> bytes:
    """Every byte of a reply that a coordinator sees."""
    return repr(reply).encode()


@pytest.fixture
def refusals_leave_sooner() -> None:
    """They leave when they leave: that is what is measured here."""


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(World.found(encrypted(model__options={"hidden": [256]}), tmp_path))


def test_each_reason_is_one_refusal_and_the_honest_sum_is_applied(victim: Victim) -> None:
    reasons = {}
    for reason in REASONS:
        reply = victim.prepared(reason)()
        assert f"code='{LOCKED if reason == 'locked' else REFUSED}'".encode() in reply
        assert victim.institution._position == 0, "nothing was applied"
        reasons[reason] = victim.institution._sums.openings.refusals[-1].reason
    assert reasons == {
        "members": "members", "upload id": "tag", "first word": "tag", "last word": "tag", "digest": "another",
        "locked": "tag",
    }  # fmt: skip
    victim.prepared("members")
    assert victim.institution.handle(victim.request).status is Status.UPLOAD
    assert victim.institution._position == 1


def test_it_locks_until_its_operator_has_looked(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "waiting", lambda passed, every, *, refuses: 0.0)
    institution, unlock = victim.institution, ["institution", "unlock", "--folder", str(victim.folder)]
    told = [institution.handle(victim.altered("first word", attempt)).code for attempt in (1, 2, 3, 4)]
    assert told == [REFUSED, REFUSED, REFUSED, LOCKED]
    assert institution.handle(victim.request).code == LOCKED, "not even the honest sum is opened"
    again = Institution(victim.folder)
    assert again.handle(victim.request).code == LOCKED, "nor after a restart"
    shown = CliRunner().invoke(app, [*unlock, "--yes"])
    assert (shown.exit_code, shown.output.count("update, attempt ")) == (0, 3)
    assert institution.handle(victim.request).status is Status.UPLOAD


def test_dying_before_a_refusal_is_recorded_gives_no_free_one(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "waiting", lambda passed, every, *, refuses: 0.0)
    for attempt in (1, 2, 3):
        with dies_before(Openings, "refused"), pytest.raises(Killed):
            victim.institution.handle(victim.altered("first word", attempt))
    assert victim.institution.handle(victim.altered("first word", 4)).code == LOCKED


@pytest.mark.parametrize("trouble", ["a folder that others may enter", "a full disk"])
def test_evidence_that_cannot_be_kept_changes_no_answer(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "waiting", lambda passed, every, *, refuses: 0.0)
    victim = Victim(World.found(encrypted(defences__integrity=True), tmp_path))
    if trouble == "a full disk":
        broken: AbstractContextManager[None] = full_disk(evidence, "write_private")
    else:
        broken = nullcontext()
        (victim.folder / evidence.EVIDENCE).mkdir()
        (victim.folder / evidence.EVIDENCE).chmod(0o755)
    with broken:
        reply = victim.institution.handle(victim.altered("first word"))
    assert reply == Reply(Status.REFUSED, 1, 0, code=REFUSED)
    assert len(victim.institution._sums.openings.refusals) == 1


@pytest.mark.slow
def test_neither_bytes_nor_times_tell_why_a_sum_is_refused(victim: Victim) -> None:
    refused = measure(victim.refusals(), times=10)
    require_alike(refused, public=["locked"])
    assert min(seconds for each in refused.seconds.values() for seconds in each) >= 1.0


def test_without_holding_back_times_would_tell(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "waiting", lambda passed, every, *, refuses: 0.0)
    # On a busy machine it takes more of them until milliseconds stand out.
    assert any(measure(victim.refusals(), times=times).told_apart() for times in (10, 30, 100))
