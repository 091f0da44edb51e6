"""Accuracy and traffic of dictpfl against plaintext full fine-tuning and against training the head alone, on digits.

    python benchmarks/accuracy_digits.py                      # all cases, about 20 minutes on two idle cores
    python benchmarks/accuracy_digits.py --cases b --seeds 1  # one case, one seed
    python benchmarks/accuracy_digits.py --quick              # a minute: does it run? its figures mean nothing

Everything runs through `deploy.simulation.simulate` on the local engine. dictpfl and head-only are encrypted under
CKKS; plaintext is the preset of that name. Each method's learning rate is chosen by validation accuracy, as
institutions read it from the encrypted ledger, on seeds of its own; the test split is not looked at. Then three other
seeds run with that rate, and their test accuracy is the mean of the last three rounds. Results go to
`benchmarks/results/accuracy_digits.{json,md,svg}`; cases that are not measured anew stay there with the date of their
own. Exit code 1 if a requirement is not met.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RESULTS = Path(__file__).with_name("results")
FULL, HEAD, OURS = "plaintext", "head-only", "dictpfl"
TUNING_SEEDS = (0, 100)
"""More than one: a rate at the brink of divergence may look best once."""
FURTHER_SEEDS = (101, 102, 103)
"""The two best rates of a case meet on these as well, where runs are cheap: Dirichlet draws differ a lot."""
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
EXTENSIONS = 4
"""How often a grid may be extended; each time by one rate, beyond the end at which the best stands."""
LAST = 3
"""Rounds at the end over which accuracies are averaged."""
console = Console()


@dataclass(frozen=True)
class Outcome:
    """What the seeds of one method gave. `accuracies`: one a seed, in percent. `share`: values sent, % of full."""

    accuracies: Sequence[float]
    share: float

    @property
    def mean(self) -> float:
        """Mean of the seeds, in percent."""
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Sample standard deviation over the seeds; 0 for a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


Outcomes = Mapping[str, Outcome]


@dataclass(frozen=True)
class Requirement:
    """A promise about one case: `measure(outcomes)` at most, or at least, `bound`."""

    text: str
    bound: float
    at_most: bool
    unit: str
    measure: Callable[[Outcomes], float]

    def met(self, value: float) -> bool:
        """Whether the measured value keeps the promise."""
        return value <= self.bound if self.at_most else value >= self.bound

    @property
    def required(self) -> str:
        """As text."""
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g} {self.unit}"


def below_full(points: float) -> Requirement:
    return Requirement(
        "points below full", points, at_most=True, unit="points", measure=lambda o: o[FULL].mean - o[OURS].mean
    )


def above_head(points: float) -> Requirement:
    return Requirement(
        "points above head-only", points, at_most=False, unit="points", measure=lambda o: o[OURS].mean - o[HEAD].mean
    )


def values(percent: float) -> Requirement:
    return Requirement("values sent, of full", percent, at_most=True, unit="%", measure=lambda o: o[OURS].share)


@dataclass(frozen=True)
class Case:
    """Settings in common, what dictpfl has beside them, which methods run, and what is promised."""

    title: str
    settings: Mapping[str, Any]
    ours: Mapping[str, Any]
    methods: Sequence[str]
    requirements: Sequence[Requirement]
    further: Sequence[int] = ()
    """Further seeds on which the two best rates are compared."""


_MLP = {
    "federation.rounds": 40,
    "model.source": "mlp",
    "model.options": {"hidden": [128, 128]},
    "training.epochs": 2,
}
_VIT = {
    "federation.rounds": 30,
    "model.source": "vit_tiny",
    "model.options": {"dim": 64, "depth": 2},
    "training.epochs": 2,
}
_JUST_ABOVE = 1e-9

CASES: Mapping[str, Case] = {
    "a-iid": Case(
        "MLP 64-128-128-10, IID, 40 rounds of 2 epochs, r = 8, default pruning",
        _MLP,
        {"decomposition.rank": 8},
        (FULL, HEAD, OURS),
        (below_full(2.0), above_head(_JUST_ABOVE), values(4.5)),
        FURTHER_SEEDS,
    ),
    "a-alpha": Case(
        "the same, Dirichlet alpha = 0.3",
        {**_MLP, "data.partition": "dirichlet", "data.alpha": 0.3},
        {"decomposition.rank": 8},
        (FULL, HEAD, OURS),
        (below_full(4.0), above_head(_JUST_ABOVE), values(4.5)),
        FURTHER_SEEDS,
    ),
    "b": Case(
        "vit_tiny, W0 pretrained on classes 0-4 of a public split, 30 rounds of 2 epochs, r = 4, default pruning",
        {
            **_VIT,
            "data.public_share": 0.2,
            "model.pretrain.epochs": 30,
            "model.pretrain.classes": [0, 1, 2, 3, 4],
        },
        {"decomposition.rank": 4},
        (FULL, HEAD, OURS),
        (below_full(4.0), above_head(10.0), values(5.0)),
    ),
    "c": Case(
        "vit_tiny from random weights, 30 rounds of 2 epochs, r = 4, small dense parameters, no pruning",
        _VIT,
        {"decomposition.rank": 4, "pruning.enabled": False},
        (FULL, OURS),
        (below_full(2.0), values(9.0)),
    ),
}


@dataclass(frozen=True)
class Job:
    """One federation to simulate."""

    case: str
    method: str
    rate: float
    seed: int
    rounds: int
    """0: as the case says."""


def configuration(job: Job) -> dict[str, Any]:
    """Dotted settings of a job; everything else is the project's default."""
    case = CASES[job.case]
    chosen = {
        "name": f"accuracy-{job.case}",
        "seed": job.seed,
        "method": job.method,
        "toy_insecure": job.method == FULL,
        "data.source": "digits",
        "training.threads": 1,
        "training.device": "cpu",
        "training.learning_rate": job.rate,
        **case.settings,
        **(case.ours if job.method == OURS else {}),
    }
    return chosen | ({"federation.rounds": job.rounds} if job.rounds else {})


