"""A study at an institution: its key is taken, its folder made ready from what the network has, and its processes run."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from dictpfl.client.folder import TRAIN, VALIDATION, InstitutionSettings
from dictpfl.client.keys.epochs import installed
from dictpfl.common.errors import ConfigError, IdentityError, StudyError
from dictpfl.common.files import in_shell, write_private
from dictpfl.deploy.ceremony.changing import finish_change
from dictpfl.deploy.ceremony.departures import STUDIES, departed
from dictpfl.deploy.ceremony.identity import Role
from dictpfl.deploy.ceremony.joining import Joined, Member, join, read_envelope
from dictpfl.deploy.ceremony.nodes import NODE, NODE_PUBLIC, node_key
from dictpfl.deploy.ceremony.passphrase import relative
from dictpfl.deploy.operations.institution import up
from dictpfl.deploy.operations.settings import NodeSettings
from dictpfl.deploy.operations.watching import watched
from dictpfl.deploy.studies.keying import bound_to, require_approved
from dictpfl.deploy.studies.limits import Limits, one_of
from dictpfl.deploy.studies.papers import Notice, Proposal
from dictpfl.deploy.studies.policy import Policy
from dictpfl.deploy.studies.store import Studies, Study

_log = structlog.get_logger(__name__)
_FIRST_PORT = 9095
"""Port of a study whose network has never been up; else it is the next after those that are taken."""


def take_key(
    studies: Studies, bundle: Path, passphrase: bytes, passphrase_file: Path | None, app: str
) -> tuple[Study, Joined]:
    """Install the key of a study that this institution has approved; nothing is, if the bundle is of another text.

    Args:
        studies: of the institution's folder.
        bundle: from the authority.
        passphrase: of the identity.
        passphrase_file: noted for the process that trains; None: as the network's own settings say.
        app: SHA-256 of the app bundle that is installed here, in hexadecimal.

    Raises:
        StudyError: not approved here, or against the policy by now. BundleError: refused; nothing was installed.
    """
    name = read_envelope(bundle).facts.get("study")
    if not isinstance(name, str):
        raise StudyError(f"{bundle} is the bundle of no study; `dictpfl institution join` installs it")
    study = studies.get(name)
    proposal = require_going(studies, study)
    _require_release(proposal, app)
    policy = Policy.load(studies.party)
    policy.require_kept(proposal, app)
    settings = _settings(studies, study, policy, passphrase_file)
    joined = join(
        study.folder,
        passphrase,
        bundle,
        member=Member(
            studies.party,
            bound_to(proposal),
            settings,
            lambda contents: _keep(studies, study, require_approved(contents, proposal, studies.network)),
        ),
    )
    return studies.get(name), joined


def require_going(studies: Studies, study: Study) -> Proposal:
    """Return the proposal of a study that this institution has approved and not withdrawn from.

    Raises:
        StudyError: it has not, it was aborted, or a member left the network. IdentityError: the folder is no institution's.
    """
    own = studies.network.own
    if own.role is not Role.INSTITUTION:
        raise IdentityError(
            f"{studies.party} is the folder of the {own.role} {own.name}; only institutions run a study"
        )
    if study.aborted:
        raise StudyError(f"{study.name} was aborted by {study.aborted.by.name}")
    said = study.said(own)
    if said is None or said.kind != "approved":
        raise StudyError(
            f"{study.name}, version {study.wanted.version}, is {said.kind if said else 'not approved'} here; `dictpfl study approve "
            f"{study.name}` says otherwise"
        )
    if left := departed(study.folder):
        raise StudyError(
            f"{study.name} has ended: {', '.join(left)} left the network, and has its key. The lead should propose it under another name, to "
            "those who stay"
        )
    return study.wanted


def make_ready(
    studies: Studies, study: Study, data: Path | None, app: str, *, passphrase_file: Path | None = None, **given: Any
) -> dict[str, Any]:
    """Bring a study's folder up to date with the network's, and with the policy; returns what `up` is told.

    Args:
        studies: of the institution's folder.
        study: with its key.
        data: folder with `train.npz` and `validation.npz`; None: the network's, where the study has none of its own.
        app: SHA-256 of the app bundle that is installed here, in hexadecimal.
        passphrase_file: noted for the process that trains; None: as it was, or as the network's own settings say.
        given: options of `up`, None where they are not given.

    Raises:
        StudyError: not approved, no key, or against the policy by now. ConfigError: no data, or no address.
    """
    # One that died amid a change of passphrase left some files under the old one, of the network and of studies: nothing else here opens the identity.
    finish_change(studies.party)
    proposal = require_going(studies, study)
    if not installed(study.folder):
        raise StudyError(
            f"the key of {study.name} is not here yet; give the bundle that the authority sends in place of the name"
        )
    _require_release(proposal, app)
    policy = Policy.load(studies.party)
    policy.require_kept(proposal, app)
    before = InstitutionSettings.load(study.folder)
    settings = _settings(studies, study, policy, passphrase_file)
    if not settings.passphrase_file:
        settings = settings.model_copy(update={"passphrase_file": before.passphrase_file})
    if settings != before:
        settings.save(study.folder)
    node_key(studies.party)  # refuses a damaged one
    for name in (NODE, NODE_PUBLIC):
        write_private(study.folder / name, (studies.party / name).read_bytes())
    _link_data(studies.party if data is None else data, study.folder, wanted=data is not None)
    return _address(studies.party, study.folder, given)


def run(studies: Studies, study: Study, told: dict[str, Any], *, log_json: bool) -> None:
    """Run a study's processes within its limits until they are stopped, or its time is over.

    Raises:
        StudyError: it has had its time. DictPFLError: as `dictpfl.deploy.operations.institution.up`.
    """
    policy = Policy.load(studies.party)
    with one_of(studies.party / STUDIES, study, policy.at_once):
        require_going(studies, studies.get(study.name))
        limits = Limits.of(study, policy)
        limits.require_time(study.wanted)
        limits.impose()
        with watched(_Over(studies, study, limits).look, "limits"):
            up(study.folder, log_json=log_json, **told)


class _Over:
    """Ends this process once its study is over here; its supervisor takes everything with it."""

    def __init__(self, studies: Studies, study: Study, limits: Limits) -> None:
        self._studies, self._study, self._limits = studies, study, limits
        self._said = False

    def look(self) -> None:
        """End it where the time is over, the study was stopped by a paper, or a member left the network."""
        if self._said:
            return
        try:
            self._limits.require_time(self._study.wanted)
            require_going(self._studies, self._studies.get(self._study.name))
        except StudyError as reason:
            self._said = True
            _log.warning("the study stops here", reason=str(reason))
            os.kill(os.getpid(), signal.SIGTERM)


def _require_release(proposal: Proposal, app: str) -> None:
    """Refuse a study whose key was made for another release: its text stands, so nobody can make another version of it."""
    if proposal.app != app:
        raise StudyError(
            f"{proposal.name} has its key for the release with app {proposal.app[:12]}, and here is {app[:12]}: a study runs on one release, to "
            f"its end. Ask {proposal.lead.name} to propose it under another name, from its model (`--weights`) if it has one"
        )


def _keep(studies: Studies, study: Study, approvals: Sequence[Notice]) -> None:
    """Keep the others' approvals, but for those of who has said something else since: a pause, say."""
    known = {notice.by.fingerprint: notice.number for notice in study.notices}
    for notice in approvals:
        if notice.number > known.get(notice.by.fingerprint, 0):
            studies.receive(notice, f"the approval of {notice.by.name}")


