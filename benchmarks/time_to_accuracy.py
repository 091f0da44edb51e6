"""Time to the same accuracy: measured local work and bytes, and a network modelled at 1 Gbps, 100 and 20 Mbps.

    python benchmarks/time_to_accuracy.py            # one seed, about five minutes on two cores
    python benchmarks/time_to_accuracy.py --full     # three seeds
    python benchmarks/time_to_accuracy.py --quick    # 4 rounds, for a look; writes nothing

The federation of experiments/digits.toml, every method at the rate that benchmarks/accuracy.py chose for it. A round
takes the local work of one institution, the coordinator's folding, and the bytes of one institution up and down at the
network's rate; institutions work and send at the same time. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import structlog
from matplotlib.figure import Figure

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.reports.plots import COLOURS
from lib.machine import (
    ROOT,
    Requirement,
    conclude,
    machine,
    markdown_table,
    panels,
    preamble,
    requirement_lines,
    write_results,
)
from lib.measured import PARTICIPANTS
from lib.secagg import SecAggPlus
from lib.simulated import PHASES, UNPADDED, simulated

PLAIN, CLEAR, OURS, MASKED = "plaintext, full", "dictpfl in clear", "dictpfl", "SecAgg+, full"
_FULL_RATE, _TABLE_RATE = 8e-3, 4e-3
METHODS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"method": "plaintext", "toy_insecure": True, "training.learning_rate": _FULL_RATE},
    "FedHE-Full": {"method": "fedhe-full", "training.learning_rate": _FULL_RATE},
    "FedML-HE 10 %": {"method": "fedml-he", "toy_insecure": True, "training.learning_rate": _FULL_RATE},
    CLEAR: {"method": "dictpfl", "toy_insecure": True, "encryption.sealer": "identity", "encryption.sealed_share": 0.0,
            "training.learning_rate": _TABLE_RATE},
    OURS: {"method": "dictpfl", "training.learning_rate": _TABLE_RATE},
}  # fmt: skip
NETWORKS = {"1 Gbps": 1e9, "100 Mbps": 1e8, "20 Mbps": 2e7}
SEEDS = {False: (1,), True: (1, 2, 3)}
MOST_SLOWER = 1.05
SAME, SAME_PHASES = (CLEAR, OURS), ("train", "evaluate")
"""The same parameters trained on the same samples in as many steps, whatever is then sent how."""
SMOOTHED = 3


def trajectory(method: Mapping[str, Any], seed: int, rounds: int) -> dict[str, Any]:
    """Accuracy, seconds of the path that a round waits for, and bytes, by update round."""
    changes = {**UNPADDED, **method, "seed": seed} | ({"federation.rounds": rounds} if rounds else {})
    run, _ = simulated(FederationConfig.load(ROOT / "experiments" / "digits.toml", changes))
    updates = [record for record in run.records if record.kind == "update"]
    scores = [record for record in run.records if record.kind == "score"]
    sent = [record.bytes_up + record.bytes_down for record in updates]
    sent[0] += sum(record.bytes_up + record.bytes_down for record in scores)
    return {"accuracy": [float(record.test or 0.0) for record in updates], "bytes": sent,
            "phases": {phase: [record.seconds.get(phase, 0.0) for record in updates] for phase in PHASES},
            "scoring": sum(sum(record.seconds.get(phase, 0.0) for phase in PHASES) for record in scores),
            "values": dict(run.summary["values"])}  # fmt: skip


def timed(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """With the seconds of each round: the median round stands for all, for what another process took of one is no part of a method.

    What is the same work in two methods (`SAME`) is taken over the rounds of both: a run of ten seconds is faster or slower than
    another of the very same computation by a tenth, which is more than encryption costs.
    """

    def typical(name: str, phase: str) -> float:
        pooled = SAME if name in SAME and phase in SAME_PHASES else (name,)
        return statistics.median(seconds for one in pooled for seconds in runs[one]["phases"][phase])

    found = {}
    for name, run in runs.items():
        seconds = [sum(typical(name, phase) for phase in PHASES)] * len(run["bytes"])
        seconds[0] += run["scoring"]
        found[name] = {**run, "seconds": seconds}
    return found


def masked(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plaintext's run with what Flower's SecAgg+ adds to a round of that many values, measured; its accuracy is plaintext's."""
    count = int(plain["values"]["model"])
    vectors = [np.random.default_rng(i).normal(0, 0.01, count).astype(np.float32) for i in range(PARTICIPANTS)]
    SecAggPlus().run(vectors)
    turns = [SecAggPlus().run(vectors) for _ in range(5)]
    added = statistics.median(sum(turn.seconds.values()) for turn in turns)
    return {
        **plain,
        "seconds": [s + added for s in plain["seconds"]],
        "bytes": [turns[0].up + turns[0].down] * len(plain["bytes"]),
    }


