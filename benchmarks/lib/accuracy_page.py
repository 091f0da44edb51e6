"""The page and the plot of benchmarks/accuracy.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib.federations import LAST
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines
from lib.tuning import SEEDS
from lib.workloads import BOTH, FROZEN_A, FULL, HEAD, METHODS, OURS, TOPK, WORKLOADS

COLOUR = dict(zip((OURS, HEAD, TOPK, BOTH, FROZEN_A, FULL), COLOURS, strict=False))


def rows(methods: Mapping[str, Any]) -> str:
    """The table of one workload: for each method the values that it sends, and beside them what they are in bytes."""
    return markdown_table(
        ["method", "test accuracy, %", "by seed", "values, % of full", "bytes, % of full", "kB up, a round", "kB down, a round",
         "MB of one institution", "rate"],
        [[METHODS[name], f"{row['accuracy']:.2f} ± {row['spread']:.2f}",
          " / ".join(f"{run['accuracy']:.2f}" for run in row["seeds"].values()), f"{row['share']:.2f}",
          _of_full(row, methods.get(FULL)), f"{_a_round(row, 'up') / 1e3:,.1f}", f"{_a_round(row, 'down') / 1e3:,.1f}",
          f"{row['bytes'] / 1e6:.2f}", f"{row['rate']:g}"] for name, row in methods.items()],
    )  # fmt: skip


def _a_round(row: Mapping[str, Any], way: str) -> float:
    """Bytes of one institution, up or down, over update rounds; mean of the seeds."""
    return statistics.fmean(run["bytes"][way] / len(run["history"]) for run in row["seeds"].values())


def _of_full(row: Mapping[str, Any], full: Mapping[str, Any] | None) -> str:
    return f"{100 * row['bytes'] / full['bytes']:.2f}" if full else "-"


def sections(result: Mapping[str, Any]) -> str:
    """A heading, a table and where it was measured, for each workload."""
    found = []
    for name, workload in result.items():
        by_facts: dict[str, list[str]] = {}
        for method, row in workload["methods"].items():
            by_facts.setdefault(preamble(row["measured"], _command(row["measured"])), []).append(METHODS[method])
        notes = [f"{', '.join(names)}: {facts}" for facts, names in by_facts.items()]
        found.append("\n\n".join([f"## {name}", workload["title"] + ".", rows(workload["methods"]), *notes]))
    return "\n\n".join(found)


def _command(facts: Mapping[str, Any]) -> str:
    """What measured it: an earlier script ran the same federations."""
    return str(facts.get("command", "python benchmarks/accuracy.py"))


def page(result: Mapping[str, Any], needed: Sequence[Requirement]) -> str:
    """benchmarks/results/accuracy.md."""
    further = ", ".join(name for name in result if WORKLOADS[name].further)
    return f"""# Accuracy and traffic

Three institutions. Test split (20 %), mean of the last {LAST} rounds, mean ± standard deviation of the seeds; each seed draws its
own split, W0 and batches. `values`: what one institution sent over all rounds, divided by model parameters x rounds. `bytes`: what
it sent and received, of what plaintext full fine-tuning does at four bytes a value. All but plaintext (FedAvg of every parameter) are encrypted under CKKS. LoRA: PEFT's layers beside every
weight that dictpfl gives a table, of the same rank, with the same small dense parameters and W0, not pruned.

Rates: best of a grid by factors of 2 by validation accuracy of the last {LAST} rounds, mean of the seeds
{", ".join(map(str, SEEDS))}, for each workload and method; a grid whose best stands at its end is extended.
{f"For {further} the two best meet on further seeds too." if further else ""}

{sections(result)}

## Requirements

{requirement_lines(needed)}

![accuracy by round](accuracy.svg)
"""


def draw(result: Mapping[str, Any]) -> Figure:
    """Test accuracy against the bytes of one institution: mean of the seeds, and their range."""
    figure, plots = panels(*result, across=3)
    for ax, workload in zip(plots, result.values(), strict=True):
        for method, row in workload["methods"].items():
            histories = [run["history"] for run in row["seeds"].values()]
            by_round = list(zip(*histories, strict=True))
            share = row["bytes"] / len(by_round) / 1e6
            sent = [share * (number + 1) for number in range(len(by_round))]
            label = f"{METHODS[method]} ({row['accuracy']:.1f} %)"
            ax.plot(sent, [statistics.fmean(v) for v in by_round], color=COLOUR[method], label=label)
            ax.fill_between(
                sent, [min(v) for v in by_round], [max(v) for v in by_round], color=COLOUR[method], alpha=0.15, lw=0
            )
        ax.set_xscale("log")
        ax.set_ylim(bottom=min(row["accuracy"] for row in workload["methods"].values()) - 20)
        ax.set_xlabel("MB of one institution, up and down (log scale)")
        ax.set_ylabel("test accuracy, %")
        ax.legend(frameon=False, loc="lower right", fontsize=7)
    return figure
