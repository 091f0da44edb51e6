"""`dictpfl cut`: a smaller model of the same class, and what it was made by."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, architecture_of
from dictpfl.client.compress.cutting.choose import sizes_within
from dictpfl.client.compress.cutting.shrink import Shrunk, budget_of, counts_of, shrink_to
from dictpfl.client.data.samples import Samples
from dictpfl.client.tallies.importance import NAME, Opened, totals
from dictpfl.client.training.measuring import means
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.compress.source import Source


@dataclass(frozen=True)
class Figures:
    """Loss and metric of a model on samples.

    Attributes:
        loss: mean.
        metric: mean.
    """

    loss: float
    metric: float

    @classmethod
    def of(cls, model: nn.Module, source: Source, samples: Samples | None = None) -> Figures:
        """Measure a model on the samples that a source is measured on, or on others."""
        found = evaluate(model, source.measure if samples is None else samples, source.task)
        return cls(*means(found))


@dataclass(frozen=True)
class Size:
    """One size of a search, measured on the samples that choose.

    Attributes:
        counts: numbers of units, by setting.
        parameters: of the model.
        loss: as cut.
        distilled: loss after distillation; None: it was not among the best as cut.
        speed: of a forward pass, the whole model's time over its own; None likewise.
    """

    counts: Mapping[str, int]
    parameters: int
    loss: float
    distilled: float | None = None
    speed: float | None = None


@dataclass(frozen=True)
class Searched:
    """Sizes that a search looked at, and how each was trained.

    Attributes:
        budget: number of parameters.
        whole: loss of the whole model.
        sizes: the one that was kept, then the others by their loss, those that were distilled first.
        steps: of each distillation.
        samples_seen: in each.
    """

    budget: int
    whole: float
    sizes: tuple[Size, ...]
    steps: int
    samples_seen: int


@dataclass(frozen=True, eq=False)
class Made:
    """A cut as a command made it.

    Attributes:
        shrunk: the smaller model.
        axes: of the model before.
        before: figures before.
        after: figures after.
        seconds: that scoring and cutting took.
        voted: samples of all institutions whose sealed tally decided; 0: calibration samples did.
        clipped: of these, samples of which a value was too large for the tally.
        search: how the size was found, and what its weights were trained for; None: a cut alone.
    """

    shrunk: Shrunk
    axes: Mapping[str, Axis]
    before: Figures
    after: Figures
    seconds: float
    voted: int = 0
    clipped: int = 0
    search: Searched | None = None

    @property
    def sampled(self) -> bool:
        """Tells whether samples had a say in which units stay: magnitudes and draws look at none, and a tally is of samples elsewhere."""
        looked = bool(set(self.shrunk.chosen.ways.values()) - {"magnitude", "random"})
        return looked and (not self.voted or "block" in self.shrunk.chosen.kept)


def tallied(source: Source, score: str) -> Opened | None:
    """Importance that a federation tallied for this very decision (`[tallies] closing = ["importance"]`); None: nothing.

    Args:
        source: what is cut.
        score: way that is asked for; the tally serves `default` and `activation`.
    """
    if source.finished is None or score not in ("default", "activation"):
        return None
    if not any(one.name == NAME for one in source.finished.state.tallies):
        return None
    return totals(source.finished.state.tallied(NAME).sums, source.model)


def make(
    source: Source,
    *,
    to: str = "",
    given: Mapping[str, int],
    score: str,
    seed: int,
    architecture: str = "",
    rescale: bool = False,
) -> Made:
    """Cut what SOURCE names; see `dictpfl.client.compress.cutting.shrink.shrink`.

    Raises:
        ConfigError: see there.
    """
    maker = architecture_of(source.model, architecture)
    axes = {axis.name: axis for axis in maker.axes(source.model)}
    counts = counts_of(axes, given)
    if to:
        budget = budget_of(source.model, number(to))
        counts = sizes_within(source.model, axes, maker, budget, fixed=counts, most=1)[0]
    before, start = Figures.of(source.model, source), time.perf_counter()
    opened = tallied(source, score)
    shrunk = shrink_to(
        source.model, axes, maker, counts, source.calibration, source.task, score=score, seed=seed, rescale=rescale,
        total=None if opened is None else opened.total,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    voted, clipped = (0, 0) if opened is None else (opened.samples, opened.clipped)
    return Made(shrunk, axes, before, Figures.of(shrunk.model, source), seconds, voted, clipped)


def number(text: str) -> float | int:
    """A share ("0.6") or a number of parameters ("5000000").

    Raises:
        ConfigError: neither.
    """
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise ConfigError(f"--to {text!r}: expected a share such as 0.6, or a number of parameters") from error


def lines(made: Made, source: Source) -> list[tuple[str, str, str, str]]:
    """Rows of a table: the part, what it had, what it has, and how many units of zeros fill it up."""
    rows = []
    for name, axis in made.axes.items():
        size = made.shrunk.plan.size(axis) if name in made.shrunk.plan.axes else None
        kept = made.shrunk.chosen.kept.get(name)
        if size is None:
            rows.append((name, str(axis.units), "-", ""))
        elif kept is not None:
            rows.append((name, str(axis.units), str(len(kept)), str(made.shrunk.plan.filled.get(name, "") or "")))
    rows.append(("parameters", f"{made.shrunk.before:,}", f"{made.shrunk.after:,}", ""))
    rows.append(("loss", f"{made.before.loss:.4f}", f"{made.after.loss:.4f}", ""))
    rows.append((source.task.metric_name, f"{made.before.metric:.4f}", f"{made.after.metric:.4f}", ""))
    return rows
