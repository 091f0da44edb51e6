"""A bundle: all that one institution needs for one epoch, sealed for it and signed by the authority."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from dictpfl.client.folder import GENESIS_WEIGHTS, KEY, PEERS, TEACHER
from dictpfl.client.keys.epochs import START, TABLE, EpochTable
from dictpfl.common.ckks.keys import FederationKey, key_document, parse_key
from dictpfl.common.errors import BundleError, DictPFLError
from dictpfl.common.files import tensors_digest
from dictpfl.common.genesis import DOCUMENT, TENSORS, Genesis
from dictpfl.common.law.members import Roster
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.deploy.ceremony.envelope import Envelope, seal
from dictpfl.deploy.ceremony.identity import Identity, PublicIdentity, Role
from dictpfl.deploy.ceremony.terms import TERMS, Member, Terms

KIND, STUDY = "bundle", "study.json"
_ALWAYS = {DOCUMENT, TENSORS, GENESIS_WEIGHTS, KEY, PEERS, TABLE, TERMS}


@dataclass(frozen=True)
class Bound:
    """Bond of a study's bundle: the study's name, and the SHA-256 of the proposal that was approved, 32 bytes."""

    study: str
    digest: bytes


@dataclass(frozen=True)
class Contents:
    """Contents of a bundle. `start`: shared state before the epoch's first round; None in the first epoch."""

    genesis: Genesis
    weights: bytes
    key: FederationKey
    table: EpochTable
    start: SharedState | None
    terms: Terms
    roster: Roster
    """Keys of all members."""
    teacher: bytes = b""
    """Weights of the teacher, safetensors; empty: there is none."""
    study: bytes = b""
    """Proposal and approvals of a study; empty: this federation is none."""

    def files(self) -> dict[str, bytes]:
        """Return the files by the names that they get at the institution, which seals the key before it writes it."""
        files = {**self.genesis.files(), GENESIS_WEIGHTS: self.weights, KEY: key_document(self.key)}
        files |= {TABLE: self.table.to_bytes(), TERMS: self.terms.to_bytes()}
        files[PEERS] = self.roster.to_bytes()
        if self.teacher:
            files[TEACHER] = self.teacher
        if self.study:
            files[STUDY] = self.study
        if self.start is not None:
            files[START] = to_bytes(self.start, self.genesis.federation)
        return files


def write_bundle(contents: Contents, authority: Identity, to: PublicIdentity, bound: Bound | None = None) -> bytes:
    """Return the bundle for one institution; of a study, only who knows what it is bound to can open it."""
    facts = {
        "institution": to.name,
        "federation": contents.genesis.federation.hex(),
        "epoch": contents.table.last.number,
        "first_round": contents.table.last.first_round,
    }
    if bound:
        facts["study"] = bound.study
    return seal(KIND, facts, contents.files(), authority, to, bound.digest if bound else b"")


def read_contents(envelope: Envelope, recipient: Identity, bound: Bound | None = None) -> Contents:
    """Open a bundle whose sender is trusted, and check that its parts belong together.

    Raises:
        BundleError: they do not, or the seal does not fit.
    """
    of, expected = envelope.facts.get("study"), bound.study if bound else None
    if of != expected:
        raise BundleError(
            f"the bundle is of {f'the study {of}, which `dictpfl study up` installs' if of else 'no study'}, expected "
            f"{f'the study {expected}' if expected else 'one of a federation that is none'}; is it the right file?",
            code="wrong-bundle",
        )
    files = envelope.open(recipient, bound.digest if bound else b"")
    try:
        contents = _contents(files)
        _require_terms(contents, envelope.sender, recipient.public)
        _require_listed(contents.roster, contents.terms)
    except DictPFLError as error:
        raise BundleError(
            f"the bundle is signed, but not whole: {error}. Ask the authority for another", code="wrong-bundle"
        ) from error
    facts, last = envelope.facts, contents.table.last
    stated = (facts.get("institution"), facts.get("federation"), facts.get("epoch"), facts.get("first_round"))
    found = (recipient.public.name, contents.genesis.federation.hex(), last.number, last.first_round)
    if stated != found:
        raise BundleError(
            f"the bundle says {stated} outside and {found} inside; ask the authority for another", code="wrong-bundle"
        )
    return contents


