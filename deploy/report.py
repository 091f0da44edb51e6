"""report.html: a run on one page that carries everything with it and makes no request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from common.files import write_private
from common.layout import Layout
from deploy import plots
from deploy.census import Census, read_census
from deploy.run import Run
from deploy.units import human_bytes, human_count, human_factor, human_seconds, percent


def write_report(run: Run, layout: Layout, path: Path) -> None:
    """Write the report of a run."""
    name, metric = run.config.method, run.summary["metric"]
    shared = run.summary["values"]["shared"]
    figures = [
        _figure(plots.accuracy_against_rounds({name: run.history}, metric),
                f"Test {metric} after each round; it ends at {run.accuracy:.3f}."),
        _figure(plots.accuracy_against_bytes({name: run.history}, metric),
                f"Test {metric} against the bytes that one institution sent and received."),
        _figure(plots.sent_share(run.history, shared), "Share of the shared vector that is sent in each round."),
        _figure(plots.time_split(run.history), "Seconds of each phase in each round, mean of the institutions."),
        _figure(plots.sent_by_tensor(run.history, layout), "Share of each tensor that is sent in each round."),
    ]  # fmt: skip
    census = read_census(run.folder)
    if census:
        figures.append(_figure(plots.classes_by_site(census), _mixture(census)))
    page = template("report.html.j2").render(
        run=run,
        census=census,
        summary=run.summary,
        figures=figures,
        server_view=server_view(run),
        measured_on=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_private(path, page.encode())


def _mixture(census: Census) -> str:
    worst = max(census.sites, key=census.skew)
    return (
        f"Samples of each class at each institution. The largest class has {census.imbalance:.1f} times the samples of the "
        f"smallest; {worst} is furthest from the common mixture ({census.skew(worst):.0%} of its samples would have to be of "
        "another class)."
    )


def write_comparison(runs: Sequence[Run], path: Path) -> None:
    """Write the report of several methods on the same data, seeds and rounds."""
    metric = runs[0].summary["metric"]
    histories = {run.config.method: run.history for run in runs}
    figures = [
        _figure(plots.accuracy_against_rounds(histories, metric), f"Test {metric} after each round, a line a method."),
        _figure(plots.accuracy_against_bytes(histories, metric), f"Test {metric} against bytes, a line a method."),
    ]
    page = template("compare.html.j2").render(
        runs=runs, figures=figures, measured_on=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    )
    write_private(path, page.encode())


def server_view(run: Run) -> list[tuple[str, str, str]]:
    """What the coordinator could see of this run, what it was, and whether it depends on data."""
    if run.config.encryption.sealer != "ckks":
        return [("every value of every upload", "sent unencrypted", "YES: this run protects nobody")]
    view = [
        ("who takes part and when", f"{run.config.federation.participants} institutions, their connections", "no"),
        ("ciphertexts in an upload", _range([r.ciphertexts for r in run.history]),
         "only through the aggregate, which decides what is pruned"),
        ("bytes of an upload", _range([r.bytes_up for r in run.history]), "follows from the number of ciphertexts"),
        ("keyed digests of shared state", "32 random-looking bytes a round", "no: the key is not there"),
        ("sample counts, losses, accuracies", "inside the ciphertexts", "not visible"),
    ]  # fmt: skip
    if run.config.selection.patience:
        when = f"after {run.summary['rounds']} of {run.config.federation.rounds} rounds"
        view.append(("when institutions stop", when, "only through the validation figure of all of them together"))
    if run.config.encryption.sealed_share < 1.0:
        clear = 1.0 - run.config.encryption.sealed_share
        view.insert(0, (f"{clear:.0%} of every update's values", "sent unencrypted", "YES: this run leaks"))
    return view


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _figure(svg: str, caption: str) -> dict[str, str]:
    return {"svg": svg, "caption": caption}


def template(name: str) -> jinja2.Template:
    """A page's template, with the filters that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deploy", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    filters: dict[str, Any] = {
        "bytes": human_bytes,
        "count": human_count,
        "seconds": human_seconds,
        "percent": percent,
        "factor": human_factor,
    }
    environment.filters |= filters
    return environment.get_template(name)
