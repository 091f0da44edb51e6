"""Replay: sums checked, opened and applied to shared state, for institutions and for audits of a run.

Three steps, in this order. `received` checks what everybody can check. `require_authentic` checks that the sum is that of
uploads which members made, each once. Only then `apply` decrypts; whatever is wrong after that is one of these
uploads, and makes the round void, at every institution alike (docs/decisions/0029).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from dictpfl.common.ckks.opening import Opener
from dictpfl.common.errors import IntegrityError, OpeningError, RoundError, VoidError
from dictpfl.common.genesis import Genesis, components, require_tagged
from dictpfl.common.law.finishing import finish
from dictpfl.common.law.integrity import require_manifests
from dictpfl.common.law.ledger import Ledger
from dictpfl.common.law.members import Roster
from dictpfl.common.law.order import admits, is_final
from dictpfl.common.law.round import Plan, begin
from dictpfl.common.law.state import SharedState, acknowledging
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.wire import AGGREGATE, Blob, read_header
from dictpfl.common.words import Words


@dataclass(frozen=True)
class Sum:
    """Sum that has the form of the round that is next.

    Attributes:
        plan: plan of the round.
        blob: the sum, parsed.
        words: its words, tags included, uint64; they may be beyond the word prime.
        manifests: manifests of its uploads, joined; empty where there are none.
        digest: SHA-256 of the sum, 32 bytes.
    """

    plan: Plan
    blob: Blob
    words: Words
    manifests: bytes
    digest: bytes


@dataclass(frozen=True)
class Applied:
    """Result of applying a round.

    Attributes:
        plan: plan of the round.
        ledger: sum of the participants' ledgers; None where the round is void.
        state: shared state after the round.
        void: reason why nothing was applied though the tags were right; "" where it was.
    """

    plan: Plan
    ledger: Ledger | None
    state: SharedState
    void: str = ""


def received(genesis: Genesis, state: SharedState, aggregate: Aggregate) -> Sum:
    """Check a sum's form: nothing here depends on a secret that the coordinator lacks, except on which state is held.

    Raises:
        WireError: not of the agreed form.
        RoundError: of another round or plan.
        RoundError (drift): made from another shared state than this one, as uploads say in clear, too.
    """
    header = read_header(aggregate.blob)
    number, kind = header.round, header.kind
    if number != state.round:
        raise RoundError(f"an aggregate of round {number} where round {state.round} is next; aggregates go in order")
    if not admits(genesis.law, state, kind):
        raise RoundError(f"round {number} carries {kind}, which genesis does not provide for")
    if kind is RoundKind.UPDATE and is_final(genesis.law, state):
        raise RoundError(f"round {number} carries an update after all institutions agreed to stop")
    blob = Blob.parse(aggregate.blob, genesis.limits, direction=AGGREGATE, kind=kind, round=number)
    if header.state_tag != state.tag(genesis.secret_seed):
        raise RoundError(
            f"the institutions in round {number} hold another shared state than this one; nothing was applied. "
            "Compare releases and genesis; restore memory from backup or remove it to catch up by replay",
            code="drift",
        )
    plan = begin(genesis.law, state, kind)
    expected = genesis.words(components(genesis, plan))
    if header.words != expected or header.clear_length != 4 * plan.clear.components:
        raise RoundError(f"round {number} has {header.words} words, its plan {expected}")
    return Sum(plan, blob, blob.words(), aggregate.manifests, hashlib.sha256(aggregate.blob).digest())


def require_authentic(genesis: Genesis, total: Sum, minimum: int, roster: Roster | None = None) -> Words:
    """Check that a sum is that of uploads which members of the epoch made, each once; return its words without tags.

    Args:
        genesis: agreement of the federation, in the round's epoch.
        total: the sum.
        minimum: fewest participants that this institution accepts.
        roster: members of the round's epoch; None: their number, and manifests, are not checked.

    Raises:
        IntegrityError: it is not; nothing was decrypted.
    """
    blob = total.blob
    members = [entry.member for entry in blob.entries]  # distinct: they rise
    if len(members) < minimum or (roster is not None and members[-1] >= len(roster.peers)):
        raise IntegrityError(
            "members",
            f"members {members} are in the sum; this institution opens sums of {minimum} or more (min_participants), of members "
            f"of the epoch ({len(roster.peers) if roster else 'not known'})",
        )
    if roster is not None and genesis.config.defences.integrity:
        require_manifests(roster, blob.header, blob.entries, total.manifests)
    return require_tagged(genesis, blob, total.words)


def apply(genesis: Genesis, opener: Opener, state: SharedState, total: Sum, words: Words) -> Applied:
    """Open a sum that is authentic and apply it; the given state is untouched.

    Args:
        genesis: agreement of the federation, in the round's epoch.
        opener: opener with the key of that epoch.
        state: shared state before the round.
        total: the sum.
        words: its words, as `require_authentic` returned them.

    Raises:
        RoundError: the decision of a score round is none; an error of the same software at all institutions.
    """
    blob, plan = total.blob, total.plan
    try:
        opened = opener.open(words, [entry.seed for entry in blob.entries], components(genesis, plan))
        clear = np.frombuffer(blob.clear, dtype="<i4").astype(np.int64)
        after, ledger = finish(genesis.law, state, plan, opened, clear, contributors=blob.header.contributors)
    except (OpeningError, VoidError) as error:
        return Applied(plan, None, state.void(score=plan.kind is RoundKind.SCORE), str(error))
    chain = acknowledging(state.acknowledged, state.round, blob.counted)
    return Applied(plan, ledger, replace(after, acknowledged=chain))


def replay(
    genesis: Genesis,
    opener: Opener,
    state: SharedState,
    aggregate: Aggregate,
    minimum: int = 1,
    roster: Roster | None = None,
) -> Applied:
    """Check, open and apply a recorded sum; one that institutions refused, and went on without, makes its round void.

    Raises:
        WireError, RoundError: refused; the given state is untouched.
    """
    total = received(genesis, state, aggregate)
    try:
        words = require_authentic(genesis, total, minimum, roster)
    except IntegrityError as error:
        if error.reason == "members":
            raise
        return Applied(total.plan, None, state.void(score=total.plan.kind is RoundKind.SCORE), str(error))
    return apply(genesis, opener, state, total, words)
