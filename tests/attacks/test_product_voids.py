"""Sums with right tags and nonsense inside, at a real institution: of a coordinator that got the epoch's seed, but no key."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import comb, log2
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.defences.openings import NONSENSE, openings_at
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
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
MESSAGES = 60
WIDEST = 4
"""Steps that noise is surely below: roundings of three words."""
Search = Callable[["Seeded", int], int]


class Exhausted(Exception):  # noqa: N818 -- no error: the attacker stops here
    """Nothing is learned any more."""


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

    @property
    def tolerance(self) -> int:
        """Steps of a word that a coefficient without noise may be moved by."""
        return int(TOLERANCE * 2**self.genesis.parameters.scale_bits / self.step)

    def crosses(self, at: int, noise: int) -> bool:
        """Tell whether a coefficient's noise is above so many steps: what is missing from there to the tolerance then crosses it."""
        if len(self.codes) >= MESSAGES or (code := self.shown(at, self.tolerance - noise)) not in ("", "void"):
            raise Exhausted
        return code == "void"

    @property
    def truth(self) -> np.ndarray:
        """The noise of the sum that it begins with, in steps of a word, read with the key."""
        home, parameters = self.world.home(VICTIM), self.genesis.parameters
        key = Keyring(home, InstitutionSettings.load(home)).key
        assert key is not None
        words = self.words()
        seeds = [self.upload.entries[0].seed] * COPIES
        (noisy,) = CKKSOpener(key)._noisy(words, seeds, words.size - GUARDS)
        integers = (noisy + (1 << parameters.scale_bits - 1)) >> parameters.scale_bits
        noise: np.ndarray = (noisy - (integers << parameters.scale_bits)) / self.step
        return noise


def halving(attacker: Seeded, at: int) -> int:
    """Fewest messages: every second one is void."""
    low, high = -WIDEST, WIDEST
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if attacker.crosses(at, middle) else (low, middle)
    return low


def counting(attacker: Seeded, at: int) -> int:
    """Fewest void sums: one a coefficient."""
    return next((noise + 1 for noise in range(WIDEST, -WIDEST, -1) if attacker.crosses(at, noise)), -WIDEST)


def attacked(world: World, search: Search) -> tuple[Seeded, dict[int, int]]:
    """What it reads, of each coefficient in turn; the institution is started anew after each, and between all later messages."""
    attacker, learned = Seeded(world), {}
    with suppress(Exhausted):
        for at in range(attacker.words().size - GUARDS):
            learned[at] = search(attacker, at)
            world.kill_institution(VICTIM)
    while len(attacker.codes) < MESSAGES:
        attacker.shown(0, 0)
        world.kill_institution(VICTIM)
    return attacker, learned


@pytest.fixture
def world(templates: dict[str, World], tmp_path: Path) -> World:
    return templates["three"].copy(tmp_path / "world")


@pytest.mark.parametrize("search", [halving, counting])
def test_void_sums_lock_before_four_coefficients_are_read(
    search: Search, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the count it reads all noise that there is, to within a step; and the noise of one ciphertext is the key (test_oracle.py)."""
    attacker, learned = attacked(world, search)
    void, locked = attacker.codes.count("void"), attacker.codes.count("locked")
    answered = len(attacker.codes) - locked
    bits = log2(sum(comb(answered, count) for count in range(MOST + 1)))
    truth = attacker.truth
    with capsys.disabled():
        sys.stdout.write(
            f"\nvoid sums with right tags, {search.__name__}: {answered} messages answered, {void} void, {locked} locked; "
            f"{len(learned)} coefficients read; answers tell {bits:.1f} bits at most\n"
        )
    assert all(abs(found - truth[at]) <= 1 for at, found in learned.items()), "what it reads is true"
    assert (void, answered + locked) == (MOST, MESSAGES)
    assert attacker.codes[-locked:] == ["locked"] * locked
    assert len(learned) <= MOST
    assert bits < 15
    sums = world.institution(VICTIM)._sums.openings
    assert [refusal.reason for refusal in sums.refusals] == [NONSENSE] * MOST


def test_memory_that_is_restored_gives_no_message_back(world: World, tmp_path: Path) -> None:
    """The memory file is as it was before the round, and the record of sums is newer: another sum of that round is refused, and counts."""
    attacker = Seeded(world)
    header, memory = attacker.header, world.home(VICTIM) / "memory"
    shutil.copytree(memory, tmp_path / "backup")
    for steps in range(2 * MOST):
        attacker.header = header
        attacker.shown(0, attacker.tolerance + steps + WIDEST)
        if steps == 0:
            world.kill_institution(VICTIM)
            (path,) = (tmp_path / "backup").glob("*.safetensors")
            shutil.copy(path, memory / path.name)
    assert attacker.codes == ["void", *["refused"] * (MOST - 1), *["locked"] * MOST]


def test_a_rotation_begins_a_new_count(world: World) -> None:
    """Counts are of an epoch; the key that void sums would tell of is the epoch's, too."""
    attacker, memory = Seeded(world), world.memory(VICTIM).path
    for _ in range(MOST):
        attacker.shown(0, attacker.tolerance + WIDEST)
    assert openings_at(memory, world.genesis.fingerprint, MOST).locked
    assert not openings_at(memory, bytes(32), MOST).locked


def test_an_upload_that_shows_that_others_passed_over_a_sum_spares_no_count(world: World) -> None:
    """The tag of their state stands in clear on their uploads: behind an altered sum it made the round void here, too, at no cost."""
    genesis, first = world.genesis, 0

    def asked(node: int, number: int, *aggregates: Aggregate) -> Reply:
        request = Request(number, RoundKind.MEASURE, genesis.federation, genesis.fingerprint, aggregates)
        return world.institution(node).handle(request)

    def altered(upload: Blob) -> Aggregate:
        (own,) = upload.entries
        entries = [replace(own, member=member, upload_id=bytes([member]) * 16) for member in range(COPIES)]
        header = replace(upload.header, direction=AGGREGATE)
        return Aggregate(header.round, write(header, entries, upload.words(), upload.word_bits))

    upload, counts = Blob.own(asked(first, 0).blob, genesis.parameters.word_bits), []
    for number in range(MOST - 1):
        shown = altered(upload)
        assert asked(first, number + 1, shown).code == "refused"
        passed = asked(first, number + 1, shown)
        assert (passed.status, passed.code) == (Status.UPLOAD, "void")
        asked(VICTIM, number + 2, shown, Aggregate(number + 1, passed.blob))
        upload = Blob.own(passed.blob, genesis.parameters.word_bits)
        assert world.record(VICTIM).shared.round == number + 1, "it passed over the round, as the first one did"
        counts.append(len(world.institution(VICTIM)._sums.openings.refusals))
    assert counts == [1, 2]
    codes = [asked(VICTIM, MOST, altered(upload)).code for _ in range(2)]
    assert codes == ["refused", "locked"]
