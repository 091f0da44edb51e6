"""Digits of a language model: what it writes, which neurons prefer which digit, and what becomes of both without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.digits import Histogram, digits_of, histogram
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.numbers.fit import FIRST
from dictpfl.deploy.numbers.lens import lens
from dictpfl.deploy.numbers.measures import (
    beside_truth,
    correlation,
    effect,
    first_errors,
    leading,
    normalised,
    only_fluent,
    shares,
)
from dictpfl.deploy.numbers.reading import Places, Reader, told_example
from dictpfl.deploy.numbers.selectivity import drawn, effective, most_selective, ranks, selectivity
from dictpfl.deploy.numbers.spelling import Severally
from dictpfl.deploy.numbers.tasks import TASKS, Question, answer_in, questions, require_seed

LENS = 8
"""Questions of each kind that the lens looks at."""
Ints = NDArray[np.int64]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """Extent of an audit.

    Attributes:
        tasks: kinds of questions; empty: all.
        samples: questions of each.
        shots: examples in front of each question, of its kind.
        seed: of questions and draws.
        free: True: the model also writes answers by itself.
        neurons: share of all neurons that is silenced for a digit; 0: none are.
        digits: digits whose neurons are silenced; empty: all ten.
        draws: of random neurons, for each digit whose neurons are silenced.
        gain: False: digits are ranked by the bare unembedding, without the last norm.
    """

    tasks: tuple[str, ...] = ()
    samples: int = 100
    shots: int = 2
    seed: int = 1
    free: bool = False
    neurons: float = 0.0
    digits: tuple[int, ...] = ()
    draws: int = 20
    gain: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            ConfigError: it says what is expected.
        """
        if self.samples < 2 or self.shots < 0 or self.draws < 0 or not 0.0 <= self.neurons < 1.0:  # noqa: PLR2004 -- two halves
            raise ConfigError(
                f"samples {self.samples}, shots {self.shots}, draws {self.draws}, neurons {self.neurons:g}: expected at least 2, 0 and 0, and "
                "a share below 1"
            )
        if strange := [d for d in self.digits if d not in range(10)]:
            raise ConfigError(f"digits {', '.join(map(str, strange))}: expected some of 0 to 9")
        if len(set(self.digits)) < len(self.digits):
            raise ConfigError(f"digits {', '.join(map(str, self.digits))}: expected each once")
        require_seed(self.seed)
        if wrong := [t for t in self.tasks if t not in TASKS]:
            raise ConfigError(f"--tasks {', '.join(wrong)}: expected some of {', '.join(TASKS)}, or all")


def audit(
    reader: Reader, asked: Asked, *, corpus: Histogram | None = None, note: Note = lambda _: None
) -> dict[str, Any]:
    """Audit a model's digits.

    Args:
        reader: the model.
        asked: extent.
        corpus: digits of a text that the model may have learnt from, to hold its neurons against.
        note: called with a line at each step.

    Returns:
        JSON values: `prompts` (by kind of questions: `before`, the text in front of each, and every question with its answer), `reading` (shares of
        digits that the model writes, with 95 % intervals over questions, and its accuracy), `first_errors`, `tasks`, `profile` (mean selectivity of neurons by digit), `lens` (see `dictpfl.deploy.numbers.lens`), and, if they were asked for,
        `free` (with every answer as it is `written`) and `neurons`. Where digits share tokens, `spelling` says how, shares are those of tokens' first characters beside the
        truth's own (see `dictpfl.deploy.numbers.measures.beside_truth`), `first_errors` is None, and the profile is that of the tokens of
        one digit.
    """
    kinds = asked.tasks or tuple(TASKS)
    drawn_questions = {kind: questions(kind, asked.samples + asked.shots, asked.seed) for kind in kinds}
    note(f"reading {len(kinds) * asked.samples} questions")
    half = asked.samples // 2
    read = {}
    for kind, every in drawn_questions.items():
        examples, own = every[: asked.shots], every[asked.shots :]
        # Signs are taken from the first half, effects are measured on the second.
        read[kind] = (
            reader.read(own[:half], examples, activations=True),
            reader.read(own[half:], examples),
        )
    whole = [places for pair in read.values() for places in pair]
    note("ranking digits for every neuron")
    found = ranks(reader, gain=asked.gain)
    profile = selectivity(found).mean(axis=(0, 2))
    several = spelt_severally(reader)
    measured = beside_truth if several else shares
    outcome: dict[str, Any] = {
        "asked": {**asked.__dict__, "tasks": list(kinds), "digits": list(asked.digits)},
        "prompts": {kind: _prompts(every, asked.shots) for kind, every in drawn_questions.items()},
        "reading": measured(whole, asked.seed),
        "first_errors": None if several else first_errors(whole, asked.seed),
        "tasks": {kind: measured(pair, asked.seed) for kind, pair in read.items()},
        "profile": {
            "selectivity": profile.tolist(),
            "against_benford": correlation(profile[1:], FIRST),
            "against_corpus": None if corpus is None else correlation(profile[1:], corpus.part("first")),
        },
    }
    if several:
        outcome["spelling"] = several.to_json()
    note("looking behind every layer")
    outcome["lens"] = lens(
        reader, [(own[asked.shots :][:LENS], own[: asked.shots]) for own in drawn_questions.values()]
    )
    if asked.free:
        note("letting it write")
        outcome["free"] = _free(reader, drawn_questions, asked)
    if asked.neurons:
        outcome["neurons"] = _neurons(reader, found, read, drawn_questions, asked, note)
    return outcome


