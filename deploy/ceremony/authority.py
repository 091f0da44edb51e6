"""The authority: founds a federation, begins its epochs, and keeps no key.

Its folder holds its identity, its custody log, and `federation.sealed`: what a further epoch needs (genesis with its
seed, W0, the table of epochs, the members), sealed at rest. Each epoch's key and seed go into the bundles and nowhere else.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dictpfl.client.keys.epochs import Epoch, EpochTable
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import CeremonyError, ConfigError, IdentityError
from dictpfl.common.files import sync_folder, write_private
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.members import Peer, Roster
from dictpfl.common.law.seeds import new_seed
from dictpfl.common.law.state import SharedState
from dictpfl.deploy.agreeing import agreement_of
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.bundle import STUDY, Bound, Contents, write_bundle
from dictpfl.deploy.ceremony.charter import Charter, draw_up
from dictpfl.deploy.ceremony.export import Exported, agreed_state, read_export
from dictpfl.deploy.ceremony.identity import Identity, Role, open_identity
from dictpfl.deploy.ceremony.keeping import FEDERATION, Kept, Members, keep, kept, studies_of_departed
from dictpfl.deploy.ceremony.members import changed, identities
from dictpfl.deploy.ceremony.terms import TERMS, Member, Terms, require_hash
from dictpfl.server.coordinator import AGREEMENT

BUNDLES, COORDINATOR, NODES = "bundles", "coordinator", "nodes"


@dataclass(frozen=True)
class Issued:
    """Result of a ceremony: in `folder` a bundle for each member and the coordinator's half.

    Attributes:
        folder: with `bundles/` and `coordinator/`.
        genesis: the agreement.
        table: its epochs.
        members: of the last one.
        app: the agreed hash.
        teacher: bytes of the teacher in each bundle; 0: there is none.
        ended: studies that end where this epoch is joined, each with its members who left.
    """

    folder: Path
    genesis: Genesis
    table: EpochTable
    members: Members
    app: str
    teacher: int = 0
    ended: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        """The coordinator's half."""
        return self.folder / COORDINATOR

    def bundle(self, name: str) -> Path:
        """Return a member's bundle."""
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
        home: the authority's folder, with its identity.
        out: a folder that is missing or empty.
        institutions: `identity.pub` by name.
        app: SHA-256 of the app bundle that everybody runs, in hexadecimal. The rest: `dictpfl.deploy.ceremony.charter.draw_up`.

    Raises:
        DictPFLError: refused; `out` is not written.
    """
    authority = opened(home, passphrase)
    if (home / FEDERATION).exists():
        raise ConfigError(
            f"{home} already has a federation; `dictpfl authority rotate`, `dictpfl study propose` for another one with the same "
            "institutions, or another folder"
        )
    members = identities(institutions)
    charter = _charter(config, members, app, sample_shape, outputs, weights, seed)
    return _begin(home, home, authority, passphrase, charter, members, app, out)


@dataclass(frozen=True)
class Study:
    """A study at the authority.

    Attributes:
        folder: keeps what `federation.sealed` of a network keeps.
        bound: what its bundles are bound to.
        papers: proposal and approvals, for each bundle.
        notice: signed page that names the study, for the coordinator, who gets no proposal: it tells the configuration.
    """

    folder: Path
    bound: Bound
    papers: bytes
    notice: bytes


def found_study(
    home: Path,
    passphrase: bytes,
    study: Study,
    config: FederationConfig,
    members: Members,
    out: Path,
    *,
    app: str,
    sample_shape: tuple[int, ...],
    outputs: int,
    weights: Path | None = None,
) -> Issued:
    """Make a key for a study and seal it to `members`, who are known and have approved; see `found`.

    Raises:
        DictPFLError: refused; `out` is not written.
    """
    authority = opened(home, passphrase)
    if (study.folder / FEDERATION).exists():
        raise CeremonyError(f"the study {study.bound.study} has its key; clone it for another one")
    charter = _charter(config, members, app, sample_shape, outputs, weights, None)
    return _begin(home, study.folder, authority, passphrase, charter, members, app, out, study)


def _charter(
    config: FederationConfig,
    members: Members,
    app: str,
    sample_shape: tuple[int, ...],
    outputs: int,
    weights: Path | None,
    seed: bytes | None,
) -> Charter:
    require_hash(app)
    if len(members) != config.federation.participants:
        raise ConfigError(
            f"federation.participants is {config.federation.participants}, {len(members)} identities are given; make them "
            "equal (max_participants leaves room for institutions that come later)"
        )
    return draw_up(config, sample_shape, outputs, weights=weights, seed=seed)


def _begin(
    home: Path,
    place: Path,
    authority: Identity,
    passphrase: bytes,
    charter: Charter,
    members: Members,
    app: str,
    out: Path,
    study: Study | None = None,
) -> Issued:
    table, rounds = EpochTable((Epoch(1, 0, charter.genesis.fingerprint),)), charter.genesis.config.federation.rounds
    federation = Kept(charter.genesis, charter.weights, table, members, 1, app, rounds, charter.teacher)
    return _issue(home, place, authority, passphrase, federation, charter.key, None, out, "genesis", study)


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
    least: int = 1,
) -> Issued:
    """Begin an epoch: a new key for those who stay and those who come; shared state goes on.

    Args:
        exports: shared state as exported by members; if there are several, they must agree.
        add: `identity.pub` by name.
        remove: names.
        app: SHA-256 of the app bundle of the new epoch, empty: as before.
        rounds: update rounds in all, 0: as before.
        abandon: drop epochs that were issued but never begun.
        least: institutions whose exports must agree; where it is 1, that one decides what all go on from.

    Raises:
        DictPFLError: refused; `out` is not written.
    """
    authority = opened(home, passphrase)
    federation = kept(home, passphrase)
    members = changed(federation, identities(add or {}), remove)
    state, epoch = agreed_state([_read(path, authority, federation) for path in exports], least)
    earlier = _epochs_up_to(federation.table, epoch, abandon=abandon)
    if state.round < earlier[-1].first_round:
        raise CeremonyError(
            f"the state is of round {state.round}, before epoch {epoch} began at {earlier[-1].first_round}; export it from "
            "an institution that has caught up",
            code="rotation",
        )
    # With a seed of its own: who left has genesis's, and must not go on to compute what is sent, or who masks with whom.
    key = make_key(federation.genesis.parameters, new_seed())
    number = federation.last + 1
    after = Kept(
        replace(federation.genesis, fingerprint=key.fingerprint),
        federation.weights,
        EpochTable((*earlier, Epoch(number, state.round, key.fingerprint)), state.digest),
        members,
        number,
        require_hash(app or federation.app),
        rounds or federation.rounds,
        federation.teacher,
    )
    ended = studies_of_departed(home, passphrase, members)
    return replace(_issue(home, home, authority, passphrase, after, key, state, out, "rotation"), ended=ended)


def _issue(
    home: Path,
    place: Path,
    authority: Identity,
    passphrase: bytes,
    federation: Kept,
    key: FederationKey,
    start: SharedState | None,
    out: Path,
    event: str,
    study: Study | None = None,
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
        federation.genesis,
        federation.weights,
        key,
        federation.table,
        start,
        terms,
        _roster(federation),
        federation.teacher,
        study.papers if study else b"",
    )
    issued = Issued(
        out, federation.genesis, federation.table, federation.members, federation.app, len(federation.teacher)
    )
    with _new_folder(out) as draft:
        _write(replace(issued, folder=draft), contents, authority, half, study)
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
            **({"study": study.bound.study, "proposal": study.bound.digest.hex()} if study else {}),
        )
    try:
        keep(place, passphrase, federation)
    except OSError as error:
        # Else there would be bundles of an epoch that its authority does not know, and another one of the same number tomorrow.
        shutil.rmtree(out, ignore_errors=True)
        raise CeremonyError(f"cannot write into {place}: {error.strerror}; nothing was issued") from error
    return issued


def _write(issued: Issued, contents: Contents, authority: Identity, half: bytes, study: Study | None) -> None:
    for part in (BUNDLES, COORDINATOR, f"{COORDINATOR}/{NODES}"):
        (issued.folder / part).mkdir(mode=0o700)
    for name, member in issued.members.items():
        write_private(issued.bundle(name), write_bundle(contents, authority, member, study.bound if study else None))
        write_private(issued.coordinator / NODES / f"{name}.pub", (member.node + "\n").encode())
    write_private(issued.coordinator / AGREEMENT, half)
    write_private(issued.coordinator / TERMS, contents.terms.to_bytes())
    if study:
        write_private(issued.coordinator / STUDY, study.notice)
    write_private(issued.folder / "authority.pub", authority.document())


def _half(federation: Kept) -> bytes:
    """Return the coordinator's half of genesis, but for the terms that name its digest."""
    agreement, last = agreement_of(federation.genesis, _roster(federation)), federation.table.last
    agreement = replace(
        agreement, epoch=last.number, first_round=last.first_round, rounds=federation.rounds, restart_from=0
    )
    return agreement.to_bytes()


