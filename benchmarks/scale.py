"""Time and memory against model size, institutions and rounds, and what they say of TinyLlama with 1,000 institutions.

    python benchmarks/scale.py            # about three minutes on two cores
    python benchmarks/scale.py --full     # FedHE-Full to 10^8 values, 300 rounds, TinyLlama x 1,000 for real: half an hour
    python benchmarks/scale.py --quick    # two points of each, for a look; writes nothing

Each point is a process of its own (`benchmarks/lib/cells.py`), so that its peak memory is its own. Uploads are synthetic and
every one is sealed afresh; every opened sum is compared with the integer sum. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dictpfl.common.settings import Decomposition
from dictpfl.deploy.reports.plots import COLOURS
from lib.machine import (
    ROOT,
    Requirement,
    conclude,
    machine,
    markdown_table,
    panels,
    preamble,
    previous,
    requirement_lines,
    write_results,
)
from lib.shapes import methods, shared

FAMILY = {
    100_000: (64, 2),
    1_000_000: (144, 4),
    10_000_000: (320, 8),
    100_000_000: (832, 12),
    1_000_000_000: (2080, 19),
}
"""Width and depth of vision transformers by parameters wanted; those of 10^8 are near ViT-B/16's."""
FULL_VALUES = {False: (100_000, 1_000_000, 10_000_000), True: (100_000, 1_000_000, 10_000_000, 100_000_000)}
INSTITUTIONS = (2, 3, 10, 30, 100, 300, 1_000)
FOLDED_VALUES = 50_000
ROUNDS = {False: 60, True: 300}
TARGET, MANY = "TinyLlama-1.1B", 1_000
MOST_GROWTH = 2.0
"""Times more memory at the server for 1,000 institutions than for 10, over the bytes of the sum, which grow with capacity."""


def cell(kind: str, **arguments: int) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "lib.cells", kind, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "benchmarks")
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    print(f"{kind} {arguments} done", file=sys.stderr)
    return arguments | json.loads(done.stdout)


