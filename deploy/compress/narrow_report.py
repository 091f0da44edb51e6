"""Form of what `dictpfl narrow` writes beside its model, `narrow.json`, checked, with a schema."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dictpfl.common.settings import Section


class Measured(Section):
    """Figures of one model."""

    metric: float = Field(description="Mean of the task's metric over the samples.")
    loss: float = Field(description="Mean loss over them.")
    samples: int = Field(ge=1, description="Their number.")


class Stage(Section):
    """A model at one moment: before the cut, right after it, or after recovery."""

    kept: Measured = Field(description="On the skill that is kept.")
    dropped: Measured | None = Field(None, description="On the skill that is dropped, where one is named.")
    parameters: int = Field(ge=1, description="Values of the model.")
    seconds: float = Field(
        ge=0, description="Processor seconds of a forward pass, a sample, over the samples that were measured."
    )


class Curve(Section):
    """Share that relearning brought back at one number of steps."""

    steps: int = Field(ge=1)
    arm: list[float] = Field(description="Percent of the dropped skill, by seed: the narrowed model.")
    ceiling: list[float] = Field(description="The same of the general model.")
    floor: list[float] = Field(description="The same of the small architecture that never had the skill.")
    residual: float | None = Field(description="(arm - floor) / (ceiling - floor), mean over seeds; None: not stated.")
    low: float | None = Field(description="Lower end of its 95 % interval; None: not stated, or one seed.")
    high: float | None = Field(description="Upper end.")
    verdict: str = Field(description="`as if never learnt`, `still there`, `unclear`, or why there is no figure.")


class Audit(Section):
    """Relearning audit of a dropped skill."""

    skill: str
    head: Literal["as it is", "fresh"]
    seeds: int = Field(ge=1)
    curves: list[Curve]
    probe: dict[str, list[float]] = Field(
        description="Linear probe in percent: arm, ceiling and floor by seed; empty without classes."
    )


class NarrowReport(Section):
    """Content of `narrow.json`."""

    format: Literal["dictpfl-narrow-1"] = "dictpfl-narrow-1"
    skill: str
    method: str
    metric: str
    classes: list[int] = Field(
        description="Labels that the head's rows stand for, in their order; empty: all rows are there."
    )
    kept: dict[str, list[int]] = Field(description="Units that stayed, by axis; empty where the method chooses none.")
    steps: int = Field(ge=0, description="Optimiser steps in all, as counted.")
    samples: int = Field(ge=0, description="Samples seen over them, as counted.")
    seed: int
    before: Stage
    after_cut: Stage
    after_recovery: Stage
    audits: list[Audit] = Field([], description="Of the dropped skill, with the head as it is and with a fresh one.")
    notes: list[str] = Field([], description="What a reader must know beside the figures.")
