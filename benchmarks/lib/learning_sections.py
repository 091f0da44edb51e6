"""Sections of docs/results.md on what models learn."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from lib.clinical.page import TITLES, mean_of, published
from lib.stored import RESULTS, goals, in_bytes, load, where, where_all
from lib.tasks import NOTE, table

_METHODS = {
    "plaintext": "plaintext, full", "head-only": "head only", "fedhe-topk": "FedHE-TopK", "lora-both": "LoRA, both factors",
    "lora-frozen-a": "LoRA, A frozen", "dictpfl": "**dictpfl**",
}  # fmt: skip


def accuracy() -> str:
    """Test accuracy and traffic beside other methods."""
    result = load("accuracy")["workloads"]
    lines = [
        "## Accuracy\n\nThree institutions (`python benchmarks/accuracy.py`; mean of three seeds, test split, mean of the last three "
        "rounds, rates chosen on validation data; below, the values that one institution sent as a share of full fine-tuning's, and the "
        "bytes that it sent and received).",
        "",
        "| | " + " | ".join(_METHODS.values()) + " |",
        "|---|" + "---:|" * len(_METHODS),
    ]
    for workload in result.values():
        methods = workload["methods"]
        cells = [f"{methods[m]['accuracy']:.1f} %" if m in methods else "-" for m in _METHODS]
        lines.append(f"| {workload['title']} | {' | '.join(cells)} |")
        sent = [
            f"{methods[m]['share']:.1f} %, {in_bytes(methods[m]['bytes'])}" if m in methods else "-" for m in _METHODS
        ]
        lines.append(f"| values, bytes | {' | '.join(sent)} |")
    caveat = (
        "At alpha = 0.3 one seed is a hard split, on which the verdict depends on the rate. With W0 pretrained, plaintext stays below LoRA and dictpfl: "
        "rates alone were tuned, so that this does not show full fine-tuning beaten. Bytes of dictpfl from random weights are of whole "
        "ciphertexts, which are not sent any more. Seeds, rates and dates are in [the results](../benchmarks/results/accuracy.md)."
    )
    if (RESULTS / "ablations.md").exists():
        caveat += " The paper's ablations, beside its own figures: [ablations.md](../benchmarks/results/ablations.md)."
    measured = where_all(row["measured"] for workload in result.values() for row in workload["methods"].values())
    return "\n".join([*lines, "", f"{caveat} {measured}."])


def newsgroups() -> str:
    """MiniLM under encryption beside its plaintext fine-tune."""
    result = load("newsgroups")
    ours = result["methods"]["dictpfl"]
    full, gap, run = result["methods"]["plaintext"], result["gaps"]["dictpfl"], result["runs"]["dictpfl"][0]
    return (
        f"## MiniLM on 20 Newsgroups under encryption\n\n(`python benchmarks/newsgroups.py`; three institutions, {run['rounds']} rounds, "
        f"{len(gap['by_seed'])} seeds): test accuracy {ours['accuracy']:.1f} % with dictpfl, {full['accuracy']:.1f} % by plaintext full "
        f"fine-tuning of the same rounds, on the same batches (gap {gap['mean']:.2f} ± {gap['spread']:.2f} points, {gap['verdict']}); {in_bytes(ours['bytes'])} of one institution up and down, "
        f"{ours['flare_ratio']:,.0f} times less than FLARE's encryption of every parameter, {full['bytes'] / ours['bytes']:,.0f} times less "
        f"than plaintext. {_at_an_end(result['methods'])}{goals(result, 'newsgroups')} {where(result['machine'])}."
    )


def _at_an_end(methods: Mapping[str, Any]) -> str:
    """Name the methods whose best rate is at an end of what was tried: a better one may lie beyond; empty where there is none."""
    ends = {name: sorted(map(float, row["tried"])) for name, row in methods.items()}
    named = [
        f"{name}'s rate is an end of its grid ({row['rate']:g} of {ends[name][0]:g} to {ends[name][-1]:g}), so that a better one may lie beyond. "
        for name, row in methods.items()
        if name in ("plaintext", "dictpfl") and row["rate"] in (ends[name][0], ends[name][-1])
    ]
    return "".join(named)


def language() -> str:
    """SmolLM2 on GSM8K under encryption beside LoRA in clear."""
    result = load("language")
    lines = [
        "## A language model under encryption\n\n(`python benchmarks/language.py`; SmolLM2-135M from a 4-bit checkpoint, on answers of "
        "GSM8K, three institutions, the same steps for all; held-out problems).",
        "",
        "| | loss of an answer's token | exact match | seeds | bytes of one institution |",
        "|---|---:|---:|---:|---:|",
    ]
    named = {"lora": "LoRA in clear", "dictpfl": "**dictpfl**, encrypted"}
    each = {"not trained": [result["start"]], **{named[m]: runs for m, runs in result["runs"].items() if runs}}
    for name, runs in each.items():
        loss = statistics.fmean(run["loss"] for run in runs)
        exact = 100 * sum(run["exact"] for run in runs) / sum(run["asked"] for run in runs)
        sent = [sum(run["bytes"].values()) for run in runs if "bytes" in run]
        seeds, traffic = (str(len(sent)), in_bytes(statistics.fmean(sent))) if sent else ("-", "-")
        lines.append(f"| {name} | {loss:.4f} | {exact:.1f} % | {seeds} | {traffic} |")
    asked = statistics.fmean(run["asked"] for runs in result["runs"].values() for run in runs)
    note = f"Exact match is of {asked:.0f} problems a seed, too few to tell methods apart. {goals(result, 'language')} {where(result['machine'])}."
    return "\n".join([*lines, "", note])


def hospitals() -> str:
    """Federations of real centres beside FLamby's published rows."""
    result = load("clinical")
    lines = [
        "## Hospitals\n\n(`python benchmarks/clinical.py`; real centres with FLamby's splits, complete encrypted federations, five seeds; mean "
        "over centres after the last round ± deviation over seeds).",
        "",
        "| | measured | published by FLamby | bytes of one institution |",
        "|---|---:|---:|---:|",
    ]
    for name, found in result["workloads"].items():
        for label, runs in found["runs"].items():
            mean, spread = mean_of(runs)
            sent = statistics.fmean(sum(run["bytes"].values()) for run in runs)
            beside = published(name, label.split(",", maxsplit=1)[0])
            lines.append(f"| {TITLES[name]}: {label} | {mean:.1f} ± {spread:.1f} | {beside} | {in_bytes(sent)} |")
    note = (
        "`plaintext` is full fine-tuning in clear; `chosen` rates were chosen on validation rows. FLamby leaves ages unscaled, which costs "
        f"its Cox rows some points. {goals(result, 'clinical')} {where(result['machine'])}."
    )
    return "\n".join([*lines, "", note])


