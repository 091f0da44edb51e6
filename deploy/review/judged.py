"""Judgement of attacks, in the order in which a review asks: by party for this federation, by method for comparison."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.methods import FINAL, FINAL_PRIVATE, PADDED, SUBJECTS, Subject
from dictpfl.deploy.attacks.results import PICTURES, Adversary, Family, Finding, PrivacyResults, best_by_method

Mark = Literal["good", "caution", "bad", "open"]
"""Mark of a line: nothing found, something found, succeeds; `open` where nothing is known."""

PARTIES: Mapping[Adversary, str] = {
    "server": "The coordinator",
    "institution": "Another institution",
    "collusion": "Coordinator and an institution together",
    "outsider": "Who holds the final model",
}
QUESTIONS: Mapping[Family, str] = {
    "inversion": "Can training images be rebuilt?",
    "labels": "Can the classes of the samples be read?",
    "tokens": "Can words of a text be read?",
    "property": "Can the share of a class at an institution be told?",
    "distinguishing": "Do sizes and times tell two data sets apart?",
    "aggregate": "Can others' data be read out of the sum?",
    "collusion": "Can a single institution's update be opened?",
    "membership": "Can one tell whether somebody's record was in the training data?",
}
_SHORT: Mapping[Family, str] = {
    "inversion": "images", "labels": "classes", "tokens": "words", "property": "share of a class",
    "distinguishing": "sizes and times", "aggregate": "sum", "collusion": "updates", "membership": "membership",
}  # fmt: skip
_WORDS: Mapping[str, tuple[str, Mark]] = {
    "succeeds": ("succeeds", "bad"),
    "better than blind": ("better than a guess", "caution"),
    "no better than blind": ("no better than a guess", "good"),
    "not measured": ("not measured", "open"),
}
_GLOSSARY: Mapping[str, str] = {
    "SSIM": "likeness of two images: 1 the same image, around 0 nothing in common. From 0.6 on a person recognises it.",
    "AUC": "how well two groups are told apart: 0.5 as by a coin, 1 without error.",
    "share of labels right": "of the classes of the samples in an update; 1 means all of them.",
    "correlation": "how closely what was read follows the true update: 1 exactly, 0 not at all.",
    "ROUGE-1": "share of a text's words that were found.",
    "exact": "share of the cases recovered without an error.",
}
"""Meaning of a measure, by a part of its name."""
_BROKEN: tuple[str, Mark] = ("no result: attack broken", "open")
_WORST: Mapping[Mark, int] = {"bad": 3, "caution": 2, "good": 1, "open": 0}


@dataclass(frozen=True)
class Judged:
    """A finding with the word and the mark that a reader gets, and whether it is of this federation's method."""

    finding: Finding
    words: str
    mark: Mark
    ours: bool


@dataclass(frozen=True)
class Card:
    """Line on one party: what is known of what it learns."""

    party: str
    mark: Mark
    headline: str
    basis: str


@dataclass(frozen=True)
class Judgement:
    """All findings, judged.

    Attributes:
        results: as they were written.
        lines: the same findings, in their order.
    """

    results: PrivacyResults
    lines: Sequence[Judged]

    @property
    def questions(self) -> list[tuple[str, list[Judged]]]:
        """Lines by question, in the order of `QUESTIONS`."""
        groups = [
            (question, [x for x in self.lines if x.finding.family == family]) for family, question in QUESTIONS.items()
        ]
        return [(question, lines) for question, lines in groups if lines]

    @property
    def glossary(self) -> list[tuple[str, str]]:
        """The measures that occur, explained."""
        metrics = {line.finding.metric for line in self.lines}
        return [(name, meaning) for name, meaning in _GLOSSARY.items() if any(name in metric for metric in metrics)]

    @property
    def sources(self) -> dict[str, str]:
        """List where each attack is taken from."""
        return {line.finding.attack: line.finding.source for line in self.lines}

    @property
    def families(self) -> list[tuple[Family, str]]:
        """List what the coordinator tried, for the columns of the table by method."""
        return [(f, _SHORT[f]) for f in QUESTIONS if any(x.finding.family == f for x in self._server)]

    @property
    def methods(self) -> list[str]:
        """Methods that the coordinator attacked, in the order of the attack."""
        return list(dict.fromkeys(x.finding.method for x in self._server))

    @property
    def _server(self) -> list[Judged]:
        return [x for x in self.lines if x.finding.adversary == "server"]

    def cell(self, method: str, family: Family) -> Judged | None:
        """Return the attack of a kind that got furthest on a method; None: not tried."""
        tried = [x for x in self._server if (x.finding.method, x.finding.family) == (method, family)]
        return max(tried, key=lambda x: (_WORST[x.mark], x.finding.found.value), default=None)

    def is_ours(self, method: str) -> bool:
        """Tell whether a method is this federation's."""
        return any(x.ours for x in self._server if x.finding.method == method)

    def card(self, party: Adversary) -> Card:
        """Say what this federation's method lets a party learn."""
        lines = [x for x in self.lines if x.ours and x.finding.adversary == party]
        valid = [x for x in lines if x.mark != "open"]
        if not valid:
            why = _uncounted(lines) if lines else "No attack by this party is in the results."
            return Card(PARTIES[party], "open", "No result", why)
        basis = f"{sum(x.finding.trials for x in valid)} trials in all.{_uncounted(lines, ' ')}"
        worst = max((x.mark for x in valid), key=lambda mark: _WORST[mark])
        hits = [x for x in valid if x.mark == worst]
        names = ", ".join(dict.fromkeys(x.finding.attack for x in hits))
        if worst == "bad":
            return Card(PARTIES[party], worst, f"{len(hits)} of {len(valid)} attacks succeed", f"{names}. {basis}")
        if worst == "caution":
            headline = f"{len(hits)} of {len(valid)} attacks learn something"
            return Card(PARTIES[party], worst, headline, f"{names}: {hits[0].words}. {basis}")
        return Card(
            PARTIES[party], worst, "Nothing measurable", f"{len(valid)} attacks, none better than a guess. {basis}"
        )

    def pictures(self, folder: Path) -> list[dict[str, str]]:
        """For each method the reconstruction that came closest, as a data URI with its description."""
        best = best_by_method(line.finding for line in self.lines if line.finding.picture)
        lines = (next(line for line in self.lines if line.finding is f) for f in best.values())
        return [made for line in lines if (made := _picture(line, folder))]


