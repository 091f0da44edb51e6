"""Questions about pictures of many digits, drawn as they are needed: some ask one cell, others the whole picture (AutoPrune, arXiv 2509.23931)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import PADDING, Dataset, Samples, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.client.data.texts import load_tokenizer
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data

CELL = 8
"""Side of a digit, in pixels."""
KINDS = ("cell", "count", "beside")
"""Questions: which digit is in a cell (easy: one token answers), how often a digit is there, whether one is beside another (hard)."""
ANSWERS = (*map(str, range(10)), "no", "yes")
_LEAST_SIDE, _MOST_SIDE, _MOST_WORDS = 2, 9, 24
WORDS = ("which", "how", "many", "in", "picture", "is", "beside", "another", "digit", *(f"digit {n}" for n in range(10)),
         *(f"row {row} column {column}" for row in range(1, _MOST_SIDE + 1) for column in range(1, _MOST_SIDE + 1)))  # fmt: skip
"""Vocabulary of questions; a word's number is its place here. A cell is one word: a small model from random weights that had to put it together
of a row and a column stayed at what one of the two tells (23 % of 7 x 7 cells)."""
_DEFAULTS: dict[str, Any] = {
    "count": 2000,
    "side": 7,
    "questions": list(KINDS),
    "tokenizer": "",
    "scale": 1,
    "channels": 1,
}
_GREY = (0.305, 0.376)  # mean and deviation of the published digits, over 16


@SOURCES.register("mosaic")
def mosaic(data: Data, seed: int) -> Dataset:
    """Draw pictures of side x side digits, each with a question of six words; a sample is the picture's pixels, then the words' numbers.

    Float32 (channels (8 side scale)^2 + words). Each sample's group is its kind of question. Options: `count`, `side` (cells of a row, 2 to
    9), `questions` (of `cell`, `count`, `beside`), `scale` (each pixel becomes so many squared), `channels` (1 or 3), `tokenizer` (a folder: questions in
    its tokens, padded, in place of the numbers of `WORDS`).

    Raises:
        ConfigError: an option out of range.
    """
    o = _DEFAULTS | require_options(data, tuple(_DEFAULTS))
    count, side, scale, channels = (int(o[key]) for key in ("count", "side", "scale", "channels"))
    kinds = list(o["questions"])
    if (
        count < 1
        or not _LEAST_SIDE <= side <= _MOST_SIDE
        or scale < 1
        or channels not in (1, 3)
        or not kinds
        or not set(kinds) <= set(KINDS)
    ):
        raise ConfigError(
            f"mosaic: count {count}, side {side}, scale {scale}, channels {channels}, questions {kinds}; expected at least 1, {_LEAST_SIDE} to {_MOST_SIDE}, at "
            f"least 1, 1 or 3, and some of {', '.join(KINDS)}"
        )
    pixels, questions, labels, groups = _drawn(seed, count, side, kinds)
    wide = pixels.repeat(scale, axis=2).repeat(scale, axis=3).repeat(channels, axis=1)
    words = _tokens(questions, o["tokenizer"]) if o["tokenizer"] else np.array(questions)
    features = np.concatenate([wide.reshape(count, -1), words.astype(np.float32)], axis=1)
    return Dataset(
        Samples(features, labels),
        len(ANSWERS),
        groups=groups,
        name="mosaic",
        class_names=ANSWERS,
        picture=wide.shape[1:],
    )


def text_of(question: Sequence[int]) -> str:
    """A question in words."""
    return " ".join(WORDS[n] for n in question) + "?"


def _tokens(questions: Sequence[Sequence[int]], folder: str) -> NDArray[np.int64]:
    """Tokens of questions by a tokenizer, filled with `PADDING` to the longest that there may be."""
    tokenizer = load_tokenizer(folder)
    out = np.full((len(questions), _MOST_WORDS), PADDING, dtype=np.int64)
    for row, question in enumerate(questions):
        ids = tokenizer(text_of(question))["input_ids"][:_MOST_WORDS]
        out[row, : len(ids)] = ids
    return out


def _drawn(
    seed: int, count: int, side: int, kinds: Sequence[str]
) -> tuple[NDArray[np.float32], list[list[int]], NDArray[np.int64], NDArray[np.str_]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng([seed, count, side])
    by_digit = [np.flatnonzero(digits.target == n) for n in range(10)]
    pixels = np.empty((count, 1, CELL * side, CELL * side), dtype=np.float32)
    questions, labels, groups = [], np.empty(count, dtype=np.int64), []
    for number in range(count):
        grid = random.integers(0, 10, (side, side))
        which = np.array([random.choice(by_digit[d]) for d in grid.reshape(-1)])
        cells = digits.images[which].reshape(side, side, CELL, CELL).transpose(0, 2, 1, 3)
        pixels[number, 0] = (cells.reshape(CELL * side, CELL * side) / 16.0 - _GREY[0]) / _GREY[1]
        kind = kinds[int(random.integers(len(kinds)))]
        question, answer = _asked(kind, grid, random)
        questions.append([WORDS.index(word) for word in question])
        labels[number] = ANSWERS.index(answer)
        groups.append(kind)
    return pixels, questions, labels, np.array(groups)


def _asked(kind: str, grid: NDArray[np.int64], random: np.random.Generator) -> tuple[list[str], str]:
    """A question of six words about a grid of digits, and its answer."""
    if kind == "cell":
        row, column = (int(n) for n in random.integers(0, len(grid), 2))
        return ["which", "digit", "is", "in", "picture", f"row {row + 1} column {column + 1}"], str(grid[row, column])
    one, other = (int(n) for n in random.choice(10, 2, replace=False))
    if kind == "count":
        found = int((grid == one).sum())
        return ["how", "many", f"digit {one}", "in", "picture", "digit"], str(min(found, 9))
    across = ((grid[:, :-1] == one) & (grid[:, 1:] == other)) | ((grid[:, :-1] == other) & (grid[:, 1:] == one))
    down = ((grid[:-1] == one) & (grid[1:] == other)) | ((grid[:-1] == other) & (grid[1:] == one))
    return [
        "is",
        f"digit {one}",
        "beside",
        "another",
        f"digit {other}",
        "picture",
    ], "yes" if across.any() or down.any() else "no"