def _roster(federation: Kept) -> Roster:
    """Keys of all members."""
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


def opened(home: Path, passphrase: bytes) -> Identity:
    """Return the authority whose folder it is, with its keys.

    Raises:
        IdentityError: another party's folder. PassphraseError: wrong.
    """
    authority = open_identity(home, passphrase)
    if authority.public.role is not Role.AUTHORITY:
        raise IdentityError(f"{home} is the folder of an {authority.public.role}, expected an authority's")
    return authority


def _read(path: Path, authority: Identity, federation: Kept) -> Exported:
    members = {member.fingerprint for member in federation.members.values()}
    return read_export(path, authority, members, federation.genesis)


def _epochs_up_to(table: EpochTable, epoch: int, *, abandon: bool) -> tuple[Epoch, ...]:
    """Return the epochs that the exporting institutions live by."""
    kept = tuple(e for e in table.epochs if e.number <= epoch)
    if not kept or kept[-1].number != epoch:
        raise CeremonyError(
            f"the exported state is of epoch {epoch}, which this authority does not know", code="rotation"
        )
    if len(kept) < len(table.epochs) and not abandon:
        raise CeremonyError(
            f"the state was exported in epoch {epoch}, but epoch {table.last.number} was issued. Export it from an "
            "institution that has joined that one; or, if no round was ever closed in it, say so by --abandon",
            code="rotation",
        )
    return kept