def tasks() -> str:
    """Each task on real data, encrypted, beside its baseline."""
    result = load("tasks")
    head = (
        "## Tasks\n\n(`python benchmarks/tasks.py`; complete encrypted federations of the configurations in "
        "[tasks and metrics](how-to/tasks-and-metrics.md) and `experiments/`). "
    )
    return f"{head}{NOTE}\n\n{table(result['cases'])}\n\n{where(result['machine'])}."


def refresh() -> str:
    """Dictionaries that change under pruning; a single seed is chance, and not shown here."""
    result = load("refresh")
    head = (
        "## Dictionaries that change while pruning goes on\n\n(`python benchmarks/refresh.py`; three institutions, random W0, r = 4 "
        "unless said). "
    )
    sure = {case: methods for case, methods in result["cases"].items() if len(methods["fixed D, pruned"]["seeds"]) > 1}
    where_all = "[refresh.md](../benchmarks/results/refresh.md)"
    if not sure:
        return f"{head}One seed was measured so far, which is not enough for a table here: {where_all}."
    lines = [
        head,
        "",
        "| | | test accuracy | bytes of all rounds | accuracy at the bytes of a fixed D, pruned |",
        "|---|---|---:|---:|---:|",
    ]
    shown = (
        "full, 8 bits",
        "fixed D, not pruned",
        "fixed D, pruned",
        "rank 16, pruned",
        "M = 5, forget",
        "M = 5, keep",
    )
    for case, methods in sure.items():
        for name in (name for name in shown if name in methods):
            row = methods[name]
            at = "-" if row["at_budget"] is None else f"{row['at_budget']:.1f} %"
            lines.append(f"| {case} | {name} | {row['accuracy']:.1f} % | {in_bytes(row['stream'])} | {at} |")
    note = (
        "`forget`, `keep`: what pruning does with the history of a table whose dictionary was drawn anew. Seeds, spread and the other "
        f"policies are in {where_all}. {where(result['measured'][next(iter(sure))])}."
    )
    return "\n".join([*lines, "", note])


def bits() -> str:
    """Accuracy against bytes of fewer bits a value."""
    result = load("bits")
    lines = [
        "## Fewer bits a value\n\n(`python benchmarks/bits.py`; digits, three institutions; headroom tuned for each number of bits, then other seeds).",
        "",
        "| | bits | headroom | test accuracy | against 8 bits, points (95 %) | bytes up and down, all rounds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case, rows in result["cases"].items():
        for row, judged in ((row, row["judged"]) for row in rows if row["judged"]):
            found = judged.get("difference")
            beside = (
                f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
                if found and found["low"] < found["high"]
                else "-"
            )
            lines.append(
                f"| {case} | {row['bits']} | {row['headroom']:g} | {judged['accuracy']:.1f} % | {beside} | {in_bytes(judged['bytes'])} |"
            )
    note = f"{goals(result, 'bits')} {where(next(iter(result['measured'].values())))}."
    return "\n".join([*lines, "", note])


def privacy() -> str:
    """What accuracy differential privacy leaves."""
    result = load("dp")
    lines = [
        "## Differential privacy\n\n(`python benchmarks/dp.py`; test accuracy, %, by epsilon).",
        "",
        "| | 1 | 4 | 8 | 16 | not private | seeds |",
        "|---|" + "---:|" * 6,
    ]
    for case, rows in result["cases"].items():
        if not case.startswith("membership"):
            cells = [f"{rows[e]['accuracy']:.1f}" if e in rows else "-" for e in ("1", "4", "8", "16", "none")]
            seeds = min(len(row["runs"]) for row in rows.values())
            lines.append(f"| {case} | {' | '.join(cells)} | {seeds} |")
    note = (
        "Samples: DP-SGD at three institutions. Institutions: Skellam noise of thirty. Delta and what membership inference "
        "finds are in [the results](../benchmarks/results/dp.md). "
        f"{where_all(result['measured'].values())}."
    )
    return "\n".join([*lines, "", note])
