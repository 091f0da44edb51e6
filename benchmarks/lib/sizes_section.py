"""Section of docs/results.md on real sizes: what each row of `benchmarks/real_sizes.py` measured, before and now, and what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dictpfl.deploy.units import counted
from lib.lines import Lines
from lib.stored import RESULTS, where

Figures = Mapping[str, Any]
Line = tuple[str, str, str, str, bool | None]
"""What, before, now, what was wanted, whether it was reached (None: nothing was wanted)."""

ROWS = Lines(RESULTS / "real_sizes.jsonl")
_GB_A_GIB = 2**30 / 1e9


def _images(found: Figures) -> list[Line]:
    quarter, whole, memory = found["memory"]
    epoch = found["epoch"]
    size = f"{found['files']:,} images, {found['gigabytes']:.1f} GB of files, {found['gigabytes_as_float32']:.0f} GB as float32"
    before = f"{memory['peak_gb']:.2f} GB with {memory['files']:,} images in memory"
    slowest = max(epoch["ratios"])
    return [
        (
            f"{size}: peak memory of a process that plays three institutions (its largest worker)",
            before,
            f"{whole['peak_gb']:.2f} GB ({whole['worker_peak_gb']:.2f}); with a quarter of them {quarter['peak_gb']:.2f}",
            "under 2.5 GB",
            max(whole["peak_gb"], whole["worker_peak_gb"]) < 2.5,
        ),
        (
            f"an epoch of them, {epoch['workers']} workers",
            f"{epoch['plain_seconds']:.0f} s in plain PyTorch",
            f"{epoch['seconds']:.0f} s, {epoch['ratio']:.2f} times (slowest of {epoch['pairs']} pairs {slowest:.2f}); {epoch['cpu_ratio']:.2f} times its processor time",
            "at most 1.15 times",
            epoch["ratio"] <= 1.15,
        ),
    ]


def _round_of(found: Figures, wanted: float | None) -> Line:
    now, before = found["now"], found["before"]
    peak = now["peak_gib"] * _GB_A_GIB
    return (
        f"ViT-B/16, {now['institutions']} institutions of one process, one round, {now['method']}, {now['sent']:,} values",
        f"{before['peak_gib'] * _GB_A_GIB:.1f} GB, {before['seconds_of_round']:.0f} s" if before else "-",
        f"{peak:.1f} GB, {now['seconds_of_round']:.0f} s",
        "" if wanted is None else f"under {wanted:g} GB",
        None if wanted is None else peak < wanted,
    )


def _vit_base(found: Figures) -> list[Line]:
    return [_round_of(found["dictpfl"], 10.0), _round_of(found["fedhe-full"], None)]


def _two_hundred(found: Figures) -> list[Line]:
    counts, before = found["now"], found["before"]
    many = counts[max(counts, key=int)]
    peak = many["peak_gib"] * _GB_A_GIB
    was = "-"
    if before:
        was = (
            f"{before['peak_gib'] * _GB_A_GIB:.1f} GB, {before['seconds_an_institution']:.1f} s and "
            f"{before['disk_gib'] / before['institutions'] * 1024:.0f} MiB of disk an institution, with {before['institutions']}"
        )
    return [
        (
            f"{many['institutions']} institutions of one process, ViT-S/16 ({many['parameters'] / 1e6:.1f} million), one round",
            was,
            f"{peak:.1f} GB, {many['seconds_an_institution']:.1f} s and {many['disk_gib'] / many['institutions'] * 1024:.0f} MiB of disk an institution; "
            f"one more takes {found['gib_an_institution_more'] * 1024:.1f} MiB of memory",
            "under 20 GB",
            peak < 20,
        )
    ]


def _two_nodes(found: Figures) -> list[Line]:
    one, two = found["one"], found["two"]
    same = "same bits" if found["same_digest"] else "**other bits**"
    why = f". {found['reason']}" if found["reason"] else ""
    return [
        (
            f"two Ray nodes on one host, each of {counted(int(found['nodes_have_processors']), 'processor')}",
            f"{one['rounds_a_minute']:.2f} rounds a minute on one",
            f"{two['rounds_a_minute']:.2f}, {found['factor']:.2f} times, {same}{why}",
            f"{found['wanted_factor']:g} times, or the reason",
            found["same_digest"] and found["factor"] >= found["wanted_factor"],
        )
    ]


def _empty_round(found: Figures) -> list[Line]:
    digits = found["digits"]
    return [
        (
            f"a deployed round with nothing to do, {found['institutions']} institutions, {found['line']}: median of {found['rounds']} rounds",
            f"{found['before_seconds']:.2f} s (slowest {found['before_slowest_seconds']:.2f})",
            f"{found['after_seconds']:.2f} s (slowest {found['after_slowest_seconds']:.2f})",
            f"under {found['most_seconds']:g} s",
            found["after_seconds"] < found["most_seconds"],
        ),
        (
            f"digits, deployed: from the end of its first round to that of its last, {digits['rounds']} rounds",
            f"{digits['before_seconds']:.0f} s",
            f"{digits['after_seconds']:.0f} s",
            "",
            None,
        ),
    ]


def _founding(found: Figures) -> list[Line]:
    return [
        (
            f"founding TinyLlama's shapes, rank {found['rank']}",
            f"{found['seconds_before']:.0f} s (one weight of each shape, times their number)",
            f"{found['seconds']:.0f} s, {found['peak_gib'] * _GB_A_GIB:.1f} GB; columns {found['apart_at_most']:.0e} apart",
            "under 90 s",
            found["seconds"] < 90,
        )
    ]


def _state(found: Figures) -> list[Line]:
    now, before = found["now"], found["before"]
    peak = now["peak_gib"] * _GB_A_GIB
    seconds = ", ".join(f"{name} {spent:.0f}" for name, spent in now["seconds"].items())
    return [
        (
            f"{now['values'] / 1e6:.0f} million values in one round",
            f"{before['most_bytes_a_value']:.0f} bytes a value" if before else "-",
            f"{now['most_bytes_a_value']:.0f} bytes a value, {peak:.1f} GB; seconds of three institutions: {seconds}",
            "40 bytes a value, 24 GB",
            now["most_bytes_a_value"] <= 40 and peak < 24,
        )
    ]


LINES: Mapping[str, Callable[[Figures], list[Line]]] = {
    "a": _images,
    "b": _vit_base,
    "c": _two_hundred,
    "d": _two_nodes,
    "e": _empty_round,
    "f": _founding,
    "g": _state,
}


def section(rows: Lines = ROWS) -> str:
    """Table of the rows that are there; a row that is not there is said to be missing."""
    lines = [
        '## Real sizes\n\n(`python benchmarks/real_sizes.py`; each row in a process of its own, beside its "before": '
        "the code before this work, or the plain way. GB are 10^9 bytes.)",
        "",
        "| row | what | before | now | wanted | |",
        "|---|---|---|---|---|---|",
    ]
    machines = []
    for letter, lines_of in LINES.items():
        row = rows.get(letter)
        if row is None:
            lines.append(f"| {letter} | not measured yet | | | | |")
            continue
        machines.append(
            f"{letter}: {where(row['machine'])}, commit {row['machine']['commit']}, load {row['machine']['load']}"
        )
        for what, before, now, wanted, met in lines_of(row["figures"]):
            verdict = "" if met is None else "reached" if met else "**missed**"
            lines.append(f"| {letter} | {what} | {before} | {now} | {wanted} | {verdict} |")
    return "\n".join([*lines, "", "; ".join(machines) + "."])
