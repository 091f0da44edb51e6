"""Skills: which samples of a data set are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset
from dictpfl.common.errors import ConfigError, DataError

_WORDS = ("classes", "column", "all")


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


def require_disjoint(kept: NDArray[np.int64], dropped: NDArray[np.int64]) -> None:
    """Refuse a dropped skill that shares samples with the kept one: relearning it would be no relearning.

    Raises:
        DataError: shared samples, with their number.
    """
    both = np.intersect1d(kept, dropped).size
    if both:
        raise DataError(
            f"{both} samples belong to the skill that is kept and to the one that is dropped; name other classes"
        )


def _numbers(said: str, dataset: Dataset, words: str) -> list[int]:
    names = dataset.class_names
    found = [number for number, name in enumerate(names) if fnmatchcase(name, said)]
    if found:
        return found
    if said.isdecimal() and int(said) < dataset.outputs:
        return [int(said)]
    raise ConfigError(
        f"{words!r}: no class is called {said!r}; known: {', '.join(names) or f'numbers below {dataset.outputs}'}"
    )