def _prompts(every: Sequence[Question], shots: int) -> dict[str, Any]:
    """Texts that the model reads: `before`, and behind it a question and "Answer:"."""
    return {
        "before": "".join(told_example(question) for question in every[:shots]),
        "questions": [{"text": question.text, "answer": question.answer} for question in every[shots:]],
    }


def spelt_severally(reader: Reader) -> Severally | None:
    """The spelling, where digits share tokens; None where each has its own."""
    spelling = reader.spelling
    return spelling if isinstance(spelling, Severally) and spelling.several else None


def _free(reader: Reader, every: Mapping[str, Sequence[Question]], asked: Asked) -> dict[str, Any]:
    """First digits of what the model writes by itself, and how many answers are right."""
    words, right, count = [], 0, 0
    written: dict[str, list[str]] = {}
    several, heads, truth = spelt_severally(reader), [], []
    for kind, own in every.items():
        examples, questions_asked = own[: asked.shots], own[asked.shots :]
        tokens = reader.tokens_written(questions_asked, examples)
        written[kind] = reader.told(tokens)
        for question, text in zip(questions_asked, written[kind], strict=True):
            word = answer_in(text)
            words.append(word)
            right += digits_of(word) == int(question.answer)
            count += 1
        if several:
            heads += [several.begun(one) for one in tokens]
            truth += [several.heads(question.answer) for question in questions_asked]
    found = histogram(words, every=True)
    return {
        "answers": count,
        "numbers": int(found.part("numbers")[0]),
        "right": right / count,
        "first": normalised(found.part("first")).tolist(),
        "benford": FIRST.tolist(),
        "written": written,
    } | ({"characters": leading(heads, truth, asked.seed)} if several else {})


def _neurons(
    reader: Reader,
    found: Any,
    read: Mapping[str, tuple[Places, Places]],
    every: Mapping[str, Sequence[Question]],
    asked: Asked,
    note: Note,
) -> dict[str, Any]:
    """Silence the most selective neurons of each digit, and as many random ones, where a digit is written; on the second halves."""
    weights = np.array([len(first.truth) for first, _ in read.values()], dtype=np.float64)
    means = np.average([first.activations for first, _ in read.values()], axis=0, weights=weights)
    vocabulary = reader.model.get_output_embeddings().weight.shape[0]
    scores = selectivity(effective(found, means, vocabulary))
    total = scores.shape[0] * scores.shape[2]
    count = max(1, round(asked.neurons * total))
    digits = asked.digits or tuple(range(10))
    chosen = {d: most_selective(scores, d, count) for d in digits}
    variants = {f"digit {d}": silenced for d, silenced in chosen.items()}
    variants |= {
        f"random {draw} for {d}": drawn(chosen[d], scores.shape[2], asked.seed, d, draw)
        for d in digits
        for draw in range(asked.draws)
    }
    note(f"silencing {count} of {total} neurons, {len(variants)} ways")
    half = asked.samples // 2
    after = [reader.read(own[asked.shots + half :], own[: asked.shots], variants) for own in every.values()]
    fluent = only_fluent(after)
    several = spelt_severally(reader) is not None
    plain = (beside_truth if several else shares)(fluent, asked.seed)
    expected = np.array(plain["truth"]) if several else 0.1
    effects = {name: effect(fluent, name, plain, expected) for name in variants}
    # A draw is random neurons for each of the digits, since the changes that one set makes to all ten shares add up to 0.
    random = [{d: effects[f"random {draw} for {d}"] for d in digits} for draw in range(asked.draws)]
    table = [[effects[f"digit {d}"]["change"][e] for e in range(10)] for d in digits]
    diagonal = [row[d] for row, d in zip(table, digits, strict=True)]
    return {
        "count": count, "of": total, "digits": list(digits), "plain": plain, "effects": effects, "table": table,
        "diagonal": float(np.mean(diagonal)),
        "random_low": float(np.quantile([np.mean([r[d]["change"][d] for d in digits]) for r in random], 0.05)) if random else None,
        "random_mended": float(np.quantile([sum(_net(r[d]) for d in digits) for r in random], 0.95)) if random else None,
        "mended": sum(_net(effects[f"digit {d}"]) for d in digits),
        "layers": {f"digit {d}": sorted(layer for layer, n in chosen[d].items() for _ in n) for d in digits},
    }  # fmt: skip


def _net(found: Mapping[str, Any]) -> int:
    """Digits mended less those broken."""
    return int(found["mended"]) - int(found["broken"])
