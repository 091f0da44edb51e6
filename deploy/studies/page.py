"""The page of a study for who decides: the review page's settings and risks, beside the text, the policy and the approvals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private
from dictpfl.deploy.reports.templates import template
from dictpfl.deploy.review.cards import cards
from dictpfl.deploy.review.judged import Mark
from dictpfl.deploy.review.risks import Known, risks
from dictpfl.deploy.review.settings import meanings
from dictpfl.deploy.studies.papers import Proposal
from dictpfl.deploy.studies.plain import facts
from dictpfl.deploy.studies.store import Study

PAGE = "study.html"


@dataclass(frozen=True)
class Answer:
    """Answer of an institution to a study, in a line."""

    name: str
    mark: Mark
    word: str
    at: str
    reason: str


def write_page(study: Study, reasons: Sequence[str] | None, out: Path | None = None) -> Path:
    """Write the page; returns its path.

    Args:
        study: with a proposal.
        reasons: why it breaks the policy of this institution, a sentence each; None: not an institution's page.
        out: file to write; None: `study.html` in the study's folder.

    Raises:
        ConfigError: it cannot be written.
    """
    proposal, path = study.wanted, out or study.folder / PAGE
    known = _known(proposal)
    page = template("study.html.j2").render(
        proposal=proposal,
        digest=proposal.digest.hex(),
        facts=facts(proposal),
        reasons=reasons,
        cards=cards(known),
        settings=meanings(proposal.config, None),
        risks=risks(known),
        answers=_answers(study),
        insecure=proposal.config.insecurities,
        made_on=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    try:
        write_private(path, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another file with --page") from error
    return path


def _known(proposal: Proposal) -> Known:
    config = proposal.config
    encrypted = config.encryption.sealer == "ckks" and config.encryption.sealed_share >= 1.0
    on = config.defences
    return Known(config, on.masks, on.integrity, encrypted, config.least, simulated=False, judgement=None)


def _answers(study: Study) -> list[Answer]:
    said = {notice.by.name: notice for notice in study.notes if notice.by.name in study.wanted.institutions}
    marks: dict[str, Mark] = {"approved": "good", "refused": "bad", "paused": "caution"}
    rows = []
    for name in sorted(study.wanted.institutions):
        notice = said.get(name)
        if notice is None:
            rows.append(Answer(name, "open", "nothing yet", "", ""))
        else:
            rows.append(Answer(name, marks.get(notice.kind, "open"), notice.kind, notice.at, notice.reason))
    return rows
