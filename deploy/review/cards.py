"""Cards of the parties: what each learns, as far as it was measured or checked, beside what the design says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dictpfl.deploy.attacks.results import Adversary
from dictpfl.deploy.review.judged import PARTIES, Card
from dictpfl.deploy.review.risks import Known


def cards(known: Known) -> list[tuple[Card, str]]:
    """List what each party learns: measured, and by design."""
    others = known.least - 1
    design: Mapping[Adversary, str] = {
        "server": "It has no key. It sees who takes part, when, and how many bytes."
        if known.encrypted else "Updates, or parts of them, reach it unencrypted: it can read them.",
        "institution": f"It opens sums of at least {known.least}: with {known.least}, the sum of the other {others}.",
        "collusion": "Uploads are masked besides: a single one opens to noise while the coordinator follows the protocol."
        if known.masks else "All institutions share one key: together these two can open every single update.",
        "outsider": "Encryption in training does not change what a finished model tells of its data.",
    }  # fmt: skip
    return [(coordinator(known) if p == "server" else _measured(known, p), design[p]) for p in PARTIES]


def coordinator(known: Known) -> Card:
    """Judge the coordinator: by attacks on data where it can read some, by the audit where it has ciphertexts only."""
    card, audit = _measured(known, "server"), known.audit
    if not known.encrypted:
        return card
    wrong = [line for line in known.elsewhere if line.mark == "bad"]
    if audit.failed:
        return Card(card.party, "bad", f"{len(audit.failed)} checks of its ciphertexts FAILED", audit.sentence)
    if wrong:
        headline = f"{len(wrong)} checks of ciphertexts FAILED in runs made for the attack"
        return Card(card.party, "bad", headline, f"First: {wrong[0].check.what}. {audit.sentence}")
    if card.mark in ("caution", "bad"):  # from sizes and times, which no encryption hides
        return replace(card, basis=f"{card.basis} {audit.sentence}")
    seen = f"Sizes and times: {card.basis}" if card.mark == "good" else "What sizes and times tell was not measured."
    if audit.lines:
        headline = "Ciphertexts, none at fault" if audit.whole else "Ciphertexts, checked in part"
        return Card(card.party, "good" if audit.whole else "caution", headline, f"{audit.sentence} {seen}")
    return Card(card.party, "open", "Ciphertexts, not audited", f"{audit.sentence}{_elsewhere(known)} {seen}")


def _elsewhere(known: Known) -> str:
    if not known.elsewhere:
        return ""
    good = sum(line.mark == "good" for line in known.elsewhere)
    return f" In runs of this method that were made for the attack, {good} of {len(known.elsewhere)} checks hold."


def _measured(known: Known, party: Adversary) -> Card:
    if known.judgement is None:
        return Card(PARTIES[party], "open", "Not measured", "No attack results here.")
    return known.judgement.card(party)