def work(job: Job) -> dict[str, Any]:
    """Simulate; for a seed that tunes, only what the institutions themselves can see comes back."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import logging

    import structlog

    from common.config import FederationConfig
    from deploy.simulation import simulate

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="accuracy-digits-") as folder:
        run = simulate(FederationConfig.of({}, configuration(job)), Path(folder) / "run", engine="local")
    last, sent = run.history[-LAST:], run.summary["values"]
    found: dict[str, Any] = {
        "seed": job.seed,
        "validation": 100 * statistics.fmean(r.validation_accuracy for r in last if r.validation_accuracy is not None),
        "validation_loss": statistics.fmean(r.validation_loss for r in last if r.validation_loss is not None),
        "seconds": run.summary["seconds"]["total"],
    }
    if job.seed in (*TUNING_SEEDS, *FURTHER_SEEDS):
        return found
    history = [100 * accuracy for accuracy in run.summary["accuracy_history"]]
    return found | {
        "accuracy": statistics.fmean(history[-LAST:]),
        "history": history,
        "values": dict(sent),
        "share": 100 * sent["sent"] / (sent["model"] * run.summary["rounds"]),
        "bytes": dict(run.summary["bytes"]),
        "state_digest": run.summary["state_digest"],
    }


def run_all(jobs: Sequence[Job], pool: ProcessPoolExecutor, title: str) -> dict[Job, dict[str, Any]]:
    """Run jobs on the pool, showing progress."""
    done: dict[Job, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=len(jobs))
        waiting = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(waiting):
            job, result = waiting[future], future.result()
            done[job] = result
            shown = (
                f"test {result['accuracy']:.2f}" if "accuracy" in result else f"validation {result['validation']:.2f}"
            )
            progress.console.print(
                f"{job.case:8} {job.method:10} rate {job.rate:<7g} seed {job.seed}: {shown} % in {result['seconds']:.0f} s",
                highlight=False,
            )
            progress.advance(task)
    return done


Tuning = dict[float, list[dict[str, Any]]]
"""Validation figures of each tuning seed, by rate."""


def ranked(tried: Tuning) -> list[float]:
    """Rates by mean validation accuracy, best first; the lower validation loss decides between equals."""

    def mean(rate: float, key: str) -> float:
        return round(statistics.fmean(figures[key] for figures in tried[rate]), 6)

    return sorted(tried, key=lambda rate: (-mean(rate, "validation"), mean(rate, "validation_loss")))


def best_rate(tried: Tuning) -> float:
    """The best of the rates that were tried on most seeds."""
    most = max(map(len, tried.values()))
    return ranked({rate: figures for rate, figures in tried.items() if len(figures) == most})[0]


def tune(
    names: Iterable[str], rates: Sequence[float], seeds: Sequence[int], rounds: int, pool: ProcessPoolExecutor
) -> dict[tuple[str, str], Tuning]:
    """Validation figures by (case, method); a whole grid whose best is at its end is extended there.

    Where a case says so, the two best rates then run on further seeds, and the best of the two on all seeds is chosen.
    """
    tried: dict[tuple[str, str], Tuning] = {(name, method): {} for name in names for method in CASES[name].methods}
    wanted = {key: list(rates) for key in tried}
    for attempt in range(1 if rounds else EXTENSIONS + 1):
        jobs = [Job(*key, rate, seed, rounds) for key, missing in wanted.items() for rate in missing for seed in seeds]
        if not jobs:
            break
        for job, result in run_all(jobs, pool, "learning rates" + " (further)" * (attempt > 0)).items():
            tried[job.case, job.method].setdefault(job.rate, []).append(result)
        for key, grid in tried.items():
            best = best_rate(grid)
            wanted[key] = [2 * best] if best == max(grid) else [best / 2] if best == min(grid) else []
    if not rounds:
        finalists = {key: ranked(grid)[:2] for key, grid in tried.items()}
        jobs = [
            Job(*key, rate, seed, 0) for key, two in finalists.items() for rate in two for seed in CASES[key[0]].further
        ]
        for job, result in run_all(jobs, pool, "the two best rates").items():
            tried[job.case, job.method][job.rate].append(result)
    return tried


def judge(name: str, outcomes: Outcomes) -> list[dict[str, Any]]:
    """Each requirement of a case: required, measured, met."""
    found = []
    for requirement in CASES[name].requirements:
        value = requirement.measure(outcomes)
        required = "more than 0 points" if requirement.bound == _JUST_ABOVE else requirement.required
        found.append(
            {
                "case": name,
                "what": requirement.text,
                "required": required,
                "measured": round(value, 2),
                "unit": requirement.unit,
                "met": requirement.met(value),
            }
        )
    return found


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of figures."""
    return [
        [
            name,
            method,
            f"{found['accuracy']:.2f} ± {found['spread']:.2f}",
            " / ".join(f"{run['accuracy']:.2f}" for run in found["seeds"].values()),
            f"{found['share']:.2f}",
            f"{found['rate']:g}",
        ]
        for name, case in result.items()
        for method, found in case["methods"].items()
    ]