def smoothed(accuracy: Sequence[float]) -> list[float]:
    """Mean of the last three rounds at each round; a single good round is chance."""
    return [statistics.fmean(accuracy[max(0, i - SMOOTHED + 1) : i + 1]) for i in range(len(accuracy))]


def elapsed(run: Mapping[str, Any], rate: float) -> list[float]:
    """Seconds since the start at the end of each round, on a network of so many bits a second."""
    return [
        float(s)
        for s in np.cumsum([own + 8 * sent / rate for own, sent in zip(run["seconds"], run["bytes"], strict=True)])
    ]


def common_target(runs: Mapping[str, Mapping[str, Any]]) -> float:
    """The highest whole percent that every method reaches."""
    return float(np.floor(100 * min(max(smoothed(run["accuracy"])) for run in runs.values())) / 100)


def seconds_to(run: Mapping[str, Any], target: float, rate: float) -> float:
    """Seconds until the smoothed accuracy is at the target."""
    reached = next(i for i, accuracy in enumerate(smoothed(run["accuracy"])) if accuracy >= target)
    return elapsed(run, rate)[reached]


def figures(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over seeds of the seconds to the target, and of the seconds of a round, by method and network."""
    targets = [common_target(runs) for runs in by_seed]
    found: dict[str, Any] = {}
    for name in by_seed[0]:
        runs = [runs[name] for runs in by_seed]
        found[name] = {
            "seconds": {n: statistics.median(seconds_to(r, t, rate) for r, t in zip(runs, targets, strict=True)) for n, rate in NETWORKS.items()},
            "round": {n: statistics.median(elapsed(r, rate)[-1] / len(r["bytes"]) for r in runs) for n, rate in NETWORKS.items()},
            "bytes_a_round": statistics.fmean(statistics.fmean(r["bytes"]) for r in runs),
            "accuracy": statistics.fmean(smoothed(r["accuracy"])[-1] for r in runs),
        }  # fmt: skip
    return {"targets": targets, "methods": found}


def requirements(found: Mapping[str, Any]) -> list[Requirement]:
    """What the issue asks for."""
    methods = found["methods"]
    promises = [
        Requirement(f"a round of dictpfl over one of the same shared parameters in clear, {network}", "at most", MOST_SLOWER,
                    methods[OURS]["round"][network] / methods[CLEAR]["round"][network], "x")
        for network in NETWORKS
    ]  # fmt: skip
    promises += [
        Requirement(f"seconds of plaintext full fine-tuning over dictpfl's to the same accuracy, {network}", "at least", 1.0,
                    methods[PLAIN]["seconds"][network] / methods[OURS]["seconds"][network], "x")
        for network in ("100 Mbps", "20 Mbps")
    ]  # fmt: skip
    return promises


def table(found: Mapping[str, Any]) -> str:
    """Seconds to the same accuracy by method and network."""
    heads = [
        "method",
        *(f"to the target, {n}, s" for n in NETWORKS),
        *(f"a round, {n}, s" for n in NETWORKS),
        "bytes a round",
        "final accuracy",
    ]
    return markdown_table(
        heads,
        [[name, *(f"{row['seconds'][n]:.1f}" for n in NETWORKS), *(f"{row['round'][n]:.3f}" for n in NETWORKS),
          f"{row['bytes_a_round']:,.0f}", f"{100 * row['accuracy']:.1f} %"] for name, row in found["methods"].items()],
    )  # fmt: skip


def plot(by_seed: Sequence[Mapping[str, Any]]) -> Figure:
    """Smoothed accuracy against seconds on the three networks, first seed."""
    figure, plots = panels(*(f"Test accuracy, network of {name}" for name in NETWORKS))
    for ax, rate in zip(plots, NETWORKS.values(), strict=True):
        for colour, (name, run) in zip(COLOURS, by_seed[0].items(), strict=False):
            ax.plot(elapsed(run, rate), [100 * a for a in smoothed(run["accuracy"])], color=colour, label=name)
        ax.axhline(100 * common_target(by_seed[0]), color="#94a3b8", linestyle=":", label="target")
        ax.set_xlabel("seconds")
        ax.set_ylabel("%, mean of three rounds")
        ax.set_xscale("log")
    plots[0].legend(frameon=False, fontsize=8)
    return figure


def page(found: Mapping[str, Any], needed: Sequence[Requirement], facts: Mapping[str, Any], command: str) -> str:
    """benchmarks/results/time_to_accuracy.md."""
    values = found["values"]
    return f"""# Time to the same accuracy

{preamble(facts, command)}

{table(found)}

The federation of experiments/digits.toml: vit_tiny with {values["model"]:,} parameters, {values["shared"]:,} of them shared by dictpfl,
three institutions. The target is the highest whole percent that every method reaches, as a mean of three rounds
({", ".join(f"{100 * t:.0f} %" for t in found["targets"])}{" by seed" if len(found["targets"]) > 1 else ""}); {"seconds are medians over " + str(len(found["targets"])) + " seeds" if len(found["targets"]) > 1 else "one seed"}. Local work
and folding are measured on one thread (the median round of a run), bytes are those on the wire, both directions; the network is modelled by its rate alone:
no latency, and no sharing of the server's line. `dictpfl in clear` is the same training of the same parameters, four bytes a value;
training and evaluation, which are the same work in both, are timed over the rounds of both, so that what is left between them is
sealing, folding, opening, storing and sending.
`SecAgg+` is plaintext's run with what Flower's protocol added to a round of that many values; its further round trips cost
nothing on such a network. The paper states at most 2x of plaintext on 1 Gbps (385 s against 258 s, appendix A.6).

The model is small: local work is short, and so is what a network can save. Models of benchmarks/communication.py send thousands of
times more under full encryption.

## Requirements

{requirement_lines(needed)}

![accuracy against time](time_to_accuracy.svg)
"""


def main() -> int:
    """Run, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three seeds")
    parser.add_argument("--quick", action="store_true", help="4 rounds; writes no results")
    arguments = parser.parse_args()
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    facts, by_seed = machine(), []
    for seed in SEEDS[arguments.full]:
        runs = {}
        for name, method in METHODS.items():
            runs[name] = trajectory(method, seed, 4 if arguments.quick else 0)
            print(f"seed {seed}, {name} done", file=sys.stderr)
        runs = timed(runs)
        by_seed.append({**runs, MASKED: masked(runs[PLAIN])})
    found = figures(by_seed) | {"values": by_seed[0][OURS]["values"]}
    needed = requirements(found)
    print(table(found))
    if not arguments.quick:
        report = {"machine": facts, **found, "runs": by_seed, "requirements": [r.to_json() for r in needed]}
        command = "python benchmarks/time_to_accuracy.py" + " --full" * arguments.full
        write_results("time_to_accuracy", report, page(found, needed, facts, command), plot(by_seed))
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
