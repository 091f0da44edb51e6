"""Does one Adam rate for tables hold over ranks? The measurement behind `training.learning_rate`'s default.

    python benchmarks/learning_rate.py           # about 6 minutes on two idle cores
    python benchmarks/learning_rate.py --quick   # two ranks, three rates, one seed: does it run?

Digits, 3 institutions, IID, no pruning, identity sealer (it sends the very integers that CKKS would, so the model is
the same bit for bit). Only tables and the head are trained; the head's rate stays at 2e-3, so that what is varied is
the rate of the tables alone. `normalised`: the Frobenius norm of D is sqrt(rows), so rows have norm 1 whatever the rank.
`paper`: D = U_r S_r, whose norm grows with the rank. Figures are validation accuracy, from the ledger; the test split is
not used. Results go to `benchmarks/results/learning_rate.{json,md,svg}`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lib.machine import machine, preamble

RESULTS = Path(__file__).with_name("results")
RANKS = (1, 2, 4, 8, 16)
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
SCALINGS = ("normalised", "paper")
PLATEAU = 1.0
"""Points below a rank's best that still count as its plateau."""
console = Console()

MODELS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"federation.rounds": 8, "model.source": "mlp", "model.options": {"hidden": [128, 128]}},
    "vit_tiny": {
        "federation.rounds": 6,
        "model.source": "vit_tiny",
        "model.options": {"dim": 64, "depth": 2},
        "data.public_share": 0.2,
        "model.pretrain.epochs": 30,
        "model.pretrain.classes": [0, 1, 2, 3, 4],
    },
}
_COMMON = {
    "toy_insecure": True,
    "encryption.sealer": "identity",
    "data.source": "digits",
    "pruning.enabled": False,
    "decomposition.biases": False,
    "decomposition.norms": False,
    "decomposition.positions": False,
    "decomposition.tokens": False,
    "training.dense_learning_rate": 2e-3,
    "training.epochs": 1,
    "training.threads": 1,
    "training.device": "cpu",
}


@dataclass(frozen=True)
class Job:
    """One federation to run."""

    model: str
    scaling: str
    rank: int
    rate: float
    seed: int


def configuration(job: Job) -> dict[str, Any]:
    """Dotted settings of a job."""
    return {
        **_COMMON,
        **MODELS[job.model],
        "seed": job.seed,
        "decomposition.rank": job.rank,
        "decomposition.scaling": job.scaling,
        "training.learning_rate": job.rate,
    }


