"""What benchmarks/digits.py measured, read from its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dictpfl.deploy.numbers.measures import shares
from dictpfl.deploy.numbers.reading import Places
from lib.digits_figures import (
    DIGIT,
    MAIN,
    SHARES,
    Facts,
    Silencing,
    correlations,
    places_of,
    silenced_name,
)

CellsOf = Mapping[tuple[str, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Found:
    """Everything that cells hold, as the page needs it.

    Attributes:
        command: the command's cell.
        read: places by kind and number of examples.
        chosen: the cell of selectivity.
        silenced: by share of neurons.
        kinds: of questions.
        seed: of resampling.
        minutes: processor time of all cells.
    """

    command: Mapping[str, Any]
    read: Mapping[tuple[str, int], list[Places]]
    chosen: Mapping[str, Any]
    silenced: Mapping[str, Silencing]
    kinds: Sequence[str]
    seed: int
    minutes: float

    @classmethod
    def of(cls, command: CellsOf, reading: CellsOf, profile: CellsOf, effects: CellsOf, *, seed: int) -> Found:
        """Gather cells."""
        (told,), (chosen,) = command.values(), profile.values()
        read = {}
        for (name, _), one in reading.items():
            kind, _, rest = name.partition(", ")
            read[kind, int(rest.split(" ")[0])] = [places_of(half) for half in one["halves"]]
        kinds = list(dict.fromkeys(kind for kind, _ in read))
        silenced = {}
        for share in (f"{s:g}" for s in SHARES):
            every = [places_of(one["places"]) for (name, _), one in effects.items() if name.endswith(f", {share}")]
            draws = sum(name.startswith("random") and name.endswith(f" {DIGIT}") for name in every[0].chosen)
            silenced[share] = Silencing(every, draws, seed)
        spent = sum(one["cpu_seconds"] for cells in (command, reading, profile, effects) for one in cells.values())
        return cls(told, read, chosen, silenced, kinds, seed, (spent + told["child"]) / 60)

    @cached_property
    def facts(self) -> Facts:
        """What the sentences stand on."""
        return Facts.of(self.silenced[MAIN], self.count(MAIN))

    def count(self, share: str) -> int:
        """Neurons of a share."""
        return len(self.chosen["sets"][share][silenced_name(DIGIT)])

    def shares(self, shots: int, kinds: Sequence[str] = ()) -> dict[str, Any]:
        """Shares of written digits, with intervals, of some kinds or of all."""
        return shares([half for kind in kinds or self.kinds for half in self.read[kind, shots]], self.seed)

    @cached_property
    def correlations(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Correlations of each form of the profile."""
        found = self.chosen["profile"]
        return {form: correlations(values, self.chosen["corpus"], self.seed) for form, values in found.items()}