def judge(results: PrivacyResults, config: FederationConfig | None) -> Judgement:
    """Put findings into words, for the federation of `config`, or the attacked one."""
    ours = config or FederationConfig.model_validate(results.config)
    broken = {check.attack for check in results.broken}
    lines = []
    for finding in results.findings:
        words, mark = _WORDS[finding.verdict]
        if finding.attack in broken and mark != "bad":
            words, mark = _BROKEN
        lines.append(Judged(finding, words, mark, _concerns(finding, ours)))
    return Judgement(results, lines)


def _concerns(finding: Finding, config: FederationConfig) -> bool:
    """Tell whether a finding speaks of this federation's way of protecting."""
    if finding.adversary == "outsider":
        # The final model is the same, encrypted or not; noise makes it another.
        return finding.method != (FINAL if config.privacy.mechanism != "none" else FINAL_PRIVATE)
    if finding.adversary in ("institution", "collusion"):
        # What an institution opens does not depend on how uploads are sealed, but masks decide whether single ones open.
        has = {
            "": True,
            "tallies": bool(config.tallies.opening or config.tallies.closing) or config.data.preprocessing.on,
            "sparsity": config.sparsity.method != "none",
        }
        masked = finding.method.endswith(
            ", masks"
        )  # some attacks play federations with masks and without, whatever was attacked
        fits = finding.adversary == "institution" or masked == config.defences.masks
        return config.method == "dictpfl" and fits and has.get(finding.needs, True)
    return finding.method in labels_of(config)


def labels_of(config: FederationConfig) -> set[str]:
    """Return a federation's names in results: its method's own, and for dictpfl the harder case without pruning."""
    document = config.model_dump(mode="json")
    fitting = [s for s in SUBJECTS.values() if s.adversary == "server" and _fits(s, document)]
    most = max((len(s.settings) for s in fitting), default=0)
    labels = {s.label for s in fitting if len(s.settings) == most}
    if config.method == "dictpfl" and config.encryption.sealer == "ckks":
        labels.add("dictpfl without pruning")
        if config.pruning.enabled:  # without it, lengths follow from the configuration alone
            labels |= {"dictpfl", PADDED[config.encryption.pad_to]}
    return labels


def _fits(subject: Subject, document: Mapping[str, Any]) -> bool:
    def value(dotted: str) -> Any:
        found: Any = document
        for part in dotted.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    return all(value(dotted) == wanted for dotted, wanted in subject.settings.items())


def _uncounted(lines: Sequence[Judged], before: str = "") -> str:
    """Say how many results do not count, and why, behind `before`; empty where all do."""
    broken = sum(line.words == _BROKEN[0] for line in lines)
    single = sum(line.mark == "open" for line in lines) - broken
    said = [
        f"{count} {'result does' if count == 1 else 'results do'} not count: {why}."
        for count, why in (
            (broken, "the attack did not work even where nothing is encrypted"),
            (single, "one trial without success tells nothing"),
        )
        if count
    ]
    return before + " ".join(said) if said else ""


def _picture(line: Judged, folder: Path) -> dict[str, str] | None:
    f = line.finding
    try:
        data = (folder / PICTURES / Path(f.picture).name).read_bytes()
    except OSError:
        return None
    if not data.startswith(b"\x89PNG"):
        return None
    rounded = f"{f.metric} {f.found.value:.2f}, blind guess {f.blind.value:.2f}"
    return {
        "source": "data:image/png;base64," + base64.b64encode(data).decode(),
        "alt": f"Rows of images: true, recovered by the attack {f.attack} on {f.method}, and a blind guess. {rounded}.",
        "method": f.method,
        "caption": f"{f.attack}, {_setting(f)}: {rounded}. {line.words.capitalize()}.",
    }


def _setting(finding: Finding) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in finding.setting.items() if name in ("batch", "steps", "round")
    )