def work(job: Job) -> float:
    """Validation accuracy in percent, mean of the last two rounds; 0 where training diverged.

    As `dictpfl.deploy.simulation.simulate.simulate` does on the local engine, without its report.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import logging

    import structlog

    from dictpfl.common.config import FederationConfig
    from dictpfl.common.errors import EngineError
    from dictpfl.deploy.simulation.founding import found
    from dictpfl.deploy.simulation.local import run_local
    from dictpfl.deploy.simulation.observer import Observer

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    config = FederationConfig.of({}, configuration(job))
    with tempfile.TemporaryDirectory(prefix="learning-rate-") as name:
        folder = Path(name)
        founded = found(config, folder)
        try:
            run_local(founded.coordinator, founded.institutions, config.federation.participants)
        except EngineError:  # an institution refuses to send a loss that is not finite
            return 0.0
        last = list(Observer(founded).poll())[-2:]
    return 100 * statistics.fmean(r.validation for r in last if r.validation is not None)


Grid = dict[int, dict[float, float]]
"""Mean validation accuracy by rank and rate."""


def analyse(grid: Grid) -> dict[str, Any]:
    """Best rate and plateau of each rank, the best single rate for all, and the most that it costs any rank."""
    rates = list(next(iter(grid.values())))
    best = {rank: max(row, key=lambda rate: row[rate]) for rank, row in grid.items()}
    shortfall = {rate: max(row[best[rank]] - row[rate] for rank, row in grid.items()) for rate in rates}
    single = min(rates, key=lambda rate: shortfall[rate])
    return {
        "best": {str(rank): rate for rank, rate in best.items()},
        "plateau": {
            str(rank): [rate for rate in rates if row[rate] >= row[best[rank]] - PLATEAU] for rank, row in grid.items()
        },
        "common_plateau": [rate for rate in rates if shortfall[rate] <= PLATEAU],
        "single_rate": single,
        "single_rate_costs": shortfall[single],
        "default_rate_costs": shortfall.get(2e-3),
    }


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """A row a model, scaling and rank; brackets mark the plateau, a star the best rate."""
    rows = []
    for name, found in result["grids"].items():
        for rank, row in found["accuracy"].items():
            best, plateau = found["best"][rank], found["plateau"][rank]
            cells = [
                f"{value:.1f}{'*' if float(rate) == best else ''}" if float(rate) not in plateau
                else f"[{value:.1f}{'*' if float(rate) == best else ''}]"
                for rate, value in row.items()
            ]  # fmt: skip
            rows.append([name, rank, *cells])
    return rows


def conclusions(result: Mapping[str, Any]) -> list[str]:
    """A sentence for each model and scaling."""
    found = []
    for name, grid in result["grids"].items():
        rates = sorted(set(grid["best"].values()))
        common = ", ".join(f"{rate:g}" for rate in grid["common_plateau"]) or "none"
        found.append(
            f"{name}: best rates {rates[0]:g} to {rates[-1]:g}; rates on the plateau of every rank: {common}; the single "
            f"rate {grid['single_rate']:g} costs no rank more than {grid['single_rate_costs']:.1f} points"
            + (f", the default 2e-3 {grid['default_rate_costs']:.1f}" if grid["default_rate_costs"] is not None else "")
        )
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The results as a page."""
    heads = ["model, scaling", "rank", *(f"{rate:g}" for rate in result["rates"])]
    return "\n".join([
        "# One learning rate over ranks",
        "",
        "Validation accuracy in % by the tables' Adam rate. Brackets: within "
        f"{PLATEAU:g} point of the rank's best (*). Seeds "
        f"{', '.join(map(str, result['seeds']))}; tables and the head alone are trained, three institutions, no pruning.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---|---:|" + "---:|" * len(result["rates"]),
        *("| " + " | ".join(row) + " |" for row in rows_of(result)),
        "",
        *(f"- {line}" for line in conclusions(result)),
        "",
        preamble(result["environment"], "python benchmarks/learning_rate.py")
        + f" {result['seconds'] / 60:.1f} minutes with {result['jobs']} processes.",
        "",
    ])  # fmt: skip


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Accuracy by rate, a line a rank; a panel for each model and scaling, dots on the best rates."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colours = ("#7b2d8b", "#2b59c3", "#0b6e4f", "#8a5a00", "#c1440e")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dictpfl", "font.size": 9}):
        figure = Figure(figsize=(7.2, 2.7 * len(MODELS)), layout="constrained")
        panels = figure.subplots(len(MODELS), len(SCALINGS), sharey="row", squeeze=False)
        for ax, (name, found) in zip(panels.flat, result["grids"].items(), strict=True):
            for colour, (rank, row) in zip(colours, found["accuracy"].items(), strict=False):
                rates = [float(rate) for rate in row]
                ax.plot(rates, list(row.values()), color=colour, label=f"r = {rank}")
                ax.plot(found["best"][rank], row[f"{found['best'][rank]:g}"], "o", color=colour)
            for rate in found["common_plateau"]:
                ax.axvspan(rate / 2**0.5, rate * 2**0.5, color="#0b6e4f", alpha=0.1, lw=0)
            ax.set_xscale("log", base=2)
            ax.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45)
            ax.set_title(name, loc="left", fontweight="bold", fontsize=9)
            ax.set_xlabel("Adam's rate for tables")
            ax.grid(color="#e5e7eb")
            ax.spines[["top", "right"]].set_visible(False)
        for row in panels:
            row[0].set_ylabel("validation accuracy, %")
        panels.flat[0].legend(frameon=False, fontsize=8, loc="lower center", ncols=2)
        figure.suptitle("Green: within 1 point of the best for every rank", fontsize=9)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def run_all(todo: Sequence[Job], jobs: int) -> dict[Job, float]:
    """Run on so many processes, showing progress."""
    done: dict[Job, float] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("spawn")
    with Progress(*columns, console=console) as progress, ProcessPoolExecutor(jobs, mp_context=context) as pool:
        task = progress.add_task("ranks x rates", total=len(todo))
        waiting = {pool.submit(work, job): job for job in todo}
        for future in as_completed(waiting):
            done[waiting[future]] = future.result()
            progress.advance(task)
    return done


def main(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "11,12",
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each trains on one thread.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="Two ranks, three rates, one seed; writes nothing.")] = False,  # noqa: FBT002
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure how the best learning rate of tables moves with the rank."""
    began = time.monotonic()
    ranks, rates = ((1, 8), RATES[1:6:2]) if quick else (RANKS, RATES)
    chosen = [int(seed) for seed in seeds.split(",")][: 1 if quick else None]
    todo = [
        Job(m, s, r, rate, seed) for m in MODELS for s in SCALINGS for r in ranks for rate in rates for seed in chosen
    ]
    environment = machine()
    done = run_all(todo, jobs)
    result: dict[str, Any] = {"environment": environment, "seeds": chosen, "rates": rates, "jobs": jobs, "grids": {}}
    for model in MODELS:
        for scaling in SCALINGS:
            grid: Grid = {
                r: {x: statistics.fmean(done[Job(model, scaling, r, x, seed)] for seed in chosen) for x in rates}
                for r in ranks
            }
            accuracy = {str(rank): {f"{rate:g}": value for rate, value in row.items()} for rank, row in grid.items()}
            result["grids"][f"{model}, {scaling}"] = {"accuracy": accuracy, **analyse(grid)}
    result["settings"] = {model: configuration(Job(model, "normalised", 4, 2e-3, chosen[0])) for model in MODELS}
    result["seconds"] = time.monotonic() - began
    table = Table(box=None, padding=(0, 1))
    for heading in ("model, scaling", "rank", *(f"{rate:g}" for rate in rates)):
        table.add_column(heading, no_wrap=True)
    for row in rows_of(result):
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)
    for line in conclusions(result):
        console.print(line, highlight=False, soft_wrap=True)
    if not quick:
        out.mkdir(parents=True, exist_ok=True)
        (out / "learning_rate.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (out / "learning_rate.md").write_text(markdown(result), encoding="utf-8")
        plot(result, out / "learning_rate.svg")
    console.print(f"{result['seconds'] / 60:.1f} minutes", highlight=False)


if __name__ == "__main__":
    typer.run(main)
