"""A coordinator with colluding institutions asks the others whatever it likes, at random: what it can then take masks off.

An upload is x_u + own mask of u, plus or minus a stream for each partner. Of those whose own masks are known, a stream that nobody told ties two
uploads together: they can be added, and not told apart. So what can be read are the sums over connected groups of which all own masks are known.
"""

from __future__ import annotations

from collections.abc import Iterator
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

SEEDS, QUESTIONS, PRIME = range(40), 90, (1 << 43) - 57
CONTEXT = b"c" * 64


class Member(Masks):
    """An institution's masks, whose waiting upload is its context alone."""

    def _context_of(self, pending: Any) -> MaskContext:
        assert isinstance(pending, MaskContext)
        return pending


class Played:
    """A round of some institutions, of whom the last ones collude."""

    def __init__(self, members: int, colluders: int, folder: Path, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        keys = sorted((OwnKeys.make(f"member-{n:02d}") for n in range(members)), key=lambda own: own.name)
        roster = Roster(tuple(own.public for own in keys))
        graph = PairGraph(members, 1000, bytes(32), CONTEXT)
        self.pairs = [Pairs(own, number, roster, graph, CONTEXT) for number, own in enumerate(keys)]
        self.everybody, self.colluders = range(members), set(range(members - colluders, members))
        self.honest = [n for n in self.everybody if n not in self.colluders]
        self.masks = [Member(one, PRIME, folder / f"{one.number}.told.json", 3) for one in self.pairs]
        self.contexts = [MaskContext(0, RoundKind.UPDATE, 0, bytes([n + 1] * 16)) for n in self.everybody]
        self.records: list[Any] = [SimpleNamespace(secret=bytes([n + 1] * 32), shared=None) for n in self.everybody]
        self.notes = [
            Note.of_bytes(self.masks[n].note(self.contexts[n], self.records[n].secret)) for n in self.everybody
        ]
        # Lists that are asked about: all, and each time a few that differ from it in little.
        self.lists = [frozenset(self.everybody)]
        if quorum(members) < members:
            self.lists += [self._fewer() for _ in range(self.draw.integers(1, 3))]
        # Each is told of one of them, mostly: half of the time one that is missing of all, and the others of a list without it.
        most, main = self.draw.random(), int(self.draw.integers(len(self.lists)))
        self.told = {
            n: main if self.draw.random() < most else int(self.draw.integers(len(self.lists))) for n in self.honest
        }
        if len(self.lists) > 1 and self.draw.random() < 0.5:
            victim = int(self.draw.choice(self.honest))
            self.lists[1] = self.lists[0] - {victim}
            self.told = dict.fromkeys(self.honest, 1) | {victim: 0}
        self.patience = 0.0
        """Share of questions that leave shares for later."""
        self.signatures: dict[tuple[frozenset[int], int], bytes] = {}
        self.owns: set[int] = set(self.colluders)
        self.streams = {frozenset((a, b)) for a in self.everybody for b in self.colluders if a != b}
        self.shares: dict[int, dict[int, bytes]] = {n: {} for n in self.everybody}
        for maker in self.everybody:
            for holder in self.colluders - {maker}:
                self._hold(maker, holder, self.masks[holder])

    def _fewer(self) -> frozenset[int]:
        missing = self.draw.integers(1, len(self.everybody) - quorum(len(self.everybody)) + 1)
        return frozenset(self.everybody) - set(self.draw.choice(len(self.everybody), missing, replace=False).tolist())

    def _hold(self, maker: int, holder: int, masks: Masks) -> None:
        """A colluding institution opens the share that it holds."""
        asked = SumQuestion(0, self._ids(frozenset(self.everybody)), shares={maker: self._share(maker, holder)})
        self.shares[maker][holder] = dict(masks._shares(self.contexts[holder], asked))[maker]

    def _share(self, maker: int, holder: int) -> dict[int, bytes]:
        return {holder: self.notes[maker].partners[holder].share}

    def _ids(self, members: frozenset[int]) -> dict[int, bytes]:
        return {n: self.contexts[n].upload_id for n in sorted(members)}

    def ask(self) -> None:
        """Ask one honest institution about one of the lists, with whatever signatures there are."""
        member = int(self.draw.choice(self.honest))
        members = self.lists[self.told[member] if self.draw.random() < 0.95 else self.draw.integers(len(self.lists))]
        bare = SumQuestion(0, self._ids(members))
        known = {n: signature for (of, n), signature in self.signatures.items() if of == members}
        known |= {n: signed(self.pairs[n], 0, RoundKind.UPDATE, bare) for n in self.colluders & members}
        shares = {maker: self._share(maker, member) for maker in members - {member}}
        asked = SumQuestion(0, bare.uploads, known if self.draw.random() < 0.8 else {}, shares)
        early = self.draw.random() < self.patience  # who has told shares tells no streams any more
        stage = Stage(
            self.draw.choice([Stage.AGREE, Stage.SEEDS] if early else [Stage.AGREE, Stage.SEEDS, Stage.SHARES])
        )
        masks, context = self.masks[member], self.contexts[member]
        try:
            if stage is Stage.AGREE:
                answer = masks.agree(context, asked)  # type: ignore[arg-type]
            elif stage is Stage.SEEDS:
                answer = masks.tell_seeds(context, asked)  # type: ignore[arg-type]
            else:
                answer = masks.tell_shares(self.records[member], context, asked)  # type: ignore[arg-type]
        except RoundError:
            return
        self._learn(stage, members, answer)

    def _learn(self, stage: Stage, members: frozenset[int], answer: Answer) -> None:
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

    def _recover(self) -> None:
        """Put shares of own masks' seeds together, where there are enough."""
        for maker in self.everybody:
            places = {holder: place for place, holder in enumerate(self.notes[maker].partners)}
            if len(self.shares[maker]) >= threshold(len(places)):
                seed = combine({places[holder]: share for holder, share in self.shares[maker].items()})
                assert commitment(seed) == self.notes[maker].commitment
                self.owns.add(maker)

    def readable(self) -> Iterator[set[int]]:
        """Groups of honest institutions of whose uploads the sum can be read, and no smaller one."""
        self._recover()
        left = set(self.honest)
        while left:
            group, grown = set(), {left.pop()}
            while grown:
                one = grown.pop()
                group.add(one)
                tied = {n for n in left if frozenset((one, n)) not in self.streams}
                left -= tied
                grown |= tied
            if group <= self.owns:
                yield group


def found(members: int, folder: Path, seed: int) -> tuple[Played, list[set[int]]]:
    folder.mkdir()
    played = Played(members, max(1, (members - 1) // 3), folder, seed)
    for number in range(QUESTIONS):
        played.patience = 1 - 1.5 * number / QUESTIONS if seed % 2 else 0
        played.ask()
    return played, list(played.readable())


@pytest.mark.parametrize("members", [3, 4, 5, 6, 7])
def test_whatever_is_asked_no_sum_but_one_can_be_read(members: int, tmp_path: Path) -> None:
    opened = []
    for seed in SEEDS:
        played, groups = found(members, tmp_path / str(seed), seed)
        # All that honest members of one list sent, together; and of one list alone.
        whole = [set(one) - played.colluders for one in played.lists]
        assert all(group in whole for group in groups), (seed, groups)
        assert len(groups) <= 1, (seed, groups)
        opened += [len(group) for group in groups]
    assert len(opened) > len(SEEDS) / 10, "some sums are opened, or this shows nothing"


@pytest.mark.parametrize("members", [4, 5, 6, 7])
def test_it_finds_single_uploads_where_any_sum_is_taken_for_signed(members: int, tmp_path: Path) -> None:
    with mock.patch.object(Masks, "_is_agreed", return_value=True):
        groups = [group for seed in SEEDS for group in found(members, tmp_path / str(seed), seed)[1]]
    assert min(map(len, groups)) == 1
