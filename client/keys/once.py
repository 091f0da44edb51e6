"""Objects that institutions of one process hold alike, kept in memory once: the agreement, and shared state.

Both are frozen, so that nobody notices. A simulation of 200 institutions has one shared vector this way, not 200.
"""

from __future__ import annotations

import hashlib
from weakref import WeakValueDictionary

from dictpfl.common.genesis import Genesis
from dictpfl.common.law.state import SharedState

_GENESES: WeakValueDictionary[bytes, Genesis] = WeakValueDictionary()
_STATES: WeakValueDictionary[bytes, SharedState] = WeakValueDictionary()


def one_genesis(genesis: Genesis) -> Genesis:
    """Return the equal agreement that this process has already, if it has; with what that one has computed so far."""
    # The federation id covers most of it; the rest is what a federation may change or what is an institution's own.
    name = hashlib.sha256(genesis.federation + genesis.fingerprint)
    for part in (genesis.epoch_seed, repr(genesis.parameters).encode(), genesis.config.canonical()):
        name.update(len(part).to_bytes(8, "little") + part)
    return _GENESES.setdefault(name.digest(), genesis)


def one_state(state: SharedState) -> SharedState:
    """Return the equal shared state that this process has already, if it has."""
    return _STATES.setdefault(state.digest + state.acknowledged, state)
