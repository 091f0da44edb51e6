"""Shared state, handed by an institution to the authority for a rotation: signed by the one, sealed for the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import START, Keyring
from dictpfl.client.memory.record import Memory
from dictpfl.common.errors import BundleError, CeremonyError, ConfigError
from dictpfl.common.files import write_private
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.envelope import Envelope, seal
from dictpfl.deploy.ceremony.identity import Identity, PublicIdentity, open_identity
from dictpfl.deploy.ceremony.pinning import pinned

KIND = "state"


@dataclass(frozen=True)
class Exported:
    """A state, the epoch that its exporter is in, and who exported it."""

    state: SharedState
    epoch: int
    sender: PublicIdentity


def export_state(folder: Path, passphrase: bytes, out: Path, *, replace: bool = False) -> SharedState:
    """Write the institution's shared state for the authority that it pinned.

    Raises:
        DictPFLError: nothing to export, not caught up, or `out` is there already and not to be replaced.
    """
    institution = open_identity(folder, passphrase)
    authority = pinned(folder)
    if authority is None:
        raise CeremonyError(f"{folder} knows no authority yet; `dictpfl institution join` comes first")
    if out.exists() and not replace:
        raise CeremonyError(f"{out} exists and is not overwritten; name another file")
    keys = Keyring(folder, InstitutionSettings.load(folder), passphrase)
    memory = Memory(folder / "memory", keys.genesis.federation)
    with memory.locked():
        record = memory.recall()
    state, epoch = record.shared if record else keys.start(), keys.table.last
    if state.round < epoch.first_round:
        raise CeremonyError(
            f"this institution is at round {state.round}, epoch {epoch.number} began at {epoch.first_round}; let it catch up, "
            "or have another one export",
            code="rotation",
        )
    data = _sealed(keys.genesis, state, epoch.number, institution, authority)
    custody.record(
        folder, institution, "state exported", epoch=epoch.number, round=state.round, digest=state.digest.hex()
    )
    try:
        write_private(out, data)
    except OSError as error:
        raise CeremonyError(f"cannot write {out}: {error.strerror}") from error
    return state


def _sealed(genesis: Genesis, state: SharedState, epoch: int, sender: Identity, to: PublicIdentity) -> bytes:
    facts = {"federation": genesis.federation.hex(), "epoch": epoch, "round": state.round}
    return seal(KIND, facts, {START: to_bytes(state, genesis.federation)}, sender, to)


def read_export(path: Path, authority: Identity, members: Collection[bytes], genesis: Genesis) -> Exported:
    """Read a member's export; `members` are fingerprints.

    Raises:
        BundleError: altered, for another authority, or from nobody who takes part.
    """
    try:
        envelope = Envelope.read(path.read_bytes(), KIND)
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}") from error
    if envelope.sender.fingerprint not in members:
        raise BundleError(
            f"{path} is signed by {envelope.sender.name} ({envelope.sender.fingerprint.hex()[:12]}), who is no member",
            code="unknown-sender",
        )
    files, facts = envelope.open(authority), envelope.facts
    try:
        state = of_bytes(files[START], genesis.federation, genesis.layout, genesis.tallies)
        epoch = int(facts["epoch"])
        good = (
            set(files) == {START} and facts["round"] == state.round and facts["federation"] == genesis.federation.hex()
        )
    except (ConfigError, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path} holds no state of this federation: {error}", code="wrong-bundle") from error
    if not good:
        raise BundleError(
            f"{path} says one thing outside and holds another; have it exported again", code="wrong-bundle"
        )
    return Exported(state, epoch, envelope.sender)


def agreed_state(exports: Sequence[Exported], least: int = 1) -> tuple[SharedState, int]:
    """Return the one state, and the epoch that it was exported in; `least`: institutions that must stand for it.

    Raises:
        CeremonyError (rotation): none, of too few, or they differ.
    """
    if not exports:
        raise CeremonyError(
            "no exported state; `dictpfl institution export-state` makes one, two are better", code="rotation"
        )
    if len(senders := sorted({e.sender.name for e in exports})) < least:
        raise CeremonyError(
            f"the state is that of {', '.join(senders)} alone, and all would go on from it: give another --state, from another "
            "institution; or, where no other can export one, --one-state, and compare its digest (`dictpfl status`) by phone",
            code="rotation",
        )
    if len({(e.state.digest, e.state.round, e.epoch) for e in exports}) > 1:
        found = ", ".join(f"{e.sender.name}: round {e.state.round} of epoch {e.epoch}" for e in exports)
        raise CeremonyError(
            f"the exported states differ ({found}); at the same round, one of them has drifted or lies. Export them again",
            code="rotation",
        )
    return exports[0].state, exports[0].epoch
