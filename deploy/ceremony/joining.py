"""Joining an epoch: a bundle is checked to the last byte, then installed in one piece or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dictpfl.client.defences.pairs import PEER_PURPOSE, OwnKeys
from dictpfl.client.folder import KEY, SEALED_KEY, SEALED_PEER_KEY, SETTINGS, InstitutionSettings
from dictpfl.client.keys.epochs import EPOCHS, KEY_PURPOSE, epoch_folder, installed
from dictpfl.client.keys.vault import seal_at_rest
from dictpfl.client.memory.record import Memory
from dictpfl.common.errors import BundleError, CeremonyError
from dictpfl.common.files import locked, owner_only, sync_folder, write_private
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.bundle import KIND, Bound, Contents, read_contents
from dictpfl.deploy.ceremony.departures import ended_studies
from dictpfl.deploy.ceremony.envelope import Envelope
from dictpfl.deploy.ceremony.identity import Identity, open_identity, public_of
from dictpfl.deploy.ceremony.passphrase import relative
from dictpfl.deploy.ceremony.pinning import Confirm, pin, pinned, require_trusted
from dictpfl.deploy.ceremony.terms import TERMS, Terms, read_terms
from dictpfl.deploy.ceremony.verifying import require_follows

_DRAFT = ".joining-"
OnCode = Callable[[Mapping[str, str]], None]
"""Told the configuration keys that name code, each with the code's name."""


@dataclass(frozen=True)
class Member:
    """A party of a network that joins a study: what it has already, and what it asks of the bundle.

    Attributes:
        party: folder with its identity, its custody log, and the authority that it trusts.
        bound: what it approved.
        settings: `institution.toml` of the study.
        require: refuses contents that are not what was approved, before anything is imported or installed.
    """

    party: Path
    bound: Bound
    settings: InstitutionSettings
    require: Callable[[Contents], None]


@dataclass(frozen=True)
class Joined:
    """Epoch that is installed: its number, its first round, the federation id, the folder, and the terms.

    `repeated`: this very bundle was installed before, and nothing was changed.
    """

    epoch: int
    first_round: int
    federation: bytes
    folder: Path
    terms: Terms
    repeated: bool = False

    @property
    def ended(self) -> dict[str, list[str]]:
        """Studies on this network that end, each with its members who left the network; of a study none."""
        return ended_studies(self.folder)


def read_envelope(path: Path) -> Envelope:
    """Return a bundle's envelope, its form and signature checked.

    Raises:
        BundleError: refused. CeremonyError: not readable.
    """
    try:
        return Envelope.read(path.read_bytes(), KIND)
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}") from error


def join(
    folder: Path,
    passphrase: bytes,
    bundle: Path,
    *,
    authority_fingerprint: str | None = None,
    confirm: Confirm = lambda _authority: False,
    passphrase_file: Path | None = None,
    own_code: bool = True,
    on_code: OnCode = lambda _named: None,
    member: Member | None = None,
) -> Joined:
    """Check and install a bundle in the institution's folder; the model is built to check the dictionaries (seconds).

    A bundle that is installed already is opened, compared with what is there, and changes nothing.

    Args:
        folder: with the institution's identity; of a study, its own.
        passphrase: of the identity; the key is sealed under it too.
        authority_fingerprint: as read out by the authority; needed once, or `confirm` is asked.
        passphrase_file: noted in a new `institution.toml`, for the process that trains.
        own_code: False refuses a configuration that names code by `package.module:name`, now and later (`allowed_code = []`).
        on_code: told which code the configuration names, before any of it is imported; not called if it names none.
        member: as which it joins a study; None: a federation of its own.

    Raises:
        BundleError: refused, each reason with its own class; nothing was installed.
        PassphraseError: wrong.
        ConfigError: the configuration names code that this institution does not allow; nothing was installed, nothing imported.
        ConfigError, ModelError: the model cannot be built here, so that nothing can be checked; nothing was installed.
    """
    envelope = read_envelope(bundle)
    party = member.party if member else folder
    institution = public_of(party)
    require_trusted(party, envelope.sender, authority_fingerprint, confirm)
    envelope.require_for(institution)
    _require_next(folder, envelope)
    identity = open_identity(party, passphrase)
    with locked(folder, "join"):
        # Again: another process may have joined while this one waited.
        repeated = _require_next(folder, envelope)
        contents = read_contents(envelope, identity, member.bound if member else None)
        if member:
            member.require(contents)
        epoch = contents.table.last
        joined = Joined(epoch.number, epoch.first_round, contents.genesis.federation, folder, contents.terms, repeated)
        if repeated:
            _require_installed(folder, contents)
            return joined
        _require_same_federation(folder, contents)
        name = identity.public.name
        settings = member.settings if member else _settings(contents, name, folder, passphrase_file, own_code=own_code)
        if named := contents.genesis.config.own_code:
            settings.require_allowed(named, folder / SETTINGS)
            on_code(named)
        require_follows(contents.genesis, contents.weights)
        _install(folder, party, identity, envelope, contents, passphrase, settings)
    return joined


