"""Tables in Markdown, from what was measured; where nothing was, the table says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from dictpfl.client.compress.verdicts import BETTER
from dictpfl.deploy.units import human_bytes
from lib.machine import markdown_table
from lib.paper import catalogue, institutions
from lib.paper.arms import ARMS
from lib.paper.measured import Measured, Row
from lib.paper.methods import BOTH, FEDHE, FROZEN_A, FULL, METHODS, OURS, PAPER
from lib.paper.network import NETWORKS, common_target, seconds_to
from lib.paper.verdicts import OPEN, paired
from lib.paper.workloads import LARGE, WORKLOADS

_HEADS = ("method", "test, %", "by seed", "values, % of full", "bytes up", "bytes down", "% of plaintext's bytes", "training, s",
          "encryption, s", "timed on", "peak memory", "rate")  # fmt: skip
SEALING = ("seal", "open", "fold")


def accuracy(found: Measured, workload: str, partition: str) -> str:
    """The table of one workload and partition; methods that were not measured have a line that says so."""
    at = WORKLOADS[workload]
    shown = [method for method in METHODS if method in (*at.methods, *at.counted)]
    rows = {method: found.row(workload, partition, method) for method in shown}
    if not any(rows.values()):
        return f"{OPEN.capitalize()}."
    more = {head: figure for head, figure in _MORE.items() if any(row and figure(row) for row in rows.values())}
    heads = [*_HEADS[:3], *more, *_HEADS[3:]]
    body = []
    for method, row in rows.items():
        line = _line(method, row, rows[FULL])
        line[0] += _size(workload, method)
        extra = ["-" if row is None else figure(row) or "-" for figure in more.values()]
        body.append([*line[:3], *extra, *line[3:]])
    return markdown_table(heads, body)


def _loss(row: Row) -> str:
    """Test loss, where the metric is no accuracy of samples."""
    return f"{row.mean('loss'):.4f}" if row.first["metric"] == "token accuracy" else ""


def _by_centre(row: Row) -> str:
    """Plain mean of the institutions' own test figures, as FLamby reports it, where the data name them."""
    groups = [run.get("test_by_group") for run in row.runs.values()]
    known = [fmean(100 * one["figure"] for one in each.values()) for each in groups if each]
    return f"{fmean(known):.2f}" if len(known) == len(groups) else ""


_MORE: Mapping[str, Callable[[Row], str]] = {"mean of centres, %": _by_centre, "test loss": _loss}
"""Columns that some workloads have."""


def _size(workload: str, method: str) -> str:
    """What is trained of a weight, which files choose: tables or cores, and of what rank."""
    if method not in (OURS, PAPER, BOTH, FROZEN_A):
        return ""
    config = catalogue.accuracy(workload, WORKLOADS[workload].partitions[0], method, 1).config()
    if method in (BOTH, FROZEN_A):
        return f", rank {config.model.options['rank']}"
    return f", {config.decomposition.form}s of rank {config.decomposition.rank}"


def _line(method: str, row: Row | None, full: Row | None) -> list[str]:
    title = METHODS[method].title
    if row is None:
        return [title, OPEN, *["-"] * (len(_HEADS) - 2)]
    counted = bool(METHODS[method].training)
    values = row.first["values"]
    share = "-" if counted else _percent((row.mean("values", "sent") or 0) / (values["model"] * row.first["rounds"]))
    return [
        title,
        f"{row.accuracy:.2f} ± {row.spread:.2f}" if len(row.runs) > 1 else f"{row.accuracy:.2f}",
        " / ".join(f"{run['accuracy']:.2f}" for run in row.runs.values()),
        share,
        human_bytes(row.up),
        human_bytes(row.down),
        _percent(row.bytes / full.bytes) if full else "-",
        *_costs(row),
        "-" if row.rate is None else f"{row.rate:g}{' (edge)' if row.at_edge else ''}",
    ]


def _percent(share: float) -> str:
    """Two decimals, and one digit of what these would call nothing."""
    percent = 100 * share
    return f"{percent:.2f}" if percent == 0 or percent >= 0.005 else f"{percent:.1g}"


def _costs(row: Row) -> tuple[str, str, str, str]:
    run, peak = row.quickest, row.mean("peak_bytes")
    seconds, places = run.get("seconds", {}), run.get("processors") or [run["measured"]["processor"]]
    return (f"{seconds['train']:.1f}" if "train" in seconds else "-",
            f"{sum(seconds[phase] for phase in SEALING):.2f}" if seconds.keys() >= set(SEALING) else "-",
            ", ".join(sorted(set(map(_short, places)))), "-" if peak is None else human_bytes(peak))  # fmt: skip


def _short(processor: str) -> str:
    """A processor in a word, as a table has room for; the page names it whole below."""
    known = [word for word in ("EPYC", "Xeon") if word in processor]
    return known[0] if known else processor


