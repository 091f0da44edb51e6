"""Classes that nobody named: words that all sites show alike, or a refusal with site, row and word."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.columns import Origin
from dictpfl.client.data.samples import Dataset
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data

_FEW = 10  # names in a message


def require_shared(words: Sequence[str], sites: NDArray[np.str_] | None, at: Origin) -> None:
    """Refuse words that are no agreed classes: nobody named them, and sites or spellings differ.

    Args:
        words: label of each row.
        sites: institution of each row, shape (n,); None where the data do not say it.
        at: place of the first of some rows, for the message.

    Raises:
        DataError: a word that differs from another only by case or blanks, or one that not every site shows.
    """
    values, counts, spellings = np.array(words, dtype=object), Counter(words), defaultdict[str, list[str]](list)
    for name in counts:
        spellings[_folded(name)].append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            other, *_, rare = sorted(alike, key=lambda name: (-counts[name], name))
            raise DataError(
                f"{at(values == rare)}: label {rare!r} differs from {other!r} only by case or blanks. "
                f"Expected one spelling of a class. Mend those rows, or name both in data.options.classes if they are two"
            )
    if sites is None:
        return
    shown, every = defaultdict[str, set[str]](set), set(sites.tolist())
    for name, site in zip(words, sites.tolist(), strict=True):
        shown[name].add(site)
    name = min(shown, key=lambda name: (len(shown[name]), counts[name], name))
    if lacking := sorted(every - shown[name]):
        raise DataError(
            f"{at(values == name)}: label {name!r} is a class at {_listed(sorted(shown[name]))} and not at {_listed(lacking)}. Expected the same "
            f"words at every site, or classes that are named. Mend or drop those rows, or set data.options.classes = {_named(sorted(shown))}"
        )


def notes_on_classes(dataset: Dataset, data: Data) -> tuple[str, ...]:
    """Say which classes a data set has that nobody named: words, numbers that no label has, and numbers that one site alone has."""
    labels, names = dataset.samples.labels, dataset.class_names
    if "classes" in data.options or not names or not isinstance(labels, np.ndarray) or labels.ndim != 1:
        return ()
    counts = np.bincount(labels, minlength=len(names))
    alone = _alone(labels, dataset.groups, len(names))
    if names == tuple(map(str, range(len(names)))) and counts.all() and not alone:
        return ()
    rarest = np.argsort(counts, kind="stable")[:_FEW]
    told = ", ".join(f"{names[number]} ({counts[number]}{alone.get(number, '')})" for number in rarest.tolist())
    which = "the rarest classes" if len(names) > _FEW else "the classes"
    return (
        f"data.options.classes names none, so {which} are those of the labels, with their samples: {told}. Drop rows whose label is no class. "
        "Once classes are named, another label is refused",
    )


def _alone(labels: NDArray[np.int64], sites: NDArray[np.str_] | None, many: int) -> dict[int, str]:
    """Say of each class that one site alone has which that is; of two sites either may."""
    if sites is None or len(set(sites.tolist())) <= 2:  # noqa: PLR2004 -- two sites
        return {}
    there = {number: set(sites[labels == number].tolist()) for number in range(many)}
    return {number: f", all at {next(iter(names))}" for number, names in there.items() if len(names) == 1}


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _named(names: Sequence[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False) if len(names) <= _FEW else "[...] to all of them"
