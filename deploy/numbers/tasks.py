"""Seven kinds of questions with a whole number for an answer, drawn so that all digits of all answers come equally often.

After the Digit Bias Benchmark (arXiv 2506.01734), whose questions are those of DeepMind's Mathematics Dataset; written anew, seeded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dictpfl.common.config.sections import LARGEST_SEED
from dictpfl.common.errors import ConfigError
from dictpfl.common.law.seeds import small_seed

_CANDIDATES = 40
_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)")
_LEADS = re.compile(r"(?:=|\b(?:is|equals|answer)\b:?)[\s*$(\[]*$")
_ORDINALS = {2: "square", 3: "cube", 4: "fourth", 5: "fifth"}


@dataclass(frozen=True)
class Question:
    """A question and its answer, a positive whole number.

    Attributes:
        task: kind of question.
        text: of the question.
        answer: its digits.
    """

    task: str
    text: str
    answer: str


def _sum(draw: random.Random, answer: int) -> str:
    part = draw.randint(1, answer) if answer > 1 else 1
    if draw.random() < 0.5:  # noqa: PLR2004 -- as often as not
        return f"What is {part} plus {answer - part}?"
    return f"What is {answer + part} minus {part}?"


def _product(draw: random.Random, answer: int) -> str:
    factors = [f for f in range(2, 100) if answer % f == 0] or [1]
    factor = draw.choice(factors)
    return f"Multiply {factor} and {answer // factor}."


def _quotient(draw: random.Random, answer: int) -> str:
    divisor = draw.randint(2, 60)
    return f"Divide {answer * divisor} by {divisor}."


def _evaluated(draw: random.Random, answer: int) -> str:
    slope, at = draw.choice([-1, 1]) * draw.randint(2, 30), draw.choice([-1, 1]) * draw.randint(1, 30)
    rest = answer - slope * at
    return f"Let c(a) = {slope}*a {'+' if rest >= 0 else '-'} {abs(rest)}. What is c({at})?"


def _root(draw: random.Random, answer: int) -> str:
    power = draw.choice([2, 3]) if answer > 999 else draw.choice(list(_ORDINALS))  # noqa: PLR2004 -- readable numbers
    near = answer**power + draw.randint(-(answer ** (power - 1)) // 2, answer ** (power - 1) // 2)
    return f"What is the {_ORDINALS[power]} root of {near} to the nearest integer?"


def _linear(draw: random.Random, answer: int) -> str:
    left, right = draw.randint(10, 60), draw.randint(1, 9)
    rest = (left - right) * answer
    part = draw.randint(1, max(1, rest))
    return f"Solve {left}*r = {right}*r - {part} + {rest + part} for r."


def _sequence(draw: random.Random, answer: int) -> str:
    step = draw.choice([-1, 1]) * draw.randint(1, max(1, answer // 4))
    return f"What comes next: {answer - 3 * step}, {answer - 2 * step}, {answer - step}?"


TASKS: dict[str, Callable[[random.Random, int], str]] = {
    "sums": _sum,
    "products": _product,
    "quotients": _quotient,
    "functions": _evaluated,
    "roots": _root,
    "equations": _linear,
    "sequences": _sequence,
}


def questions(task: str, count: int, seed: int) -> list[Question]:
    """Draw questions of a kind: of 40 candidates that one stays that keeps the answers' digits most even.

    Args:
        task: of `TASKS`.
        count: of questions.
        seed: of the draw; the same ones everywhere.

    Raises:
        ConfigError: an unknown task, or a seed out of range.
    """
    if task not in TASKS:
        raise ConfigError(f"task is {task!r}; expected one of {', '.join(TASKS)}, or all")
    require_seed(seed)
    draw = random.Random(small_seed(seed.to_bytes(8, "little"), "digits", task))  # noqa: S311 -- questions, no secrets
    counts, found = [0] * 10, []
    for _ in range(count):
        candidates = [
            draw.randint(10 ** (size - 1), 10**size - 1)
            for size in (draw.choice((2, 3, 4)) for _ in range(_CANDIDATES))
        ]
        answer = min(candidates, key=lambda value: _unevenness(counts, str(value)))
        for digit in str(answer):
            counts[int(digit)] += 1
        found.append(Question(task, TASKS[task](draw, answer), str(answer)))
    return found


def require_seed(seed: int) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: it says what is expected.
    """
    if not (isinstance(seed, int) and 0 <= seed <= LARGEST_SEED):
        raise ConfigError(f"seed is {seed!r}; expected a whole number from 0 to {LARGEST_SEED}")


def answer_in(text: str) -> str:
    """The number that an answer in words comes to, as it is written; empty: there is none.

    That is the last one that stands behind "=", "is", "equals" or "answer", and the first one where none does: "The answer is 42",
    "12 + 30 = 42", "42, since 12 + 30 is that".
    """
    found = list(_NUMBER.finditer(text))
    led = [number for number in found if _LEADS.search(text[: number.start()])]
    return (led[-1] if led else found[0]).group().replace("\u2212", "-") if found else ""


def _unevenness(counts: Sequence[int], word: str) -> float:
    after = [count + word.count(str(digit)) for digit, count in enumerate(counts)]
    total = sum(after)
    return sum((count / total - 0.1) ** 2 for count in after)
