"""What every benchmark shares: where and with what it ran, fair timing on a noisy machine, results as files.

A result is three files in `benchmarks/results/`: `NAME.json` (all figures), `NAME.md` (what a reader looks at) and
`NAME.svg`. None of them holds a path of the machine that made it.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dictpfl.common.documents import json_text
from dictpfl.common.files import write_private
from dictpfl.deploy.reports.plots import COLOURS
from dictpfl.deploy.runs.run import processor, versions

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def threads() -> int:
    """Threads of a measurement that may have the machine: every core, or one where others run beside it (`--jobs`)."""
    return 1 if multiprocessing.parent_process() else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Requirement:
    """A promise and what was found: `measured` must be `at least`, `at most` or `above` the `bound`."""

    promise: str
    relation: str
    bound: float
    measured: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it holds; false for NaN."""
        if self.relation == "above":
            return self.measured > self.bound
        return self.measured <= self.bound if self.relation == "at most" else self.measured >= self.bound

    def __str__(self) -> str:
        """One line: required, measured, met."""
        unit = f" {self.unit}" if self.unit else ""
        verdict = "met" if self.met else "NOT MET"
        return f"{self.promise}: required {self.relation} {self.bound:g}{unit}, measured {self.measured:.4g}{unit}: {verdict}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"met": self.met}


def machine() -> dict[str, Any]:
    """Date, processor, cores, load when asked, versions and commit: what a figure means nothing without."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "commit": _commit(),
    }


def seed_list(text: str) -> list[int]:
    """Seeds of an option, separated by commas; none of an empty one.

    Raises:
        argparse.ArgumentTypeError: one is no whole number.
    """
    try:
        return [int(seed) for seed in text.split(",") if seed.strip()]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} has something that is no whole number; expected seeds such as 1,2,3"
        ) from error


def count_of(text: str) -> int:
    """Whole number of an option that counts something, such as processes.

    Raises:
        argparse.ArgumentTypeError: it is none, or less than 1, with which nothing would be done.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def ended(main: Callable[[], int]) -> NoReturn:
    """Run a program and end with its status; with 0 where whoever reads has seen enough (`--list | head`)."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def median(values: Sequence[float]) -> float:
    """Median; the middle of what a noisy machine gives."""
    return statistics.median(values)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = [
        "| " + " | ".join(heads) + " |",
        "|" + "|".join("---" if i == 0 else "---:" for i, _ in enumerate(heads)) + "|",
    ]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def preamble(facts: Mapping[str, Any], command: str) -> str:
    """Where a table's figures come from, in one paragraph."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    script = next((word for word in command.split() if word.endswith(".py")), "")
    gone = " (a script that is gone since)" if script and not (ROOT / script).exists() else ""
    return (
        f"Made by `{command}`{gone} on {facts['date']}: {facts['processor']}, {facts['cores']} cores (load {facts['load']}), "
        f"Python {facts['python']}, {packages}, commit {facts['commit']}."
    )


def panels(*titles: str, across: int = 0) -> tuple[Figure, list[Axes]]:
    """A figure of plots side by side, at most `across` in a row; 0: all."""
    columns = min(across or len(titles), len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.6 * rows), layout="constrained")
    plots = [figure.add_subplot(rows, columns, 1 + i) for i in range(len(titles))]
    for ax, title in zip(plots, titles, strict=True):
        ax.set_title(title, fontsize=11, loc="left", fontweight="bold")
        ax.grid(color="#e5e7eb")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, plots


def bars(axis: Axes, values: Mapping[str, Sequence[float]], size: int = 7) -> None:
    """Draw a bar for the mean of each arm, with a point for each of its values; names in letters of `size`."""
    for number, one in enumerate(values.values()):
        axis.barh(number, statistics.fmean(one), color=COLOURS[number % len(COLOURS)])
        axis.plot(one, [number] * len(one), "k.", markersize=3)
    axis.set_yticks(range(len(values)), list(values), fontsize=size)
    axis.invert_yaxis()


def requirement_lines(requirements: Sequence[Requirement]) -> str:
    """All requirements as a Markdown list."""
    return "\n".join(f"- {requirement}" for requirement in requirements)


def previous(name: str, part: str) -> dict[str, Any]:
    """A part of a benchmark's last results: what only its `--full` run measures, kept with its own machine and date."""
    try:
        found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")).get(part, {})
    except OSError:
        return {}
    return found


def write_results(name: str, figures: Mapping[str, Any], text: str, figure: Figure) -> None:
    """Write the three files of a benchmark.

    Args:
        name: of the files, without suffix.
        figures: everything measured, as JSON values.
        text: the Markdown page.
        figure: the plot, written as SVG.
    """
    RESULTS.mkdir(exist_ok=True)
    page = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dictpfl"}):
        figure.savefig(page, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    files = {
        ".json": json_text(figures, indent=1) + "\n",
        ".md": text.rstrip() + "\n",
        ".svg": "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n",
    }
    for suffix, content in files.items():
        path = RESULTS / f"{name}{suffix}"
        write_private(path, content.encode())
        path.chmod(0o644)


def conclude(requirements: Sequence[Requirement]) -> int:
    """Print the requirements; the exit status: 1 if one is not met."""
    print("\n" + requirement_lines(requirements))
    return int(not all(requirement.met for requirement in requirements))


def _commit() -> str:
    """The commit, with a + where files of the project differ from it."""
    try:
        commit, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" * any("benchmarks/results/" not in line for line in changed.splitlines())


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
