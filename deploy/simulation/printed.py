"""Results of a run, and of several, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dictpfl.deploy import console
from dictpfl.deploy.units import counted, human_bytes, human_count, human_factor, human_seconds, listed

if TYPE_CHECKING:
    from dictpfl.deploy.runs.compared import Comparison


_KINDS = {
    "table": "in tables",
    "dense": "as they are",
    "statistic": "statistics",
    "gate": "gates",
    "threshold": "thresholds",
}


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print what a run reached, and a warning where that is no better than a trivial baseline."""
    from dictpfl.deploy.reports.troubles import below_baseline, told

    values, size, seconds = summary["values"], summary["bytes"], summary["seconds"]
    crypto = seconds["seal"] + seconds["fold"] + seconds["open"]
    table = console.table()
    table.show_header = table.pad_edge = False
    table.add_column()
    table.add_column(overflow="fold")  # digests are compared to their end, on terminals of 80 columns, too
    rows = [
        ("method", f"{summary['method']}, {'encrypted' if summary['encrypted'] else 'NOT (fully) ENCRYPTED'}"),
        (f"test {summary['metric']}", f"{summary['test']:.4f} after {counted(summary['rounds'], 'round')}"),
        ("bytes", f"{human_bytes(size['up'])} up, {human_bytes(size['down'])} down, one institution, all rounds"
                  + _fewer_bytes(summary)),
        ("values", f"{human_count(values['model'])} in the model, {human_count(values['shared'])} shared, "
                   f"{human_count(values['sent'])} sent in all"),
        ("fewer values", f"{human_factor(summary['reduction']['values'])} (decomposition "
                         f"{human_factor(summary['reduction']['decomposition'])}, pruning "
                         f"{human_factor(summary['reduction']['pruning'])}{_besides(summary)})"),
        ("time", f"{human_seconds(seconds['total'])}; training {human_seconds(seconds['train'])} an institution, "
                 f"seal, fold and open {human_seconds(crypto)}"),
        *_devices_row(summary),
        *_privacy_row(summary),
        *_masks_row(summary),
        ("state digest", summary["state_digest"]),
        ("model sha256", summary["model_sha256"]),
    ]  # fmt: skip
    for split, figures in summary.get("metrics", {}).items():  # runs of earlier releases have none
        for metric, own in figures.items():
            rows.insert(-2, (f"{split} {metric}", listed(own)))
    if groups := summary.get("test_by_group"):  # runs of earlier releases have none
        each = ", ".join(f"{name} {group['figure']:.4f}" for name, group in groups.items())
        rows.insert(2, ("by institution", f"{summary['test_mean_of_groups']:.4f} on average: {each}"))
    if summary.get("sample"):
        asked = f"{summary['sample']} of {summary['participants']} institutions a round; bytes are of one that is asked in each"
        rows.insert(1, ("sample", asked))
    if baseline := summary.get("baseline"):  # runs of earlier releases have none
        rows.insert(2, ("baseline", f"{baseline['figure']:.4f} by {baseline['what']}"))
    best = summary.get("best")
    if best:
        reached = "" if best["test"] is None else f", test {summary['metric']} {best['test']:.4f}"
        stop = "; stopped early" if summary["stopped"] else ""
        rows.insert(
            2, ("best by validation", f"{best['figure']:.4f} after {counted(best['updates'], 'round')}{reached}{stop}")
        )
    if trained := summary.get("trained"):  # runs of earlier releases have none
        kinds = ", ".join(f"{human_count(n)} {_KINDS[kind]}" for kind, n in trained["values"].items() if n)
        rows.insert(1, ("trained, shared", f"{kinds}; head {trained['head']}"))
    for row in (*rows, *told(summary.get("troubles"))):
        table.add_row(*row)
    console.out.print(table, highlight=False, soft_wrap=True)
    if warning := below_baseline(summary):
        console.warn(warning)


def _besides(summary: Mapping[str, Any]) -> str:
    """Say what was sent beside updates; runs of earlier releases do not say."""
    factor = summary["reduction"].get("scores", 1.0)
    return "" if factor == 1.0 else f", scores and tallies {human_factor(factor)}"


def _fewer_bytes(summary: Mapping[str, Any]) -> str:
    """Compare with all parameters in clear; runs of earlier releases do not say."""
    from dictpfl.deploy.reports.troubles import pays_from

    factor = summary["reduction"].get("bytes")
    if not factor:
        return ""
    if factor >= 1:
        return f"; up, {human_factor(factor)} fewer than all parameters as float32"
    return f"; up, {human_factor(1 / factor)} MORE than all parameters as float32: {pays_from(summary)}"


def _devices_row(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = summary.get("devices")  # runs of earlier releases have none
    if not said:
        return []
    each = (
        f"{name}: {counted(n['institutions'], 'institution')}, {counted(n['rounds'], 'round')}"
        for name, n in said.items()
    )
    return [("trained on", "; ".join(each))]


def _privacy_row(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not (account := summary.get("privacy")):  # runs of earlier releases have none
        return []
    whom = "each training sample" if account["mechanism"] == "example" else "each institution"
    limit = f", {account['limit']:g} allowed" if account["limit"] else ", no limit"
    return [("privacy spent", f"epsilon {account['epsilon']:.3f} at delta {account['delta']:g}, of {whom}{limit}")]


def _masks_row(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = summary.get("sparsity")
    if not said:
        return []
    return [
        ("entries kept", f"{human_count(said['kept'])} of {human_count(said['entries'])}; masks {said['masks_sha256']}")
    ]


def print_comparison(compared: Comparison) -> None:
    """Print one line a method, federations and baselines."""
    from rich.text import Text

    table = console.table(title="one institution, all rounds")
    table.add_column("method", no_wrap=True)
    table.add_column("uploads", no_wrap=True)
    for heading in (compared.metric, "up", "down", "values sent", "training", "crypto"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in compared.rows:
        bounds = row.interval or row.of_samples
        spread = f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
        if not row.is_federation:
            table.add_row(row.method, "no federation", f"{row.test:.4f}{spread}", *["-"] * 5)
            continue
        crypto = sum(row.mean("seconds", phase) for phase in ("seal", "fold", "open"))
        table.add_row(
            row.method, Text("INSECURE", style="red") if row.runs[0].summary["insecure"] else "encrypted", f"{row.test:.4f}{spread}",
            human_bytes(row.mean("bytes", "up")), human_bytes(row.mean("bytes", "down")), human_count(row.mean("values", "sent")),
            human_seconds(row.mean("seconds", "train")), human_seconds(crypto),
        )  # fmt: skip
    console.out.print(table)
    over = len(compared.rows[0].seeds)
    means = f"; means of {over} seeds, in brackets where that lies at 95 % confidence" if over > 1 else ""
    console.out.print(
        f"{compared.metric} on the test split{means}; crypto: seal, fold and open; plaintext sends four bytes a value, as float32",
        markup=False,
    )
    if compared.caution:
        console.out.print(compared.caution, markup=False, highlight=False)
    for name, what in compared.baselines.items():
        console.say(f"{name}: {what}")
