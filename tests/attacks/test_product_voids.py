"""Sums with right tags and nonsense inside, at a real institution: of a coordinator that got the epoch's seed, but no key."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import comb, log2
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.defences.openings import NONSENSE
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.memory.record import Memory
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import GUARDS, TOLERANCE
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.law.tags import TAGS, RoundTags
from dictpfl.common.messages.protocol import Aggregate, Reply, Request, RoundKind, Status
from dictpfl.common.messages.wire import AGGREGATE, Blob, Header, write
from dictpfl.common.words import Words
from tests.attacks.shown import VICTIM
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet", "at_once")
COPIES = 3
"""Times that one recorded upload goes into a sum, under as many names: as many as `min_participants` asks for."""
MOST = 3
MESSAGES = 120


class Seeded:
    """A coordinator that holds the seed of the epoch, for which no copied folder is enough, and one upload of the victim.

    Measurements cost a round and no update, so that it has as many rounds as it likes.
    """

    def __init__(self, world: World) -> None:
        self.world, self.genesis = world, world.genesis
        self.prime = self.genesis.parameters.word_prime
        self.step = data_prime(self.genesis.parameters) / self.prime
        self.upload = Blob.own(self._asked(0).blob, self.genesis.parameters.word_bits)
        self.header = self.upload.header
        self.codes: list[str] = []

    def _asked(self, number: int, *aggregates: Aggregate) -> Reply:
        genesis = self.genesis
        request = Request(number, RoundKind.MEASURE, genesis.federation, genesis.fingerprint, aggregates)
        return self.world.institution(VICTIM).handle(request)

    def words(self, at: int = 0, steps: int = 0) -> Words:
        """Three times the upload's words, one of them moved; without tags."""
        words = self.upload.words()[:-TAGS] * np.uint64(COPIES) % np.uint64(self.prime)
        words[at] = (int(words[at]) + steps) % self.prime
        return words

    def tagged(self, header: Header, words: Words) -> bytes:
        """A sum of these words under right tags."""
        (own,) = self.upload.entries
        entries = [replace(own, member=member, upload_id=bytes([member]) * 16) for member in range(COPIES)]
        keys = RoundTags.of(self.genesis.secret_seed, header, self.prime)
        pads = sum(keys.made(np.zeros_like(words), b"", entry).astype(object) for entry in entries)
        hashed = keys.made(words, b"", entries[0]).astype(object) - keys.made(
            np.zeros_like(words), b"", entries[0]
        ).astype(object)
        tags = np.array([int(tag) % self.prime for tag in pads + hashed], np.uint64)
        made = replace(header, direction=AGGREGATE)
        return write(made, entries, np.append(words, tags), self.genesis.parameters.word_bits)

    def shown(self, at: int, steps: int) -> str:
        """Show a sum, and hear of it: the code of the answer, empty where it opened."""
        number = self.header.round
        reply = self._asked(number + 1, Aggregate(number, self.tagged(self.header, self.words(at, steps))))
        if reply.status is Status.UPLOAD:
            self.header = Blob.own(reply.blob, self.genesis.parameters.word_bits).header
        self.codes.append(reply.code)
        return reply.code

    def noise(self, at: int, most: int) -> int | None:
        """The noise of a coefficient in steps of a word, by bisection; None once nothing is learned any more."""
        tolerance, low, high = int(TOLERANCE * 2**self.genesis.parameters.scale_bits / self.step), -most, most
        while low < high:  # above `middle` it is if what is missing from there to the tolerance crosses it
            middle = (low + high) // 2
            if len(self.codes) >= MESSAGES or (code := self.shown(at, tolerance - middle)) not in ("", "void"):
                return None
            low, high = (middle + 1, high) if code == "void" else (low, middle)
        return low

    @property
    def truth(self) -> np.ndarray:
        """The noise of the sum that it begins with, in steps of a word: who has the key reads it."""
        home, parameters = self.world.home(VICTIM), self.genesis.parameters
        key = Keyring(home, InstitutionSettings.load(home)).key
        assert key is not None
        words = self.words()
        seeds = [self.upload.entries[0].seed] * COPIES
        (noisy,) = CKKSOpener(key)._noisy(words, seeds, words.size - GUARDS)
        integers = (noisy + (1 << parameters.scale_bits - 1)) >> parameters.scale_bits
        noise: np.ndarray = (noisy - (integers << parameters.scale_bits)) / self.step
        return noise


def attacked(world: World) -> tuple[Seeded, dict[int, int]]:
    """What it reads of as many coefficients as its messages are enough for; the institution is started anew in between."""
    attacker, learned = Seeded(world), {}
    most = int(COPIES * 2**5)
    for at in range(attacker.words().size - GUARDS):
        if (found := attacker.noise(at, most)) is None:
            break
        learned[at] = found
        world.kill_institution(VICTIM)
    while len(attacker.codes) < MESSAGES:
        attacker.shown(0, 0)
        world.kill_institution(VICTIM)
    return attacker, learned


@pytest.fixture
def world(templates: dict[str, World], tmp_path: Path) -> World:
    return templates["three"].copy(tmp_path / "world")


def test_void_sums_lock_before_one_coefficient_is_read(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the count, ten messages a coefficient read all noise exactly, and with it the key (see test_oracle.py)."""
    attacker, learned = attacked(world)
    void, locked = attacker.codes.count("void"), attacker.codes.count("locked")
    answered = len(attacker.codes) - locked
    bits = log2(sum(comb(answered, count) for count in range(MOST + 1)))
    right = {at for at, found in learned.items() if abs(found - attacker.truth[at]) <= 1}
    with capsys.disabled():
        sys.stdout.write(
            f"\nvoid sums with right tags: {len(attacker.codes)} messages, {void} void, {locked} locked; {len(right)} coefficients read; "
            f"answers tell {bits:.1f} bits at most\n"
        )
    assert (void, learned) == (MOST, {})
    assert attacker.codes[-locked:] == ["locked"] * locked
    assert locked > MESSAGES - 30
    assert bits < 13
    sums = world.institution(VICTIM)._sums.openings
    assert [refusal.reason for refusal in sums.refusals] == [NONSENSE] * MOST