def _install(
    folder: Path,
    party: Path,
    identity: Identity,
    envelope: Envelope,
    contents: Contents,
    passphrase: bytes,
    settings: InstitutionSettings,
) -> None:
    epoch = contents.table.last
    draft = _draft(folder, identity, contents, passphrase)
    try:
        facts: dict[str, object] = {
            "epoch": epoch.number,
            "first_round": epoch.first_round,
            "key": epoch.fingerprint.hex(),
        }
        facts |= {"federation": contents.genesis.federation.hex(), "authority": envelope.sender.fingerprint.hex()}
        facts |= {"app": contents.terms.app, "institutions": sorted(contents.terms.members)}
        if study := envelope.facts.get("study"):
            facts["study"] = study
        # Said first: whoever could open the bundle has had the key, installed or not.
        custody.record(party, identity, "bundle opened", **facts)
        if pinned(folder) is None:
            pin(folder, envelope.sender)
        if not (folder / SETTINGS).exists() or InstitutionSettings.load(folder) != settings:
            settings.save(folder)
        draft.rename(epoch_folder(folder, epoch.number))
        sync_folder(folder / EPOCHS)
        custody.record(party, identity, "epoch joined", **facts)
    except OSError as error:
        raise CeremonyError(f"cannot install into {folder}: {error}; nothing was changed, join again") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_next(folder: Path, envelope: Envelope) -> bool:
    """Refuse a bundle of an earlier epoch; returns whether its epoch is the one that is installed."""
    number, numbers = envelope.facts.get("epoch"), installed(folder)
    if type(number) is not int or number < 1:
        raise BundleError("the bundle names no epoch; ask the authority for another", code="tampered-bundle")
    if numbers and number < numbers[-1]:
        raise BundleError(
            f"a bundle for epoch {number}, but {folder} is in epoch {numbers[-1]}; its key is not used any more",
            code="old-epoch",
        )
    return bool(numbers) and number == numbers[-1]


def _require_installed(folder: Path, contents: Contents) -> None:
    number = contents.table.last.number
    if read_terms(epoch_folder(folder, number) / TERMS) != contents.terms:
        raise BundleError(
            f"epoch {number} is installed in {folder} from another bundle; a second one for it is refused. If the first one is not the one "
            "that the authority made, call it",
            code="same-epoch",
        )


def _require_same_federation(folder: Path, contents: Contents) -> None:
    """Refuse an epoch with which what is installed cannot go on: another federation, or a first round that is past."""
    numbers = installed(folder)
    if not numbers:
        return
    here = Genesis.load(epoch_folder(folder, numbers[-1]))
    if here.federation != contents.genesis.federation or here.parameters != contents.genesis.parameters:
        raise BundleError(
            f"the bundle is of federation {contents.genesis.federation.hex()[:12]}, {folder} is in "
            f"{here.federation.hex()[:12]}; use another folder for another federation",
            code="wrong-bundle",
        )
    memory = Memory(folder / "memory", here.federation)
    with memory.locked():
        record = memory.recall()
    if record is None or contents.start is None:
        return
    first = contents.table.last.first_round
    if record.shared.round > first:
        raise BundleError(
            f"the epoch starts at round {first}, this institution has applied rounds up to {record.shared.round - 1}; the "
            "authority must rotate again, from a state exported now",
            code="wrong-bundle",
        )
    if record.shared.round == first and record.shared.digest != contents.start.digest:
        raise BundleError(
            f"the epoch starts from another shared state than the one that this institution has at round {first}: it has "
            "drifted, or the exported state was false. Call the authority",
            code="wrong-bundle",
        )


def _draft(folder: Path, identity: Identity, contents: Contents, passphrase: bytes) -> Path:
    """Return all files of the epoch, durable, in a folder that nothing reads yet."""
    parent = owner_only(folder / EPOCHS)
    for leftover in parent.glob(f"{_DRAFT}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(dir=parent, prefix=_DRAFT))
    try:
        for name, data in contents.files().items():
            if name == KEY:
                write_private(draft / SEALED_KEY, seal_at_rest(data, passphrase, KEY_PURPOSE))
            else:
                write_private(draft / name, data)
        if contents.roster is not None:
            own = OwnKeys(identity.public.name, identity.receiving, identity.signing)
            write_private(draft / SEALED_PEER_KEY, seal_at_rest(own.to_bytes(), passphrase, PEER_PURPOSE))
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise CeremonyError(f"cannot install into {folder}: {error.strerror}; nothing was changed") from error
        raise
    return draft


def _settings(
    contents: Contents, name: str, folder: Path, passphrase_file: Path | None, *, own_code: bool
) -> InstitutionSettings:
    """Return the institution's settings: those it has, or new ones."""
    if (folder / SETTINGS).exists():
        settings = InstitutionSettings.load(folder)
        return settings if own_code else settings.model_copy(update={"allowed_code": ()})
    return InstitutionSettings(
        name=name,
        min_participants=contents.genesis.config.federation.min_participants,
        toy_insecure=False,
        passphrase_file=relative(passphrase_file, folder) if passphrase_file else "",
        allowed_code=None if own_code else (),
    )