def _settings(studies: Studies, study: Study, policy: Policy, passphrase_file: Path | None) -> InstitutionSettings:
    network = InstitutionSettings.load(studies.party)
    file = passphrase_file or (studies.party / network.passphrase_file if network.passphrase_file else None)
    named = relative(file, study.folder) if file else ""
    return policy.settings(study.wanted, network, named)


def _link_data(source: Path, folder: Path, *, wanted: bool) -> None:
    places = [folder / name for name in (TRAIN, VALIDATION)]
    changed = [place for place in places if wanted or not place.exists()]
    for place in changed:  # all, before one is touched: what was linked before must not give way to half of another
        if not (source / place.name).exists():
            raise ConfigError(
                f"expected {source / place.name}, found none: name the folder that has the samples by --data, or make them by `dictpfl data "
                f"prepare FILE --folder {in_shell(folder)}`, then `dictpfl study up {folder.name}`"
            )
        if place.exists() and not place.is_symlink():
            raise ConfigError(f"{place} is there already; move it away, or leave --data out")
    for place in changed:
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath((source / place.name).resolve(), folder.resolve()))


def _address(party: Path, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in given.items() if value is not None}
    if (folder / NodeSettings.FILE).exists():
        return told
    if (party / NodeSettings.FILE).exists():
        network = NodeSettings.load(party)
        told = {
            "coordinator": network.coordinator,
            "ca": os.path.relpath((party / network.ca).resolve(), folder.resolve()),
            "heartbeat": network.heartbeat,
            **told,
        }
    if "coordinator" not in told or "ca" not in told:
        raise ConfigError(
            f"{party} has never been up, so where the coordinator is is not known: give --coordinator HOST:PORT and --ca FILE"
        )
    files = [party / NodeSettings.FILE, *party.glob(f"{STUDIES}/*/{NodeSettings.FILE}")]
    taken = {NodeSettings.load(file.parent).port for file in files if file.exists()}
    return {"port": max(taken, default=_FIRST_PORT - 1) + 1, **told}
