"""Progress of a run: one line that moves in a terminal; elsewhere a line every tenth round."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.units import figure, human_bytes

EVERY = 10
"""Rounds to a line where there is no terminal; the last round always has one."""
SILENCE = 60.0
"""Seconds after which a closed round has a line, whatever its number."""


class LiveProgress:
    """One line of a run: a bar that moves in a terminal, else a line every tenth round (a pipe, a batch system, a container).

    Args:
        console: where it is shown.
        title: what runs.
        rounds: updates that the run has in all.
        quiet: show nothing.
        now: a clock, seconds.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        rounds: int,
        *,
        quiet: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._title, self._rounds = console, title, rounds
        self._now, self._shown_at = now, now()
        self._prints = not quiet and not console.is_terminal
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("rounds"),
            TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=console, disable=quiet or not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(escape(title), total=rounds, figures="")

    def __enter__(self) -> Self:
        """Show the line."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the line as it is."""
        self._bar.stop()

    def __call__(self, record: RoundRecord) -> None:
        """Show a closed round."""
        figures = figures_of(record)
        self._bar.update(self._task, completed=record.update, figures=figures)
        ends = record.kind == RoundKind.UPDATE and (record.update % EVERY == 0 or record.update == self._rounds)
        if self._prints and (ends or self._now() - self._shown_at >= SILENCE):
            self._shown_at = self._now()
            self._console.print(self._line(record, figures), highlight=False, markup=False, soft_wrap=True)
            self._console.file.flush()  # a pipe keeps what it is given, and a killed run would have shown nothing

    def _line(self, record: RoundRecord, figures: str) -> str:
        if record.kind != RoundKind.UPDATE:
            return f"{self._title} before round {record.update + 1} of {self._rounds}: {record.kind}"
        return f"{self._title} round {record.update} of {self._rounds}: {figures}"


def figures_of(record: RoundRecord) -> str:
    """The two figures of a round that one watches: what was reached, and what one institution sent."""
    return f"test {figure(record.test, record.metric)}, up {human_bytes(record.bytes_up)}"