def accuracy_tables(found: Measured, level: str = "###") -> str:
    """All workloads and partitions."""
    parts = []
    for name, workload in WORKLOADS.items():
        for partition in workload.partitions:
            beside = f" (the paper: {workload.paper})" if workload.paper else ""
            parts += [f"{level} {workload.title}, {_partition(partition)}{beside}", accuracy(found, name, partition)]
            parts += [_scale(name)] + ([workload.without] if workload.without else [])
    return "\n\n".join(parts)


def _scale(workload: str) -> str:
    """How much is trained, in a sentence."""
    at = WORKLOADS[workload]
    config = catalogue.accuracy(workload, at.partitions[0], OURS, at.seeds[0]).config()
    data, training, rounds = config.data, config.training, config.federation.rounds
    samples = f"{data.limit:,} samples" if data.limit else "All samples"
    each = f"{training.steps} steps" if training.steps else f"{training.epochs} epoch{'s' * (training.epochs > 1)}"
    measured = f", measured on {data.test_limit:,}" if data.test_limit else ""
    return f"{samples} at {config.federation.participants} institutions, {rounds} rounds of {each} of {training.batch_size} samples{measured}."


def _partition(name: str) -> str:
    return {"iid": "IID", "dirichlet-0.3": "Dirichlet alpha = 0.3", "natural": "institutions as the data have them"}[
        name
    ]


def arm(found: Measured, name: str) -> str:
    """The table of one arm: every point beside the one that it is compared with, paired over seeds, and the paper's figures."""
    at, rows = ARMS[name], found.arm(name)
    if not rows:
        return f"{OPEN.capitalize()}."
    stated = {point.label: point.accuracy for point in at.points}
    has_paper = any(point.accuracy is not None or point.gigabytes is not None for point in at.points)
    heads = ["", "test, %", "seeds", "difference, points", "values, % of full", "bytes",
             *(["paper, %", "its difference", "paper, GB"] if has_paper else [])]  # fmt: skip
    body = []
    for point in at.points:
        row, base = rows.get(point.label), point.against or at.default
        theirs = [_or_dash(point.accuracy), _step(stated, base, point.label), _or_dash(point.gigabytes)] * has_paper
        if row is None:
            body.append([point.label, OPEN, "-", "-", "-", "-", *theirs])
            continue
        values = row.first["values"]
        share = 100 * (row.mean("values", "sent") or 0.0) / (values["model"] * row.first["rounds"])
        body.append([point.label, _mean(row), str(len(row.runs)), difference(row, rows.get(base), base),
                     f"{share:.2f}", human_bytes(row.bytes), *theirs])  # fmt: skip
    return markdown_table(heads, body)


def _mean(row: Row) -> str:
    return f"{row.accuracy:.2f} ± {row.spread:.2f}" if len(row.runs) > 1 else f"{row.accuracy:.2f}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def difference(row: Row, base: Row | None, name: str) -> str:
    """Points above the setting of that name over the seeds that both have, and what that shows; "-": none, or itself."""
    found = None if base is None or row is base else paired(row, base)
    if found is None:
        return "-"
    if found.count == 1:
        return f"{found.mean:+.2f} against {name}: one seed"
    return f"{found} against {name}: {found.verdict}"


def _step(stated: Mapping[str, float | None], base: str, label: str) -> str:
    before, after = stated.get(base), stated[label]
    return "-" if base == label or before is None or after is None else f"{after - before:+.2f}"


def arm_tables(found: Measured, level: str = "###") -> str:
    """All arms."""
    parts = []
    for name, at in ARMS.items():
        title = at.title[0].upper() + at.title[1:]
        where = f"`arms/{name}/*`, experiments/{at.experiment}.toml; {at.source}"
        parts += [f"{level} {title}", f"{at.question} ({where})", arm(found, name)]
    return "\n\n".join(parts)


def institution_table(found: Measured) -> str:
    """By number of institutions: ours, plaintext, and the two arms that tell samples from steps."""
    rows = {(arm_, n): found.institutions(arm_, n) for n in institutions.COUNTS for arm_ in institutions.ARMS}
    if not any(rows.values()):
        return f"{OPEN.capitalize()}."
    paper = {3: 82.67, 10: 81.94, 50: 80.42, 200: 80.56}
    body = [
        [str(n), *(_mean(row) if (row := rows[arm_, n]) else OPEN for arm_ in institutions.ARMS), f"{paper[n]:g}"]
        for n in institutions.COUNTS
    ]
    return "\n\n".join(
        filter(None, [markdown_table(["institutions", *institutions.ARMS, "paper, %"], body), reason(rows)])
    )


