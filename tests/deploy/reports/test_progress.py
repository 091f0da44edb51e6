"""Progress of a run: what a terminal shows, what a pipe is given, and what --quiet leaves."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.reports.progress import LiveProgress
from dictpfl.deploy.runs.record import RoundRecord


def record(update: int, kind: RoundKind = RoundKind.UPDATE) -> RoundRecord:
    return RoundRecord(
        round=update, kind=kind, update=update, contributors=3, rejected={}, sent=100, sent_by_tensor={}, ciphertexts=1,
        bytes_up=2000, bytes_down=4000, test=0.5 + update / 100, test_loss=None, validation=None, validation_loss=None,
        train_loss=None, refreshed=False, seconds={}, metric="accuracy",
    )  # fmt: skip


def lines(rounds: int, seconds: float, *, quiet: bool = False) -> list[str]:
    pipe, clock = Console(file=io.StringIO()), iter(range(10**6))
    with LiveProgress(pipe, "ward", rounds, quiet=quiet, now=lambda: next(clock) * seconds) as shown:
        for update in range(1, rounds + 1):
            shown(record(update))
    return pipe.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_pipe_has_a_line_every_tenth_round_and_of_the_last() -> None:
    found = lines(23, 0)
    assert [line.split(":")[0] for line in found] == [f"ward round {n} of 23" for n in (10, 20, 23)]
    assert found[0] == "ward round 10 of 23: test 60.0 %, up 2 kB"


def test_slow_rounds_have_a_line_each() -> None:
    assert len(lines(5, 61)) == 5


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with LiveProgress(console, "ward", 20, quiet=True) as shown:
        shown(record(10))
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_has_one_line() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    with LiveProgress(terminal, "ward [b] [/]", 23) as shown:
        for update in range(1, 24):
            shown(record(update))
    left = terminal.file.getvalue().split("\x1b[2K")[-1]  # type: ignore[attr-defined]
    assert "ward [b] [/]" in left
    assert "23/23" in left
    assert "test 73.0 %, up 2 kB" in left
    assert left.count("\n") == 1


def test_scores_before_a_round_are_no_round() -> None:
    pipe, clock = Console(file=io.StringIO()), iter((0.0, 1.0, 100.0, 200.0))
    with LiveProgress(pipe, "ward", 20, now=lambda: next(clock)) as shown:
        shown(record(10, RoundKind.SCORE))
        shown(record(10, RoundKind.SCORE))
    assert pipe.file.getvalue() == "ward before round 11 of 20: score\n"  # type: ignore[attr-defined]
