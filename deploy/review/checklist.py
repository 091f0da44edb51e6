"""Questions that review boards usually ask, answered from this document as far as it can.

References point to where such questions come from: GDPR is Regulation (EU) 2016/679, HIPAA the Security Rule, 45 CFR Part 164.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dictpfl.deploy.attacks.results import PrivacyResults
from dictpfl.deploy.review.cards import coordinator
from dictpfl.deploy.review.custody import Log
from dictpfl.deploy.review.egress import Egress
from dictpfl.deploy.review.judged import Judgement
from dictpfl.deploy.review.risks import Known
from dictpfl.deploy.units import counted, human_bytes

State = Literal["shown", "in part", "not shown", "no", "yours"]


@dataclass(frozen=True)
class Answer:
    """A question, where it comes from, what can be said, and the section that shows it.

    Attributes:
        question: as reviews ask it.
        source: where it comes from.
        state: shown here, in part, not shown, answered by no, or for the organisation itself to answer.
        answer: what can be said.
        section: of the document that shows it.
    """

    question: str
    source: str
    state: State
    answer: str
    section: str = ""


def checklist(known: Known, record: Egress, logs: Sequence[Log], results: PrivacyResults | None) -> list[Answer]:
    """Return all questions, in the usual order: data, protection, keys, people, time, accidents."""
    return [
        *_data(known, record),
        *_protection(known, results),
        *_keys(known, logs),
        *_organisation(known, record),
    ]


def _data(known: Known, record: Egress) -> Iterator[Answer]:
    yield Answer("Which purpose, which legal basis, which persons?", "GDPR Art. 5(1)(b), 6, 9", "yours",
                 "The documents of the project say so; no program knows.")  # fmt: skip
    sent = (
        f"{human_bytes(record.sent)} of uploads in {counted(len(record.rounds), 'round')}."
        if record.rounds
        else "No record of uploads is in this folder."
    )
    yield Answer(
        "Do samples leave the institution?", "GDPR Art. 5(1)(c), 25", "shown" if record.rounds else "not shown",
        f"No: samples and labels are read by the institution's own process. What leaves are updates of the model: {sent}", "egress",
    )  # fmt: skip
    yield Answer(
        "Can persons' data be inferred from what leaves?", "GDPR Recital 26, Art. 35(7)(c)",
        "in part" if known.judgement or known.audit.lines else "not shown",
        _inferred(known), "attacks",
    )  # fmt: skip
    yield Answer(
        "Can persons' data be inferred from the finished model?", "GDPR Recital 26", *_model(known.judgement), "attacks"
    )
    yield Answer("Can one person's data be taken out again?", "GDPR Art. 17", "in part",
                 "An institution can delete samples at any time, and later rounds do not use them. What the model has learned from them "
                 "stays until it is trained again without them.")  # fmt: skip


def _inferred(known: Known) -> str:
    card = coordinator(known)
    return f"By the coordinator: {card.headline[0].lower()}{card.headline[1:]}. {card.basis}" + (
        " Attacks are those of the literature today."
        if known.judgement
        else " No attack results are in this folder: what others learn was not measured."
    )


def _held(known: Known) -> State:
    """Tell how far it is shown that ciphertexts hold what is in them."""
    if not known.encrypted or known.audit.failed:
        return "no"
    return "shown" if known.audit.whole else "in part"


def _model(judgement: Judgement | None) -> tuple[State, str]:
    card = judgement.card("outsider") if judgement else None
    if card is None or card.mark == "open":
        return (
            "not shown",
            "Not measured here. Take it that a model tells something of its data, and give it out accordingly.",
        )
    return "in part", f"{card.headline}: {card.basis}"


def _protection(known: Known, results: PrivacyResults | None) -> Iterator[Answer]:
    yield Answer(
        "Are data encrypted on the way and where they are processed?", "GDPR Art. 32(1)(a); HIPAA 164.312(e)(1)",
        _held(known),
        "By design, updates are encrypted under CKKS before they leave, are added as ciphertexts, and are opened by institutions only; a "
        f"deployment uses TLS besides. {known.audit.sentence}"
        if known.encrypted else "No: updates, or parts of them, cross in clear.", "ciphertexts",
    )  # fmt: skip
    yield Answer(
        "Does the operator of the coordinator have access?", "GDPR Art. 28, 32", _held(known),
        "By design not to values: it has no key, and its program cannot load what opens a ciphertext. It sees who takes part, when, and "
        f"sizes. {known.audit.sentence}"
        if known.encrypted else "Yes: it reads what is not encrypted.", "seen",
    )  # fmt: skip
    yield Answer(
        "Can one participant see another's contribution?", "GDPR Art. 32(1)(b)", "in part",
        f"It sees sums of at least {known.least}. Together with the coordinator it opens single uploads, because all share one key."
        if not known.masks else
        f"It sees sums of at least {known.least}. Single uploads are masked besides, so that one key and one upload give noise.", "risks",
    )  # fmt: skip
    tested = results is not None and bool(results.checks) and not results.broken
    yield Answer(
        "Were these protections tested?", "GDPR Art. 32(1)(d)",
        "shown" if tested and known.audit.whole else "in part" if results or known.audit.lines else "not shown",
        ("What is readable, by attacks on recorded runs; each had to succeed where nothing is encrypted. " if tested else
         "By attacks, of which some did not work even where nothing is encrypted; these count for nothing. " if results and results.broken else
         "By attacks that were not compared with what they find where nothing is encrypted: what they did not find means nothing by itself. "
         if results and results.findings else
         "Attacks are not in this document: run dictpfl attack. ") + f"Encryption: {known.audit.sentence}", "attacks",
    )  # fmt: skip
    yield Answer(
        "Can contents be altered unnoticed?", "HIPAA 164.312(c)(1)",
        "in part" if known.integrity or known.audit.whole or (results and results.detections) else "not shown",
        "A secret tag shows a sum that was altered, before it is opened. " +
        ("Institutions sign what they send besides. " if known.integrity else "") + (
            "See the active attempts." if results and results.detections else "No active attempts are in this document."
        ), "attacks",
    )  # fmt: skip


def _keys(known: Known, logs: Sequence[Log]) -> Iterator[Answer]:
    whole = bool(logs) and all(log.whole for log in logs)
    yield Answer(
        "Who made, holds and changed keys, and is that recorded?", "GDPR Art. 5(2), 32; HIPAA 164.312(a)(2)(iv)",
        "shown" if whole else "no" if logs else "not shown",
        f"Custody logs of {len(logs)} parties, signed and chained, were verified." if whole else
        "A custody log was altered, cut, or is not readable: see there." if logs else
        "A simulation makes its key itself and keeps no custody log." if known.simulated else
        "No custody log is in this folder.", "custody",
    )  # fmt: skip
    yield Answer(
        "Who may take part, and how is that checked?", "HIPAA 164.312(d)", "in part" if whole else "not shown",
        "Members stand in terms that the authority signed; the coordinator admits their keys only. Fingerprints are compared by phone, "
        "which no log shows.", "custody",
    )  # fmt: skip
    yield Answer(
        "Is there an audit trail that cannot be changed unnoticed?", "GDPR Art. 5(2); HIPAA 164.312(b)",
        "shown" if whole else "no" if logs else "not shown",
        "Each entry is signed and holds the digest of the one before; keep copies of custody.head elsewhere." if whole else
        "See key custody.", "custody",
    )  # fmt: skip


def _organisation(known: Known, record: Egress) -> Iterator[Answer]:
    kept = "It keeps sums and acknowledgements" + (
        f", and {record.snapshots[0]} sealed snapshots ({human_bytes(record.snapshots[1])})"
        if record.snapshots[0]
        else ""
    )
    yield Answer(
        "What is kept, where, and for how long?", "GDPR Art. 5(1)(e)", "in part" if record.journal else "not shown",
        f"At the coordinator, encrypted: {counted(len(record.journal), 'round')} in its journal. {kept}; acknowledgements, sizes and times stay "
        "for ever. Institutions keep data, model and state until they delete them." if record.journal else "No journal is in this folder.",
        "egress",
    )  # fmt: skip
    yield Answer("What happens when something goes wrong?", "GDPR Art. 33, 34; HIPAA 164.308(a)(6)", "in part",
                 "docs/how-to/incidents.md is a runbook: lost passphrase, leaked key, lost disk, drift. Who is told, and when, is for the organisations.")  # fmt: skip
    yield Answer("Where do machines stand; are there transfers abroad?", "GDPR Art. 44 to 49", "yours",
                 "Ask each party. Ciphertexts, sizes and times go to the coordinator, and sums to all institutions.")  # fmt: skip
    yield Answer("Who is controller, who processor; which contracts?", "GDPR Art. 26, 28", "yours",
                 "Institutions, the coordinator's operator and the authority are the parties to name.")  # fmt: skip
    yield Answer("Which software, in which version?", "GDPR Art. 32; HIPAA 164.308(a)(8)", "shown",
                 "See versions; in a deployment the app's hash stands in the signed terms.", "versions")  # fmt: skip
    yield Answer("Will the model decide about persons?", "GDPR Art. 22", "yours", "For the project to say.")
    del known
