"""Data sets and models of the experiments, a word for each; `experiments/fetch.py` writes them.

A module beside this one registers its sets:

    @fetched("cifar10", files=("cifar10/train.parquet", "cifar10/test.parquet"), about="CIFAR-10, 60,000 pictures")
    def cifar10(target: Path, given: Path | None) -> None: ...

The function writes those files into the folder `target`, with what `sets.places` has: from the folder `given` if it
is one that holds the originals, else from the usual place; and checks digest or rows before it writes. It raises
`places.Unreachable` for what cannot be had, and says what to do.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fetched:
    """A set, as it is registered: called with the folder to write into and the folder of originals, or None."""

    write: Callable[[Path, Path | None], None]
    files: tuple[str, ...]
    """What it writes, relative to the target; all there: there is nothing to do."""
    about: str
    """A line for people."""

    def __call__(self, target: Path, given: Path | None) -> None:
        """Write the files."""
        self.write(target, given)

    def missing(self, target: Path) -> list[str]:
        """Its files that are not there."""
        return [name for name in self.files if not (target / name).is_file()]


SETS: dict[str, Fetched] = {}


def fetched(
    word: str, *, files: tuple[str, ...], about: str
) -> Callable[[Callable[[Path, Path | None], None]], Callable[[Path, Path | None], None]]:
    """Register a function that writes a set.

    Args:
        word: what `--only` calls it.
        files: what it writes, relative to the target folder.
        about: a line for people.

    Raises:
        ValueError: the word is taken.
    """

    def register(write: Callable[[Path, Path | None], None]) -> Callable[[Path, Path | None], None]:
        if word in SETS:
            raise ValueError(f"the set {word!r} is registered twice; choose another word")
        SETS[word] = Fetched(write, files, about)
        return write

    return register


def load() -> dict[str, Fetched]:
    """Import the modules beside this one, and return all sets by their words."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return SETS
