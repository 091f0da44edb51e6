"""Shared state sealed for latecomers: the coordinator keeps it, and only institutions can open it.

Two institutions that hold the same state seal the same bytes: the nonce is drawn from the content by a key, as in SIV
(RFC 5297), so that it repeats only where everything repeats. The coordinator can then compare what all institutions say
of a snapshot that one of them sent, without a key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dictpfl.client.keys.epochs import Epoch, Keyring
from dictpfl.client.memory.record import Record
from dictpfl.common.errors import ConfigError, RoundError, SnapshotError, WireError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.refresh import forgotten
from dictpfl.common.law.selection import Best, Course
from dictpfl.common.law.state import Residual, SharedState, acknowledging
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.common.law.tally import Tallied, Tally
from dictpfl.common.messages.protocol import Aggregate, RoundKind
from dictpfl.common.messages.snapshots import NONCE_BYTES, TAG_BYTES, SnapshotHeader, body
from dictpfl.common.messages.wire import read_header

_PURPOSE = b"dictpfl snapshot 1"
_KEY = 32
MOST = 2**31 - 64
"""Most bytes of state: the library's AES-GCM takes no more in one call."""
SLACK = 1024
"""Bytes by which a snapshot may grow beyond that of the starting state, refreshes apart: its numbers get longer."""


def seal_snapshot(keys: Keyring, state: SharedState) -> bytes:
    """Seal the state under the key of the epoch in force: header and ciphertext.

    Raises:
        SnapshotError: a state that is too long.
    """
    genesis, epoch = keys.genesis, keys.table.last
    key, nonces = _derived(keys.secret_of(epoch), genesis, epoch)
    plain = to_bytes(state, genesis.federation)
    if len(plain) > MOST:
        raise SnapshotError(f"shared state has {len(plain)} bytes, a snapshot holds at most {MOST}; replay still works")
    header = SnapshotHeader(
        epoch=epoch.number,
        round=state.round,
        updates=state.updates,
        federation=genesis.federation,
        fingerprint=epoch.fingerprint,
        tag=state.tag(genesis.secret_seed),
        length=len(plain) + TAG_BYTES,
    )
    # The nonce depends on the content too: another release might encode the same state differently, under this header.
    drawn = hmac.digest(nonces, header.bound + hashlib.sha256(plain).digest(), "sha256")
    header = replace(header, nonce=drawn[:NONCE_BYTES])
    sealed = AESGCM(key).encrypt(header.nonce, plain, header.bound)
    return replace(header, digest=hashlib.sha256(sealed).digest()).to_bytes() + sealed


def open_snapshot(keys: Keyring, data: bytes, aggregates: Sequence[Aggregate], now: int) -> SharedState:
    """Open a snapshot that a coordinator sent together with `aggregates` while round `now` is open.

    Everything is checked before anything is returned: federation, epoch by the institution's own table, the seal, the
    state's digest, and that the institutions of the round that follows started from this very state.

    Raises:
        SnapshotError: altered, cut off, of a round to come, or confirmed by no aggregate.
        WireError (wrong-federation): a snapshot of another federation.
        WireError (wrong-key): a snapshot under another key.
        RoundError (drift): another state than the following round was made from.
        KeyFileError: sealed under the key of an epoch in which this institution was not.
    """
    header = SnapshotHeader.read(data)
    genesis = keys.genesis
    if header.federation != genesis.federation:
        raise WireError(
            f"a snapshot of federation {header.federation.hex()[:12]}, expected {genesis.federation.hex()[:12]}",
            code="wrong-federation",
        )
    epoch = keys.table.at(header.round)
    if (header.epoch, header.fingerprint) != (epoch.number, epoch.fingerprint):
        raise WireError(
            f"a snapshot of round {header.round} under key {header.fingerprint.hex()[:12]} of epoch {header.epoch}; that "
            f"round belongs to epoch {epoch.number} under key {epoch.fingerprint.hex()[:12]}",
            code="wrong-key",
        )
    _require_confirmed(header, aggregates, now)
    sealed = body(header, data)
    genesis = keys.genesis_of(epoch)
    key, _ = _derived(keys.secret_of(epoch), genesis, epoch)
    try:
        plain = AESGCM(key).decrypt(header.nonce, bytes(sealed), header.bound)
        state = of_bytes(plain, genesis.federation, genesis.layout, genesis.tallies)
    except InvalidTag:
        raise SnapshotError(
            f"a snapshot of round {header.round} does not open: it was altered, or no institution sealed it"
        ) from None
    except ConfigError as error:
        raise SnapshotError(f"a snapshot of round {header.round} holds no state of this federation: {error}") from error
    if (state.round, state.updates, state.tag(genesis.secret_seed)) != (header.round, header.updates, header.tag):
        raise SnapshotError(f"a snapshot of round {header.round} holds another state than its header says")
    keys.require_agreed(state)
    return state


def _require_confirmed(header: SnapshotHeader, aggregates: Sequence[Aggregate], now: int) -> None:
    """Refuse a state that the round after it was not made from: nothing else shows that it was agreed on."""
    if header.round > now:
        raise SnapshotError(f"a snapshot of round {header.round}, while round {now} is open")
    following = next((a.blob for a in aggregates if a.round == header.round and a.blob), None)
    if following is None and header.round < now:
        raise SnapshotError(
            f"a snapshot of round {header.round} without that round's aggregate: nothing shows that it was agreed on"
        )
    if following is not None and read_header(following).state_tag != header.tag:
        raise RoundError(
            f"the institutions in round {header.round} started from another shared state than the snapshot's; nothing was "
            "applied. It may be older than it says: ask the coordinator's operator",
            code="drift",
        )


