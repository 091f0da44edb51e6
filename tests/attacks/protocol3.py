"""A federation in miniature whose institutions behave as protocol 3 did, or as protocol 4 does: `Rules.protocol` chooses.

Protocol 3 opened every sum of the right form, told which check refused it, kept its state and had no limit. That is
kept here alone, so that attacks have something to succeed against. Numbers are the product's: N, prime, scale, payload.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from tests.attacks.ring import DEGREE, PRIME, Ints, centred, drawn, errors, ternary, times

SCALE_BITS, PAYLOAD_BITS, GUARDS = 8, 50, 4
TOLERANCE = 2**SCALE_BITS // 4
LEDGER = 6
"""Participants, samples, measured, train loss, loss, metric: one component each, as in protocol 3."""
TAG_PRIME = 2**31 - 1
"""Modulus of protocol 3's tags, which were made of plaintexts."""
TAGS = 2
VALUES = DEGREE - GUARDS - LEDGER - TAGS
BODY = slice(LEDGER, LEDGER + VALUES)


@dataclass(frozen=True)
class Rules:
    """Agreement of a federation.

    Attributes:
        protocol: 3 or 4.
        members: number of institutions.
        seeded: sums carry seeds in place of their second polynomial.
        integrity: protocol 3's tags on plaintexts.
        masks: masks of pairs, which the sum of all members is free of.
        minimum: `min_participants` of every institution.
        most_refused: refused sums after which an institution of protocol 4 locks.
    """

    protocol: int
    members: int = 3
    seeded: bool = True
    integrity: bool = False
    masks: bool = False
    minimum: int = 3
    most_refused: int = 3


@dataclass(frozen=True)
class Named:
    """Entry of a sum's list: an upload that is said to be in it."""

    member: int
    upload_id: bytes
    seed: bytes


@dataclass(frozen=True)
class Sum:
    """Sum of uploads as the coordinator holds and sends it; an upload is a sum of one.

    Attributes:
        first: first polynomial, coefficients from 0 to q - 1.
        second: second polynomial; None: the sum of those that the seeds stand for.
        named: uploads that are said to be in it; protocol 3 bound this list to nothing.
        tags: protocol 4's two tags on the words.
    """

    round: int
    kind: str
    attempt: int
    contributors: int
    first: Ints
    second: Ints | None
    named: tuple[Named, ...]
    tags: tuple[int, ...] = (0,) * TAGS

    @property
    def words(self) -> Ints:
        """Every word that is sent and added."""
        return self.first if self.second is None else np.concatenate([self.first, self.second])

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.named, self.tags, self.contributors)).encode() + self.words.tobytes()).digest()

    def plus(self, at: int | slice, amount: int | Ints) -> Sum:
        """The same with something added to coefficients of the first polynomial: nobody needs a key for that."""
        first = self.first.copy()
        first[at] = (first[at] + amount) % PRIME
        return replace(self, first=first)


def added(uploads: Sequence[Sum]) -> Sum:
    """What an honest coordinator makes of uploads."""
    second = None
    if uploads[0].second is not None:
        second = sum((u.second for u in uploads if u.second is not None), np.zeros(DEGREE, np.int64)) % PRIME
    return replace(
        uploads[0],
        contributors=len(uploads),
        first=sum((u.first for u in uploads), np.zeros(DEGREE, np.int64)) % PRIME,
        second=second,
        named=tuple(named for upload in uploads for named in upload.named),
        tags=tuple(sum(column) % PRIME for column in zip(*(u.tags for u in uploads), strict=True)),
    )


@dataclass(frozen=True)
class Keys:
    """What institutions share and the coordinator lacks: the key of the ciphertexts and the seed of the tags."""

    secret: Ints
    seed: bytes


@dataclass(frozen=True)
class Pending:
    """An upload that waits for its sum, and what is owed if it is in it, or not."""

    named: Named
    counted: Ints
    missed: Ints


class Refused(Exception):  # noqa: N818 -- what it means, not what went wrong
    """A sum was refused; its argument is the code."""