def model(width: int, depth: int) -> tuple[int, int]:
    """Parameters of a vision transformer, and values that DictPFL shares of it at r = 4 and this project's defaults."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        made = VisionTransformer(img_size=64, num_classes=10, embed_dim=width, depth=depth, num_heads=width // 16)
    return sum(p.numel() for p in made.parameters()), sum(shared(made, Decomposition()).values())


def by_size(*, full: bool, quick: bool) -> list[dict[str, Any]]:
    """Cost against model size: an institution, and the server with three of them."""
    points = []
    for width, depth in list(FAMILY.values())[: 2 if quick else None]:
        values, sent = model(width, depth)
        points.append(("DictPFL", values, sent))
    points += [("FedHE-Full", count, count) for count in FULL_VALUES[full][: 2 if quick else None]]
    return [
        {"method": method, "parameters": total, "values": sent, "institution": cell("institution", values=sent, participants=3),
         "server": cell("server", values=sent, participants=3)}
        for method, total, sent in points
    ]  # fmt: skip


def exponent(x: Sequence[float], y: Sequence[float], last: int = 3) -> tuple[float, float]:
    """A and b of y = b x^a through the last points: at small sizes whole ciphertexts and start-up hide the law."""
    slope, offset = np.polyfit(np.log(x[-last:]), np.log(y[-last:]), 1)
    return float(slope), float(np.exp(offset))


def extrapolated(
    sizes: Sequence[Mapping[str, Any]], crowd: Sequence[Mapping[str, Any]], target: int
) -> dict[str, float]:
    """What TinyLlama's shared values would cost with 1,000 institutions, from smaller measurements.

    A ciphertext costs an institution what it costs at the largest model measured, and the server, by upload, what it costs
    with the most institutions measured; digits are those of 1,000 participants, taken from that point too.
    """
    most = crowd[-1]
    ciphertexts = target / most["values"] * most["ciphertexts"]
    largest = max((s["institution"] for s in sizes if s["method"] == "DictPFL"), key=lambda one: one["values"])
    own = {phase: seconds * ciphertexts / largest["ciphertexts"] for phase, seconds in largest["seconds"].items()}
    scale = ciphertexts / most["ciphertexts"]
    return {
        "ciphertexts": ciphertexts,
        "bytes_up": most["bytes_up"] * scale,
        "bytes_down": most["bytes_down"] * scale,
        "prepare": own["prepare"],
        "seal": own["seal"],
        "open": own["open"],
        "fold": most["seconds"]["fold"] * scale * MANY / most["participants"],
        "sum_bytes": most["bytes_down"] * scale,
    }


def requirements(report: Mapping[str, Any]) -> list[Requirement]:
    """What scale has to mean: more institutions and ciphertexts cost the server time, in proportion, and no memory."""
    crowd = {one["participants"]: one for one in report["institutions"]}
    few, many = crowd[10], crowd[max(crowd)]
    least = 2**20  # below a mebibyte the high-water mark of a process shows its allocator
    grown = max(many["peak_bytes"], least) / max(few["peak_bytes"], least) / (many["bytes_down"] / few["bytes_down"])
    rounds = report["rounds"]["rounds"]
    half = len(rounds) // 2
    return [
        Requirement(f"server's memory with {max(crowd):,} institutions, over that with 10, by byte of the sum", "at most", MOST_GROWTH, grown, "x"),
        Requirement("fitted exponent of the server's time against institutions", "at most", 1.1, report["fits"]["fold against institutions"][0]),
        Requirement("fitted exponent of the server's time against ciphertexts received", "at most", 1.1, report["fits"]["fold against ciphertexts"][0]),
        Requirement("fitted exponent of an institution's time against model size, DictPFL", "at most", 1.0,
                    report["fits"]["institution against parameters, DictPFL"][0]),
        Requirement(f"peak memory after {len(rounds)} rounds over that after {half}", "at most", 1.2,
                    rounds[-1]["peak_bytes"] / rounds[half]["peak_bytes"], "x"),
    ]  # fmt: skip


def fits(sizes: Sequence[Mapping[str, Any]], crowd: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Exponents of the log-log lines, with their factors."""
    found = {}
    for method in ("DictPFL", "FedHE-Full"):
        chosen = [s for s in sizes if s["method"] == method]
        x = [s["parameters"] for s in chosen]
        found[f"institution against parameters, {method}"] = exponent(
            x, [sum(s["institution"]["seconds"].values()) for s in chosen]
        )
        found[f"server against parameters, {method}"] = exponent(x, [s["server"]["seconds"]["fold"] for s in chosen])
        found[f"values against parameters, {method}"] = exponent(x, [s["values"] for s in chosen])
    folds = [c["seconds"]["fold"] for c in crowd]
    found["fold against institutions"] = exponent([c["participants"] for c in crowd], folds, 4)
    # Digits widen with the institutions, by steps, and so do uploads: that is no matter of folding.
    found["fold against ciphertexts"] = exponent([c["participants"] * c["ciphertexts"] for c in crowd], folds, 4)
    return found


def milliseconds(seconds: float) -> str:
    """Seconds as a reader's milliseconds."""
    return f"{1e3 * seconds:,.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def megabytes(count: float) -> str:
    """Bytes as MB."""
    return f"{count / 1e6:,.1f}"


