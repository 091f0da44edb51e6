"""Checks of ciphertexts by topic: lines of the audit of a recorded run, each of which fails when encryption is wrong.

Attacks on data say nothing here: words of a ciphertext that are read as numbers are noise under a cipher that leaks, too.
The audit (`dictpfl.deploy.audit`) has the key and decrypts, so that it sees what a reader of words cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.methods import replace_section
from dictpfl.deploy.attacks.results import CiphertextCheck
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.audit.checks.check import FAILED, OK, UNTOLD

_UPLOADS = 80
"""Uploads from which on every check of the audit can tell; with fewer, those of dependence cannot."""


@dataclass(frozen=True)
class Topic:
    """Group of lines of the audit that answer one question.

    Attributes:
        name: for tables.
        lines: beginnings of the audit's lines in it.
        fails: description of a run in which it fails.
        unseen: limits of it, in plain words.
    """

    name: str
    lines: Sequence[str]
    fails: str
    unseen: str


TOPICS = (
    Topic(
        "seeds are distinct", ("seeds are distinct", "second polynomials differ"),
        "Two uploads name one seed: an encryption was used twice, and the difference of the two uploads is the difference of "
        "their values, up to noise.",
        "Seeds that differ and yet can be guessed. That they come from the operating system's generator stands in the code.",
    ),
    Topic(
        "noise has its law", ("rests have", "rests are", "errors move", "no error is"),
        "No error term, or one that is too narrow, too wide or not centred. Without it, words are linear equations in the key, "
        "and as many of them as it has coefficients give it.",
        "Errors of the right law that somebody can predict. That the equations are hard to solve with errors (RLWE) is assumed.",
    ),
    Topic(
        "the key has its law",
        ("the key is", "the key's coefficients", "neighbours in the key", "institutions hold one key", "parameters keep"),
        "A key of zeros, a sparse or constant key, keys that differ between institutions, parameters in which noise reaches values.",
        "A key that looks uniform and that somebody else knows. Who made and received it stands in the custody logs.",
    ),
    Topic(
        "words are uniform",
        ("each bit of a word", "upper bytes of words", "neighbouring words", "no bit of seeds"),
        "Words that are skewed or correlated, or that go with a bit of the content: ciphertexts that were drawn again until they "
        "carried one.",
        "A dependence on content that takes several bits to see, or that is in fewer uploads than the run has to show it by.",
    ),
    Topic(
        "masks are those of the members' secrets", ("masks, recomputed",),
        "Own masks from an empty secret, pair secrets without X25519, streams that repeat every round, no masks at all: what is "
        "recomputed does not come off.",
        "A member's secret that is known elsewhere. Without masks in the configuration there is no such line.",
    ),
    Topic(
        "sums are equal",
        ("uploads parse", "uploads decrypt", "components stay", "sums ", "integers of sums"),
        "A sum whose words or integers are not those of the uploads that it lists, fewer uploads than the minimum, values that "
        "overflow, an upload that does not decrypt.",
        "A sum that was shown to one institution and not journalled.",
    ),
    Topic(
        "tags are right", ("tags fit", "tags of sums"),
        "A tag that does not bind the words, the id, the seed or the state: a coordinator could add to a sum unnoticed.",
        "A member that helps the coordinator: it has the key of the tags and can make any.",
    ),
    Topic(
        "upload ids follow from what was sealed", ("ids follow", "uploads are of members"),
        "An id that cannot be recomputed, such as one with a sample count or a value written into it; an upload of a stranger.",
        "What a machine sends elsewhere, and when: delays are held by tests/attacks/test_delays.py.",
    ),
    Topic(
        "states replay",
        ("the federation id", "what genesis says", "institutions know", "rounds replay", "uploads hold one ledger", "blobs carry", "memories hold"),
        "Institutions that hold another state than the sums give, an upload that uses the room of others, other members or keys "
        "than were agreed on.",
        "Training: whether an update is that of the institution's samples is not looked at.",
    ),
    Topic(
        "noise of differential privacy", ("integers carry", "noise is new"),
        "Uploads without the agreed noise, or with the same noise twice.",
        "Noise that somebody can predict; noise of single samples, which is in the training. Without `privacy.mechanism` = "
        "institution there is no such line.",
    ),
    Topic(
        "no secret in another file", ("no file but",),
        "Bytes of a key, a seed or an institution's secret in a log, a diary or a journal, in raw bytes, hexadecimal, base64 or "
        "numbers.",
        "Other encodings, and files that lie elsewhere (`dictpfl audit crypto --logs`).",
    ),
)  # fmt: skip
"""Topics in the order of tables."""
OTHER = Topic("other", ("",), "The audit says what.", "")
_ORDER = {topic.name: place for place, topic in enumerate((*TOPICS, OTHER))}


def checked(folder: Path, method: str) -> list[CiphertextCheck]:
    """Audit a recorded run; each line under its topic, in the order of `TOPICS`.

    Args:
        folder: recorded run.
        method: label of the method that it was made by.

    Raises:
        ConfigError, KeyFileError, MemoryFileError, JournalError: not the folder of a recorded run.
    """
    lines = sorted(audited(folder), key=lambda line: _ORDER[topic_of(line.what).name])
    return [
        CiphertextCheck.model_validate({"topic": topic_of(line.what).name, "method": method} | line.to_json())
        for line in lines
    ]


def topic_of(what: str) -> Topic:
    """Find the topic of a line of the audit."""
    return next(topic for topic in (*TOPICS, OTHER) if what.startswith(tuple(topic.lines)))


def summary(lines: Sequence[CiphertextCheck]) -> tuple[str, str]:
    """Sum up lines of one topic and method: the worst verdict, and how many were without fault."""
    if not lines:
        return "", "-"
    verdicts = [c.verdict for c in lines]
    return worst(verdicts), f"{worst(verdicts)} {verdicts.count('ok')} of {len(lines)}"


def worst(verdicts: Sequence[str]) -> str:
    """Pick the worst of some lines' verdicts."""
    return max(verdicts, key=(OK, UNTOLD, FAILED).index)


def lengthened(config: FederationConfig) -> FederationConfig:
    """Give a run as many rounds as every check needs to tell."""
    federation = config.federation
    rounds = max(federation.rounds, math.ceil(_UPLOADS / federation.participants))
    return config.model_copy(update={"federation": replace_section(federation, rounds=rounds)})
