"""report.html: a run on one page that carries everything with it and makes no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictpfl.common.files import write_private
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.reports.exposure import HELP, exposure
from dictpfl.deploy.reports.templates import template
from dictpfl.deploy.reports.troubles import below_baseline, pays_from, told
from dictpfl.deploy.runs.census import Census, read_census
from dictpfl.deploy.runs.compared import Comparison
from dictpfl.deploy.runs.run import INSTITUTIONS, Run
from dictpfl.deploy.units import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(run: Run, genesis: Genesis, path: Path) -> None:
    """Write the report of a run."""
    from dictpfl.deploy.reports.plots import kept_by_part, shares_by_block
    from dictpfl.deploy.runs import plots

    metric, best = run.summary["metric"], run.summary.get("best")
    figures = [
        _figure(run.plot_accuracy(),
                f"Test {metric} after each round; it ends at {run.test:.3f}."
                + (f" Ringed: round {best['updates']}, the best by validation." if best and best["test"] is not None else "")),
        _figure(run.plot_bytes(),
                f"Test {metric} against the bytes that one institution sent and received."),
        _figure(run.plot_sent(), "Share of the shared vector that is sent in each round."),
        _figure(run.plot_time(), "Seconds of each phase in each round, mean of the institutions."),
        _figure(plots.sent_by_tensor(run.records, genesis.layout), "Share of each tensor that is sent in each round."),
    ]  # fmt: skip
    census = read_census(run.folder)
    if census:
        figures.append(_figure(plots.classes_by_institution(census), _mixture(census)))
    if sparsity := run.summary.get("sparsity"):
        caption = "Share of entries that stays of each part; boxes are quartiles of its rows, lines reach the least and the fullest row."
        figures.append(_figure(kept_by_part(sparsity["blocks"]), caption))
    if layers := _layers(run.summary.get("tallies", [])):
        solver = genesis.config.tallies.options.get("layerif", {}).get("solver", "exact")
        caption = f"Share of each block in the influence of training samples on validation loss, all institutions together; solver {solver}."
        figures.append(_figure(shares_by_block(layers, "Layers that the task moves"), caption))
    page = template("report.html.j2").render(
        run=run,
        census=census,
        summary=run.summary,
        figures=figures,
        server_view=server_view(run),
        troubles=told(run.summary.get("troubles")),
        warning=below_baseline(run.summary),
        pays_from=pays_from(run.summary),
        exposure=exposure(genesis, sorted((run.folder / INSTITUTIONS).glob("*"))),
        help_against_exposure=HELP,
        measured_on=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_private(path, page.encode())


def _layers(tallies: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Shares of each block by the tally `layerif`, opening and closing, where the summary holds its sums."""
    found = {}
    for tally in tallies:
        sums = {
            name.removeprefix("influence/"): max(0, values[0])
            for name, values in tally.get("sums", {}).items()
            if tally["name"] == "layerif" and name.startswith("influence/")
        }
        if total := sum(sums.values()):
            found[f"influence, {tally['when']}"] = {name: value / total for name, value in sums.items()}
    return found


def _mixture(census: Census) -> str:
    worst = max(census.institutions, key=census.skew)
    return (
        f"Samples of each class at each institution. The largest class has {census.imbalance:.1f} times the samples of the "
        f"smallest; {worst} is furthest from the common mixture ({census.skew(worst):.0%} of its samples would have to be of "
        "another class)."
    )


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the report of several methods on the same data, seeds and rounds; baselines are level lines in its plots."""
    from dictpfl.deploy.runs import plots

    metric, seeds = comparison.metric, comparison.rows[0].seeds
    histories = {row.method: [run.records for run in row.runs] for row in comparison.rows if row.is_federation}
    levels = {row.method: row.test for row in comparison.rows if not row.is_federation}
    each = ", a line a method" + (" and seed" if len(seeds) > 1 else "")
    figures = [
        _figure(
            plots.figure_against_rounds(histories, metric, levels=levels), f"Test {metric} after each round{each}."
        ),
        _figure(plots.figure_against_bytes(histories, metric, levels=levels), f"Test {metric} against bytes{each}."),
    ]
    page = template("compare.html.j2").render(
        comparison=comparison,
        first=next(iter(comparison)),
        seeds=seeds,
        figures=figures if histories else [],
        measured_on=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_private(path, page.encode())


def server_view(run: Run) -> list[tuple[str, str, str]]:
    """List what the coordinator could see of this run, what it was, and whether it depends on data."""
    if run.config.encryption.sealer != "ckks":
        return [("every value of every upload", "sent unencrypted", "YES: this run protects nobody")]
    view = [
        ("who takes part and when", f"{counted(run.config.federation.participants, 'institution')}, their connections"
         + (f"; it asks {run.config.federation.sample} of them a round" if run.config.federation.sample else ""), "no"),
        ("ciphertexts in an upload", _range([r.ciphertexts for r in run.records]),
         "only through the aggregate, which decides what is pruned"),
        ("bytes of an upload", _range([r.bytes_up for r in run.records]), "follows from the number of ciphertexts"),
        ("keyed digests of shared state", "32 random-looking bytes a round", "no: the key is not there"),
        ("sample counts, losses, accuracies", "inside the ciphertexts", "not visible"),
    ]  # fmt: skip
    if tallies := run.summary.get("tallies", []):
        names = ", ".join(f"{tally['name']} ({tally['when']})" for tally in tallies)
        view.append(("rounds of scores before the first update and after the last", f"sealed tallies: {names}; which, it is not told",
                     "no: their number and size are agreed on before round 1"))  # fmt: skip
    if run.config.selection.patience:
        when = f"after {run.summary['rounds']} of {counted(run.config.federation.rounds, 'round')}"
        view.append(("when institutions stop", when, "only through the validation figure of all of them together"))
    if run.config.encryption.sealed_share < 1.0:
        clear = 1.0 - run.config.encryption.sealed_share
        view.insert(0, (f"{clear:.0%} of every update's values", "sent unencrypted", "YES: this run leaks"))
    return view


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _figure(figure: Figure, caption: str) -> dict[str, str]:
    from dictpfl.deploy.runs.plots import svg

    return {"svg": svg(figure), "caption": caption}