HEADINGS = ("case", "method", "test accuracy, %", "by seed", "values, % of full", "rate")


def where_and_when(measured: Mapping[str, Any]) -> str:
    """Date, machine, versions and duration in a line."""
    packages = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return (
        f"{measured['date']}; {measured['processor']}, {measured['cores']} cores (load {measured['load']} at the start); "
        f"Python {measured['python']}, {packages}, commit {measured['commit']}; {measured['seconds'] / 60:.1f} minutes "
        f"with {measured['jobs']} processes"
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The results as a page."""
    lines = ["# Accuracy and traffic on digits", "", "Made by `python benchmarks/accuracy_digits.py`.", ""]
    lines += [
        f"- **{name}**: {case['title']}; seeds {', '.join(map(str, case['measured']['seeds']))}"
        for name, case in result.items()
    ]
    lines += ["", "| " + " | ".join(HEADINGS) + " |", "|---|---|---:|---|---:|---:|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows_of(result)]
    lines += ["", "| case | | required | measured | |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['case']} | {r['what']} | {r['required']} | {r['measured']:g} {r['unit']} | {'met' if r['met'] else '**NOT met**'} |"
        for case in result.values()
        for r in case["requirements"]
    ]
    lines += [
        "",
        f"Test split (20 %), mean of the last {LAST} rounds, mean ± standard deviation of the seeds. Each seed draws its own "
        "split, W0 and batches. 'values': what one institution sent over all rounds, divided by model parameters x rounds. "
        f"'full' is the method `{FULL}` (FedAvg of every parameter, in clear); {OURS} and {HEAD} were encrypted under CKKS. "
        f"Rates: best of a grid by factors of 2 by validation accuracy of the last {LAST} rounds, mean of the seeds "
        f"{', '.join(map(str, TUNING_SEEDS))}, for each case and method; for {', '.join(n for n in result if CASES[n].further)} "
        f"the two best meet on the seeds {', '.join(map(str, FURTHER_SEEDS))} too.",
        "",
    ]
    by_measurement: dict[str, list[str]] = {}
    for name, case in result.items():
        by_measurement.setdefault(where_and_when(case["measured"]), []).append(name)
    lines += [f"- {', '.join(names)}: {line}" for line, names in by_measurement.items()]
    return "\n".join([*lines, ""])


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Test accuracy by round for each case, the mean of the seeds and their range."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colours = {FULL: "#475569", HEAD: "#c1440e", OURS: "#0b6e4f"}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dictpfl", "font.size": 9}):
        figure = Figure(figsize=(3.4 * len(result), 3.3), layout="constrained")
        for index, (name, case) in enumerate(result.items()):
            ax = figure.add_subplot(1, len(result), index + 1)
            for method, found in case["methods"].items():
                histories = [run["history"] for run in found["seeds"].values()]
                rounds = range(1, len(histories[0]) + 1)
                by_round = list(zip(*histories, strict=True))
                label = f"{method} ({found['share']:.1f} %)"
                ax.plot(rounds, [statistics.fmean(v) for v in by_round], color=colours[method], label=label)
                ax.fill_between(
                    rounds, list(map(min, by_round)), list(map(max, by_round)), color=colours[method], alpha=0.15, lw=0
                )
            ax.set_title(f"({name})", loc="left", fontweight="bold")
            ax.set_xlabel("round")
            ax.set_ylim(50, 100)
            ax.grid(color="#e5e7eb")
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(
                frameon=False, loc="lower right", fontsize=8, title="method (values, % of full)", title_fontsize=8
            )
        figure.axes[0].set_ylabel("test accuracy, %")
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def show(result: Mapping[str, Any]) -> None:
    """Print where and when, and the table of figures."""
    console.print("\n" + where_and_when(next(iter(result.values()))["measured"]), highlight=False)
    table = Table(*HEADINGS, box=None)
    for row in rows_of(result):
        table.add_row(*row)
    console.print(table)


def show_verdicts(result: Mapping[str, Any]) -> None:
    """Print each requirement: required, measured, met or not."""
    for case in result.values():
        for r in case["requirements"]:
            verdict = "[green]met[/]" if r["met"] else "[bold red]NOT met[/]"
            console.print(
                f"({r['case']}) {r['what']}: required {r['required']} / measured {r['measured']:g} {r['unit']} / {verdict}",
                highlight=False,
                soft_wrap=True,
            )


def main(
    seeds: Annotated[
        str, typer.Option(help="Seeds that are reported, separated by commas; not those that tune.")
    ] = "1,2,3",
    cases: Annotated[str, typer.Option(help="Cases, separated by commas.")] = ",".join(CASES),
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each trains on one thread.")] = 2,
    quick: Annotated[  # noqa: FBT002
        bool, typer.Option("--quick", help="Few rounds, two rates, one seed; judges and writes nothing.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure accuracy and traffic on digits, and hold them to what the project promises."""
    names = [name.strip() for name in cases.split(",")]
    chosen = [int(seed) for seed in seeds.split(",")][: 1 if quick else None]
    if unknown := [name for name in names if name not in CASES]:
        raise typer.BadParameter(f"unknown cases {unknown}; known: {', '.join(CASES)}")
    if {*TUNING_SEEDS, *FURTHER_SEEDS} & set(chosen):
        raise typer.BadParameter(
            f"seeds {(*TUNING_SEEDS, *FURTHER_SEEDS)} choose the learning rates and cannot be reported"
        )
    began, rounds, rates = time.monotonic(), 4 if quick else 0, RATES[2:4] if quick else RATES
    measured = {**machine(), "seeds": chosen, "jobs": jobs}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        grids = tune(names, rates, TUNING_SEEDS[: 1 if quick else None], rounds, pool)
        finals = [Job(*key, best_rate(grid), seed, rounds) for key, grid in grids.items() for seed in chosen]
        done = run_all(finals, pool, "chosen rates")
    measured["seconds"] = time.monotonic() - began
    fresh: dict[str, Any] = {}
    for name in names:
        methods, outcomes = {}, {}
        for method in CASES[name].methods:
            grid = grids[name, method]
            runs = {job.seed: run for job, run in done.items() if (job.case, job.method) == (name, method)}
            outcomes[method] = Outcome(
                [runs[seed]["accuracy"] for seed in chosen], statistics.fmean(run["share"] for run in runs.values())
            )
            methods[method] = {
                "rate": best_rate(grid),
                "accuracy": outcomes[method].mean,
                "spread": outcomes[method].spread,
                "share": outcomes[method].share,
                "seeds": {str(seed): runs[seed] for seed in chosen},
                "tuning": {f"{rate:g}": grid[rate] for rate in sorted(grid)},
                "settings": configuration(Job(name, method, best_rate(grid), chosen[0], rounds)),
            }
        fresh[name] = {
            "title": CASES[name].title,
            "measured": measured,
            "methods": methods,
            "requirements": judge(name, outcomes),
        }
    show(fresh)
    if quick:
        console.print("quick: nothing was written, and requirements are not judged")
        return
    show_verdicts(fresh)
    out.mkdir(parents=True, exist_ok=True)
    earlier = json.loads((out / "accuracy_digits.json").read_bytes()) if (out / "accuracy_digits.json").exists() else {}
    write({name: (earlier | fresh)[name] for name in CASES if name in earlier | fresh}, out)
    console.print(f"{measured['seconds'] / 60:.1f} minutes; results in {out}", highlight=False)
    if not all(r["met"] for case in fresh.values() for r in case["requirements"]):
        raise typer.Exit(1)


def write(result: Mapping[str, Any], out: Path) -> None:
    """Write JSON, Markdown and the plot."""
    (out / "accuracy_digits.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "accuracy_digits.md").write_text(markdown(result), encoding="utf-8")
    plot(result, out / "accuracy_digits.svg")


if __name__ == "__main__":
    typer.run(main)
