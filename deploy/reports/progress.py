"""Live progress of a run: a bar and a table in a terminal, one line a round elsewhere."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.units import figure, human_bytes, human_count, human_seconds, percent

LINES = 8
"""Newest rounds that are shown."""
HEADINGS = ("round", "test after", "validation before", "sent", "up", "down", "train", "seal+fold+open", "in the sum")


class LiveProgress:
    """A bar and the last rounds; a line a round when the console is not a terminal (a pipe, a batch system, a container)."""

    def __init__(self, console: Console, title: str, rounds: int) -> None:
        self._console = console
        self._title, self._rounds = title, rounds
        self._rows: deque[RoundRecord] = deque(maxlen=LINES)
        self._shared = 1
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task(escape(title), total=rounds)
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

    def founded(self, shared: int) -> None:
        """Take note of the number of shared values, which the shares refer to."""
        self._shared = max(1, shared)

    def closed(self, record: RoundRecord) -> None:
        """Show a closed round."""
        self._rows.append(record)
        self._progress.update(self._task, completed=record.update)
        if self._live:
            self._live.update(self._page())
        else:
            self._console.print(self._line(record), highlight=False, markup=False, soft_wrap=True)
            self._console.file.flush()  # a pipe keeps what it is given, and a killed run would have said nothing

    def _line(self, record: RoundRecord) -> str:
        if record.kind == RoundKind.SCORE:
            # No update: values are statistics, tallies or scores, and no share of what is trained.
            return (
                f"{self._title} before round {record.update + 1}: {human_count(record.sent)} sums, sealed, up {human_bytes(record.bytes_up)}, "
                f"in the sum {record.contributors}"
            )
        name, test, validation, sent, up, down, train, crypto, contributors = cells(record, self._shared)
        of = f"/{self._rounds}" if record.kind == RoundKind.UPDATE else ""
        return (
            f"{self._title} round {name}{of}: test {test} after it, validation {validation} before it, sent {sent}, up {up}, down {down}, "
            f"train {train}, crypto {crypto}, in the sum {contributors}"
        )

    def _page(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for heading in HEADINGS:
            table.add_column(heading, justify="right")
        for record in self._rows:
            table.add_row(*cells(record, self._shared))
        return Group(self._progress, table)


def cells(record: RoundRecord, shared: int) -> tuple[str, ...]:
    """Return what is shown of a round, in the order of `HEADINGS`."""
    crypto = sum(record.seconds.get(phase, 0.0) for phase in ("seal", "fold", "open"))
    name = str(record.update) if record.kind == RoundKind.UPDATE else str(record.kind)
    return (
        name,
        figure(record.test, record.metric),
        figure(record.validation, record.metric),
        percent(record.sent / shared),
        human_bytes(record.bytes_up),
        human_bytes(record.bytes_down),
        human_seconds(record.seconds.get("train", 0.0)),
        human_seconds(crypto),
        str(record.contributors),
    )