def size_table(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Model size."""
    heads = ["method", "model", "shared", "up, MB", "down, MB", "prepare, ms", "seal, ms", "open, ms", "institution's peak, MB",
             "server, 3 uploads, ms", "server's peak, MB"]  # fmt: skip
    return markdown_table(
        heads,
        [
            [s["method"], f"{s['parameters']:,}", f"{s['values']:,}", megabytes(own["bytes_up"]), megabytes(own["bytes_down"]),
             *(milliseconds(own["seconds"][phase]) for phase in ("prepare", "seal", "open")), megabytes(own["peak_bytes"]),
             milliseconds(s["server"]["seconds"]["fold"]), megabytes(s["server"]["peak_bytes"])]
            for s in sizes
            for own in (s["institution"],)
        ],
    )  # fmt: skip


def crowd_table(crowd: Sequence[Mapping[str, Any]]) -> str:
    """Institutions."""
    heads = [
        "institutions",
        "ciphertexts an upload",
        "up, B/value",
        "down, B/value",
        "received, MB",
        "server, ms",
        "ms an upload",
        "server's peak, MB",
    ]
    return markdown_table(
        heads,
        [[f"{c['participants']:,}", c["ciphertexts"], f"{c['bytes_up'] / c['values']:.2f}", f"{c['bytes_down'] / c['values']:.2f}",
          megabytes(c["bytes_in"]), milliseconds(c["seconds"]["fold"]), f"{1e3 * c['seconds']['fold'] / c['participants']:.2f}",
          megabytes(c["peak_bytes"])] for c in crowd],
    )  # fmt: skip


def target_table(guess: Mapping[str, float], real: Mapping[str, Any]) -> str:
    """TinyLlama with 1,000 institutions: extrapolated, and measured where a `--full` run did."""
    rows: list[list[str]] = []
    own, folded = real.get("institution", {}), real.get("server", {})
    found = {**own.get("seconds", {}), **folded.get("seconds", {}), "bytes_up": folded.get("bytes_up"), "bytes_down": folded.get("bytes_down"),
             "sum_bytes": folded.get("peak_bytes")}  # fmt: skip
    for key, words, show, unit in (
        ("bytes_up", "upload of an institution", megabytes, "MB"),
        ("bytes_down", "sum that goes back to each", megabytes, "MB"),
        ("prepare", "an institution prepares (while it waits)", milliseconds, "ms"),
        ("seal", "an institution seals", milliseconds, "ms"),
        ("fold", "the server folds all uploads", milliseconds, "ms"),
        ("open", "an institution opens", milliseconds, "ms"),
        ("sum_bytes", "the server's memory: the sum as sent; measured: peak", megabytes, "MB"),
    ):
        measured = found.get(key)
        rows.append([words, f"{show(guess[key])} {unit}", "-" if measured is None else f"{show(measured)} {unit}"])
    return markdown_table([f"{TARGET}, r = 4, {MANY:,} institutions", "extrapolated", "measured"], rows)


def plot(report: Mapping[str, Any]) -> Figure:
    """Log-log against model size, institutions and rounds."""
    figure, (clock, memory, crowd, passed) = panels("Seconds against model size", "Peak memory against model size",
                                                    f"Server, {FOLDED_VALUES:,} values an upload", "Rounds, 50,000 shared values")  # fmt: skip
    for colours, method in (((COLOURS[0], COLOURS[2]), "DictPFL"), ((COLOURS[1], COLOURS[3]), "FedHE-Full")):
        chosen = [s for s in report["sizes"] if s["method"] == method]
        x = [s["parameters"] for s in chosen]
        for colour, who in zip(colours, ("institution", "server"), strict=True):
            slope = report["fits"][f"{who} against parameters, {method}"][0]
            clock.plot(
                x,
                [sum(s[who]["seconds"].values()) for s in chosen],
                "o-",
                color=colour,
                label=f"{method}, {who}: exponent {slope:.2f}",
            )
            memory.plot(
                x, [max(s[who]["peak_bytes"], 1) / 1e6 for s in chosen], "o-", color=colour, label=f"{method}, {who}"
            )
    slope = report["fits"]["fold against institutions"][0]
    many = report["institutions"]
    x = [c["participants"] for c in many]
    crowd.plot(x, [c["seconds"]["fold"] for c in many], "o-", color=COLOURS[0], label=f"seconds: exponent {slope:.2f}")
    crowd.plot(x, [c["peak_bytes"] / 1e6 for c in many], "s--", color=COLOURS[4], label="peak memory, MB")
    crowd.plot(x, [c["bytes_in"] / 1e6 for c in many], "^:", color=COLOURS[5], label="received, MB")
    rounds = report["rounds"]["rounds"]
    numbers = range(1, len(rounds) + 1)
    passed.plot(
        numbers, np.cumsum([r["institution"] for r in rounds]), color=COLOURS[0], label="institution, seconds in all"
    )
    passed.plot(
        numbers, np.cumsum([r["coordinator"] for r in rounds]), color=COLOURS[2], label="server, seconds in all"
    )
    passed.plot(
        numbers, [r["peak_bytes"] / 1e6 for r in rounds], "--", color=COLOURS[4], label="institution + server, peak MB"
    )
    for ax, x_label, y_label in ((clock, "parameters of the model", "seconds"), (memory, "parameters of the model", "MB above the start"),
                                 (crowd, "institutions", "seconds, MB"), (passed, "round", "seconds, MB")):  # fmt: skip
        _log_log(ax, x_label, y_label)
    figure.set_size_inches(19, 4.4)
    return figure


def _log_log(ax: Axes, x: str, y: str) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.legend(frameon=False, fontsize=7)


def page(report: Mapping[str, Any], found: Sequence[Requirement], command: str) -> str:
    """benchmarks/results/scale.md."""
    rounds, fitted, guess = report["rounds"]["rounds"], report["fits"], report["extrapolated"]
    first, last = rounds[1], rounds[-1]
    measured = report["target"].get("machine")
    when = (
        f" The right column was measured on {measured['date']} (commit {measured['commit']}, load {measured['load']})."
        if measured
        else ""
    )
    shape = fitted["values against parameters, DictPFL"][0]
    return f"""# Scale: model size, institutions, rounds

{preamble(report["machine"], command)}

## Model size

{size_table(report["sizes"])}

Vision transformers from 10^5 to 10^9 parameters (timm, 64 x 64 pixels, r = 4, this project's defaults, no pruning), three
institutions. `shared` grows with the {shape:.2f}th power of the parameters (fit through the last three points; so are those of the
plot): tables have a side of the matrices, not their area. Memory is what the process needed above what it started
with ({megabytes(report["sizes"][0]["server"]["base_bytes"])} MB at a server: interpreter, numpy, SEAL); below a megabyte it shows the
allocator. `FedHE-Full` holds its whole vector and its whole upload; training, which both need, is not in these figures.

## Institutions

{crowd_table(report["institutions"])}

{FOLDED_VALUES:,} values an upload, 8 bits, uploads folded as they come, each sealed afresh by another process. Digits are sized for all
institutions that may take part, so a value costs more bytes the more there are: four digits a component for few, two for 1,000.
The server's time is proportional to uploads, its memory is not.

## Rounds

{len(rounds)} rounds over 50,000 shared values with default pruning: round 2 sent {first["sent"]:,} values and took an institution
{milliseconds(first["institution"])} ms besides training, round {len(rounds)} sent {last["sent"]:,} and took {milliseconds(last["institution"])} ms. Peak memory was
{megabytes(rounds[len(rounds) // 2]["peak_bytes"])} MB above the start half way and {megabytes(last["peak_bytes"])} MB at the end: nothing accumulates.

## {TARGET} with {MANY:,} institutions

{target_table(guess, report["target"])}

{report["target_values"]:,} shared values in {guess["ciphertexts"]:,.0f} ciphertexts. Extrapolated from the points above: an institution's cost by ciphertext at the
10^9 model, the server's by ciphertext and upload with {report["institutions"][-1]["participants"]:,} institutions.{when} In one round the
server receives {guess["bytes_up"] * MANY / 1e9:,.1f} GB and sends {guess["bytes_down"] * MANY / 1e9:,.1f} GB: at 1 Gbps that is
{guess["bytes_up"] * MANY * 8 / 1e9:,.0f} s and {guess["bytes_down"] * MANY * 8 / 1e9:,.0f} s of its network, against {guess["fold"]:,.0f} s of one core for
folding. What limits such a federation is the server's network, then the slowest institution's training. FedHE-Full's uploads of
this model under the same encoding would be {1_100_048_384 / report["target_values"]:,.0f} times larger.

## Requirements

{requirement_lines(found)}

![cost against model size, institutions and rounds](scale.svg)
"""


def main() -> int:
    """Measure, print, write results; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="FedHE-Full to 10^8, 300 rounds, TinyLlama with 1,000 institutions"
    )
    parser.add_argument("--quick", action="store_true", help="few points; writes no results")
    arguments = parser.parse_args()
    facts = machine()
    sizes = by_size(full=arguments.full, quick=arguments.quick)
    counts = (3, 10, 30, 100) if arguments.quick else INSTITUTIONS
    crowd = [cell("server", values=FOLDED_VALUES, participants=count) for count in counts]
    values = sum(methods(TARGET)["DictPFL"].values())
    target = previous("scale", "target")
    if arguments.full:
        target = {kind: cell(kind, values=values, participants=MANY) for kind in ("institution", "server")} | {
            "machine": facts
        }
    report = {
        "machine": facts,
        "sizes": sizes,
        "institutions": crowd,
        "rounds": cell("rounds", values=50_000, participants=3, count=ROUNDS[arguments.full]),
        "fits": fits(sizes, crowd),
        "target_values": values,
        "extrapolated": extrapolated(sizes, crowd, values),
        "target": target,
    }
    found = requirements(report)
    report["requirements"] = [r.to_json() for r in found]
    print(size_table(sizes), crowd_table(crowd), target_table(report["extrapolated"], target), sep="\n\n")
    if not arguments.quick:
        write_results(
            "scale",
            report,
            page(report, found, "python benchmarks/scale.py" + " --full" * arguments.full),
            plot(report),
        )
    return conclude(found)


if __name__ == "__main__":
    sys.exit(main())
