"""The authority: founds a federation, begins its epochs, and keeps no key.

Its folder holds its identity, its custody log, and `federation.sealed`: what a further epoch needs (genesis with its
seed, W0, the table of epochs, the members), sealed at rest. The key goes into the bundles and nowhere else.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from client.epochs import Epoch, EpochTable
from common.circle import Peer, Roster
from common.config import FederationConfig
from common.errors import ConfigError, IdentityError, RotationError
from common.files import sync_folder, write_private
from common.genesis import Genesis
from common.keys import FederationKey, make_key
from common.state import SharedState
from deploy.ceremony import custody
from deploy.ceremony.bundle import Contents, write_bundle
from deploy.ceremony.charter import draw_up
from deploy.ceremony.export import Exported, agreed_state, read_export
from deploy.ceremony.identity import Identity, Role, open_identity
from deploy.ceremony.keeping import FEDERATION, Kept, Members, keep, kept
from deploy.ceremony.members import changed, identities
from deploy.ceremony.terms import TERMS, Member, Terms, require_hash
from deploy.founding import agreement_of
from server.coordinator import AGREEMENT

BUNDLES, COORDINATOR, NODES = "bundles", "coordinator", "nodes"


@dataclass(frozen=True)
class Issued:
    """What a ceremony made: in `folder`, a bundle for each member and the coordinator's half; `app`: the agreed hash."""

    folder: Path
    genesis: Genesis
    table: EpochTable
    members: Members
    app: str

    @property
    def coordinator(self) -> Path:
        """The coordinator's half."""
        return self.folder / COORDINATOR

    def bundle(self, name: str) -> Path:
        """A member's bundle."""
        return self.folder / BUNDLES / f"{name}.bundle"


def found(
    home: Path,
    passphrase: bytes,
    config: FederationConfig,
    institutions: Mapping[str, Path],
    out: Path,
    *,
    app: str,
    sample_shape: tuple[int, ...],
    outputs: int,
    weights: Path | None = None,
    seed: bytes | None = None,
) -> Issued:
    """Genesis: fix everything, make the key, write a bundle for each institution and the coordinator's half.

    Args:
        home: the authority's folder, with its identity. `out`: a folder that is missing or empty.
        institutions: `identity.pub` by name.
        app: SHA-256 of the app bundle that everybody runs, in hexadecimal. The rest: `deploy.ceremony.charter.draw_up`.

    Raises:
        DictPFLError: refused; `out` is not written.
    """
    require_hash(app)
    authority = _opened(home, passphrase)
    if (home / FEDERATION).exists():
        raise ConfigError(
            f"{home} already has a federation; `dictpfl authority rotate`, or another folder for another one"
        )
    members = identities(institutions)
    if len(members) != config.federation.participants:
        raise ConfigError(
            f"federation.participants is {config.federation.participants}, {len(members)} identities are given; make them "
            "equal (max_participants leaves room for institutions that come later)"
        )
    charter = draw_up(config, sample_shape, outputs, weights=weights, seed=seed)
    table = EpochTable((Epoch(1, 0, charter.genesis.fingerprint),))
    federation = Kept(charter.genesis, charter.weights, table, members, 1, app, config.federation.rounds)
    return _issue(home, authority, passphrase, federation, charter.key, None, out, "genesis")


def rotate(
    home: Path,
    passphrase: bytes,
    exports: Sequence[Path],
    out: Path,
    *,
    add: Mapping[str, Path] | None = None,
    remove: Sequence[str] = (),
    app: str = "",
    rounds: int = 0,
    abandon: bool = False,
) -> Issued:
    """Begin an epoch: a new key for those who stay and those who come; shared state goes on.

    Args:
        exports: shared state as exported by members; if there are several, they must agree.
        add: `identity.pub` by name. `remove`: names.
        app: SHA-256 of the app bundle of the new epoch, empty: as before.
        rounds: update rounds in all, 0: as before.
        abandon: drop epochs that were issued but never begun.

    Raises:
        DictPFLError: refused; `out` is not written.
    """
    authority = _opened(home, passphrase)
    federation = kept(home, passphrase)
    members = changed(federation, identities(add or {}), remove)
    state, epoch = agreed_state([_read(path, authority, federation) for path in exports])
    earlier = _epochs_up_to(federation.table, epoch, abandon=abandon)
    if state.round < earlier[-1].first_round:
        raise RotationError(
            f"the state is of round {state.round}, before epoch {epoch} began at {earlier[-1].first_round}; export it from "
            "an institution that has caught up"
        )
    key = make_key(federation.genesis.parameters)
    number = federation.last + 1
    after = Kept(
        replace(federation.genesis, fingerprint=key.fingerprint),
        federation.weights,
        EpochTable((*earlier, Epoch(number, state.round, key.fingerprint)), state.digest),
        members,
        number,
        require_hash(app or federation.app),
        rounds or federation.rounds,
    )
    return _issue(home, authority, passphrase, after, key, state, out, "rotation")


