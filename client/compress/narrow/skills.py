"""Skills: which samples of a data set are one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.lazy import LazySamples
from dictpfl.client.data.samples import IGNORED, PADDING, Dataset, Samples
from dictpfl.common.errors import ConfigError, DataError

_WORDS = ("classes", "column", "all")
_AT_ONCE = 256


@dataclass(frozen=True)
class Skill:
    """A skill as it is said on the command line.

    Attributes:
        classes: labels of the samples that are the skill's; empty where it is said otherwise.
        group: value of `data.column` that the samples have; empty where it is said otherwise.
        words: as it was said.
    """

    classes: tuple[int, ...]
    group: str
    words: str

    def of(self, dataset: Dataset) -> NDArray[np.int64]:
        """Find the indices of the skill's samples, int64, rising.

        Raises:
            DataError: there is none.
        """
        if self.classes:
            chosen = np.isin(dataset.samples.labels, self.classes)
        elif self.group:
            if dataset.groups is None:
                raise DataError(f"{self.words}: this data set names no group of a sample; set data.column")
            chosen = dataset.groups == self.group
        else:
            chosen = np.ones(len(dataset.samples), dtype=bool)
        if not chosen.any():
            raise DataError(
                f"no sample of this data set belongs to the skill {self.words!r}; look at the names of its classes"
            )
        return np.flatnonzero(chosen)


def skill_of(words: str, dataset: Dataset) -> Skill:
    """Read a skill: `classes=comp.graphics,sci.med` (names, patterns with `*`, or numbers), `column=VALUE`, or `all`.

    Raises:
        ConfigError: another form, or a class that is not there.
    """
    kind, _, said = words.partition("=")
    if words == "all":
        return Skill((), "", words)
    if kind not in _WORDS or not said:
        raise ConfigError(
            f"--skill {words!r}: expected classes=NAME,NAME, column=VALUE or all; a text file of a language model is named by --data"
        )
    if kind == "column":
        return Skill((), said, words)
    if dataset.samples.labels.ndim != 1 or dataset.samples.labels.dtype != np.int64:
        raise ConfigError(f"--skill {words!r}: these samples have no classes; use column=VALUE")
    return Skill(
        tuple(sorted({number for one in said.split(",") for number in _numbers(one, dataset, words)})), "", words
    )


def dropped_of(kept: Sequence[int], outputs: int) -> tuple[int, ...]:
    """List the classes that a skill does not hold."""
    return tuple(number for number in range(outputs) if number not in kept)


def require_disjoint(kept: Sequence[Samples], dropped: Sequence[Samples]) -> None:
    """Refuse a dropped skill that shares samples with the kept one: relearning it would be no relearning.

    Samples are the same where features and labels are; of samples that are read when they are needed, from one place, where their numbers
    are. Whatever names two skills have, and whatever paths their files, only what they select counts.

    Args:
        kept: samples of the kept skill, such as those to train on and those to measure on.
        dropped: of the dropped one.

    Raises:
        DataError: shared samples, with their number.
    """
    every = [*kept, *dropped]
    lazy = [one for one in every if isinstance(one, LazySamples)]
    by_number = len(lazy) == len(every) and len({one.reader.digest for one in lazy}) == 1
    known = {key for one in kept for key in _keys(one, by_number=by_number)}
    both = sum(key in known for one in dropped for key in _keys(one, by_number=by_number))
    if both:
        raise DataError(
            f"{both} of the {sum(map(len, dropped))} samples of the dropped skill belong to the kept one too; expected none in common, since a "
            "skill that is trained on is not dropped: name others by --skill or --dropped"
        )


def _keys(samples: Samples, *, by_number: bool) -> Iterator[bytes]:
    """What tells a sample from others: a digest of its content, or its number."""
    if by_number and isinstance(samples, LazySamples):
        yield from (int(number).to_bytes(8) for number in samples.numbers)
        return
    for start in range(0, len(samples), _AT_ONCE):
        places = np.arange(start, min(start + _AT_ONCE, len(samples)))
        for row, label in zip(samples.features[places], samples.labels[places], strict=True):
            digest = hashlib.blake2b(_bare(row, PADDING), digest_size=16)
            digest.update(_bare(label, IGNORED))
            yield digest.digest()


def _bare(values: NDArray[Any], filling: int) -> bytes:
    """Bytes of one sample's features or labels; of tokens, without the filling behind them, which depends on the file's width."""
    array = np.asarray(values)
    if array.dtype == np.int64 and array.ndim == 1:
        array = np.trim_zeros(array - filling, "b")
    return array.tobytes()


def _numbers(said: str, dataset: Dataset, words: str) -> list[int]:
    names = dataset.class_names
    # A name may hold what a pattern reads otherwise: "grade [II]".
    found = [number for number, name in enumerate(names) if name == said] or [
        number for number, name in enumerate(names) if fnmatchcase(name, said)
    ]
    if found:
        return found
    if said.isdecimal() and int(said) < dataset.outputs:
        return [int(said)]
    raise ConfigError(
        f"{words!r}: no class is called {said!r}; known: {', '.join(names) or f'numbers below {dataset.outputs}'}"
    )