def _contents(files: Mapping[str, bytes]) -> Contents:
    names = set(files)
    if names - {START, TEACHER, STUDY} != _ALWAYS:
        raise BundleError(f"it holds {sorted(names)}, expected {sorted(_ALWAYS)}", code="wrong-bundle")
    genesis = Genesis.of_files(files, Path("bundle"))
    key, table = parse_key(files[KEY], Path("bundle") / KEY), EpochTable.of_bytes(files[TABLE])
    if not key.fingerprint == genesis.fingerprint == table.last.fingerprint or key.parameters != genesis.parameters:
        raise BundleError("its key is not the one that genesis names", code="wrong-bundle")
    if not key.seed:
        raise BundleError(
            "its key brings no seed of the epoch, expected 32 bytes: an earlier release made it, and the authority has to found the federation again",
            code="wrong-bundle",
        )
    try:
        digest = tensors_digest(load(files[GENESIS_WEIGHTS]))
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError("its W0 is damaged", code="wrong-bundle") from error
    if digest != genesis.weights_digest:
        raise BundleError("its W0 is not the one that genesis names", code="wrong-bundle")
    _require_teacher(genesis, files.get(TEACHER, b""))
    start = of_bytes(files[START], genesis.federation, genesis.layout, genesis.tallies) if START in files else None
    found = (start.digest, start.round) if start else (None, 0)
    if found != (table.start, table.last.first_round):
        raise BundleError("its shared state is not the one that the table of epochs names", code="wrong-bundle")
    terms = Terms.of_bytes(files[TERMS], "its page of terms")
    roster = Roster.of_bytes(files[PEERS], "its list of members")
    extras = files.get(TEACHER, b""), files.get(STUDY, b"")
    return Contents(genesis, files[GENESIS_WEIGHTS], key, table, start, terms, roster, *extras)


def _require_teacher(genesis: Genesis, teacher: bytes) -> None:
    if bool(teacher) != genesis.config.distils:
        held = "holds" if teacher else "lacks"
        raise BundleError(f"it {held} a teacher, and its genesis says otherwise", code="wrong-bundle")
    if not teacher:
        return
    try:
        digest = tensors_digest(load(teacher)).hex()
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError("its teacher is damaged", code="wrong-bundle") from error
    if digest != genesis.config.distillation.sha256:
        raise BundleError("its teacher is not the one that genesis names", code="wrong-bundle")


def _require_listed(roster: Roster, terms: Terms) -> None:
    """Refuse a list that is not exactly the members of the terms, with the keys of the identities that those name."""
    listed = {
        peer.name: PublicIdentity(
            Role.INSTITUTION, peer.name, peer.receiving, peer.signing, terms.members[peer.name].node
        )
        for peer in roster.peers
        if peer.name in terms.members
    }
    found = {name: identity.fingerprint for name, identity in listed.items()}
    if len(found) != len(roster.peers) or found != {n: m.identity for n, m in terms.members.items()}:
        raise BundleError("its list of members' keys is missing, or is not that of the terms", code="wrong-bundle")


def _require_terms(contents: Contents, authority: PublicIdentity, institution: PublicIdentity) -> None:
    terms, last = contents.terms, contents.table.last
    stated = (terms.federation, terms.epoch, terms.first_round, terms.key)
    if stated != (contents.genesis.federation, last.number, last.first_round, last.fingerprint):
        raise BundleError("its terms are of another federation or epoch", code="wrong-bundle")
    if terms.authority != authority:
        raise BundleError("its terms are signed by another authority", code="wrong-bundle")
    if terms.members.get(institution.name) != Member(institution.fingerprint, institution.node):
        raise BundleError(f"its terms do not name {institution.name} as a member", code="wrong-bundle")
