"""A coordinator with colluding institutions asks the others whatever it likes, at random: what it can then take masks off.

An upload is x_u + own mask of u, plus or minus a stream for each partner. Of those whose own masks are known, a stream that nobody told ties two
uploads together: they can be added, and not told apart. So what can be read of an attempt are the sums over connected groups of which all own
masks are known. Another attempt at the round has the same x_u under other masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dictpfl.client.defences.agreed import signed
from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.client.defences.pairs import OwnKeys, Pairs
from dictpfl.common.errors import RoundError
from dictpfl.common.law.members import PairGraph, Roster
from dictpfl.common.messages.masks import Answer, Note, SumQuestion
from dictpfl.common.messages.protocol import RoundKind, Stage
from dictpfl.common.messages.sharing import combine, commitment, threshold
from dictpfl.common.protection import quorum

SEEDS, QUESTIONS, PRIME = range(42), 120, (1 << 43) - 57
CONTEXT = b"c" * 64


class Member(Masks):
    """An institution's masks, whose waiting upload is its context alone."""

    def _context_of(self, pending: Any) -> MaskContext:
        assert isinstance(pending, MaskContext)
        return pending


class Institutions:
    """Members of a federation, of whom the last ones collude."""

    def __init__(self, members: int, folder: Path) -> None:
        keys = sorted((OwnKeys.make(f"member-{n:02d}") for n in range(members)), key=lambda own: own.name)
        roster, graph = Roster(tuple(own.public for own in keys)), PairGraph(members, 1000, bytes(32), CONTEXT)
        self.everybody = range(members)
        self.colluders = set(range(members - max(1, (members - 1) // 3), members))
        self.honest = [n for n in self.everybody if n not in self.colluders]
        self.pairs = [Pairs(own, number, roster, graph, CONTEXT) for number, own in enumerate(keys)]
        self.masks = [Member(one, PRIME, folder / f"{one.number}.told.json", 3) for one in self.pairs]
        self.records: list[Any] = [SimpleNamespace(secret=bytes([n + 1] * 32), shared=None) for n in self.everybody]


class Attempt:
    """What is known of an attempt at the round, from the start by those who collude, and what is said to whom."""

    def __init__(self, of: Institutions, number: int, draw: np.random.Generator) -> None:
        self.of, self.number = of, number
        self.contexts = [MaskContext(0, RoundKind.UPDATE, number, bytes([n + 1] * 16)) for n in of.everybody]
        self.notes = [Note.of_bytes(of.masks[n].note(self.contexts[n], of.records[n].secret)) for n in of.everybody]
        self.signatures: dict[tuple[frozenset[int], int], bytes] = {}
        self.owns: set[int] = set(of.colluders)
        self.streams = {frozenset((a, b)) for a in of.everybody for b in of.colluders if a != b}
        self.shares: dict[int, dict[int, bytes]] = {n: {} for n in of.everybody}
        everybody = frozenset(of.everybody)
        for maker in of.everybody:
            for holder in of.colluders - {maker}:
                asked = SumQuestion(number, self.ids(everybody), shares={maker: self.share(maker, holder)})
                self.shares[maker][holder] = dict(of.masks[holder]._shares(self.contexts[holder], asked))[maker]
        # Lists that are asked about: all, and a few that differ from it in little. Each is told of one of them, mostly.
        self.lists = [everybody]
        least = quorum(len(everybody))
        for _ in range(draw.integers(1, 3) if least < len(everybody) else 0):
            missing = draw.integers(1, len(everybody) - least + 1)
            self.lists.append(everybody - set(draw.choice(len(everybody), missing, replace=False).tolist()))
        most, main = draw.random(), int(draw.integers(len(self.lists)))
        self.told = {n: main if draw.random() < most else int(draw.integers(len(self.lists))) for n in of.honest}
        if len(self.lists) > 1 and draw.random() < 0.5:
            victim = int(draw.choice(of.honest))
            self.lists[1] = everybody - {victim}
            self.told = dict.fromkeys(of.honest, 1) | {victim: 0}

    def ids(self, members: frozenset[int]) -> dict[int, bytes]:
        """Upload ids by member."""
        return {n: self.contexts[n].upload_id for n in sorted(members)}

    def share(self, maker: int, holder: int) -> dict[int, bytes]:
        """The sealed share of a maker's seed by its holder."""
        return {holder: self.notes[maker].partners[holder].share}

    def question(self, member: int, members: frozenset[int], *, with_signatures: bool) -> SumQuestion:
        """A question to a member about a list, with all signatures on it that there are, and those of who colludes."""
        bare, pairs = SumQuestion(self.number, self.ids(members)), self.of.pairs
        known = {n: signature for (of, n), signature in self.signatures.items() if of == members}
        known |= {n: signed(pairs[n], 0, RoundKind.UPDATE, bare) for n in self.of.colluders & members}
        shares = {maker: self.share(maker, member) for maker in members - {member}}
        return SumQuestion(self.number, bare.uploads, known if with_signatures else {}, shares)

    def learn(self, stage: Stage, members: frozenset[int], answer: Answer) -> None:
        """Keep what an answer tells."""
        if answer.signature:
            self.signatures[members, answer.member] = answer.signature
        if stage is Stage.SEEDS:
            self.streams |= {frozenset((answer.member, other)) for other in answer.others}
        if stage is Stage.SHARES:
            for maker, share in answer.others.items():
                self.shares[maker][answer.member] = share
        if answer.own:
            assert commitment(answer.own) == self.notes[answer.member].commitment
            self.owns.add(answer.member)

    def readable(self) -> Iterator[frozenset[int]]:
        """Groups of honest institutions of whose uploads the sum can be read, and no smaller one."""
        for maker, shares in self.shares.items():
            places = {holder: place for place, holder in enumerate(self.notes[maker].partners)}
            if len(shares) >= threshold(len(places)):
                seed = combine({places[holder]: share for holder, share in shares.items()})
                assert commitment(seed) == self.notes[maker].commitment
                self.owns.add(maker)
        left = set(self.of.honest)
        while left:
            group, grown = set(), {left.pop()}
            while grown:
                one = grown.pop()
                group.add(one)
                tied = {n for n in left if frozenset((one, n)) not in self.streams}
                left -= tied
                grown |= tied
            if group <= self.owns:
                yield frozenset(group)


class Coordinator:
    """Asks honest institutions about lists of two attempts, in any order."""

    def __init__(self, members: int, folder: Path, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.of = Institutions(members, folder)
        self.attempts = [Attempt(self.of, number, self.draw) for number in range(2)]
        self.at = dict.fromkeys(self.of.honest, 0)
        self.patience, self.way = seed % 2, seed % 3

    def ask(self, part: float) -> None:
        """Ask one of them, or have it upload for the second attempt; `part` of all questions were asked."""
        draw, member = self.draw, int(self.draw.choice(self.of.honest))
        # One attempt alone; both at any time; or one, and when it is answered the other.
        if draw.random() < (0.0, 0.02, 0.3 if part > 0.5 else 0.0)[self.way]:
            self._go_on(member)
            return
        attempt = self.attempts[self.at[member] if draw.random() < 0.9 else int(draw.integers(2))]
        at = attempt.told[member] if draw.random() < 0.95 else draw.integers(len(attempt.lists))
        members = attempt.lists[at]
        early = draw.random() < self.patience * (1 - 1.5 * part)  # who has told shares tells no streams any more
        stage = Stage(draw.choice([Stage.AGREE, Stage.SEEDS] if early else [Stage.AGREE, Stage.SEEDS, Stage.SHARES]))
        asked = attempt.question(member, members, with_signatures=draw.random() < 0.8)
        masks, waiting = self.of.masks[member], self.attempts[self.at[member]].contexts[member]
        try:
            if stage is Stage.AGREE:
                answer = masks.agree(waiting, asked)  # type: ignore[arg-type]
            elif stage is Stage.SEEDS:
                answer = masks.tell_seeds(waiting, asked)  # type: ignore[arg-type]
            else:
                answer = masks.tell_shares(self.of.records[member], waiting, asked, 0)  # type: ignore[arg-type]
        except RoundError:
            return
        attempt.learn(stage, members, answer)

    def _go_on(self, member: int) -> None:
        try:
            self.of.masks[member].move_on(0, 1)
        except RoundError:
            return
        self.at[member] = 1


def found(members: int, folder: Path, seed: int) -> tuple[Coordinator, set[frozenset[int]]]:
    folder.mkdir()
    coordinator = Coordinator(members, folder, seed)
    for number in range(QUESTIONS):
        coordinator.ask(number / QUESTIONS)
    return coordinator, {group for attempt in coordinator.attempts for group in attempt.readable()}


@pytest.mark.parametrize("members", [3, 4, 5, 6, 7])
def test_whatever_is_asked_no_sum_but_one_can_be_read(members: int, tmp_path: Path) -> None:
    opened = []
    for seed in SEEDS:
        coordinator, groups = found(members, tmp_path / str(seed), seed)
        # All that honest members of one list sent, together; and of one list alone.
        whole = [one - coordinator.of.colluders for attempt in coordinator.attempts for one in attempt.lists]
        assert groups <= set(whole), (seed, groups)
        assert len(groups) <= 1, (seed, groups)
        opened += [len(group) for group in groups]
    assert len(opened) > len(SEEDS) / 10, "some sums are opened, or this shows nothing"


@pytest.mark.parametrize("members", [4, 5, 6, 7])
def test_it_finds_single_uploads_where_any_sum_is_taken_for_signed(members: int, tmp_path: Path) -> None:
    with mock.patch.object(Masks, "_is_agreed", return_value=True):
        groups = [group for seed in SEEDS for group in found(members, tmp_path / str(seed), seed)[1]]
    assert min(map(len, groups)) == 1


@pytest.mark.parametrize("members", [4, 5, 7])
def test_it_finds_two_sums_where_an_institution_goes_on_after_it_helped(members: int, tmp_path: Path) -> None:
    with mock.patch("dictpfl.client.defences.reveals.Reveals.require_open"):
        sums = [len(found(members, tmp_path / str(seed), seed)[1]) for seed in SEEDS]
    assert max(sums) > 1


def test_a_share_is_told_of_the_upload_alone_that_it_was_sealed_for(tmp_path: Path) -> None:
    """Asked for another kind in between, an institution makes two uploads for one attempt; each has an own mask of its own."""
    of = Institutions(4, tmp_path)
    context = MaskContext(0, RoundKind.UPDATE, 0, b"of the first one")
    note = Note.of_bytes(of.masks[1].note(context, of.records[1].secret))

    def told(holder: int, upload: bytes, at: MaskContext) -> set[int]:
        asked = SumQuestion(0, {1: upload}, shares={1: {holder: note.partners[0].share}})
        return set(dict(of.masks[holder]._shares(at, asked)))

    assert told(0, context.upload_id, context) == {1}
    assert told(0, b"of the other one", context) == set()
    assert told(2, context.upload_id, context) == set(), "sealed for another"
    for at in (replace(context, round=1), replace(context, attempt=1), replace(context, kind=RoundKind.SCORE)):
        assert told(0, context.upload_id, at) == set()
