"""Sources of tallies: what an institution adds to an agreed vector (a door: `tallies.opening`, `tallies.closing`).

A source says two things: the form of its tally, from shapes and configuration alone, and an institution's own numbers. Only their sum
over institutions is ever opened (`dictpfl.common.law.tally`, docs/decisions/0043).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from dictpfl.client.data.preparing.preparation import preparation_of, tallies
from dictpfl.client.data.samples import Samples
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import Task
from dictpfl.common.arrays import Ints
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.common.law.tally import MOMENTS, QUANTILES, Tallied, Tally, Weight, When
from dictpfl.common.registry import Registry, require_bindable

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Subject:
    """Subject of a tally: the model that a federation trains, as far as all institutions know it.

    Attributes:
        twin: model at shared state (before round 1: at W0); left as it was found.
        config: configuration.
        outputs: number of the model's outputs.
        sample_shape: shape of one sample.
    """

    twin: Twin
    config: FederationConfig
    outputs: int
    sample_shape: tuple[int, ...]


@dataclass(frozen=True)
class Own:
    """Samples and folder of one institution.

    Attributes:
        training: samples that it trains on; none, if none of its samples belongs to the skill (`[narrow]`).
        validation: samples that it measures on; maybe none.
        task: task of the federation.
        folder: folder of the institution, for what its operator laid there.
        opened: sums of earlier tallies, by name.
    """

    training: Samples
    validation: Samples
    task: Task
    folder: Path
    opened: Mapping[str, Tallied] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """Form of a tally.

    Attributes:
        entries: name and shape of each, in their order.
        bound: values are at most 2^bound in magnitude; larger ones are clipped.
        fraction: values are rounded to multiples of 2^-fraction.
        weight: `samples` for vectors that an institution has normalised by itself: they count as its updates do. `none` for what is added
            as it is, such as counts.
    """

    entries: Sequence[tuple[str, tuple[int, ...]]]
    bound: int
    fraction: int
    weight: Weight = "samples"

    def tally(self, name: str, when: When) -> Tally:
        """Make the tally of this form.

        Raises:
            ConfigError: no entries, or numbers that no component holds.
            LayoutError: two entries of one name, or a shape that is not positive.
        """
        layout = Layout.of((entry, shape, Kind.DENSE) for entry, shape in self.entries)
        return Tally(name, layout, self.bound, self.fraction, when, self.weight)


class Source(Protocol):
    """Source of a tally; its class takes `tallies.options.NAME` as keyword arguments."""

    def form(self, subject: Subject) -> Form:
        """Form of the tally: from shapes and configuration alone, never from data or values, so that its size tells nothing."""
        ...

    def local(self, subject: Subject, own: Own, tally: Tally) -> NDArray[np.float64] | Ints | None:
        """Numbers of one institution, shape (tally.layout.size,).

        Returns:
            float64: values, which are weighted, rounded and clipped here; or, with `weight = "none"`, int64: integers that are sums over
            samples already (`dictpfl.client.training.counting`); or None: the institution has nothing to say. Then it seals zeros: it is
            counted, adds nothing, and nobody learns that it was so.
        """
        ...


TALLIES: Registry[type[Source]] = Registry(
    "tally", key="tallies.opening, tallies.closing", group="dictpfl.tallies", folder="dictpfl.client.tallies"
)


def reads_raw(name: str) -> bool:
    """Tell whether a source reads columns as they stand, and not as they are prepared for training: it says so by `raw = True`."""
    return name in (MOMENTS, QUANTILES) or bool(getattr(TALLIES.load(name), "raw", False))


def source_of(name: str, options: Mapping[str, Any]) -> Source:
    """Make the source that a name leads to.

    Raises:
        ConfigError: unknown, or options that it does not take.
    """
    made = TALLIES.load(name)
    require_bindable(made, options, f"tallies.options.{name}")
    return made(**options)


def tallies_of(subject: Subject) -> tuple[Tally, ...]:
    """Agree on the tallies that a configuration asks for: those that prepare columns, then opening ones, then closing ones.

    Raises:
        ConfigError: an unknown source, options that it does not take, or numbers that no component holds.
    """
    said, prepared = subject.config.tallies, preparation_of(subject.config)
    first = () if prepared is None else tallies(prepared.columns)
    asked: list[tuple[When, str]] = [("opening", name) for name in (*first, *said.opening)]
    asked += [("closing", name) for name in said.closing]
    return tuple(source_of(name, said.options.get(name, {})).form(subject).tally(name, when) for when, name in asked)


def integers_of(tally: Tally, subject: Subject, own: Own, weight: float) -> Ints:
    """Integers that an institution seals, int64, shape (tally.layout.size,).

    Args:
        tally: agreement on it.
        subject: model and what is agreed.
        own: samples of the institution.
        weight: weight of its updates, for tallies that want it.

    Raises:
        ConfigError: the source is not that of the authority: it gives the tally another form.
        ModelError: numbers of another shape or type, not finite, or integers beyond the bound; nothing is sealed.
    """
    source = source_of(tally.name, subject.config.tallies.options.get(tally.name, {}))
    if source.form(subject).tally(tally.name, tally.when) != tally:
        raise ConfigError(
            f"the source of tally {tally.name!r} gives it another form here than genesis says; code or releases differ from the authority's"
        )
    # Who has no sample of a skill adds nothing, whatever the source would make of none: a refusal would tell who that is.
    nothing = tally.weight == "samples" and not len(own.training)
    values = None if nothing else source.local(subject, own, tally)
    if values is None:
        _log.info(
            "zeros are sealed for a tally: nothing here to measure it on",
            tally=tally.name,
            institution=own.folder.name,
            training=len(own.training),
            validation=len(own.validation),
        )
        return np.zeros(tally.layout.size, dtype=np.int64)
    _require_form(tally, values)
    if values.dtype == np.int64:
        return values.astype(np.int64)
    _require_finite(tally, values)
    return tally.quantised(values.astype(np.float64), weight if tally.weight == "samples" else 1.0)


def _require_form(tally: Tally, values: NDArray[Any]) -> None:
    """Refuse numbers that no round could carry as they are."""
    expected = (np.float64,) if tally.weight == "samples" else (np.float64, np.int64)
    if values.shape != (tally.layout.size,) or values.dtype not in expected:
        raise ModelError(
            f"the source of tally {tally.name!r} returned {values.dtype} of shape {values.shape}, expected "
            f"{' or '.join(np.dtype(kind).name for kind in expected)} of shape ({tally.layout.size},) (weight {tally.weight!r})"
        )
    if values.dtype == np.int64 and max(int(values.max()), -int(values.min())) > tally.largest:
        raise ModelError(
            f"the source of tally {tally.name!r} returned integers from {values.min()} to {values.max()}, the agreed bound is "
            f"{tally.largest}; an institution with so many samples must use fewer (or the source a larger bound, before round 1)"
        )


def _require_finite(tally: Tally, values: NDArray[Any]) -> None:
    """Refuse NaN and infinity, and name the entry that they are in."""
    for entry in tally.layout.entries:
        if not np.isfinite(values[entry.span]).all():
            raise ModelError(
                f"the source of tally {tally.name!r} returned a value that is not finite in {entry.name!r}; nothing is sealed. Look at the "
                "samples and the model's outputs"
            )
