"""Shared state sealed for latecomers: the coordinator keeps it, and only institutions can open it.

Two institutions that hold the same state seal the same bytes: the nonce is drawn from the content by a key, as in SIV
(RFC 5297), so that it repeats only where everything repeats. The coordinator can then compare what all institutions say
of a snapshot that one of them sent, without a key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from client.epochs import Epoch, Keyring
from client.snapshot import of_bytes, to_bytes
from common.errors import ConfigError, DriftError, SnapshotError, WrongFederationError, WrongKeyError
from common.genesis import Genesis
from common.protocol import Aggregate
from common.selection import Best, Course
from common.snapshots import NONCE_BYTES, TAG_BYTES, SnapshotHeader, body
from common.state import SharedState
from common.wire import read_kind

_PURPOSE = b"dictpfl snapshot 1"
_KEY = 32
MOST = 2**31 - 64
"""Bytes of state: what the library's AES-GCM takes in one go."""
SLACK = 1024
"""Bytes by which a snapshot may be longer than that of the starting state, refreshes apart: numbers get longer."""


def seal_snapshot(keys: Keyring, state: SharedState) -> bytes:
    """The state, sealed under the epoch in force: header and ciphertext.

    Raises:
        SnapshotError: too long.
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
        tag=state.tag(genesis.seed),
        length=len(plain) + TAG_BYTES,
    )
    # Over the content, too: another release might write the same state as other bytes, under the same header.
    drawn = hmac.digest(nonces, header.bound + hashlib.sha256(plain).digest(), "sha256")
    header = replace(header, nonce=drawn[:NONCE_BYTES])
    sealed = AESGCM(key).encrypt(header.nonce, plain, header.bound)
    return replace(header, digest=hashlib.sha256(sealed).digest()).to_bytes() + sealed


def open_snapshot(keys: Keyring, data: bytes, aggregates: Sequence[Aggregate], now: int) -> SharedState:
    """The state in a snapshot that a coordinator handed out together with `aggregates`, with round `now` open.

    Everything is checked before anything is returned: federation, epoch by the institution's own table, the seal, the
    state's digest, and that the institutions of the round that follows started from this very state.

    Raises:
        SnapshotError: altered, cut off, of a round to come, or one that no aggregate confirms.
        WrongFederationError, WrongKeyError: of another federation or key.
        DriftError: not the state that the round that follows was made from.
        KeyFileError: sealed under the key of an epoch in which this institution was not.
    """
    header = SnapshotHeader.read(data)
    genesis = keys.genesis
    if header.federation != genesis.federation:
        raise WrongFederationError(
            f"a snapshot of federation {header.federation.hex()[:12]}, expected {genesis.federation.hex()[:12]}"
        )
    epoch = keys.table.at(header.round)
    if (header.epoch, header.fingerprint) != (epoch.number, epoch.fingerprint):
        raise WrongKeyError(
            f"a snapshot of round {header.round} under key {header.fingerprint.hex()[:12]} of epoch {header.epoch}; that "
            f"round belongs to epoch {epoch.number} under key {epoch.fingerprint.hex()[:12]}"
        )
    _require_confirmed(header, aggregates, now)
    sealed = body(header, data)
    key, _ = _derived(keys.secret_of(epoch), genesis, epoch)
    try:
        plain = AESGCM(key).decrypt(header.nonce, bytes(sealed), header.bound)
        state = of_bytes(plain, genesis.federation, genesis.layout)
    except InvalidTag:
        raise SnapshotError(
            f"a snapshot of round {header.round} does not open: it was altered, or no institution sealed it"
        ) from None
    except ConfigError as error:
        raise SnapshotError(f"a snapshot of round {header.round} holds no state of this federation: {error}") from error
    if (state.round, state.updates, state.tag(genesis.seed)) != (header.round, header.updates, header.tag):
        raise SnapshotError(f"a snapshot of round {header.round} holds another state than its header says")
    keys.require_agreed(state)
    return state


def _require_confirmed(header: SnapshotHeader, aggregates: Sequence[Aggregate], now: int) -> None:
    """A state stands for what was agreed only if the round after it was made from it."""
    if header.round > now:
        raise SnapshotError(f"a snapshot of round {header.round}, while round {now} is open")
    following = next((a.blob for a in aggregates if a.round == header.round and a.blob), None)
    if following is None and header.round < now:
        raise SnapshotError(
            f"a snapshot of round {header.round} without that round's aggregate: nothing shows that it was agreed on"
        )
    if following is not None and read_kind(following)[2] != header.tag:
        raise DriftError(
            f"the institutions in round {header.round} started from another shared state than the snapshot's; nothing was "
            "applied. It may be older than it says: ask the coordinator's operator"
        )


def snapshot_bytes(genesis: Genesis) -> tuple[int, int]:
    """Bytes of a snapshot of the starting state, and the most that every round may add (by refreshes)."""
    start = genesis.start()
    if genesis.law.selection.by != "none":
        start = replace(start, course=Course(Best(0.0, 0, 0, start.values)))
    refresh = genesis.law.refresh
    whole = len(SnapshotHeader(1, 0, 0, bytes(32), bytes(32), bytes(32)).to_bytes()) + TAG_BYTES + SLACK
    whole += len(to_bytes(start, genesis.federation))
    if not refresh.every:
        return whole, 0
    values = sum(entry.size for entry in genesis.layout.entries)
    # No table more often than that; but each may have a round of its own.
    events = 1 if refresh.when == "stall-tensor" else refresh.every
    return whole, -(-8 * values // refresh.every) + -(-(SLACK + len(genesis.layout.entries)) // events)


def _derived(secret: bytes, genesis: Genesis, epoch: Epoch) -> tuple[bytes, bytes]:
    """The key of the seal and the key that draws nonces, of one federation and epoch."""
    context = b"".join([_PURPOSE, genesis.federation, epoch.number.to_bytes(8, "little"), epoch.fingerprint])
    made = HKDF(hashes.SHA256(), 2 * _KEY, salt=genesis.federation, info=context).derive(secret)
    return made[:_KEY], made[_KEY:]