def reason(rows: Mapping[tuple[str, int], Row | None]) -> str:
    """Which arm falls as far as the whole does, at the most institutions of which all are known."""
    for n in reversed(institutions.COUNTS[1:]):
        at = {arm_: rows[arm_, n] for arm_ in institutions.ARMS}
        first = {arm_: rows[arm_, institutions.COUNTS[0]] for arm_ in ("dictpfl", "plaintext")}
        if any(row is None for row in (*at.values(), *first.values())):
            continue
        known = {arm_: row.accuracy for arm_, row in at.items() if row is not None}
        base = {arm_: row.accuracy for arm_, row in first.items() if row is not None}
        falls = {
            "dictpfl": base["dictpfl"] - known["dictpfl"], "plaintext": base["plaintext"] - known["plaintext"],
            "few samples alone": base["dictpfl"] - known["few-samples"], "few steps alone": base["dictpfl"] - known["few-steps"],
        }  # fmt: skip
        words = ", ".join(f"{arm_} {fall:+.2f}" for arm_, fall in falls.items())
        few, many = rows["dictpfl", institutions.COUNTS[0]], rows["dictpfl", n]
        fall = paired(few, many) if few and many else None
        if fall is None or fall.count == 1:
            return f"Points lost from {institutions.COUNTS[0]} to {n}, with one seed, which shows nothing: {words}."
        if fall.verdict != BETTER:
            return f"From {institutions.COUNTS[0]} to {n} no fall is shown ({fall}; points lost: {words})."
        shown = {
            "plaintext": _fallen(rows["plaintext", institutions.COUNTS[0]], rows["plaintext", n]),
            "few samples alone": _fallen(few, rows["few-samples", n]), "few steps alone": _fallen(few, rows["few-steps", n]),
        }  # fmt: skip
        causes = [arm_ for arm_, is_shown in shown.items() if is_shown and falls[arm_] >= 0.5 * falls["dictpfl"]]
        told = (
            f"at least half of the fall is had by {' and by '.join(causes)}"
            if causes
            else "no single arm is shown to have half of the fall"
        )
        return f"Points lost from {institutions.COUNTS[0]} to {n}: {words}; {told}."
    return ""


def _fallen(few: Row | None, many: Row | None) -> bool:
    """Whether more institutions, or what an arm takes of them, are shown to cost accuracy."""
    fall = paired(few, many) if few and many else None
    return fall is not None and fall.verdict == BETTER


_AIMS = (FULL, FEDHE, OURS)
"""Methods that set the accuracy to which all are timed."""


def time_table(found: Measured) -> str:
    """Seconds to the same accuracy on networks, with a deployment's latency and polling; a run of each, timed alone and on one processor.

    What `_AIMS` reach is asked of all: a target that the head alone reaches, too, would say that the head alone is fastest.
    """
    rows = found.timed(METHODS, drawn=True)
    if FULL not in rows or len(rows) < 2:
        return f"{OPEN.capitalize()}."
    aims = [method for method in _AIMS if method in rows]
    target = common_target([rows[method] for method in aims])
    named = "; ".join(METHODS[method].title.strip("*") for method in aims)
    body = []
    for method, figures in rows.items():
        reached = [seconds_to(figures, target, network) for network in NETWORKS]
        sent = (figures["bytes"]["up"] + figures["bytes"]["down"]) / figures["rounds"]
        body.append([METHODS[method].title, *("-" if s is None else f"{s:,.0f}" for s in reached), human_bytes(sent),
                     f"{figures['accuracy']:.2f}"])  # fmt: skip
    heads = ["method", *(f"{network.name}, s" for network in NETWORKS), "bytes a round", "final, %"]
    where = sorted({f"{run['measured']['processor']}, {run['measured']['date'].split()[0]}" for run in rows.values()})
    shown = (*WORKLOADS[LARGE].methods, *WORKLOADS[LARGE].counted)
    missing = [METHODS[method].title for method in METHODS if method in shown and method not in rows]
    left = f" Not timed yet: {', '.join(missing)}." if missing else ""
    reach = f"the highest that {named} all reach; -: a method that never does"
    return f"To {target:.0f} %, {reach} ({'; '.join(where)}).{left}\n\n{markdown_table(heads, body)}"


def where_measured(facts: Sequence[Mapping[str, Any]]) -> str:
    """Machines, commits and dates of all cells that a page shows, in a sentence; empty where there are none."""
    if not facts:
        return ""
    machines = sorted({f"{one['processor']}, {one['cores']} cores" for one in facts})
    dates = sorted(one["date"].split()[0] for one in facts)
    commits = sorted({one["commit"] for one in facts})
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    loads = sorted(float(one["load"]) for one in facts)
    return (
        f"Measured on {'; '.join(machines)} (load {loads[0]:g} to {loads[-1]:g}), {span}, commits {', '.join(commits)}. Every cell's own "
        "machine, commit, date and settings stand in its file in benchmarks/results/paper."
    )