def _issue(
    home: Path,
    authority: Identity,
    passphrase: bytes,
    federation: Kept,
    key: FederationKey,
    start: SharedState | None,
    out: Path,
    event: str,
) -> Issued:
    last = federation.table.last
    half = _half(federation)
    terms = Terms(
        federation.genesis.federation,
        last.number,
        last.first_round,
        last.fingerprint,
        federation.app,
        hashlib.sha256(half).digest(),
        {name: Member(member.fingerprint, member.node) for name, member in federation.members.items()},
        authority.public,
    ).signed(authority)
    contents = Contents(
        federation.genesis, federation.weights, key, federation.table, start, terms, _roster(federation)
    )
    issued = Issued(out, federation.genesis, federation.table, federation.members, federation.app)
    with _new_folder(out) as draft:
        _write(replace(issued, folder=draft), contents, authority, half)
        # Said before it is handed out: a key without an entry would be worse than an entry without a key.
        custody.record(
            home,
            authority,
            event,
            federation=federation.genesis.federation.hex(),
            epoch=last.number,
            first_round=last.first_round,
            key=last.fingerprint.hex(),
            app=federation.app,
            institutions={name: member.fingerprint.hex() for name, member in sorted(federation.members.items())},
        )
    keep(home, passphrase, federation)
    return issued


def _write(issued: Issued, contents: Contents, authority: Identity, half: bytes) -> None:
    for part in (BUNDLES, COORDINATOR, f"{COORDINATOR}/{NODES}"):
        (issued.folder / part).mkdir(mode=0o700)
    for name, member in issued.members.items():
        write_private(issued.bundle(name), write_bundle(contents, authority, member))
        write_private(issued.coordinator / NODES / f"{name}.pub", (member.node + "\n").encode())
    write_private(issued.coordinator / AGREEMENT, half)
    write_private(issued.coordinator / TERMS, contents.terms.to_bytes())
    write_private(issued.folder / "authority.pub", authority.document())


def _half(federation: Kept) -> bytes:
    """The coordinator's half of genesis, but for the terms that name its digest."""
    agreement, last = agreement_of(federation.genesis, _roster(federation)), federation.table.last
    agreement = replace(agreement, epoch=last.number, first_round=last.first_round, rounds=federation.rounds)
    return agreement.to_bytes()


def _roster(federation: Kept) -> Roster | None:
    """Keys of all members, where they need them."""
    if not federation.genesis.config.defences.any:
        return None
    members = sorted(federation.members.values(), key=lambda member: member.name)
    return Roster(tuple(Peer(member.name, member.receiving, member.signing) for member in members))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A draft beside `out` that takes its name once everything is in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            yield draft
            draft.replace(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error}") from error


def _opened(home: Path, passphrase: bytes) -> Identity:
    authority = open_identity(home, passphrase)
    if authority.public.role is not Role.AUTHORITY:
        raise IdentityError(f"{home} is the folder of an {authority.public.role}, expected an authority's")
    return authority


def _read(path: Path, authority: Identity, federation: Kept) -> Exported:
    members = {member.fingerprint for member in federation.members.values()}
    return read_export(path, authority, members, federation.genesis)


def _epochs_up_to(table: EpochTable, epoch: int, *, abandon: bool) -> tuple[Epoch, ...]:
    """The epochs that the exporting institutions live by."""
    kept = tuple(e for e in table.epochs if e.number <= epoch)
    if not kept or kept[-1].number != epoch:
        raise RotationError(f"the exported state is of epoch {epoch}, which this authority does not know")
    if len(kept) < len(table.epochs) and not abandon:
        raise RotationError(
            f"the state was exported in epoch {epoch}, but epoch {table.last.number} was issued. Export it from an "
            "institution that has joined that one; or, if no round was ever closed in it, say so by --abandon"
        )
    return kept
