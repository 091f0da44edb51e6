"""Differential privacy: what accuracy each epsilon leaves, and what membership inference finds.

    python benchmarks/dp.py            # digits, both mechanisms, one seed; two minutes on two idle cores
    python benchmarks/dp.py --full     # three seeds, more epsilons, and Fashion-MNIST
    python benchmarks/dp.py --quick    # three rounds, one seed; writes nothing

`experiments/dp_digits.toml` and `experiments/dp_institutions.toml` by epsilon; the last row of each is without privacy. Rates and norms
were chosen once, not for each epsilon, and not privately. Membership is inferred by the loss (`dictpfl.deploy.attacks.published.membership`), in a federation
that learns its samples by heart; (epsilon, delta)-privacy bounds its AUC by e^epsilon / (1 + e^epsilon) + delta. Fashion-MNIST has to be
in data/fashion-mnist. Results go to `benchmarks/results/dp.{json,md,svg}`.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib.courses import cases_named
from lib.machine import ROOT, count_of, machine, markdown_table, panels, preamble, previous, write_results

LAST = 3
"""Rounds at the end over which accuracies are averaged."""
_FASHION = {
    "data.source": "fashion_mnist",
    "data.path": "data/fashion-mnist",
    "data.limit": 9000,
    "privacy.delta": 1e-5,
    "training.batch_size": 128,
}


@dataclass(frozen=True)
class Case:
    """An experiment at several epsilons (0: without privacy); `only_full`: not in the small set."""

    experiment: str
    epsilons: Sequence[float]
    more: Sequence[float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    only_full: bool = False


CASES: Mapping[str, Case] = {
    "samples, digits": Case("dp_digits", (1.0, 4.0, 8.0, 0.0), (2.0, 16.0)),
    "institutions, digits": Case("dp_institutions", (8.0, 16.0, 0.0), (4.0, 32.0)),
    "samples, Fashion-MNIST": Case("dp_digits", (1.0, 4.0, 8.0, 0.0), (2.0,), _FASHION, only_full=True),
}
MEMBERS = "membership, digits learnt by heart"
_HEART = {"privacy.delta": 1e-3, "privacy.max_grad_norm": 1.0}


@dataclass(frozen=True)
class Run:
    """One federation; `members`: the one that is attacked."""

    case: str
    epsilon: float
    seed: int
    rounds: int = 0

    @property
    def members(self) -> bool:
        """Whether this is the federation that learns by heart."""
        return self.case == MEMBERS

    def config(self) -> Any:
        """The checked configuration; integers are not encrypted, which changes no bit of the model."""
        from dictpfl.common.config import FederationConfig
        from dictpfl.deploy.attacks.published.membership import federation

        case = CASES.get(self.case, Case("dp_digits", (), (), _HEART))
        chosen = {
            **case.settings, "seed": self.seed, "toy_insecure": True, "encryption.sealer": "identity",
            "training.device": "cpu", "training.threads": 1, "privacy.epsilon": self.epsilon,
        }  # fmt: skip
        if not self.epsilon:
            chosen["privacy.mechanism"] = "none"
        if self.rounds:
            chosen["federation.rounds"] = self.rounds
        config = FederationConfig.load(ROOT / "experiments" / f"{case.experiment}.toml", chosen)
        return federation(config) if self.members else config


def measure(run: Run) -> dict[str, Any]:
    """Simulate; accuracy in percent, epsilon by the accounts, processor seconds, and the attack where it is wanted."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.chdir(ROOT)
    import structlog

    from dictpfl.deploy.simulation.simulate import simulate

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="dp-") as folder:
        done = simulate(run.config(), Path(folder) / "run", engine="local")
        attack = _attack(Path(folder) / "run", done) if run.members else {}
    accuracies = [100 * float(r.test) for r in done.records if r.test is not None]
    spent = done.summary["privacy"]
    return {
        "seed": run.seed,
        "accuracy": statistics.fmean(accuracies[-LAST:]),
        "epsilon": spent["epsilon"] if spent else None,
        "cpu_seconds": time.process_time() - began,
        **attack,
    }


def _attack(folder: Path, done: Any) -> dict[str, float]:
    """AUC of the loss attack: training samples of all institutions against the test split."""
    from safetensors.torch import load_file

    from dictpfl.client.data.samples import Samples
    from dictpfl.client.model.build import build_model
    from dictpfl.common.genesis import Genesis
    from dictpfl.deploy.attacks.intervals import auc_interval
    from dictpfl.deploy.attacks.published.membership import confidences

    institutions = sorted((folder / "institutions").iterdir())
    genesis = Genesis.load(institutions[0])
    model = build_model(done.config.model, genesis.sample_shape, genesis.outputs, done.config.seed)
    model.load_state_dict(load_file(done.model_path))
    inside = [confidences(model, Samples.load(institution / "train.npz")) for institution in institutions]
    found = auc_interval(
        [value for part in inside for value in part], confidences(model, Samples.load(folder / "test.npz"))
    )
    return {"auc": found.value, "auc_low": found.low, "auc_high": found.high}


