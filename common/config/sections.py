"""Sections of a configuration, and what follows from them."""

from __future__ import annotations

from pydantic import Field

from dictpfl.common.presets import METHODS
from dictpfl.common.protection import Defences, Encryption, Privacy, quorum
from dictpfl.common.rounds import CLEAR_LEAST, Aggregation, Grid, Pruning, Scores, Selection, Tallies
from dictpfl.common.settings import (
    Data,
    Decomposition,
    Distillation,
    Federation,
    Model,
    Narrow,
    Resources,
    Section,
    Sparsity,
    Tokens,
    Training,
)

LARGEST_SEED = 2**64 - 1
"""Largest seed that torch's generators take."""


class Sections(Section):
    """All sections of a configuration, each checked by itself."""

    name: str = Field("federation", description="A word for reports and folders.")
    seed: int = Field(
        1,
        ge=0,
        le=LARGEST_SEED,
        description="Of a simulation: data split, W0, training, masks. Deployments draw secrets.",
    )
    method: str = Field(
        "dictpfl",
        description="A preset: "
        + ", ".join(f"`{m}`" for m in METHODS)
        + ". A section `[methods.NAME]` holds settings of one of them alone, such as a rate of its own.",
    )
    toy_insecure: bool = Field(
        False, description="Admit what protects nobody: no encryption, or fewer than 3 institutions."
    )
    federation: Federation = Field(default_factory=Federation)
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    decomposition: Decomposition = Field(default_factory=Decomposition)
    pruning: Pruning = Field(default_factory=Pruning)
    grid: Grid = Field(default_factory=Grid)
    encryption: Encryption = Field(default_factory=Encryption)
    defences: Defences = Field(default_factory=Defences)
    privacy: Privacy = Field(default_factory=Privacy)
    training: Training = Field(default_factory=Training)
    aggregation: Aggregation = Field(default_factory=Aggregation)
    selection: Selection = Field(default_factory=Selection)
    scores: Scores = Field(default_factory=Scores)
    tallies: Tallies = Field(default_factory=Tallies)
    narrow: Narrow = Field(default_factory=Narrow)
    sparsity: Sparsity = Field(default_factory=Sparsity)
    tokens: Tokens = Field(default_factory=Tokens)
    distillation: Distillation = Field(default_factory=Distillation)
    resources: Resources = Field(default_factory=Resources)

    @property
    def distils(self) -> bool:
        """True where a teacher's outputs are learnt."""
        return self.training.task == "distillation"

    @property
    def measuring(self) -> Training:
        """Training as its results are measured: under the task behind a distillation, any other under its own."""
        return self.training.model_copy(update={"task": self.distillation.task}) if self.distils else self.training

    @property
    def capacity(self) -> int:
        """Most uploads that one sum can hold."""
        return self.federation.max_participants or max(3, self.federation.sample or self.federation.participants)

    @property
    def least(self) -> int:
        """Fewest uploads in a sum that is opened: `min_participants`, and with masks a quorum of those who take part."""
        least = self.federation.min_participants
        return max(least, quorum(self.federation.participants)) if self.defences.masks else least

    @property
    def decision(self) -> str:
        """Name of what score rounds decide; empty: no score rounds."""
        selective = 0.0 < self.encryption.sealed_share < 1.0 and self.encryption.sensitivity == "gradient"
        return CLEAR_LEAST if selective else self.scores.decision

    @property
    def score_rounds(self) -> int:
        """Rounds before the first update, in which scores are sent."""
        return 0 if not self.decision else self.scores.rounds if self.scores.decision else 1

    @property
    def insecurities(self) -> tuple[str, ...]:
        """Reasons why this federation protects less than it should; empty where there are none."""
        reasons = []
        if self.encryption.sealer != "ckks":
            reasons.append(
                f"encryption.sealer is {self.encryption.sealer!r}: nothing is encrypted and the server reads every update"
            )
        if self.encryption.sealed_share < 1.0:
            reasons.append(
                f"encryption.sealed_share is {self.encryption.sealed_share:g}: the rest of each update crosses in clear"
            )
        if self.federation.min_participants < 3:  # noqa: PLR2004 -- the floor that docs/threat-model.md states
            reasons.append(
                f"federation.min_participants is {self.federation.min_participants}: "
                "with fewer than 3 an institution can subtract its own update from the sum"
            )
        return tuple(reasons)
