"""Exposure of samples over all rounds: what the sums that every institution opens tell of the others' samples together.

Rows of the first trained matrix's update are sums of that layer's inputs, in every round of the same ones. Once an institution
has as many rows as there are distinct inputs, it has their span, whatever the batch and the rank; if that is not the whole
space, it can tell whether a sample is among the others' (`dictpfl.deploy.attacks.published.rounds` measures it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dictpfl.client.data.samples import NUMBERS, samples_in
from dictpfl.client.folder import TRAIN
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.layout import Entry, Kind
from dictpfl.deploy.units import counted

HELP = (
    "Against it: differential privacy (privacy.mechanism), more samples or more institutions, or freezing the first layer "
    "(decomposition.frozen), which puts the question to the next one."
)
"""Remedies for samples that can be told over many rounds."""


_NEAR = 4
"""Times as many distinct inputs as values in one, below which strong directions still lean towards the samples: at 1.4 times the
AUC of membership was about 0.8 after 24 rounds of 8-bit values, at three times 0.6 (`benchmarks/privacy/run.py --parts rounds`)."""


@dataclass(frozen=True)
class Exposure:
    """Distinct inputs of the first trained layer, against the number of values in one.

    Attributes:
        layer: name of the layer's weight.
        inputs: values in one input of the layer.
        distinct: most distinct inputs that the others' samples give over all rounds, as seen by the institution with most samples.
        rounds: update rounds.
        counted: False where sample counts of some institutions are not known, and `federation.sample_cap` stands for them.
        private: differential privacy is on.
        core: the layer moves by a core, whose r values an input is projected to; `inputs` counts those.
    """

    layer: str
    inputs: int
    distinct: int
    rounds: int
    counted: bool
    private: bool
    core: bool = False

    @property
    def is_exposed(self) -> bool:
        """Tells whether the span of all inputs is smaller than the whole space."""
        return self.distinct < self.inputs

    @property
    def is_near(self) -> bool:
        """Tells whether there are more, but not many times more."""
        return self.inputs <= self.distinct < _NEAR * self.inputs

    @property
    def verdict(self) -> str:
        """Outcome of the rule, in words that follow `sentence`."""
        if self.is_exposed:
            return "fewer, so samples can be told"
        return (
            "hardly more, so some can be told better than by chance"
            if self.is_near
            else "many more, so that little shows"
        )

    @property
    def sentence(self) -> str:
        """Rule, with this federation's figures."""
        most = "" if self.counted else "about (by federation.sample_cap, where counts are not known) "
        return f"Over {counted(self.rounds, 'round')} the others' samples give {most}at most {self.distinct:,} distinct {self._inputs}"

    @property
    def sentence_without_count(self) -> str:
        """The same for a page that leaves an institution: from the number of inputs its number of samples would follow."""
        return f"Over {counted(self.rounds, 'round')} the others' samples give distinct {self._inputs}"

    @property
    def _inputs(self) -> str:
        return f"inputs of the first trained layer ({self.layer}), " + (
            f"whose core shows {self.inputs:,} values of each"
            if self.core
            else f"which has {self.inputs:,} values in each"
        )


def exposure(genesis: Genesis, institutions: Sequence[Path]) -> Exposure | None:
    """Judge a federation by the folders of institutions that are at hand; None where no trained matrix shows inputs."""
    entry = _first(genesis)
    if entry is None:
        return None
    config = genesis.config
    d = genesis.dictionaries.get(entry.name)
    inputs = math.prod(entry.shape[1:])
    whole = inputs if d is None or d.right is None else d.weight_shape(entry.shape)[1]
    counts = sorted(_count(folder / TRAIN) for folder in institutions if (folder / TRAIN).exists())
    missing = max(0, config.federation.participants - len(counts))
    every = counts + [genesis.sample_cap] * missing
    training = config.training
    drawn = config.federation.rounds * training.steps * training.accumulate * training.batch_size
    # Who has most samples sees fewest strange ones.
    strange = sorted(every)[:-1]
    samples = sum(min(count, drawn) if drawn else count for count in strange)
    distinct = samples * _inputs_of_a_sample(genesis, whole)
    is_private = config.privacy.mechanism != "none"
    is_core = d is not None and d.right is not None
    return Exposure(entry.name, inputs, distinct, config.federation.rounds, not missing, is_private, is_core)


def _first(genesis: Genesis) -> Entry | None:
    """Find the first trained matrix whose rows are made of inputs; those of a transposed table are made of outputs' gradients.

    A core has inputs on one of its two sides, whichever way it stands.
    """
    for entry in genesis.layout.entries:
        d = genesis.dictionaries.get(entry.name)
        turned = d is not None and d.transposed and d.right is None
        if entry.kind is not Kind.STATISTIC and len(entry.shape) > 1 and not turned:
            return entry
    return None


def _inputs_of_a_sample(genesis: Genesis, inputs: int) -> int:
    """Count the inputs that a sample gives to the layer, rather too few: tokens, patches of an image, or one."""
    shape, source = genesis.sample_shape, genesis.config.model.source
    if len(shape) == 1:
        return shape[0] if source.startswith("transformers:") else 1
    return 1 if source == "mlp" else max(1, math.prod(shape) // inputs)


def _count(path: Path) -> int:
    """Count samples without reading their features."""
    with samples_in(path) as arrays:
        return len(arrays[NUMBERS] if NUMBERS in arrays else arrays["labels"])