def snapshot_bytes(genesis: Genesis) -> tuple[int, int]:
    """Compute the bytes of a snapshot of the starting state, and the most that every round may add by refreshes."""
    start = genesis.start()
    if genesis.law.selection.by != "none":
        start = replace(start, course=Course(Best(0.0, 0, 0, start.values)))
    if genesis.law.decision:
        # What a decision may add to shared state.
        size, tensors = genesis.layout.size, len(genesis.layout.entries)
        start = replace(start, clear=np.zeros(size, dtype=bool), scores=np.zeros(tensors))
    start = replace(start, tallies=tuple(_largest(tally, genesis.parameters.capacity) for tally in genesis.tallies))
    refresh = genesis.law.refresh
    whole = len(SnapshotHeader(1, 0, 0, bytes(32), bytes(32), bytes(32)).to_bytes()) + TAG_BYTES + SLACK
    whole += len(to_bytes(start, genesis.federation))
    if not refresh.every:
        return whole, 0
    values = sum(entry.size for entry in genesis.layout.entries)
    # A table is refreshed at most once in `every` rounds; but each may be refreshed in another round.
    events = 1 if refresh.when == "stall-tensor" else refresh.every
    return whole, -(-8 * values // refresh.every) + -(-(SLACK + len(genesis.layout.entries)) // events)


def _largest(tally: Tally, capacity: int) -> Tallied:
    """Opened tally that takes the most bytes."""
    sums = np.full(tally.layout.size, capacity * tally.largest, dtype=np.int64)
    return Tallied(tally.name, tally.when, capacity, 2**62, sums)


def _derived(secret: bytes, genesis: Genesis, epoch: Epoch) -> tuple[bytes, bytes]:
    """Derive the key of the seal and the key that draws nonces, for one federation and epoch."""
    context = b"".join([_PURPOSE, genesis.federation, epoch.number.to_bytes(8, "little"), epoch.fingerprint])
    made = HKDF(hashes.SHA256(), 2 * _KEY, salt=genesis.federation, info=context).derive(secret)
    return made[:_KEY], made[_KEY:]


Counted = Mapping[int, Sequence[bytes]]
"""Upload ids in the sum, by round."""


def jumped(
    record: Record, state: SharedState, aggregates: Sequence[Aggregate], layout: Layout, *, newcomer: bool = False
) -> tuple[Record, bool]:
    """Replace a record's shared state by a later one that its own rounds lead to; returns the record, and whether its residual was given up.

    Acknowledgements of every round in between (aggregates without a blob) continue the record's chain; only if they end in the chain of
    the state, which institutions sealed, they are the true ones. Another state would show other sums of rounds that were opened here.

    Args:
        record: the institution's.
        state: of the snapshot.
        aggregates: beside it.
        layout: of the shared vector.
        newcomer: it has opened no sum, and takes the state without acknowledgements; what it owes is given up then.

    Raises:
        RoundError (drift): its rounds do not lead there, or rounds in between are not listed.
    """
    counted = {a.round: a.counted for a in aggregates if record.shared.round <= a.round < state.round}
    chain = record.shared.acknowledged
    for number in sorted(counted):
        chain = acknowledging(chain, number, counted[number])
    is_led = chain == state.acknowledged
    if not is_led and not newcomer:
        unlisted = [number for number in range(record.shared.round, state.round) if number not in counted]
        found = f"no list of the uploads in rounds {unlisted}" if unlisted else "another history"
        raise RoundError(
            f"expected a snapshot of round {state.round} that the {record.shared.round} rounds applied here lead to, found {found} (state digest "
            f"{state.digest.hex()[:16]}); nothing was applied. The coordinator lost its journal or shows two groups different sums: compare round "
            "and digest of `dictpfl status` with the others by phone. Only if all agree on theirs, move memory/*.safetensors away, and nothing "
            "else: this institution then begins as a newcomer, without what it trained and did not deliver",
            code="drift",
        )
    owed, given_up = _owed(record, state.round, counted if is_led else {})
    owed = forgotten(layout, owed, state.records[len(record.shared.records) :])
    return replace(record, shared=state, residual=owed, pending=None), given_up


def delivered(record: Record, aggregates: Sequence[Aggregate], end: int) -> list[int]:
    """List rounds before `end`, which a snapshot skips, whose sums hold an upload of this institution: its account may be an old copy.

    An upload that the record does not know is taken for an update; and a void round, which lists none, for one that had it.
    """
    skipped = [a for a in aggregates if record.shared.round <= a.round < end]
    rounds = [a.round for a in skipped if not a.counted or record.is_in(a.counted, a.round)]
    if record.pending is None or read_header(record.pending.blob).kind is RoundKind.UPDATE:
        return rounds
    return [number for number in rounds if number != record.pending.round]


def _owed(record: Record, end: int, counted: Counted) -> tuple[Residual, bool]:
    pending, nothing = record.pending, Residual.none(record.residual.values.size)
    if pending is None and not record.residual.values.any():
        return nothing, False
    if any(number not in counted for number in range(record.shared.round, end)):
        return nothing, True
    remembered = pending is not None and pending.upload_id in counted[pending.round]
    others = [u for n, uploads in counted.items() for u in uploads if u.startswith(record.mark(n))]
    if len(others) > remembered:
        # This record comes from a backup, older than uploads that are in sums: those delivered its residual.
        return nothing, True
    if pending is None:
        return record.residual, False
    return (pending.counted if remembered else pending.missed), False
