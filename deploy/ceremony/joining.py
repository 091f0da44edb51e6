"""Joining an epoch: a bundle is checked to the last byte, then installed in one piece or not at all."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from client.epochs import EPOCHS, KEY_PURPOSE, epoch_folder, installed
from client.memory import Memory
from client.pairs import PEER_PURPOSE, OwnKeys
from client.site import KEY, SEALED_KEY, SEALED_PEER_KEY, SITE, SiteSettings
from client.vault import seal_at_rest
from common.errors import CeremonyError, OldEpochError, SameEpochError, TamperedBundleError, WrongBundleError
from common.files import sync_folder, write_private
from common.genesis import Genesis
from common.keys import owner_only
from deploy.ceremony import custody
from deploy.ceremony.bundle import KIND, Contents, read_contents
from deploy.ceremony.envelope import Envelope
from deploy.ceremony.identity import Identity, open_identity, public_of
from deploy.ceremony.locking import locked
from deploy.ceremony.passphrase import relative
from deploy.ceremony.pinning import Confirm, pin, pinned, require_trusted
from deploy.ceremony.terms import Terms

_DRAFT = ".joining-"


@dataclass(frozen=True)
class Joined:
    """What was installed: epoch, its first round, the federation id, the folder, and the terms."""

    epoch: int
    first_round: int
    federation: bytes
    folder: Path
    terms: Terms


def read_envelope(path: Path) -> Envelope:
    """A bundle's envelope, its form and signature checked.

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
) -> Joined:
    """Check and install a bundle in the institution's folder.

    Args:
        folder: with the institution's identity. `passphrase`: of the identity; the key is sealed under it too.
        authority_fingerprint: as read out by the authority; needed once, or `confirm` is asked.
        passphrase_file: noted in a new `site.toml`, for the process that trains.

    Raises:
        BundleError: refused, each reason with its own class; nothing was installed.
        PassphraseError: wrong.
    """
    envelope = read_envelope(bundle)
    institution = public_of(folder)
    require_trusted(folder, envelope.sender, authority_fingerprint, confirm)
    envelope.require_for(institution)
    _require_next(folder, envelope)
    identity = open_identity(folder, passphrase)
    with locked(folder, "join"):
        # Again: another process may have joined while this one waited.
        _require_next(folder, envelope)
        contents = read_contents(envelope, identity)
        _require_same_federation(folder, contents)
        _install(folder, identity, envelope, contents, passphrase, passphrase_file)
    epoch = contents.table.last
    return Joined(epoch.number, epoch.first_round, contents.genesis.federation, folder, contents.terms)


def _install(
    folder: Path,
    identity: Identity,
    envelope: Envelope,
    contents: Contents,
    passphrase: bytes,
    passphrase_file: Path | None,
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
        # Said first: whoever could open the bundle has had the key, installed or not.
        custody.record(folder, identity, "bundle opened", **facts)
        if pinned(folder) is None:
            pin(folder, envelope.sender)
        if not (folder / SITE).exists():
            _settings(contents, identity.public.name, folder, passphrase_file).save(folder)
        draft.rename(epoch_folder(folder, epoch.number))
        sync_folder(folder / EPOCHS)
        custody.record(folder, identity, "epoch joined", **facts)
    except OSError as error:
        raise CeremonyError(f"cannot install into {folder}: {error}; nothing was changed, join again") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_next(folder: Path, envelope: Envelope) -> None:
    number, numbers = envelope.facts.get("epoch"), installed(folder)
    if type(number) is not int or number < 1:
        raise TamperedBundleError("the bundle names no epoch; ask the authority for another")
    if not numbers:
        return
    if number == numbers[-1]:
        raise SameEpochError(
            f"epoch {number} is installed in {folder}; a second bundle for it is refused. If the first one is not the one that "
            "the authority made, call it"
        )
    if number < numbers[-1]:
        raise OldEpochError(
            f"a bundle for epoch {number}, but {folder} is in epoch {numbers[-1]}; its key is not used any more"
        )


def _require_same_federation(folder: Path, contents: Contents) -> None:
    """What is installed here must be able to go on: same federation, and not beyond the epoch's first round."""
    numbers = installed(folder)
    if not numbers:
        return
    here = Genesis.load(epoch_folder(folder, numbers[-1]))
    if here.federation != contents.genesis.federation or here.parameters != contents.genesis.parameters:
        raise WrongBundleError(
            f"the bundle is of federation {contents.genesis.federation.hex()[:12]}, {folder} is in "
            f"{here.federation.hex()[:12]}; use another folder for another federation"
        )
    memory = Memory(folder / "memory", here.federation)
    with memory.locked():
        record = memory.recall()
    if record is None or contents.start is None:
        return
    first = contents.table.last.first_round
    if record.shared.round > first:
        raise WrongBundleError(
            f"the epoch starts at round {first}, this institution has applied rounds up to {record.shared.round - 1}; the "
            "authority must rotate again, from a state exported now"
        )
    if record.shared.round == first and record.shared.digest != contents.start.digest:
        raise WrongBundleError(
            f"the epoch starts from another shared state than the one that this institution has at round {first}: it has "
            "drifted, or the exported state was false. Call the authority"
        )


def _draft(folder: Path, identity: Identity, contents: Contents, passphrase: bytes) -> Path:
    """All files of the epoch, durable, in a folder that nothing reads yet."""
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


def _settings(contents: Contents, name: str, folder: Path, passphrase_file: Path | None) -> SiteSettings:
    config = contents.genesis.config
    place = relative(passphrase_file, folder) if passphrase_file else ""
    return SiteSettings(
        name=name,
        min_participants=config.federation.min_participants,
        toy_insecure=False,
        passphrase_file=place,
    )
