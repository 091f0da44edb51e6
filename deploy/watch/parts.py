"""Parts that pages share: charts of a course, of traffic and of time, and what privacy has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DictPFLError
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.units import human_bytes, human_seconds
from dictpfl.deploy.watch.charts import lines, stacked
from dictpfl.deploy.watch.view import Card, Chart

PHASES = ("train", "evaluate", "store", "seal", "fold", "open")
Course = Mapping[str, Sequence[tuple[float, float | None]]]
"""Points (round, value) by the name of a line; None: not measured in that round."""


def figure_name(config: FederationConfig) -> str:
    """Return what a federation's task reports, as "accuracy"; "figure" where its task is not at hand."""
    from dictpfl.client.training.task import task_of  # torch: a moment, and a coordinator never asks

    try:
        return str(task_of(config.measuring).metric_name)
    except DictPFLError:
        return "figure"


def called(record: RoundRecord) -> str:
    """Name a round as people count them: its update's number, from 1, or its kind."""
    return str(record.update) if record.kind == RoundKind.UPDATE else str(record.kind)


def digits(value: float | None) -> str:
    """Return a figure with four digits; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def validations(history: Sequence[RoundRecord], what: str) -> list[tuple[float, float | None]]:
    """Return `validation` or `validation_loss` at the update whose model it is of: a round measures the model that it begins with."""
    before = 0
    points: list[tuple[float, float | None]] = []
    for record in history:
        points.append((float(before), getattr(record, what)))
        before = record.update
    return points


def course(figure: str, figures: Course, losses: Course, *, ringed: str = "", higher: bool = True) -> Iterator[Chart]:
    """Draw the figure and the loss by round; points without a value are left out.

    Args:
        figure: name of the figure.
        figures, losses: their lines.
        ringed: name of the line of figures whose best point is ringed.
        higher: the best is the highest.
    """
    for title, series in ((figure[:1].upper() + figure[1:], figures), ("Loss", losses)):
        shown = {name: [(x, y) for x, y in points if y is not None] for name, points in series.items()}
        newest = ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in shown.items() if points)
        caption = f"{title} by round: {newest or 'nothing yet'}."
        marked: tuple[float, float, str] | None = None
        if points := shown.get(ringed) if series is figures else None:
            x, y = max(points, key=lambda point: point[1] if higher else -point[1])
            marked = (x, y, f"best by validation, after round {x:.0f}")
            caption += f" Ringed: the {marked[2]}, {y:.4g}."
        yield Chart(lines(title, shown, shown=lambda value: f"{value:.3g}", marked=marked), caption)


def traffic(rounds: Sequence[tuple[int, int, int]]) -> Chart:
    """Draw bytes by round; `rounds` has number, bytes up and bytes down of one institution."""
    series = {"up": [up for _, up, _ in rounds], "down": [down for _, _, down in rounds]}
    total = human_bytes(sum(up + down for _, up, down in rounds))
    svg = stacked("Bytes of one institution", series, [number for number, _, _ in rounds], shown=human_bytes)
    return Chart(svg, f"Bytes that one institution sent and received in each round; {total} in all.")


def time_split(rounds: Sequence[tuple[int, Mapping[str, float]]]) -> Chart:
    """Draw seconds of each phase by round; `rounds` has number and seconds by phase."""
    phases = [phase for phase in PHASES if any(phase in seconds for _, seconds in rounds)]
    series = {phase: [float(seconds.get(phase, 0.0)) for _, seconds in rounds] for phase in phases}
    svg = stacked("Where a round's time goes", series, [number for number, _ in rounds], shown=human_seconds)
    totals = ", ".join(f"{phase} {human_seconds(sum(values))}" for phase, values in series.items())
    return Chart(svg, f"Seconds of each phase in each round. All rounds: {totals or 'none yet'}.")


def privacy_cards(account: Mapping[str, Any] | None) -> Iterator[Card]:
    """Show what differential privacy has cost so far; nothing where there is none."""
    if account is None:
        return
    limit = f" of {account['limit']:g} allowed" if account["limit"] else ""
    whom = "each training sample" if account["mechanism"] == "example" else "an institution as a whole"
    yield Card("Privacy spent", f"epsilon {account['epsilon']:.2f}{limit}", f"at delta {account['delta']:g}, of {whom}")
