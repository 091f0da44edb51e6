"""Store of a party's studies: `studies/NAME` in its folder, laid out as a federation's, with the papers beside.

proposal.json    the version that counts here
versions/        every version that was ever taken up
notices/         what each party said last
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dictpfl.client.folder import DIARY
from dictpfl.client.keys.epochs import installed
from dictpfl.common.errors import BundleError, CeremonyError, DictPFLError, StudyError
from dictpfl.common.files import locked, owner_only, write_private
from dictpfl.deploy.ceremony.departures import STUDIES, departed, study_folders
from dictpfl.deploy.ceremony.identity import PublicIdentity, Role, Signer, require_name
from dictpfl.deploy.ceremony.keeping import FEDERATION
from dictpfl.deploy.operations.handover import settled
from dictpfl.deploy.operations.health import processes
from dictpfl.deploy.studies.network import Network
from dictpfl.deploy.studies.papers import Kind, Notice, Proposal, paper_of, read_paper
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, open_journal

_PROPOSAL, _VERSIONS, _NOTICES = "proposal.json", "versions", "notices"


@dataclass(frozen=True)
class Study:
    """A study at one party, as the papers in its folder have it.

    Attributes:
        folder: its own, below the party's.
        proposal: the version that counts; None at a coordinator, who gets none.
        notices: what each party said last, of whatever version.
    """

    folder: Path
    proposal: Proposal | None
    notices: tuple[Notice, ...]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.folder.name

    @property
    def wanted(self) -> Proposal:
        """The proposal.

        Raises:
            StudyError: there is none here.
        """
        if self.proposal is None:
            raise StudyError(f"no proposal of {self.name} is here; `dictpfl study show FILE` takes one up")
        return self.proposal

    @property
    def notes(self) -> tuple[Notice, ...]:
        """Notices about the version that counts."""
        return tuple(n for n in self.notices if self.proposal is None or n.digest == self.proposal.digest)

    def said(self, party: PublicIdentity) -> Notice | None:
        """Find what a party said last about the version that counts."""
        return next((n for n in self.notes if n.by.fingerprint == party.fingerprint), None)

    @property
    def lead(self) -> bytes:
        """Fingerprint of its lead; at a coordinator as the authority's notice says it."""
        if self.proposal is not None:
            return self.proposal.lead.fingerprint
        return next((n.lead for n in self.notices if n.kind == "keyed"), b"")

    @property
    def approvals(self) -> list[Notice]:
        """Approvals of the version that counts, by name."""
        return sorted((n for n in self.notes if n.kind == "approved"), key=lambda n: n.by.name)

    @property
    def aborted(self) -> Notice | None:
        """The notice that ended it for good; an abort is of the study, not of a version."""
        return next((n for n in self.notices if n.kind == "aborted"), None)

    @property
    def keyed(self) -> bool:
        """Tells whether its key was made, or has come: from then on its text stands."""
        there = [self.folder / name for name in (FEDERATION, AGREEMENT)]
        return bool(installed(self.folder)) or any(path.exists() for path in there)

    @property
    def running(self) -> int:
        """Process id of its `up`; 0: none."""
        return _alive(processes(self.folder).get("supervisor") or 0)

    @property
    def ended(self) -> bool:
        """Tells whether it is over: all rounds are done, institutions stopped early, or a member left the network, as seen here."""
        if departed(self.folder):
            return True
        if (self.folder / AGREEMENT).exists() and (self.folder / JOURNAL).exists():
            agreement = Agreement.load(self.folder / AGREEMENT)
            journal = open_journal(self.folder, agreement)
            try:
                return journal.updated(agreement.rounds) and journal.is_settled(journal.next_round)
            finally:
                journal.close()
        found = settled(self.folder / DIARY)
        if found is None or self.proposal is None:
            return False
        return found.stopped or found.updates >= self.proposal.config.federation.rounds

    def state(self, own: PublicIdentity) -> str:
        """Say where it stands here, in a word or a few."""
        mine = self.said(own)
        if self.aborted or (mine is not None and mine.kind in ("refused", "paused")):
            return "aborted" if self.aborted or mine is None else mine.kind
        if self.keyed:
            return "ended" if self.ended else "running" if self.running else "keyed"
        asked = len(self.proposal.institutions) if self.proposal else 0
        return f"approved by {len(self.approvals)} of {asked}" if self.approvals else "proposed"


