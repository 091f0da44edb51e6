"""Live progress of a run in a terminal; one line a round elsewhere, and only when asked."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from common.protocol import RoundKind
from deploy.founding import Founded
from deploy.observer import RoundRecord
from deploy.units import human_bytes, human_seconds, percent

_LINES = 8


class LiveProgress:
    """A bar and the last rounds; silent when the console is not a terminal."""

    def __init__(self, console: Console, title: str, rounds: int, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._rows: deque[RoundRecord] = deque(maxlen=_LINES)
        self._shared = 1
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=rounds)
        self._live = Live(self._page(), console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self._page())
            self._live.stop()

    def founded(self, founded: Founded) -> None:
        """Take note of what the shares refer to."""
        self._shared = max(1, founded.genesis.layout.size)

    def closed(self, record: RoundRecord) -> None:
        """Show a closed round."""
        self._rows.append(record)
        self._progress.update(self._task, completed=record.update)
        if self._live:
            self._live.update(self._page())
        elif self._verbose:
            self._console.print(" ".join(_cells(record, self._shared)), highlight=False)

    def _page(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in ("round", "test", "validation", "sent", "up", "down", "train", "seal+fold+open", "in the sum"):
            table.add_column(heading, justify="right")
        for record in self._rows:
            table.add_row(*_cells(record, self._shared))
        return Group(self._progress, table)


def _cells(record: RoundRecord, shared: int) -> tuple[str, ...]:
    crypto = sum(record.seconds.get(phase, 0.0) for phase in ("seal", "fold", "open"))
    name = str(record.update) if record.kind == RoundKind.UPDATE else str(record.kind)
    return (
        name,
        percent(record.accuracy),
        percent(record.validation_accuracy),
        percent(record.sent / shared),
        human_bytes(record.bytes_up),
        human_bytes(record.bytes_down),
        human_seconds(record.seconds.get("train", 0.0)),
        human_seconds(crypto),
        str(record.contributors),
    )
