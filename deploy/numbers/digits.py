"""Digits from Python, as `dictpfl.digits`: questions, selectivity of neurons, the whole audit of a model, and counts of numbers.

from dictpfl import digits
found = digits.histogram(["0.10", "1,234", "12"])
outcome = digits.audit(model, tokenizer, samples=100)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data import digits as written
from dictpfl.client.data.digits import Histogram, words_in, words_of
from dictpfl.deploy.numbers import model as whole
from dictpfl.deploy.numbers import selectivity as ranked
from dictpfl.deploy.numbers.fit import Fit, fits
from dictpfl.deploy.numbers.reading import Reader
from dictpfl.deploy.numbers.tasks import TASKS, Question, questions

__all__ = ["Fit", "Histogram", "Question", "audit", "benchmark", "fits", "histogram", "selectivity"]


def benchmark(seed: int, n: int) -> dict[str, list[Question]]:
    """Questions with whole numbers for answers, of whose digits each comes equally often.

    Args:
        seed: of the draw; the same questions everywhere.
        n: questions of each kind.

    Returns:
        Questions of each of the seven kinds, by its name.
    """
    return {task: questions(task, n, seed) for task in TASKS}


def selectivity(model: Any, tokenizer: Any, *, gain: bool = True) -> NDArray[np.float64]:
    """Digit selectivity of every neuron of a language model: how its output vector ranks each digit among all tokens.

    Args:
        model: causal, of transformers, of the llama family; it is put into evaluation mode.
        tokenizer: its own.
        gain: False: by the bare unembedding, without the last norm.

    Returns:
        Scores of +w, float64 (layers, 10, neurons): the sum of the ten ranks divided by the digit's, the higher the more selective.

    Raises:
        ModelError: a model or a tokenizer that the audit cannot read.
    """
    return ranked.selectivity(ranked.ranks(Reader(model, tokenizer), gain=gain))


def audit(
    model: Any,
    tokenizer: Any,
    *,
    corpus: Histogram | None = None,
    note: Callable[[str], None] = lambda _: None,
    **asked: Any,
) -> dict[str, Any]:
    """Audit a language model's digits, as `dictpfl audit numbers MODEL` does.

    Args:
        model: causal, of transformers, of the llama family; it is put into evaluation mode.
        tokenizer: its own.
        corpus: digits of a text that its neurons are held against (`histogram`).
        note: called with a line at each step.
        asked: attributes of `dictpfl.deploy.numbers.model.Asked`: tasks, samples, shots, seed, free, neurons, digits, draws, gain.

    Returns:
        JSON values, see `dictpfl.deploy.numbers.model.audit`.

    Raises:
        ConfigError: numbers out of range.
        ModelError: a model or a tokenizer that the audit cannot read.
    """
    return whole.audit(Reader(model, tokenizer), whole.Asked(**asked), corpus=corpus, note=note)


def histogram(
    numbers: Iterable[str | int | float | Decimal | None] | NDArray[Any], *, every: bool = False
) -> Histogram:
    """Count the digits of one column.

    Args:
        numbers: words as they are written; or numbers, a column of pandas too, of which floats are written with the fewest digits that give them back. None and NaN count for
            nothing.
        every: True: first digits count however narrow the column is, and words stand for themselves, as those of running text.

    Returns:
        Counts; `fits` holds them against Benford's law and evenness.
    """
    return written.histogram(_words(numbers), every=every)


def _words(numbers: Any) -> Sequence[str]:
    if hasattr(numbers, "isna"):  # a column of pandas
        return words_in(numbers)
    if isinstance(numbers, np.ndarray) and numbers.dtype.kind == "f":
        return words_of(numbers.ravel())
    values = numbers.ravel().tolist() if isinstance(numbers, np.ndarray) else list(numbers)
    return [_word(value) for value in values]


def _word(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return words_of(np.asarray(value).ravel())[0]
    return "" if value is None else str(value)
