"""Risks that remain, in plain words: the limits of docs/threat-model.md as they apply to this federation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.reports.exposure import HELP, Exposure
from dictpfl.deploy.review.audited import NOT_AUDITED, Audit, Line
from dictpfl.deploy.review.judged import Judgement, Mark
from dictpfl.deploy.review.spending import SIZES, bounded, promise


@dataclass(frozen=True)
class Risk:
    """A risk: who and what, what it would mean, what keeps it small here, and what shows it."""

    title: str
    meaning: str
    reduced: str
    mark: Mark
    shown: str


@dataclass(frozen=True)
class Known:
    """Facts that the text depends on.

    Attributes:
        config: configuration; None where only a coordinator's folder is here.
        masks: uploads are masked.
        integrity: uploads are signed.
        encrypted: all that is sent is encrypted.
        least: fewest uploads in a sum.
        simulated: one process played everybody.
        judgement: findings of attacks; None without any.
        exposure: judgement of first layers; None where it is not known.
        audit: audit of this very run.
        epsilon: the most that an institution spent of differential privacy; None where it is not known.
        elsewhere: checks of ciphertexts of this federation's method, in runs that were made for an attack.
    """

    config: FederationConfig | None
    masks: bool
    integrity: bool
    encrypted: bool
    least: int
    simulated: bool
    judgement: Judgement | None
    exposure: Exposure | None = None
    audit: Audit = NOT_AUDITED
    epsilon: float | None = None
    elsewhere: Sequence[Line] = ()


def risks(known: Known) -> list[Risk]:
    """Return all that remain, the greatest first."""
    return [*_of_design(known), *_of_the_model(known), *_of_operation(known)]


def _of_design(known: Known) -> Iterator[Risk]:
    if not known.encrypted:
        yield Risk(
            "The coordinator reads updates",
            "Updates, or parts of them, cross unencrypted. From an update, records that it was trained on can often be rebuilt.",
            "Nothing here. Use a method that encrypts everything.", "bad", "settings above; attacks on plaintext",
        )  # fmt: skip
    yield Risk(
        "An institution that works with the coordinator",
        "All institutions share one key. Whoever has it and gets a single upload, from the coordinator or by tapping the line "
        "inside TLS, reads that institution's update."
        if not known.masks else
        "All institutions share one key, but uploads are masked besides. A coordinator that breaks the protocol, together with "
        "a third of the institutions or more, can still take the masks off.",
        "Contracts; an operator of the coordinator who is no member and holds no key; defences.masks = true, which makes a single "
        "upload noise." if not known.masks else "defences.masks is on: what is left needs several parties to break the protocol.",
        "good" if known.masks else "bad", _shown(known, "collusion", "docs/threat-model.md, tests/system/test_masks.py"),
    )  # fmt: skip
    yield Risk(
        "Small groups",
        f"Each institution can subtract itself from a sum. With {known.least} in it, it sees the sum of the other "
        f"{known.least - 1}; if each of these trained on few samples, single ones can be told.",
        f"No sum of fewer than {known.least} is opened. More institutions, larger batches and more local steps help; each "
        "institution can raise min_participants in its own institution.toml.",
        "bad" if known.least < 3 else "caution" if known.least < 5 else "good",  # noqa: PLR2004 -- the threat model's numbers
        _shown(known, "institution", "common/law/finishing.py:finish"),
    )  # fmt: skip
    yield _of_all_rounds(known)
    yield Risk(
        "A coordinator that cheats",
        "It can try to count one upload for another, or to add numbers of its own to a sum; and it can leave somebody out as if late.",
        "Every upload carries a secret tag on its ciphertext; a sum that is not exactly that of the uploads it lists is refused before "
        "it is opened. "
        + ("defences.integrity is on besides: institutions sign what they send, and evidence is kept."
           if known.integrity else
           "A coordinator together with an institution, which knows the key of the tags, is found out by defences.integrity = true only."),
        "good" if known.integrity else "caution", "tests/attacks, tests/system/test_integrity.py",
    )  # fmt: skip
    yield Risk(
        "An institution that cheats",
        "It can send nonsense and spoil the model; since updates are secret, nobody sees whose they were.",
        "Overflow is noticed and the round refused. Take in only institutions under contract.", "caution", "docs/threat-model.md",
    )  # fmt: skip


def _of_all_rounds(known: Known) -> Risk:
    """Risk that the sums of all rounds together tell what one does not."""
    e = known.exposure
    rule = (
        "Every round is made of the same samples. An institution that keeps all sums can tell whether a sample is among the others' "
        "where the distinct inputs of the first trained layer, over all rounds, are fewer than the values in one. "
    )
    meaning = rule + (
        "How many there are is not known from what is in this folder." if e is None else
        f"{e.sentence}: {e.verdict}." if known.simulated else
        f"{e.sentence_without_count}: {e.verdict}. Their number is not said here: from it an institution's number of samples would follow."
    )  # fmt: skip
    safe = e is not None and not (e.is_exposed or e.is_near)
    mark: Mark = "good" if safe else "bad" if e and e.is_exposed and not e.private else "caution"
    reduced = (
        f"Differential privacy is on: what all sums together tell is bounded by {bounded(known.config, known.epsilon)}."
        if e and e.private and known.config else HELP
    )  # fmt: skip
    return Risk(
        "The same samples, round after round", meaning, reduced, mark,
        _shown(known, "institution", "dictpfl attack --parts rounds", attack="span check over rounds"),
    )  # fmt: skip


def _of_the_model(known: Known) -> Iterator[Risk]:
    mechanism = known.config.privacy.mechanism if known.config else "none"
    whom = {"example": "each training sample", "institution": "each institution"}.get(mechanism)
    config = known.config if whom else None
    yield Risk(
        "The finished model gives something away",
        "Any trained model remembers some of its data. Whoever has the model can try to tell whether a person's record was in it. "
        "Encryption during training does not change this.",
        f"Trained with differential privacy of {whom}: what the model and the sums tell is bounded by {bounded(config, known.epsilon)}. "
        f"{SIZES} What it does not cover: docs/how-to/differential-privacy.md."
        if config else
        "Hand the model to whom may have it only; train no longer than needed. The sums and the model are not differentially private "
        "by themselves; privacy.mechanism makes them so.",
        promise(config, known.epsilon) if config else "caution", _shown(known, "outsider", "not measured here"),
    )  # fmt: skip
    yield Risk(
        "Sizes and times",
        "How many ciphertexts an upload has follows from the sums of earlier rounds, and when an institution answers may follow "
        "from how many samples it has. The coordinator and the network see both.",
        "training.steps in place of epochs hides the number of samples. Sizes depend on all institutions together.",
        "caution", _shown(known, "server", "docs/threat-model.md", "distinguishing"),
    )  # fmt: skip


def _of_operation(known: Known) -> Iterator[Risk]:
    yield Risk(
        "Recorded today, opened later",
        "Whoever keeps ciphertexts can open them if the key leaks later. They do not expire.",
        "Keys are sealed under a passphrase in a deployment; rotate the key when somebody leaves; the coordinator drops old sums.",
        "caution", "docs/deploy/lead.md (rotation)",
    )  # fmt: skip
    yield Risk(
        "Disks and people",
        "An institution's folder holds its data, the model and unsent training in clear; the administrator of a machine sees what "
        "runs on it. What people agree by phone no program can check.",
        "Encrypt disks; few accounts; compare fingerprints as docs/deploy.md (calls) says.", "caution", "docs/threat-model.md (deployment)",
    )  # fmt: skip
    if known.simulated:
        yield Risk(
            "This was a simulation",
            "One machine played all parties, and had all data and the key. What crossed between the parties is what would cross in a "
            "deployment; who holds which key, and the network, are not shown by it.",
            "Make this report again from the parties' folders of the deployment.", "caution", "this folder",
        )  # fmt: skip


def _shown(known: Known, party: str, otherwise: str, family: str = "", attack: str = "") -> str:
    """Return the attack of a party (of a family, of a name) that got furthest, if there was one; else where to read."""
    if known.judgement is None:
        return otherwise
    lines = [
        x for x in known.judgement.lines
        if x.ours and x.finding.adversary == party and family in ("", x.finding.family)
        and attack in ("", x.finding.attack) and x.mark != "open"
    ]  # fmt: skip
    if not lines:
        return otherwise
    worst = max(lines, key=lambda x: ("good", "caution", "bad").index(x.mark))
    f = worst.finding
    return f"measured: {f.attack}, {worst.words} ({f.metric} {f.found.value:.2f}, guess {f.blind.value:.2f})"
