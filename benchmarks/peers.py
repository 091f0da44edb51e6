"""The same values averaged by this project and by what people would otherwise use: bytes and seconds, in one run.

    python benchmarks/peers.py            # 10^5 and 10^6 values, a few minutes
    python benchmarks/peers.py --full     # 10^7 as well, several minutes and 6 GB of memory more
    python benchmarks/peers.py --quick    # 10^5, one turn, for a look; writes nothing

Needs NVIDIA FLARE beside the project: `pip install -e '.[peers]'` (`make bench` does it). Three institutions hold
float32 vectors; every scheme gives back their mean, and its largest error is reported. OpenFHE takes part where pyhelayers
is installed. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib import openfhe
from lib.machine import (
    Requirement,
    conclude,
    machine,
    markdown_table,
    median,
    panels,
    preamble,
    requirement_lines,
    write_results,
)
from lib.measured import PARTICIPANTS, Measured
from lib.rivals import schemes

OURS, FLARE, TENSEAL = "dictpfl, 8 bits", "NVIDIA FLARE HE", "TenSEAL ckks_vector"
TURNS = {100_000: 6, 1_000_000: 2, 10_000_000: 1}
"""Repetitions by size; of several, the first warms up and is not counted."""
WAITED = ("encrypt", "aggregate", "decrypt")
LEAST_RATIO = 20.0
DEVIATION = 0.01
"""Of the values, which are drawn from a normal distribution as updates would be."""
_LONGEST = 10_000
"""Nanoseconds a value up to which bars are drawn whole; longer ones are cut, with their figure beside."""
SHORT = {
    "NVIDIA FLARE HE": "FLARE", "TenSEAL ckks_vector": "ckks_vector", "Flower SecAgg+": "SecAgg+",
    "SecAgg+, bits it needs": "SecAgg+, 10 bits", "ckks_vector for adding": "ckks_vector, adding",
}  # fmt: skip


def measure(count: int, turns: int) -> list[dict[str, Any]]:
    """Rows of one size: all schemes take part in each turn one after another; medians."""
    vectors = [np.random.default_rng([count, i]).normal(0, DEVIATION, count).astype(np.float32)
               for i in range(PARTICIPANTS)]  # fmt: skip
    taking_part = schemes()
    found: dict[str, list[Measured]] = {scheme.name: [] for scheme in taking_part}
    for turn in range(turns):
        for scheme in taking_part:
            gc.collect()
            one = scheme.run(vectors)
            if turn or turns == 1:
                found[scheme.name].append(one)
    return [_row(count, name, runs) for name, runs in found.items()]


def _row(count: int, name: str, runs: list[Measured]) -> dict[str, Any]:
    phases = runs[0].seconds
    return {
        "values": count,
        "scheme": name,
        "bytes_up": runs[-1].up,
        "bytes_down": runs[-1].down,
        "seconds": {phase: median([run.seconds[phase] for run in runs]) for phase in phases},
        "cpu_seconds": {phase: median([run.cpu[phase] for run in runs]) for phase in phases},
        "largest_error": max(run.error for run in runs),
        "entropy_up": runs[-1].entropy,
        "turns": len(runs),
    }


def waited(row: Mapping[str, Any], clock: str = "seconds") -> float:
    """Seconds of what a round waits for: one institution encrypts, the server adds all, one institution decrypts."""
    return float(sum(row[clock][phase] for phase in WAITED))


def worked(row: Mapping[str, Any], clock: str = "seconds") -> float:
    """Seconds of all work, with what was prepared ahead."""
    return waited(row, clock) + float(row[clock].get("prepare", 0.0))


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times more each scheme needs than ours at 8 bits, by size."""
    ours = {row["values"]: row for row in rows if row["scheme"] == OURS}
    found = []
    for row in rows:
        base = ours[row["values"]]
        found.append({
            "values": row["values"],
            "scheme": row["scheme"],
            "up": row["bytes_up"] / base["bytes_up"],
            "up_and_down": (row["bytes_up"] + row["bytes_down"]) / (base["bytes_up"] + base["bytes_down"]),
            "time_all_work": worked(row) / worked(base),
            "time_waited": waited(row) / waited(base),
            "cpu_all_work": worked(row, "cpu_seconds") / worked(base, "cpu_seconds"),
        })  # fmt: skip
    return found


