"""Decisions of a party about a study: approve, refuse, pause, abort. Each is a signed notice, and an entry of its custody log."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dictpfl.common.errors import IdentityError, StudyError
from dictpfl.common.files import write_private
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.identity import Role, Signer
from dictpfl.deploy.console import one_line
from dictpfl.deploy.studies.papers import Kind, Notice
from dictpfl.deploy.studies.policy import Policy, policy_digest
from dictpfl.deploy.studies.store import Studies, Study, require_current


def approve(studies: Studies, study: Study, institution: Signer, app: str, out: Path | None = None) -> Notice:
    """Approve the text of a study that is here, if it keeps to this institution's policy; after a pause, go on.

    Args:
        studies: of the institution's folder.
        study: with a proposal.
        institution: with its keys.
        app: SHA-256 of the app bundle that is installed here, in hexadecimal.
        out: file for the notice, which goes to the authority; None: none.

    Raises:
        StudyError: it breaks the policy, was aborted, or its day has passed; nothing was signed.
    """
    _require_institution(studies)
    _require_open(study)
    if not study.keyed:
        require_current(study.wanted)
    policy = Policy.load(studies.party)
    policy.require_kept(study.wanted, app)
    return _decide(studies, study, institution, "approved", "", out, policy=policy_digest(studies.party))


def refuse(studies: Studies, study: Study, institution: Signer, reason: str, out: Path | None = None) -> Notice:
    """Refuse a study: its key is not taken, and what runs of it here is stopped.

    Raises:
        StudyError: it was aborted.
    """
    _require_institution(studies)
    _require_open(study)
    notice = _decide(studies, study, institution, "refused", reason, out)
    stop(study)
    return notice


def pause(studies: Studies, study: Study, institution: Signer, reason: str, out: Path | None = None) -> Notice:
    """Stop what runs of a study here, and start nothing of it until it is approved again.

    Raises:
        StudyError: it was aborted, or was never approved here.
    """
    _require_institution(studies)
    _require_open(study)
    said = study.said(institution.public)
    if said is None or said.kind == "refused":
        raise StudyError(f"{study.name} is not approved here, so there is nothing to pause")
    notice = _decide(studies, study, institution, "paused", reason, out)
    stop(study)
    return notice


def abort(studies: Studies, study: Study, party: Signer, reason: str, out: Path | None = None) -> Notice:
    """End a study for good, as its lead or the authority; every party that takes the notice up stops it.

    Raises:
        StudyError: it was aborted already. BundleError (unknown-sender): it is not for this party to say.
    """
    _require_open(study)
    notice = _decide(studies, study, party, "aborted", reason, out)
    stop(study)
    return notice


def stop(study: Study) -> None:
    """Have the `up` of a study end, if one runs here."""
    if pid := study.running:
        os.kill(pid, signal.SIGTERM)


def _require_institution(studies: Studies) -> None:
    own = studies.network.own
    if own.role is not Role.INSTITUTION:
        raise IdentityError(
            f"{studies.party} is the folder of the {own.role} {own.name}; only institutions approve, refuse or pause"
        )


def _require_open(study: Study) -> None:
    if study.aborted:
        raise StudyError(
            f"{study.name} was aborted by {study.aborted.by.name}: {one_line(study.aborted.reason) or 'no reason given'}"
        )


def _decide(
    studies: Studies, study: Study, by: Signer, kind: Kind, reason: str, out: Path | None, **more: str
) -> Notice:
    notice = studies.say(kind, study, by, reason)
    digest = notice.digest.hex()
    custody.record(studies.party, by, f"study {kind}", study=study.name, proposal=digest, reason=reason, **more)
    if out is not None:
        write_private(out, notice.to_bytes())
    return notice