class Studies:
    """Studies of one party; constructed for its folder."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.party, self.network = folder, network
        self._root = folder / STUDIES

    def all(self) -> list[Study]:
        """List the studies, by name."""
        return [_read(place) for place in study_folders(self.party)]

    def names(self) -> list[str]:
        """Names of the studies, those too whose papers cannot be read."""
        return [place.name for place in study_folders(self.party)]

    def get(self, name: str) -> Study:
        """Return a study.

        Raises:
            StudyError: there is none of that name.
        """
        require_name(name)
        place = self._root / name
        if not place.is_dir():
            known = ", ".join(self.names()) or "none"
            raise StudyError(
                f"no study {name!r} is here; there are: {known}. `dictpfl study show FILE` takes a proposal up"
            )
        return _read(place)

    def take(self, given: str) -> Study:
        """Return the study that a name means, or that a paper is of, which is taken up.

        Raises:
            StudyError: no such study, or a paper that does not count. BundleError: one that is not genuine.
        """
        path = Path(given)
        return self.receive(read_paper(path), given) if path.is_file() else self.get(given)

    def receive(self, paper: Proposal | Notice, origin: str) -> Study:
        """Check a paper against the network and what is known of the study, and keep it.

        Raises:
            BundleError: of another network, or by whom it is not for to say.
            StudyError: older than what is known here, or another text of the same version.
        """
        if paper.network != self.network.id:
            raise BundleError(
                f"{origin} is for network {paper.network.hex()[:12]}, this party is in {self.network.id.hex()[:12]}; it is for "
                "somebody else, or was sent again from elsewhere",
                code="wrong-bundle",
            )
        owner_only(self._root)
        with locked(self._root, "papers"):
            if isinstance(paper, Proposal):
                self._receive_proposal(paper, origin)
            else:
                self._receive_notice(paper, origin)
        return self.get(paper.name if isinstance(paper, Proposal) else paper.study)

    def say(self, kind: Kind, study: Study, by: Signer, reason: str = "") -> Notice:
        """Make this party's notice about a study, and keep it.

        Raises:
            StudyError: it would say nothing, or may not say that.
        """
        notice = self.worded(kind, study, by, reason)
        self.receive(notice, "this notice")
        return notice

    def worded(self, kind: Kind, study: Study, by: Signer, reason: str = "") -> Notice:
        """Make this party's notice about a study, to be kept by `receive` once it holds.

        Raises:
            BundleError: it is not for this party to say.
        """
        before = [n.number for n in study.notices if n.by.fingerprint == by.public.fingerprint]
        notice = Notice.made(kind, study.wanted, by, max(before, default=0) + 1, reason)
        self._require_may_say(notice, study, "this notice")
        return notice

    def _receive_proposal(self, paper: Proposal, origin: str) -> None:
        self.network.require_known(paper.lead, origin)
        known = {name: digest.hex() for name, digest in self.network.members.items()}
        if others := {name for name, digest in paper.institutions.items() if known.get(name) != digest}:
            raise BundleError(
                f"{origin} asks {', '.join(sorted(others))}, who is not in this network by that identity; the lead should propose it "
                "anew, to those who are",
                code="wrong-bundle",
            )
        own = self.network.own
        if own.role is Role.INSTITUTION and paper.institutions.get(own.name) != own.fingerprint.hex():
            raise BundleError(f"{origin} does not ask {own.name}; nothing to approve here", code="wrong-recipient")
        place = self._root / paper.name
        before = _read(place).proposal if place.is_dir() else None
        if before is not None:
            _require_newer(before, paper, origin, keyed=_read(place).keyed)
        if before is None or before.digest != paper.digest:
            require_current(paper)
            for part in (place, place / _VERSIONS, place / _NOTICES):
                owner_only(part)
            write_private(place / _VERSIONS / f"{paper.version:04d}.json", paper.to_bytes())
            write_private(place / _PROPOSAL, paper.to_bytes())

    def _receive_notice(self, paper: Notice, origin: str) -> None:
        place = self._root / paper.study
        if not place.is_dir():
            raise StudyError(f"{origin} is about {paper.study!r}, whose proposal is not here; take that up first")
        study = _read(place)
        self._require_may_say(paper, study, origin)
        if study.aborted and paper.kind != "aborted":
            raise StudyError(f"{paper.study} was aborted by {study.aborted.by.name}, for good; {origin} does not count")
        before = next((n for n in study.notices if n.by.fingerprint == paper.by.fingerprint), None)
        if before is not None and before.number >= paper.number and before != paper:
            raise StudyError(
                f"{origin} is the {paper.kind!r} number {paper.number} of {paper.by.name}, who said {before.kind!r} after it "
                f"({before.number}); it does not count any more",
                code="old-proposal",
            )
        write_private(owner_only(place / _NOTICES) / f"{paper.by.role}-{paper.by.name}.json", paper.to_bytes())

    def _require_may_say(self, paper: Notice, study: Study, origin: str) -> None:
        authority = self.network.authority.fingerprint
        if paper.kind == "aborted" and paper.by.fingerprint in (study.lead, authority):
            return
        if paper.kind == "keyed" and paper.by.fingerprint == authority:
            return
        if paper.kind in ("aborted", "keyed"):
            raise BundleError(
                f"{origin}: {paper.by.name} says {paper.kind!r}, which is for {'the lead or ' if paper.kind == 'aborted' else ''}the "
                "authority to say",
                code="unknown-sender",
            )
        self.network.require_institution(paper.by, origin)
        if study.proposal is not None and paper.by.name not in study.proposal.institutions:
            raise BundleError(f"{origin}: {paper.by.name} was not asked", code="unknown-sender")
        if study.proposal is not None and paper.kind == "approved" and paper.digest != study.proposal.digest:
            raise StudyError(
                f"{origin}: {paper.by.name} approved a text of {paper.study} with digest {paper.digest.hex()[:16]}, here it has "
                f"{study.proposal.digest.hex()[:16]}: another version, or somebody shows different texts. Compare both files",
                code="two-texts",
            )


def _require_newer(before: Proposal, paper: Proposal, origin: str, *, keyed: bool) -> None:
    if before.digest == paper.digest:
        return
    if paper.lead.fingerprint != before.lead.fingerprint:
        raise StudyError(
            f"{origin} is by {paper.lead.name}, {paper.name} is a study of {before.lead.name}; it needs another name"
        )
    if paper.version < before.version:
        raise StudyError(
            f"{origin} is version {paper.version} of {paper.name}, version {before.version} is here; an old one is not taken up again",
            code="old-proposal",
        )
    if paper.version == before.version:
        raise StudyError(
            f"{origin} and what is here are both version {paper.version} of {paper.name}, with digests {paper.digest.hex()[:16]} and "
            f"{before.digest.hex()[:16]}: somebody shows different texts. Call the other institutions and compare",
            code="two-texts",
        )
    if keyed:
        raise StudyError(f"{paper.name} has its key, and its text stands; the lead should clone it under another name")


def require_current(proposal: Proposal) -> None:
    """Refuse a proposal whose day has passed.

    Raises:
        StudyError (old-proposal): so it has.
    """
    if datetime.now(UTC).date() > proposal.until:
        raise StudyError(
            f"{proposal.name} could be approved until {proposal.until}; the lead should propose it anew",
            code="old-proposal",
        )


def listed(folder: Path, own: PublicIdentity) -> Iterator[tuple[str, str, Proposal | None]]:
    """Tell of all studies in a party's folder, by name: where each stands, and its text; what is damaged stops no other."""
    for place in study_folders(folder):
        try:
            study = _read(place)
            state = study.state(own)
        except DictPFLError as error:
            yield place.name, f"damaged: {error}", None
        else:
            yield study.name, state, study.proposal


def _alive(process: int) -> int:
    """Return the process, if it is one of ours: after a crash, somebody else may have its number by now."""
    try:
        ours = b"dictpfl" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return 0
    return process if ours else 0


def _read(place: Path) -> Study:
    proposal, notices = None, []
    if (place / _PROPOSAL).exists():
        paper = _kept(place / _PROPOSAL)
        proposal = paper if isinstance(paper, Proposal) else None
    for path in sorted((place / _NOTICES).glob("*.json")):
        paper = _kept(path)
        if isinstance(paper, Notice):
            notices.append(paper)
    return Study(place, proposal, tuple(notices))


def _kept(path: Path) -> Proposal | Notice:
    try:
        return paper_of(path.read_bytes(), str(path))
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}; restore it from backup") from error


def versions(study: Study) -> Iterator[Proposal]:
    """Read every version of a study that was ever taken up here, oldest first."""
    for path in sorted((study.folder / _VERSIONS).glob("*.json")):
        paper = _kept(path)
        if isinstance(paper, Proposal):
            yield paper
