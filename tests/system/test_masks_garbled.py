"""A coordinator that garbles, mixes and repeats its messages about masks: whole institutions answer by name, and of one sum.

`tests/client/defences/test_masks_asked.py` asks the masks alone, and looks at what can be read; here are the messages, as bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dictpfl.common.messages.masks import Answer, Note, SumQuestion, attempt_bytes
from dictpfl.common.messages.protocol import REFUSED, Reply, Request, RoundKind, Stage, Status
from dictpfl.common.messages.wire import read_entries, read_header
from tests.support.federations import encrypted
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")

MEMBERS, MESSAGES = 4, 120
NAMED = {REFUSED, "corrupt", "wrong-key", "round", "snapshot"}
"""Codes of refusals: of questions one; of messages that do not parse, of another key, of scores that are not due, of what is no snapshot."""


class Garbler:
    """Asks the institutions of an open round whatever it likes, and keeps what they say."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.draw = world, np.random.default_rng(seed)
        self.without, self.asked = (0.1, 0.9)[seed % 2], 0
        self.uploads: dict[tuple[RoundKind, int], dict[int, tuple[bytes, Note]]] = {}
        """Upload id and note by member, of each kind and attempt."""
        self.signatures: dict[bytes, dict[int, bytes]] = {}
        """By the attempt and uploads that were signed, and member."""
        self.told: dict[int, list[tuple[Stage, int, bytes]]] = {node: [] for node in world.nodes}
        """Stage, attempt and sum of each answer, by node."""
        self.codes: Counter[str] = Counter()

    def ask(self) -> None:
        """Ask one institution."""
        node = int(self.draw.integers(MEMBERS))
        request = self.upload() if self.draw.random() < 0.1 else self.question()
        if self.draw.random() < 0.25:
            request = self.garbled(request)
        reply = self.world.institution(node).handle(request)
        self.keep(node, request, reply)

    def request(self, stage: Stage, defence: bytes, kind: RoundKind = RoundKind.UPDATE) -> Request:
        """A request of the round that is open."""
        genesis = self.world.genesis
        return Request(0, kind, genesis.federation, genesis.fingerprint, stage=stage, defence=defence)

    def upload(self) -> Request:
        """A request for an upload, mostly for the first attempt."""
        kind = RoundKind.UPDATE if self.draw.random() < 0.9 else RoundKind.MEASURE
        return self.request(Stage.UPLOAD, attempt_bytes(int(self.draw.choice(3, p=[0.8, 0.15, 0.05]))), kind)

    def question(self) -> Request:
        """A question about all uploads that are known of a kind and attempt, or all but one, with all signatures on them that there are."""
        kind, attempt = max(self.uploads, key=lambda one: (len(self.uploads[one]), self.draw.random()))
        known = self.uploads[kind, attempt]
        members = sorted(known)[: len(known) - (self.draw.random() < self.without)]
        bare = SumQuestion(attempt, {member: known[member][0] for member in members})
        shares = {m: {holder: p.share for holder, p in known[m][1].partners.items()} for m in members}
        asked = replace(bare, shares=shares, signatures=self.signatures.get(bare.to_bytes(), {}))
        late = self.asked > MESSAGES / 2  # who has told shares tells nothing else any more
        self.asked += 1
        stage = Stage(self.draw.choice([Stage.AGREE, Stage.SEEDS, Stage.SHARES], p=[0.5, 0.5 - 0.3 * late, 0.3 * late]))
        return self.request(stage, asked.to_bytes(), kind)

    def garbled(self, request: Request) -> Request:
        """One thing changed."""
        data, at = bytearray(request.defence), int(self.draw.integers(len(request.defence) or 1))
        other = bytes(self.draw.bytes(32))
        if data:
            data[at] ^= 1 << int(self.draw.integers(8))
        changes: list[Mapping[str, object]] = [
            {"defence": bytes(data)},
            {"defence": request.defence[:at]},
            {"defence": request.defence + other[: 1 + at % 32]},
            {"defence": other},
            {"defence": b""},
            {"stage": Stage(self.draw.choice(list(Stage)))},
            {"round": int(self.draw.integers(1, 3))},
            {"kind": [None, *RoundKind][int(self.draw.integers(4))]},
            {"fingerprint": other},
            {"snapshot": other},
        ]
        return replace(request, **changes[int(self.draw.integers(len(changes)))])  # type: ignore[arg-type]

    def keep(self, node: int, request: Request, reply: Reply) -> None:
        """Note what was said, and hold it to what may be said."""
        if reply.status is Status.UPLOAD:
            (entry,), header = read_entries(reply.blob), read_header(reply.blob)
            known = self.uploads.setdefault((header.kind, header.attempt), {})
            known[entry.member] = (entry.upload_id, Note.of_bytes(reply.defence))
            opened = {attempt for stage, attempt, _ in self.told[node] if stage is Stage.SHARES}
            assert opened <= {header.attempt}, "an upload for another attempt at a round that was opened"
        elif reply.status is Status.REVEALED:
            asked, answer = SumQuestion.of_bytes(request.defence), Answer.of_bytes(reply.defence)
            before = self.told[node]
            assert {said for _, attempt, said in before if attempt == asked.attempt} <= {asked.bare}, "another sum"
            opened = {said for stage, _, said in before if stage is Stage.SHARES}
            assert opened <= {asked.bare}, "another sum than the one that was opened"
            assert not (opened and request.stage is Stage.SEEDS), "streams of a sum that was opened"
            before.append((request.stage, asked.attempt, asked.bare))
            if answer.signature:
                self.signatures.setdefault(asked.bare, {})[answer.member] = answer.signature
        else:
            assert (reply.blob, reply.defence, reply.manifest) == (b"", b"", b"")
            if reply.status is Status.REFUSED:
                assert reply.code in NAMED, reply.code
        self.codes[reply.code if reply.status is Status.REFUSED else str(reply.status)] += 1


def test_whatever_comes_is_answered_by_name_and_of_one_sum(tmp_path: Path) -> None:
    config = encrypted(federation__participants=MEMBERS, data__limit=120, defences__masks=True)
    template, stages = World.found(config, tmp_path / "template"), Counter[Stage]()
    for seed in range(4):
        world = template.copy(tmp_path / str(seed))
        garbler = Garbler(world, seed)
        for node in world.nodes:
            request = garbler.request(Stage.UPLOAD, b"")
            garbler.keep(node, request, world.institution(node).handle(request))
        for _ in range(MESSAGES):
            garbler.ask()
        stages.update(stage for told in garbler.told.values() for stage, _, _ in told)
        assert garbler.codes[REFUSED] > MESSAGES / 20
        world.close()
    assert min(stages[stage] for stage in (Stage.AGREE, Stage.SEEDS, Stage.SHARES)) > 2, "or this shows nothing"
