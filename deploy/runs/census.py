"""Classes of each institution in a simulation, for its report: a deployment knows nothing of the kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis

CENSUS = "classes.json"


@dataclass(frozen=True)
class Census:
    """Samples by class: `institutions` of each institution (training and validation), `test` of the test split."""

    classes: tuple[str, ...]
    institutions: Mapping[str, tuple[int, ...]]
    test: tuple[int, ...]

    @property
    def imbalance(self) -> float:
        """Samples of the largest class over those of the smallest that occurs at all, all institutions together."""
        total = np.array(list(self.institutions.values())).sum(axis=0)
        return float(total.max() / total[total > 0].min())

    def missing(self, institution: str) -> int:
        """Classes of which an institution has no sample."""
        return sum(count == 0 for count in self.institutions[institution])

    def skew(self, institution: str) -> float:
        """Total variation between the institution's mixture of classes and that of all: 0 alike, 1 nothing in common."""
        total = np.array(list(self.institutions.values()), dtype=float).sum(axis=0)
        own = np.array(self.institutions[institution], dtype=float)
        return float(0.5 * np.abs(own / own.sum() - total / total.sum()).sum())


def classes_of(genesis: Genesis, folder: Path) -> tuple[str, ...]:
    """Names of the classes that a federation's model tells apart, by their numbers; none where nobody knows them.

    Args:
        genesis: whose configuration may name them.
        folder: a run's, or an institution's in one: a run keeps them.
    """
    agreed = genesis.config.data.options.get("classes")
    if agreed and isinstance(
        agreed, list | tuple
    ):  # a source of one's own may count its classes by an option of that name
        return tuple(map(str, agreed))
    census = read_census(folder) or read_census(folder.parent.parent)
    return census.classes if census else ()


def words_of(genesis: Genesis, folder: Path) -> tuple[str, ...]:
    """Classes as `classes_of`, one for each output, that say more than their numbers do; else none."""
    names = classes_of(genesis, folder)
    return names if len(names) == genesis.outputs and names != tuple(map(str, range(len(names)))) else ()


def metadata_of(classes: Sequence[str]) -> dict[str, str]:
    """Metadata of a safetensors file that tell its classes; nothing where they are not known."""
    return {"classes": json.dumps(list(classes), ensure_ascii=False)} if classes else {}


def read_census(folder: Path) -> Census | None:
    """Read what `write_census` wrote; None if it wrote nothing.

    Raises:
        ConfigError: damaged.
    """
    path = folder / CENSUS
    try:
        document = json.loads(path.read_bytes())
        counted = document["institutions" if "institutions" in document else "sites"]  # `sites`: runs of 0.1
        institutions = {name: tuple(map(int, counts)) for name, counts in counted.items()}
        return Census(tuple(document["classes"]), institutions, tuple(map(int, document["test"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it from backup, or simulate anew"
        ) from error
