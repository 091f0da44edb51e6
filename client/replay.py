"""Opening aggregates and applying them to shared state: the same for institutions and for who audits a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from client.manifests import require_manifests, require_whole
from common.circle import Roster
from common.errors import DriftError, RoundError
from common.genesis import Genesis
from common.keys import FederationKey
from common.ledger import Ledger, ledger_size
from common.manifest import Manifest
from common.opening import CKKSOpener, IdentityOpener, Opener
from common.packing import Ints
from common.protocol import Aggregate, RoundKind
from common.round import Plan, begin, finish, stopped
from common.state import SharedState
from common.wire import AGGREGATE, Blob, Header, read_kind


@dataclass(frozen=True)
class Applied:
    """A round that was applied: its plan, its ledger and the state that follows."""

    plan: Plan
    ledger: Ledger
    state: SharedState


def opener_for(genesis: Genesis, key: FederationKey | None) -> Opener:
    """What opens this federation's sums; without a key only the sums of one that encrypts nothing."""
    return IdentityOpener(genesis.parameters) if key is None else CKKSOpener(key)


def apply(
    genesis: Genesis,
    opener: Opener,
    state: SharedState,
    aggregate: Aggregate,
    minimum: int,
    roster: Roster | None = None,
    own: bytes = b"",
) -> Applied:
    """Validate, open and apply an aggregate.

    Args:
        roster: members of the epoch that the round was in, where the federation has manifests and tags to check.
        own: the manifest of the upload that this institution has sent for the round, if it has.

    Raises:
        WireError, OpeningError, RoundError: refused; the given state is untouched.
        DriftError: the sum was made from another shared state than this one.
    """
    number, kind, tag = read_kind(aggregate.blob)
    if number != state.round:
        raise RoundError(f"an aggregate of round {number} where round {state.round} is next; aggregates go in order")
    if (kind is RoundKind.SCORE) != (number < genesis.law.score_rounds):
        raise RoundError(f"round {number} carries {kind}, which genesis does not provide for")
    if kind is RoundKind.UPDATE and stopped(genesis.law, state):
        raise RoundError(f"round {number} carries an update after all institutions agreed to stop")
    plan = begin(genesis.law, state, kind)
    blob = Blob.parse(aggregate.blob, genesis.aggregates, direction=AGGREGATE, kind=kind, round=number)
    if tag != state.tag(genesis.seed):
        raise DriftError(
            f"the institutions in round {number} hold another shared state than this one; nothing was applied. "
            "Compare releases and genesis; restore memory from backup or remove it to catch up by replay"
        )
    expected = genesis.items(components(genesis, plan))
    if blob.header.items != expected or blob.header.clear_length != 4 * plan.clear.index.size:
        raise RoundError(f"round {number} has {blob.header.items} ciphertexts, its plan {expected}")
    whole = genesis.config.defences.integrity
    manifests = require_manifests(roster, blob.header, aggregate, own) if whole else []
    opened = opener.open(blob.sealed, blob.header.item_length)
    if whole:
        opened = _untagged(genesis, blob.header, manifests, opened, components(genesis, plan))
    clear = np.frombuffer(blob.clear, dtype="<i4").astype(np.int64)
    after, ledger = finish(
        genesis.law, state, plan, opened, clear, minimum=minimum, contributors=blob.header.contributors
    )
    if len(aggregate.counted) != ledger.participants:
        raise RoundError(
            f"{len(aggregate.counted)} uploads are said to be counted, the ledger holds {ledger.participants}"
        )
    return Applied(plan, ledger, after)


def _untagged(genesis: Genesis, header: Header, manifests: Sequence[Manifest], opened: Ints, count: int) -> Ints:
    """The components as they are without tags, with the padding of the last ciphertext."""
    return np.concatenate([require_whole(genesis, header, manifests, opened[:count]), opened[count:]])


def untagged(genesis: Genesis, plan: Plan, opened: Ints) -> Ints:
    """Opened components without the tags that they may have; these are not looked at here."""
    end = components(genesis, plan)
    return np.concatenate([opened[: end - genesis.tags], opened[end:]]) if genesis.tags else opened


def components(genesis: Genesis, plan: Plan) -> int:
    """Components of an upload: the ledger, the sealed stream, and tags where there are any.

    With `pad_uploads` the stream is as long as if nothing were pruned.
    """
    whole = genesis.config.encryption.pad_uploads and plan.kind is RoundKind.UPDATE
    stream = plan.sealed.digits.components(genesis.layout.size if whole else plan.sealed.index.size)
    return ledger_size(len(genesis.layout.entries)) + stream + genesis.tags


def payload(genesis: Genesis, plan: Plan) -> int:
    """Components of an upload before its tags."""
    return components(genesis, plan) - genesis.tags


def padded(genesis: Genesis, plan: Plan, packed: Ints) -> Ints:
    """An upload's components with zeros behind them, as many as `payload` says."""
    return np.pad(packed, (0, payload(genesis, plan) - packed.size))
