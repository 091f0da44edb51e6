"""The one table of README.md: what dictpfl reaches and costs, next to what people would otherwise use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dictpfl.client.compress.verdicts import interval
from lib.clinical.page import published
from lib.paper.cells import Store
from lib.paper.measured import Measured, Row
from lib.paper.methods import FULL, OURS
from lib.paper.workloads import WORKLOADS
from lib.stored import load

_LORA = "lora-frozen-a"
"""At dictpfl's rank, under the same encryption."""
_ROW = "| {} | {} | {} | {} |"
_REAL = ("cifar10", "gtsrb", "ag_news")
"""Data of the paper whose goals this project set itself."""
_DIVISIONS = ("iid", "dirichlet-0.3")


def table() -> str:
    """Markdown of README's table, all figures from benchmarks/results."""
    lines = [
        _ROW.format("", "**dictpfl**", "LoRA, A frozen", "plaintext"),
        "|---|---:|---:|---:|",
        *_accuracy(Measured(Store())),
        _newsgroups(),
        _hospitals(),
        _bytes(),
        _attack(),
    ]
    note = (
        "Rows 1 to 5: accuracy in %, Student's 95 % interval over three to five seeds (FLamby: deviation). Data alike / data that differ, few steps on few samples; "
        "then bytes as a share of plaintext's: all weights, float32. Commands, machines, dates, missed goals: [results](docs/results.md)."
    )
    return "\n".join([*lines, "", note])


def _seeds(values: Sequence[float]) -> str:
    """Mean over seeds, and half of the interval; a single seed has none."""
    found = interval(values)
    return f"{found.mean:.1f}" if found.count == 1 else f"{found.mean:.1f} ± {found.high - found.mean:.1f}"


def _accuracy(measured: Measured) -> list[str]:
    """A row for each set, with what each method sends of plaintext's bytes; a set that lacks cells of ours or of plaintext has none."""
    lines = []
    for name in _REAL:
        rows = {
            method: [row for division in _DIVISIONS if (row := measured.row(name, division, method))]
            for method in (OURS, _LORA, FULL)
        }
        complete = {method: found for method, found in rows.items() if len(found) == len(_DIVISIONS)}
        if complete.keys() >= {OURS, FULL}:
            whole = complete[FULL][0].bytes
            ours, full = _cell(complete[OURS], whole), _cell(complete[FULL])
            lora = _cell(complete[_LORA], whole) if _LORA in complete else "-"
            lines.append(_ROW.format(WORKLOADS[name].title, ours, lora, full))
    return lines


def _cell(rows: Sequence[Row], whole: float = 0) -> str:
    """Accuracy by division; with what is sent of `whole` bytes, if that is given."""
    figures = " / ".join(_seeds([run["accuracy"] for run in row.runs.values()]) for row in rows)
    return f"{figures}; {100 * rows[0].bytes / whole:.2f} %" if whole else figures


def _newsgroups() -> str:
    """MiniLM on texts, next to plaintext federated averaging of the whole model."""
    content = load("newsgroups")
    runs = {name: [run["accuracy"] for run in content["runs"][name]] for name in ("dictpfl", "plaintext")}
    ours, full = (content["methods"][name]["bytes"] for name in ("dictpfl", "plaintext"))
    return _ROW.format(
        "20 Newsgroups, MiniLM-L6",
        f"{_seeds(runs['dictpfl'])}; {100 * ours / full:.2f} %",
        "-",
        _seeds(runs["plaintext"]),
    )


def _hospitals() -> str:
    """Mean over real centres under FedYogi, encrypted, next to FLamby's published figure and its deviation."""
    runs = load("clinical")["workloads"]["heart"]["runs"]["FedYogi, FLamby's rates"]
    ours = _seeds([run["mean_of_groups"] for run in runs])
    theirs = f"{published('heart', 'FedYogi')} (FLamby)"
    return _ROW.format("Heart disease, four hospitals", ours, "-", theirs)


def _bytes() -> str:
    """Bytes up a value, all at 8 bits."""
    rows = {row["scheme"]: row for row in load("peers")["rows"] if row["values"] == 1_000_000}
    up = {scheme: f"{row['bytes_up'] / row['values']:.2f}" for scheme, row in rows.items()}
    return _ROW.format(
        "Bytes a value, at 8 bits",
        up["dictpfl, 8 bits"],
        f"SecAgg+ {up['SecAgg+, bits it needs']}",
        up["8-bit values in clear"],
    )


def _attack() -> str:
    """Share of training images that the best attack recovers from an update of one step on one image."""
    setting = {"batch": 1, "steps": 1, "model": "vit_tiny"}
    findings: list[dict[str, Any]] = [
        finding
        for finding in load("privacy")["findings"]
        if finding["family"] == "inversion" and setting.items() <= finding["setting"].items()
    ]

    def best(method: str) -> str:
        share, images = max((f["more"]["recovered"], f["trials"]) for f in findings if f["method"] == method)
        return f"{100 * share:.0f} % of {images}"

    return _ROW.format(
        "Images recovered with an institution's help, no masks",
        best("dictpfl, coordinator and one institution together"),
        "-",
        best("plaintext"),
    )