@dataclass
class Institution:
    """An institution of the miniature: `upload`, and `ask` for what it says to a sum."""

    member: int
    rules: Rules
    keys: Keys
    random: np.random.Generator
    model: Ints = field(default_factory=lambda: np.zeros(VALUES, np.int64))
    residual: Ints = field(default_factory=lambda: np.zeros(VALUES, np.int64))
    round: int = 0
    pending: Pending | None = None
    opened: int = 0
    """Sums that it decrypted."""
    refused: int = 0
    trained: list[Ints] = field(default_factory=list)
    """Updates that it trained, for tests to compare with."""
    _tried: dict[tuple[int, str, int], bytes] = field(default_factory=dict)

    def upload(self, kind: str = "update", attempt: int = 0, samples: int = 100) -> Sum:
        """Make the upload of its round; `samples` lies if it is told to."""
        values = np.zeros(VALUES, np.int64)
        ledger = [1, samples, 50, 0, int(self.random.integers(2**16, 2**17)), int(self.random.integers(40 * 1024))]
        if kind == "update":
            self.trained.append(self.random.integers(-1000, 1001, VALUES))
            values = self.trained[-1] + self.residual
        named = Named(self.member, self._id(), self.random.bytes(32))
        components = self._tagged(np.concatenate([np.array(ledger), values]), kind, named)
        second = drawn(named.seed)
        first = (-times(second, self.keys.secret) - errors(self.random)) % PRIME
        first[: components.size] = (first[: components.size] + (components << SCALE_BITS)) % PRIME
        first = (first + self._masks(kind, attempt)) % PRIME
        made = Sum(self.round, kind, attempt, 1, first, None if self.rules.seeded else second, (named,))
        if kind == "update":
            self.pending = Pending(named, np.zeros(VALUES, np.int64), values)
        return replace(made, tags=self._tags(made)) if self.rules.protocol == 4 else made

    def ask(self, total: Sum) -> str:
        """Answer to a sum: no code if it was applied."""
        try:
            _require_form(total, self.round)
            if self.rules.protocol == 4:
                self._require_authentic(total)
            try:
                components = self._opened(total)
                self._require_sound(total, components)
            except Refused as refused:
                if self.rules.protocol == 4:  # what institutions themselves added up is nonsense: void for all of them
                    self._settle(total, void=True)
                    return "void"
                raise refused from None
        except Refused as refused:
            return str(refused)
        self.model = self.model + components[BODY]
        self._settle(total)
        return ""

    def _settle(self, total: Sum, *, void: bool = False) -> None:
        if self.pending is not None:
            counted = not void and any(n.upload_id == self.pending.named.upload_id for n in total.named)
            self.residual = self.pending.counted if counted else self.pending.missed
        self.pending, self.round = None, self.round + 1

    # What protocol 3 checked, in its order, with its codes

    def _opened(self, total: Sum) -> Ints:
        self.opened += 1
        noisy = centred((total.first + _masked_out(total, self.keys)) % PRIME)
        components = (noisy + (1 << (SCALE_BITS - 1))) >> SCALE_BITS
        if components[-GUARDS:].any():
            raise Refused("guard")
        if np.abs(noisy - (components << SCALE_BITS)).max() > TOLERANCE:
            raise Refused("noise")
        if np.abs(components).max() > 2 ** (PAYLOAD_BITS - 1):
            raise Refused("opening")
        return components

    def _require_sound(self, total: Sum, components: Ints) -> None:
        if self.rules.integrity and self.rules.protocol == 3:
            self._require_tagged(total, components)
        participants, samples, measured = (int(v) for v in components[:3])
        if participants < 1 or samples < 0 or measured < 0 or participants != total.contributors:
            raise Refused("round")
        if participants < self.rules.minimum:
            raise Refused("too-few")
        if participants != len(total.named):
            raise Refused("round")

    # Protocol 3's tags: linear over a prime of 31 bits, made of plaintexts, checked after opening

    def _tagged(self, components: Ints, kind: str, named: Named) -> Ints:
        if not self.rules.integrity:
            return components
        tags = zip(self._hashes(components, kind), self._terms(named), strict=True)
        return np.concatenate([components, np.array([(h + t) % TAG_PRIME for h, t in tags])])

    def _require_tagged(self, total: Sum, components: Ints) -> None:
        end = LEDGER + VALUES
        expected = np.array(self._hashes(components[:end], total.kind))
        for named in total.named:
            expected += self._terms(named)
        if (components[end : end + TAGS] % TAG_PRIME != expected % TAG_PRIME).any():
            raise Refused("integrity")

    def _hashes(self, components: Ints, kind: str) -> list[int]:
        stream = hashlib.shake_256(self.keys.seed + f"tag {kind} {self.round}".encode())
        rows = np.frombuffer(stream.digest(4 * TAGS * components.size), "<u4").astype(np.int64) % TAG_PRIME
        return [int((components % TAG_PRIME * row % TAG_PRIME).sum()) for row in rows.reshape(TAGS, -1)]

    def _terms(self, named: Named) -> list[int]:
        stream = hashlib.shake_256(self.keys.seed + b"term" + bytes([named.member]) + named.upload_id).digest(8 * TAGS)
        return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") % TAG_PRIME for i in range(TAGS)]

    # What protocol 4 checks before it opens anything

    def _require_authentic(self, total: Sum) -> None:
        if self.refused >= self.rules.most_refused:
            raise Refused("locked")
        if self._tried.setdefault((total.round, total.kind, total.attempt), total.digest) != total.digest:
            raise Refused("refused")
        members = {named.member for named in total.named}
        own = [named for named in total.named if named.member == self.member]
        if (
            len(members) != len(total.named) or not members <= set(range(self.rules.members))
            or not self.rules.minimum <= len(members) == total.contributors
            or (own and (self.pending is None or own != [self.pending.named]))
            or total.tags != self._tags(total)
        ):  # fmt: skip
            self.refused += 1
            raise Refused("refused")

    def _tags(self, total: Sum) -> tuple[int, ...]:
        """Tags over the ciphertext's words, each upload's member, id and seed, and the round's key."""
        context = self.keys.seed + f"{total.kind} {total.round} {total.attempt}".encode()
        words = total.words.astype(object)
        stream = np.frombuffer(hashlib.shake_256(context).digest(8 * TAGS * words.size), "<u8").astype(object)
        sums = stream.reshape(TAGS, -1).dot(words)
        for named in total.named:
            pads = hashlib.shake_256(context + bytes([named.member]) + named.upload_id + named.seed).digest(16 * TAGS)
            sums = [s + int.from_bytes(pads[16 * i : 16 * i + 16], "little") for i, s in enumerate(sums)]
        return tuple(int(s) % PRIME for s in sums)

    def _id(self) -> bytes:
        mark = hmac.digest(self.keys.seed + bytes([self.member]), self.round.to_bytes(8, "little"), "sha256")
        return mark[:8] + self.random.bytes(8)

    def _masks(self, kind: str, attempt: int) -> Ints:
        total = np.zeros(DEGREE, np.int64)
        for other in range(self.rules.members if self.rules.masks else 0):
            if other != self.member:
                pair = f"{min(other, self.member)} {max(other, self.member)} {kind} {self.round} {attempt}".encode()
                stream = drawn(self.keys.seed + pair)
                total = (total + (stream if self.member < other else -stream)) % PRIME
        return total


def federation(rules: Rules, seed: int = 0) -> list[Institution]:
    """Institutions that share one key."""
    random = np.random.default_rng(seed)
    keys = Keys(ternary(random), random.bytes(32))
    return [Institution(member, rules, keys, np.random.default_rng([seed, member])) for member in range(rules.members)]


def _require_form(total: Sum, number: int) -> None:
    """All that can be checked without a key."""
    if total.first.shape != (DEGREE,) or total.words.min() < 0 or total.words.max() >= PRIME:
        raise Refused("corrupt")
    if total.round != number:
        raise Refused("round")


def _masked_out(total: Sum, keys: Keys) -> Ints:
    """What c1 s is, of seeds or of the second polynomial that was sent."""
    if total.second is not None:
        return times(total.second, keys.secret)
    return _of_seeds(tuple(named.seed for named in total.named), keys.secret.tobytes())


@lru_cache(maxsize=16)
def _of_seeds(seeds: tuple[bytes, ...], secret: bytes) -> Ints:
    """Kept, as the product keeps what it drew from its own upload's seeds."""
    total: Ints = sum((drawn(seed) for seed in seeds), np.zeros(DEGREE, np.int64)) % PRIME
    return times(total, np.frombuffer(secret, np.int64))
