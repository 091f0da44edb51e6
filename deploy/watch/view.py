"""Content of the page, whoever's it is: cards, charts, tables and alarms, in words and numbers that are ready to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Card:
    """One figure with its name, and a remark below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Picture as an SVG element, with what it says in words."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Share:
    """Share between 0 and 1, shown as a bar and in percent; `of` says of what."""

    value: float
    of: str


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row names it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | Share]]
    remark: str = ""


@dataclass(frozen=True)
class View:
    """Page of one party at one moment.

    Attributes:
        whose: `simulation`, `institution` or `coordinator`.
        title: heading.
        lead: sentence below it.
        done, wanted: update rounds closed so far, and agreed on.
        ended: nothing will change any more.
        alarms: what somebody has to look at, worst first.
        cards, charts, tables: the rest.
    """

    whose: str
    title: str
    lead: str
    done: int
    wanted: int
    ended: bool
    alarms: Sequence[str]
    cards: Sequence[Card]
    charts: Sequence[Chart]
    tables: Sequence[Table]

    @property
    def standing(self) -> str:
        """Say in a word or two how far it is."""
        return f"round {self.done} of {self.wanted}" + (", ended" if self.ended else "")


def clock(at: float | None) -> str:
    """Return a time in seconds since the Unix epoch as UTC, to the second; a dash where there is none."""
    return "-" if not at else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
