"""The coordinator's side of the ceremony: its half of an epoch, checked against the authority's signature, then installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dictpfl.common.errors import BundleError, CeremonyError, IdentityError
from dictpfl.common.files import locked, owner_only, write_private
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.identity import PRIVATE, Signer, coordinator_signer
from dictpfl.deploy.ceremony.pinning import Confirm, pin, pinned, require_trusted
from dictpfl.deploy.ceremony.terms import TERMS, Terms, in_force, read_terms
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL
from dictpfl.server.journal import Journal

NODES = "nodes"


def install(
    folder: Path,
    half: Path,
    *,
    authority_fingerprint: str | None = None,
    confirm: Confirm = lambda _authority: False,
) -> Terms:
    """Check the coordinator's half of an epoch and install it: agreement, terms, and the nodes that may take part.

    Args:
        folder: the coordinator's, made if missing.
        half: the folder `coordinator` of what the authority made.
        authority_fingerprint: as read out by the authority; needed once, or `confirm` is asked.

    Raises:
        BundleError: refused, each reason with its own class. JournalError: the epoch cannot follow what is journalled.
        Nothing was installed.
    """
    terms = read_terms(half / TERMS)
    document = _document(half, terms)
    owner_only(folder)
    if (folder / PRIVATE).exists():
        raise IdentityError(f"{folder} is the folder of another party; the coordinator needs one of its own")
    require_trusted(folder, terms.authority, authority_fingerprint, confirm)
    with locked(folder, "install"):
        before = in_force(folder, folder) if pinned(folder) else None
        _require_next(folder, before, terms)
        signer = coordinator_signer(folder)
        _install(folder, signer, terms, document, before)
    return terms


def require_consistent(folder: Path, agreement: Agreement) -> Terms | None:
    """Return the coordinator's terms, if it has met an authority; its agreement must be that epoch's.

    Raises:
        BundleError (wrong-bundle): it is another one's. BundleError: the terms were altered.
    """
    terms = in_force(folder, folder)
    if terms is not None and _facts(agreement) != (terms.federation, terms.key, terms.epoch, terms.first_round):
        raise BundleError(
            f"{folder / AGREEMENT} is not of epoch {terms.epoch}, whose terms are installed; `dictpfl coordinator install` "
            "puts both in place",
            code="wrong-bundle",
        )
    return terms


def _facts(agreement: Agreement) -> tuple[bytes, bytes, int, int]:
    return agreement.uploads.federation, agreement.uploads.fingerprint, agreement.epoch, agreement.first_round


def _document(half: Path, terms: Terms) -> bytes:
    try:
        document = (half / AGREEMENT).read_bytes()
    except OSError as error:
        raise CeremonyError(f"cannot read {half / AGREEMENT}: {error.strerror}; ask the authority for it") from error
    if hashlib.sha256(document).digest() != terms.half:
        raise BundleError(
            f"{half / AGREEMENT} is not the one that {terms.authority.name} signed: it was altered. Ask for it again",
            code="tampered-bundle",
        )
    if _facts(Agreement.load(half / AGREEMENT)) != (terms.federation, terms.key, terms.epoch, terms.first_round):
        raise BundleError(
            f"{half / AGREEMENT} and {half / TERMS} are of different epochs; ask the authority", code="wrong-bundle"
        )
    return document


def _require_next(folder: Path, before: Terms | None, terms: Terms) -> None:
    if before is None:
        return
    if before.federation != terms.federation:
        raise BundleError(
            f"this is a half of federation {terms.federation.hex()[:12]}, {folder} is in {before.federation.hex()[:12]}; use "
            "another folder for another federation",
            code="wrong-bundle",
        )
    if before.epoch == terms.epoch:
        raise BundleError(
            f"epoch {terms.epoch} is installed in {folder}; a second half for it is refused", code="same-epoch"
        )
    if before.epoch > terms.epoch:
        raise BundleError(f"a half of epoch {terms.epoch}, but {folder} is in epoch {before.epoch}", code="old-epoch")


def _install(folder: Path, signer: Signer, terms: Terms, document: bytes, before: Terms | None) -> None:
    try:
        if (folder / JOURNAL).exists():
            # First: a journal that cannot go on with this epoch refuses here, before anything is changed.
            Journal(
                folder / JOURNAL, terms.federation, terms.key, epoch=terms.epoch, first_round=terms.first_round
            ).close()
        facts = {"epoch": terms.epoch, "first_round": terms.first_round, "key": terms.key.hex(), "app": terms.app}
        facts |= {"federation": terms.federation.hex(), "half": terms.half.hex()}
        facts |= {"authority": terms.authority.fingerprint.hex()}
        custody.record(folder, signer, "epoch installed", **facts)
        if pinned(folder) is None:
            pin(folder, terms.authority)
        _admit(folder, signer, terms, before)
        write_private(folder / AGREEMENT, document)
        # The terms come last: where they are, everything is, and until then the command can be repeated.
        write_private(folder / TERMS, terms.to_bytes())
    except OSError as error:
        raise CeremonyError(f"cannot install into {folder}: {error.strerror}; install again") from error


def _admit(folder: Path, signer: Signer, terms: Terms, before: Terms | None) -> None:
    """Bring `nodes/` to the terms' members. Who was there, and is, keeps its file: it may have been admitted anew by hand."""
    nodes = owner_only(folder / NODES)
    known = before.members if before else {}
    for path in sorted(nodes.glob("*.pub")):
        if path.stem not in terms.members:
            path.unlink()
            custody.record(folder, signer, "node dismissed", institution=path.stem, epoch=terms.epoch)
    for name, member in sorted(terms.members.items()):
        path = nodes / f"{name}.pub"
        if path.exists() and known.get(name) == member:
            continue
        write_private(path, (member.node + "\n").encode())
        custody.record(folder, signer, "node admitted", institution=name, key=node_digest(path), epoch=terms.epoch)


def node_digest(path: Path) -> str:
    """SHA-256 of a node's public key file, in hexadecimal: what the custody log names it by."""
    return hashlib.sha256(path.read_bytes().strip()).hexdigest()