def rows(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By case and epsilon."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        name = f"{run.epsilon:g}" if run.epsilon else "none"
        group = [
            one
            for other, one in zip(runs, results, strict=True)
            if (other.case, other.epsilon) == (run.case, run.epsilon)
        ]
        ends = [one["accuracy"] for one in group]
        found.setdefault(run.case, {})[name] = {
            "accuracy": statistics.fmean(ends),
            "spread": statistics.stdev(ends) if len(ends) > 1 else None,
            "runs": group,
        }
    return found


def bound(epsilon: float, delta: float) -> float:
    """Largest AUC of an attack on one sample under (epsilon, delta)-privacy: the area over the least trade-off curve."""
    return min(1.0, 1.0 / (1.0 + math.exp(-epsilon)) + delta)


def table(case: str, found: Mapping[str, Any]) -> str:
    """A row an epsilon."""
    if case == MEMBERS:
        body = []
        for name, row in found.items():
            one, wanted = row["runs"][0], None if name == "none" else bound(float(name), _HEART["privacy.delta"])
            body.append([name, f"{row['accuracy']:.1f}", f"{one['auc']:.3f} ({one['auc_low']:.3f} to {one['auc_high']:.3f})",
                         "-" if wanted is None else f"{wanted:.3f}"])  # fmt: skip
        return markdown_table(
            ["epsilon", "accuracy, %", "AUC of the loss attack (95 %)", "at most, by the bound"], body
        )
    body = [
        [name, f"{row['accuracy']:.1f}", "-" if row["spread"] is None else f"{row['spread']:.1f}", str(len(row["runs"])),
         "-" if row["runs"][0]["epsilon"] is None else f"{max(one['epsilon'] for one in row['runs']):.3f}",
         f"{statistics.fmean(one['cpu_seconds'] for one in row['runs']):.0f}"]
        for name, row in found.items()
    ]  # fmt: skip
    return markdown_table(["epsilon", "accuracy, %", "spread", "seeds", "spent, by the account", "processor, s"], body)


def plot(cases: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy against epsilon; a line across where nothing is private."""
    shown = [case for case in cases if case != MEMBERS]
    figure, plots = panels(*shown)
    for ax, case in zip(plots, shown, strict=True):
        points = sorted((float(name), row["accuracy"]) for name, row in cases[case].items() if name != "none")
        ax.plot(*zip(*points, strict=True), marker="o", color=COLOURS[0], label="private")
        if "none" in cases[case]:
            ax.axhline(cases[case]["none"]["accuracy"], color=COLOURS[1], label="not private")
        ax.set_xscale("log", base=2)
        ax.set_xlabel("epsilon")
        ax.set_ylabel("test accuracy, %")
        ax.legend(frameon=False, fontsize=8)
    return figure


def page(result: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Differential privacy: accuracy against epsilon", "",
             "Test split, mean of the last three rounds and over seeds. `samples`: DP-SGD, three institutions, delta 1e-4 (Fashion-MNIST: "
             "1e-5). `institutions`: Skellam noise, thirty of them, at least 25 in a sum, delta 1e-3, W0 pretrained on classes 0 to 4 of a "
             "public split. Rates and norms were chosen once, by hand, and not privately."]  # fmt: skip
    for case, found in result["cases"].items():
        lines += ["", f"## {case[0].upper()}{case[1:]}", "", preamble(result["measured"][case], "python benchmarks/dp.py"),
                  "", table(case, found)]  # fmt: skip
    return "\n".join(lines)


def wanted(*, full: bool, quick: bool, only: Sequence[str]) -> list[Run]:
    """What to run."""
    seeds, found = (1, 2, 3) if full else (1,), []
    for name, case in CASES.items():
        if (case.only_full and not full and name not in only) or (only and name not in only):
            continue
        if "data.path" in case.settings and not (ROOT / case.settings["data.path"]).exists():
            print(
                f"{name} is left out: {case.settings['data.path']} is not there; experiments/fashion_mnist.toml says how"
            )
            continue
        epsilons = [*case.epsilons[:-1], *(case.more if full else ()), case.epsilons[-1]]
        order = sorted(epsilons, key=lambda e: e or math.inf)
        found += [Run(name, epsilon, seed, 3 if quick else 0) for epsilon in order for seed in seeds]
    if not quick and (not only or MEMBERS in only):
        found += [Run(MEMBERS, epsilon, 1) for epsilon in (1.0, 8.0, 0.0)]
    return found


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="three seeds, more epsilons, Fashion-MNIST")
    parser.add_argument("--quick", action="store_true", help="three rounds, one seed; writes nothing")
    parser.add_argument("--cases", default="", help=f"separated by semicolons: {'; '.join([*CASES, MEMBERS])}")
    parser.add_argument("--jobs", type=count_of, default=2, help="processes, one thread each")
    asked = parser.parse_args()
    named = cases_named(parser, asked.cases, [*CASES, MEMBERS])
    runs = wanted(full=asked.full, quick=asked.quick, only=named)
    facts = machine()
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(measure, runs))
    cases = rows(runs, results)
    for case, found in cases.items():
        print(f"\n{case}\n{table(case, found)}")
    if asked.quick:
        return 0
    result = {
        "measured": previous("dp", "measured") | dict.fromkeys(cases, facts),
        "cases": previous("dp", "cases") | cases,
    }
    write_results("dp", result, page(result), plot(result["cases"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
