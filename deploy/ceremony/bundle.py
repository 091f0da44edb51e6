"""A bundle: all that one institution needs for one epoch, sealed for it and signed by the authority."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from client.epochs import START, TABLE, EpochTable
from client.site import GENESIS_WEIGHTS, KEY, PEERS
from client.snapshot import of_bytes, to_bytes
from common.circle import Roster
from common.errors import DictPFLError, WrongBundleError
from common.genesis import DOCUMENT, TENSORS, Genesis, tensors_digest
from common.keys import FederationKey, key_document, parse_key
from common.state import SharedState
from deploy.ceremony.envelope import Envelope, seal
from deploy.ceremony.identity import Identity, PublicIdentity, Role
from deploy.ceremony.terms import TERMS, Member, Terms

KIND = "bundle"
_ALWAYS = {DOCUMENT, TENSORS, GENESIS_WEIGHTS, KEY, TABLE, TERMS}


@dataclass(frozen=True)
class Contents:
    """What is inside. `start`: shared state before the epoch's first round; None in the first epoch."""

    genesis: Genesis
    weights: bytes
    key: FederationKey
    table: EpochTable
    start: SharedState | None
    terms: Terms
    roster: Roster | None = None
    """Keys of all members, where they defend themselves among each other."""

    def files(self) -> dict[str, bytes]:
        """By the names that they get at the institution (the key is sealed there before it is written)."""
        files = {**self.genesis.files(), GENESIS_WEIGHTS: self.weights, KEY: key_document(self.key)}
        files |= {TABLE: self.table.to_bytes(), TERMS: self.terms.to_bytes()}
        if self.start is not None:
            files[START] = to_bytes(self.start, self.genesis.federation)
        if self.roster is not None:
            files[PEERS] = self.roster.to_bytes()
        return files


def write_bundle(contents: Contents, authority: Identity, to: PublicIdentity) -> bytes:
    """The bundle for one institution."""
    facts = {
        "institution": to.name,
        "federation": contents.genesis.federation.hex(),
        "epoch": contents.table.last.number,
        "first_round": contents.table.last.first_round,
    }
    return seal(KIND, facts, contents.files(), authority, to)


def read_contents(envelope: Envelope, recipient: Identity) -> Contents:
    """Open a bundle whose sender is trusted, and check that its parts belong together.

    Raises:
        BundleError: they do not, or the seal does not fit.
    """
    files = envelope.open(recipient)
    try:
        contents = _contents(files)
        _require_terms(contents, envelope.sender, recipient.public)
    except DictPFLError as error:
        raise WrongBundleError(
            f"the bundle is signed, but not whole: {error}. Ask the authority for another"
        ) from error
    facts, last = envelope.facts, contents.table.last
    stated = (facts.get("institution"), facts.get("federation"), facts.get("epoch"), facts.get("first_round"))
    found = (recipient.public.name, contents.genesis.federation.hex(), last.number, last.first_round)
    if stated != found:
        raise WrongBundleError(f"the bundle says {stated} outside and {found} inside; ask the authority for another")
    return contents


def _contents(files: Mapping[str, bytes]) -> Contents:
    names = set(files)
    if names - {START, PEERS} != _ALWAYS:
        raise WrongBundleError(f"it holds {sorted(names)}, expected {sorted(_ALWAYS)}")
    genesis = Genesis.of_files(files, Path("bundle"))
    key, table = parse_key(files[KEY], Path("bundle") / KEY), EpochTable.of_bytes(files[TABLE])
    if not key.fingerprint == genesis.fingerprint == table.last.fingerprint or key.parameters != genesis.parameters:
        raise WrongBundleError("its key is not the one that genesis names")
    try:
        digest = tensors_digest(load(files[GENESIS_WEIGHTS]))
    except (SafetensorError, ValueError, KeyError) as error:
        raise WrongBundleError("its W0 is damaged") from error
    if digest != genesis.weights_digest:
        raise WrongBundleError("its W0 is not the one that genesis names")
    start = of_bytes(files[START], genesis.federation, genesis.layout) if START in files else None
    found = (start.digest, start.round) if start else (None, 0)
    if found != (table.start, table.last.first_round):
        raise WrongBundleError("its shared state is not the one that the table of epochs names")
    terms = Terms.of_bytes(files[TERMS], "its page of terms")
    roster = Roster.of_bytes(files[PEERS], "its list of members") if PEERS in files else None
    if genesis.config.defences.any:
        _require_listed(roster, terms)
    return Contents(genesis, files[GENESIS_WEIGHTS], key, table, start, terms, roster)


def _require_listed(roster: Roster | None, terms: Terms) -> None:
    """Exactly the members of the terms, with the keys of the identities that those name."""
    listed = {
        peer.name: PublicIdentity(
            Role.INSTITUTION, peer.name, peer.receiving, peer.signing, terms.members[peer.name].node
        )
        for peer in (roster.peers if roster else ())
        if peer.name in terms.members
    }
    found = {name: identity.fingerprint for name, identity in listed.items()}
    if roster is None or len(found) != len(roster.peers) or found != {n: m.identity for n, m in terms.members.items()}:
        raise WrongBundleError("its list of members' keys is missing, or is not that of the terms")


def _require_terms(contents: Contents, authority: PublicIdentity, institution: PublicIdentity) -> None:
    terms, last = contents.terms, contents.table.last
    stated = (terms.federation, terms.epoch, terms.first_round, terms.key)
    if stated != (contents.genesis.federation, last.number, last.first_round, last.fingerprint):
        raise WrongBundleError("its terms are of another federation or epoch")
    if terms.authority != authority:
        raise WrongBundleError("its terms are signed by another authority")
    if terms.members.get(institution.name) != Member(institution.fingerprint, institution.node):
        raise WrongBundleError(f"its terms do not name {institution.name} as a member")
