"""Form of what stands beside a narrowed model, `narrow.json`, checked, with a schema: of `dictpfl narrow`, and of a federation's own cut."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.training.measuring import means
from dictpfl.client.training.task import Task
from dictpfl.client.training.train import evaluate
from dictpfl.common.documents import finite
from dictpfl.common.files import write_private
from dictpfl.common.settings import Section

REPORT = "narrow.json"
_TIMED = 128


class Measured(Section):
    """Figures of one model."""

    metric: float | None = Field(description="Mean of the task's metric over the samples; None: it is no number.")
    loss: float | None = Field(description="Mean loss over them; None: it is no number.")
    samples: int = Field(ge=1, description="Their number.")


class Stage(Section):
    """A model at one moment: before the cut, right after it, or after recovery."""

    kept: Measured | None = Field(description="On the skill that is kept; None: there were no samples of it.")
    dropped: Measured | None = Field(None, description="On the skill that is dropped, where one is named.")
    parameters: int = Field(ge=1, description="Values of the model.")
    seconds: float | None = Field(
        ge=0, description="Processor seconds of a forward pass, a sample, over the samples that were measured."
    )

    @property
    def figure(self) -> str:
        """The metric on the kept skill, in words."""
        if self.kept is None:
            return "not measured"
        return "no number" if self.kept.metric is None else f"{self.kept.metric:.4f}"


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
    steps: int | None = Field(
        ge=0, description="Optimiser steps in all, as counted; None: of institutions, each by itself."
    )
    samples: int | None = Field(ge=0, description="Samples seen over them, as counted; None: of institutions.")
    seed: int
    before: Stage
    after_cut: Stage
    after_recovery: Stage | None = Field(description="None: there was no recovery.")
    left_open: float | None = Field(
        None, ge=0, le=1, description="Of a federation's gates: share of what they let through that went with the cut."
    )
    audits: list[Audit] = Field([], description="Of the dropped skill, with the head as it is and with a fresh one.")
    notes: list[str] = Field([], description="What a reader must know beside the figures.")


def stage(model: nn.Module, task: Task, kept: Samples | None, dropped: Samples | None = None) -> Stage:
    """Measure a model, and the time that it takes.

    Args:
        model: plain; left in evaluation mode.
        task: loss and metric.
        kept: samples of the skill; None or none: only parameters are counted.
        dropped: samples of the dropped one.

    Raises:
        DataError: samples of which none can be read.
    """
    parameters = sum(p.numel() for p in model.parameters())
    if kept is None or not len(kept):
        return Stage(kept=None, dropped=None, parameters=parameters, seconds=None)
    few = kept.take(np.arange(min(_TIMED, len(kept))))
    evaluate(model, few, task)  # once unmeasured: the first pass is slower
    began = time.process_time()
    evaluate(model, few, task)
    seconds = (time.process_time() - began) / len(few)
    return Stage(
        kept=_measured(model, kept, task),
        dropped=None if dropped is None else _measured(model, dropped, task),
        parameters=parameters,
        seconds=seconds,
    )


def write_report(folder: Path, report: NarrowReport) -> None:
    """Write `narrow.json` into a model's folder."""
    write_private(folder / REPORT, (report.model_dump_json(indent=1) + "\n").encode())


def _measured(model: nn.Module, samples: Samples, task: Task) -> Measured:
    totals = evaluate(model, samples, task)
    loss, metric = finite(means(totals))  # a model that was hours in the making is kept
    return Measured(metric=metric, loss=loss, samples=totals.count)
