"""Progress of a run in a notebook: a bar in the cell's output, drawn again after each round."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import Any, Self

import structlog

from dictpfl.common.config import FederationConfig
from dictpfl.deploy import console
from dictpfl.deploy.reports.progress import LiveProgress, figures_of
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.units import counted


class NotebookProgress:
    """A bar and the newest figures as HTML, for Jupyter; needs nothing but IPython, which runs the notebook."""

    def __init__(self, title: str, rounds: int) -> None:
        self._title, self._rounds, self._done, self._figures = title, rounds, 0, ""
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

    def __call__(self, record: RoundRecord) -> None:
        """Show a closed round."""
        self._figures, self._done = figures_of(record), record.update
        self._handle.update(self._html(self.page()))

    def page(self) -> str:
        """The output as it is now, HTML."""
        return (
            f"<div><strong>{escape(self._title)}</strong> <progress value={self._done} max={self._rounds}></progress> "
            f"{self._done} of {counted(self._rounds, 'round')} {escape(self._figures)}</div>"
        )


def in_notebook() -> bool:
    """Tell whether a Jupyter kernel runs this process, which a terminal's IPython is not."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


@contextmanager
def progress_of(config: FederationConfig, named: str) -> Iterator[Callable[[RoundRecord], None]]:
    """Show progress in a notebook's cell, in a terminal, or in lines; of the log, only warnings are shown."""
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