def requirements(rows: list[dict[str, Any]]) -> list[Requirement]:
    """What the issue asks for, judged at the largest size of the run."""
    size = max(row["values"] for row in rows)
    by_scheme = {ratio["scheme"]: ratio for ratio in ratios(rows) if ratio["values"] == size}
    what = {
        "up": "times fewer bytes a value up than {}",
        "up_and_down": "times fewer bytes a value up and down than {}",
        "time_waited": "times less encrypt + aggregate + decrypt time than {}, of what a round waits for",
    }
    return [
        Requirement(f"{size:,} values, " + words.format(peer), "at least", LEAST_RATIO, by_scheme[peer][key], "x")
        for key, words in what.items()
        for peer in (FLARE, TENSEAL)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Bytes, nanoseconds and errors of all schemes."""
    heads = ["values", "scheme", "up, B/value", "down, B/value", "prepare", "encrypt", "aggregate", "decrypt", "all work",
             "all work, CPU", "largest error"]  # fmt: skip
    return markdown_table(
        heads,
        [
            [f"{row['values']:,}", row["scheme"], f"{row['bytes_up'] / row['values']:.2f}",
             f"{row['bytes_down'] / row['values']:.2f}",
             *(f"{1e9 * row['seconds'][p] / row['values']:,.0f}" if p in row["seconds"] else "-"
               for p in ("prepare", *WAITED)),
             f"{1e9 * worked(row) / row['values']:,.0f}", f"{1e9 * worked(row, 'cpu_seconds') / row['values']:,.0f}",
             f"{row['largest_error']:.1e}"]
            for row in rows
        ],
    )  # fmt: skip


def ratio_table(rows: list[dict[str, Any]]) -> str:
    """What the others need, in units of ours at 8 bits."""
    heads = [
        "values",
        "scheme",
        "bytes up",
        "bytes up + down",
        "time, all work",
        "time waited for",
        "CPU time, all work",
    ]
    keys = ("up", "up_and_down", "time_all_work", "time_waited", "cpu_all_work")
    return markdown_table(
        heads,
        [[f"{r['values']:,}", r["scheme"], *(f"{r[key]:.3g} x" for key in keys)] for r in ratios(rows)
         if r["scheme"] != OURS],
    )  # fmt: skip


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Bytes and nanoseconds a value of every scheme at the largest size, as bars."""
    size = max(row["values"] for row in rows)
    chosen = [row for row in rows if row["values"] == size][::-1]
    names = [SHORT.get(row["scheme"], row["scheme"]) for row in chosen]
    figure, (traffic, clock) = panels(
        f"Bytes a value, {size:,} values", f"Nanoseconds a value, {PARTICIPANTS} institutions"
    )
    height = 0.4
    for shift, colour, key, label in ((0.2, COLOURS[0], "bytes_up", "up"), (-0.2, COLOURS[2], "bytes_down", "down")):
        widths = [row[key] / size for row in chosen]
        bars = traffic.barh([i + shift for i in range(len(names))], widths, height, color=colour, label=label)
        traffic.bar_label(bars, [f"{width:.1f}" for width in widths], padding=3, fontsize=7)
    traffic.set_yticks(range(len(names)), names)
    traffic.set_xlabel("bytes a value (log scale)")
    left = [0.0] * len(chosen)
    for colour, phase in zip((COLOURS[5], *COLOURS), ("prepare", *WAITED), strict=False):
        widths = [1e9 * row["seconds"].get(phase, 0.0) / size for row in chosen]
        label = "prepare (done while waiting)" if phase == "prepare" else phase
        clock.barh(names, widths, 0.7, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    edge = 1.15 * max(total for total in left if total <= _LONGEST)
    for i, total in enumerate(left):
        clock.text(min(total, edge), i, f" {total:,.0f}", va="center", fontsize=7)
    clock.set_xlim(0, edge)
    clock.set_xlabel("ns a value (one institution; the server for all)")
    traffic.set_xscale("log")
    powers = [2**power for power in range(1, 10)]
    traffic.set_xticks(powers, [str(power) for power in powers])
    traffic.set_xticks([], minor=True)
    for ax in (traffic, clock):
        ax.margins(x=0.15)
        ax.tick_params(axis="y", labelsize=8)
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    figure.set_size_inches(13, 4.2)
    return figure


def page(rows: list[dict[str, Any]], found: list[Requirement], facts: Mapping[str, Any], command: str) -> str:
    """benchmarks/results/peers.md."""
    by_scheme = {row["scheme"]: row for row in rows}
    ours, clear = by_scheme[OURS], by_scheme["8-bit values in clear"]
    return f"""# Peers: the same values, averaged by others

{preamble(facts, command)} nvflare {facts["nvflare"]}.

{table(rows)}

Phases are nanoseconds a value, wall clock, medians of turns in which all schemes took part one after another.
`encrypt` is one institution, from float32 to the bytes that leave it; `aggregate` the server, from the bytes of all
{PARTICIPANTS} institutions to those that it sends back; `decrypt` one institution, from those to numbers. `prepare` are
encryptions of zero and what an own upload's seeds give, which an institution of this project makes while it waits for others;
`all work` counts them. CPU time is that of all threads. **The requirement below is about what a round waits for; with all work
counted the ratios are those of the column "time, all work", and lower.**

{ratio_table(rows)}

## What is compared

- **dictpfl**: quantised to 8 or 16 bits, packed, sealed, whole blobs of `dictpfl.common.messages.wire`, the coordinator's own `Fold`. A
  federation uses 4 bits by default, and what rounding leaves goes into the next round's update; 8 and 16 bits are here because the
  others carry 8 and more. The errors of the means are in the last column; the values have a standard deviation of {
        DEVIATION:g}.
- **8-bit values in clear**: the same whole numbers, byte by byte; their sums in the 10 bits that they need. Their entropy is
  {clear["entropy_up"]:.2f} bytes a value: no code of single values goes below it.
- **AES-CTR pads**: the same values plus a one-time pad from AES-256 in counter mode under a key that all institutions share, modulo
  the 2^10 that a sum needs (Castelluccia, Mykletun and Tsudik 2005; ASHE 2016), and a nonce of 16 bytes. It hides from the
  coordinator what encryption under one shared key hides, and from institutions as little. So with one shared key CKKS hides nothing
  more than these pads do. What it can give beyond them is another kind of key: sums of ciphertexts open under the sum of their keys,
  so that nobody needs a key that opens one upload; pads from a block cipher do not add up so.
- **NVIDIA FLARE HE**: HEModelEncryptor, fobs, HEInTimeAccumulateWeightedAggregator, HEModelShareableGenerator and
  HEModelDecryptor called directly, with the context of its HEBuilder (8192, [60, 40, 40]) and without its network. Tensors
  of up to 10^6 values; fobs sends the context (0.66 MB) along with each tensor, so small tensors cost more. The
  server's scaling by 1/n drops a prime: what it sends back is smaller than what it got.
- **TenSEAL ckks_vector**: (8192, [60, 40, 40]), scale 2^40, 4,096 values a ciphertext: as its tutorials have it. **For adding**: (4096,
  [36, 36]), scale 2^30, encrypted under the secret key, 2,048 values: all that a sum needs.
- **Flower SecAgg+**: its client mod and its server workflow with default ranges, messages passed within the process and
  measured as protobuf. Masks and no encryption: the server learns the mean, and an institution needs two more round trips.
  Its masked values are int64, its mean float64. **With the bits it needs**: the same mod and workflow for 8-bit values modulo 2^10; what
  is masked, and the sums that go down, are counted packed.
- {
        "**OpenFHE**: CKKS by `pyhelayers`, 128 bit, depth 12 with 32,768 slots, and depth 1 with 8,192, set up for adding."
        if any(name.startswith("OpenFHE") for name in by_scheme)
        else openfhe.LEFT_OUT
    }
- **FedML-HE**: depth 1, scale 2^52, 4,096 slots (its code in FedML), re-built on SEAL; the most sensitive 10 % are
  encrypted, the rest crosses as float32 in clear. **MaskCrypt**: (8192, [60, 40, 40, 60]), scale 2^40, 5 % encrypted (its
  example in Plato), the rest as float32 in clear. Which values are encrypted is taken as agreed and costs nothing here.

At {ours["values"]:,} values this project sends {ours["bytes_up"] / ours["values"]:.2f} bytes a value up and
{ours["bytes_down"] / ours["values"]:.2f} down: with {
        PARTICIPANTS
    } institutions a sum carries their seeds in place of its second polynomial.
So it does whatever their number.

## Requirements

{requirement_lines(found)}

![bytes and time of all schemes](peers.svg)
"""


def main() -> int:
    """Measure, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="10^7 values as well")
    parser.add_argument("--quick", action="store_true", help="10^5 values, one turn; writes no results")
    arguments = parser.parse_args()
    facts = machine() | {"nvflare": version("nvflare")}
    sizes = {100_000: 1} if arguments.quick else {n: t for n, t in TURNS.items() if arguments.full or n <= 1_000_000}
    rows: list[dict[str, Any]] = []
    for count, turns in sizes.items():
        rows += measure(count, turns)
        print(f"{count:,} values done", file=sys.stderr)
    found = requirements(rows)
    print(table(rows), ratio_table(rows), sep="\n\n")
    if not openfhe.is_here():
        print(openfhe.LEFT_OUT)
    if not arguments.quick:
        report = {"machine": facts, "rows": rows, "ratios": ratios(rows), "requirements": [r.to_json() for r in found]}
        command = "python benchmarks/peers.py" + " --full" * arguments.full
        write_results("peers", report, page(rows, found, facts, command), plot(rows))
    return conclude(found)


if __name__ == "__main__":
    sys.exit(main())
