"""Progress of a run in a notebook: a bar and the last rounds in the cell's output, drawn anew after each round."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import Any, Protocol, Self

import structlog

from dictpfl.common.config import FederationConfig
from dictpfl.deploy import console
from dictpfl.deploy.reports.progress import HEADINGS, LINES, LiveProgress, cells
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.units import counted


class Shown(Protocol):
    """Progress that is told how a run goes on."""

    def founded(self, shared: int) -> None:
        """Take note of the number of shared values."""

    def closed(self, record: RoundRecord) -> None:
        """Show a closed round."""


class NotebookProgress:
    """A bar and the last rounds as HTML, for Jupyter; needs nothing but IPython, which runs the notebook."""

    def __init__(self, title: str, rounds: int) -> None:
        self._title, self._rounds, self._done, self._shared = title, rounds, 0, 1
        self._rows: deque[RoundRecord] = deque(maxlen=LINES)
        self._handle: Any = None
        self._html: Any = None

    def __enter__(self) -> Self:
        """Show the bar."""
        from IPython import display

        shown: Any = display  # IPython gives few of its functions types
        self._html = shown.HTML
        self._handle = shown.display(shown.HTML(self.page()), display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last page where it is."""

    def founded(self, shared: int) -> None:
        """See `Shown.founded`."""
        self._shared = max(1, shared)

    def closed(self, record: RoundRecord) -> None:
        """See `Shown.closed`."""
        self._rows.append(record)
        self._done = record.update
        self._handle.update(self._html(self.page()))

    def page(self) -> str:
        """The output as it is now, HTML."""
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(record, self._shared)) + "</tr>"
            for record in self._rows
        )
        return (
            f"<div><strong>{escape(self._title)}</strong> <progress value={self._done} max={self._rounds}></progress> "
            f"{self._done} of {counted(self._rounds, 'round')}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )


def in_notebook() -> bool:
    """Tell whether a Jupyter kernel runs this process, which a terminal's IPython is not."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


@contextmanager
def progress_of(config: FederationConfig, named: str) -> Iterator[Shown]:
    """Show progress as it suits where this process runs: in a cell's output, in a terminal, or a line a round; logs but warnings are silent."""
    title, rounds = f"{config.name} ({named})", config.federation.rounds
    made = NotebookProgress(title, rounds) if in_notebook() else LiveProgress(console.out, title, rounds)
    with quiet(), made as shown:
        yield shown


@contextmanager
def quiet() -> Iterator[None]:
    """Let only warnings through, unless this program has said itself what it wants to hear."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.reset_defaults()
