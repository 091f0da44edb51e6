"""Compositional multitask sparse parity: skills that rest on other skills, drawn as they are needed (Michaud et al. 2025, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.client.data.samples import Dataset, Samples, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data

_DEFAULTS: dict[str, Any] = {"bits": 24, "size": 3, "skills": 4, "codes": [], "each": 400}


@dataclass(frozen=True)
class Parity:
    """Tasks on bits: a code names skills, and the label is the parity of the bits of all of them.

    Attributes:
        bits: number of task bits n; behind the control bits, one for each skill.
        subsets: positions of each skill's task bits, int64 (skills, size), none in two of them.
        codes: sets of skills; one skill is an atom, more are a composite.
    """

    bits: int
    subsets: NDArray[np.int64]
    codes: tuple[tuple[int, ...], ...]

    @classmethod
    def drawn(cls, seed: int, *, bits: int, size: int, skills: int, codes: Sequence[Sequence[int]] = ()) -> Parity:
        """Draw the subsets of a seed.

        Args:
            seed: of the draw.
            bits: n.
            size: k, task bits of a skill.
            skills: m.
            codes: sets of skills; empty: every atom, and the composite of all.

        Raises:
            ConfigError: more bits asked than there are, or a code that names no skill, or one twice.
        """
        if min(bits, size, skills) < 1 or size * skills > bits:
            raise ConfigError(
                f"parity: {skills} skills of {size} bits need {size * skills} task bits, found {bits}; subsets do not overlap"
            )
        chosen = tuple(tuple(sorted(int(c) for c in code)) for code in codes)
        chosen = chosen or (*((c,) for c in range(skills)), tuple(range(skills)))
        for code in chosen:
            if not code or len(set(code)) < len(code) or not set(code) <= set(range(skills)):
                raise ConfigError(f"parity: the code {list(code)} must name skills from 0 to {skills - 1}, each once")
        places = np.random.default_rng([seed, bits, size, skills]).permutation(bits)[: size * skills]
        return cls(bits, places.reshape(skills, size).astype(np.int64), chosen)

    @property
    def width(self) -> int:
        """Number of inputs: control bits, then task bits."""
        return len(self.subsets) + self.bits

    def samples(self, code: Sequence[int], count: int, random: np.random.Generator) -> Samples:
        """Draw samples of one code: features 0 or 1, float32 (count, skills + bits), and their parities."""
        features = np.zeros((count, self.width), dtype=np.float32)
        features[:, list(code)] = 1.0
        task = random.integers(0, 2, size=(count, self.bits), dtype=np.int8)
        features[:, len(self.subsets) :] = task
        return Samples(features, task[:, self.subsets[list(code)].reshape(-1)].sum(axis=1, dtype=np.int64) % 2)

    def mixed(self, codes: Sequence[Sequence[int]], each: int, random: np.random.Generator) -> Samples:
        """Draw as many samples of each code, one code after the other."""
        drawn = [self.samples(code, each, random) for code in codes]
        return Samples(np.concatenate([s.features for s in drawn]), np.concatenate([s.labels for s in drawn]))


def name_of(code: Sequence[int]) -> str:
    """Name a code: its skills with `+` between."""
    return "+".join(map(str, code))


@SOURCES.register("parity")
def parity(data: Data, seed: int) -> Dataset:
    """Draw `each` samples of every code by seed; each sample's group is its code, so that `partition = "column"` gives one code each.

    Options: `bits`, `size`, `skills`, `codes` (lists of skills; empty: every skill alone, and all together), `each`.
    """
    options = _DEFAULTS | require_options(data, tuple(_DEFAULTS))
    made = Parity.drawn(
        seed, bits=options["bits"], size=options["size"], skills=options["skills"], codes=options["codes"]
    )
    drawn = made.mixed(made.codes, int(options["each"]), np.random.default_rng([seed, 1]))
    groups = np.repeat([name_of(code) for code in made.codes], int(options["each"]))
    return Dataset(drawn, 2, groups=groups, name="parity", class_names=("even", "odd"))
