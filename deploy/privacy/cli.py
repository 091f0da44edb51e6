"""`dictpfl attack`: what can be read off the wire, method by method."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import ConfigError
from deploy.overrides import overrides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.privacy.results import Family, Finding, Interval, PrivacyResults

_READING: tuple[Family, ...] = ("labels", "inversion")
_SHOWN = ("batch", "institutions", "words", "rank", "runs", "worlds")
_COLOURS = {"succeeds": ("red", "!"), "better than blind": ("yellow", "+"), "no better than blind": ("green", " ")}
BROKEN = 3
"""Exit status where an attack does not work even on plaintext."""


def attack(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG.toml", help="Such as experiments/privacy_digits.toml; a step of SGD a round."),
    ],
    methods: Annotated[
        str, typer.Option(help="What to attack, separated by commas; `all` for everything. Plaintext is always there.")
    ] = "",
    batches: Annotated[str, typer.Option(help="Samples of a local step, separated by commas.")] = "1",
    victims: Annotated[int, typer.Option(min=1, help="Most institutions attacked in each run.")] = 4,
    parts: Annotated[
        str,
        typer.Option(
            help="What to try besides inversion: collusion, membership, property, tokens, sums; and, taking longer, "
            "all-sums, worlds, times. `none` for nothing."
        ),
    ] = "collusion,membership,property,tokens,sums",
    effort: Annotated[float, typer.Option(min=0.01, help="Factor on the iterations of inversion.")] = 1.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default runs/NAME-attack. An earlier attack is replaced.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the attacked runs, keys included, in --out.")] = False,  # noqa: FBT002
) -> None:
    """Attack every method on the bytes of a real run; a table, pictures and privacy.json.

    Exit status 3: an attack does not work even on plaintext, so that nothing it found means anything.
    """
    from common.config import FederationConfig
    from deploy.privacy.attack import DEFAULT, Settings, harder
    from deploy.privacy.attack import attack as run_attack
    from deploy.privacy.inversion import Effort
    from deploy.privacy.results import PICTURES
    from deploy.privacy.subjects import SUBJECTS

    console = Console()
    console = console if console.is_terminal else Console(width=max(160, console.width))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    changed = overrides(set_)
    names = list(SUBJECTS) if methods == "all" else [m.strip() for m in methods.split(",") if m.strip()] or DEFAULT
    wanted = [] if parts == "none" else [part.strip() for part in parts.split(",") if part.strip()]
    settings = Settings(
        parts=wanted,
        methods=names,
        batches=_numbers(batches),
        victims=victims,
        effort=harder(Effort(), effort),
        keep=keep,
    )
    folder = out or Path("runs") / f"{FederationConfig.load(config, changed).name}-attack"

    def tell(finding: Finding) -> None:
        batch = f", batch {finding.setting['batch']}" if "batch" in finding.setting else ""
        console.print(f"{finding.method}: {finding.attack}{batch}: {finding.verdict}", highlight=False)

    results = run_attack(config, folder, settings, overrides=changed, on_finding=tell)
    show(console, results)
    console.print(f"results {folder / 'privacy.json'}", soft_wrap=True, highlight=False)
    if results.overview:
        console.print(f"picture {folder / PICTURES / results.overview}", soft_wrap=True, highlight=False)
    if results.broken:
        names_of = ", ".join(f"{c.attack} ({c.metric} {c.found:.2f}, required {c.required:g})" for c in results.broken)
        console.print(f"[bold red]BROKEN[/] on plaintext: {names_of}. What these found elsewhere means nothing.")
        raise typer.Exit(BROKEN)


def show(console: Console, results: PrivacyResults) -> None:
    """Print what was found: one institution's update, attack by method; then the rest, a table for each kind of attack."""
    from deploy.privacy.results import TITLES

    reading = results.of(*_READING)
    for batch in sorted({int(f.setting["batch"]) for f in reading}):
        console.print(matrix([f for f in reading if f.setting["batch"] == batch], batch))
    console.print(Text.assemble("  ", *(part for v in _COLOURS for part in (_marked(v, v), "   "))), "")
    rest = [f for f in results.findings if f.family not in _READING]
    for family in dict.fromkeys(f.family for f in rest):
        console.print(listing(TITLES.get(family, family), [f for f in rest if f.family == family]), "")
    if results.detections:
        table = _table("What cheating gets away with")
        for heading in ("attempt", "by", "outcome", "noticed by"):
            table.add_column(heading)
        for d in results.detections:
            table.add_row(d.attack, d.adversary, d.outcome, d.by or "-")
        console.print(table, "")
    if results.checks:
        table = _table("Where nothing is encrypted")
        for heading in ("attack", "measure", "required", "reached"):
            table.add_column(heading, justify="right" if heading in ("required", "reached") else "left")
        for c in results.checks:
            table.add_row(c.attack, c.metric, f"{c.required:g}", f"{c.found:.2f}" + ("" if c.met else " BROKEN"))
        console.print(table, "")


def matrix(findings: Sequence[Finding], batch: int) -> Table:
    """Methods by attacks at one batch."""
    attacks = list(dict.fromkeys((f.attack, f.metric) for f in findings))
    table = _table(f"One institution's update, batch {batch}: found, and its 95 % interval")
    table.add_column("method")
    for attack, metric in attacks:
        table.add_column(f"{attack}\n{metric}", no_wrap=True)
    for method in dict.fromkeys(f.method for f in findings):
        cells = {(f.attack, f.metric): _marked(f.verdict, ranged(f.found)) for f in findings if f.method == method}
        table.add_row(method, *(cells.get(attack, Text("-")) for attack in attacks))
    return table


def listing(title: str, findings: Sequence[Finding]) -> Table:
    """Findings line by line."""
    table = _table(f"{title} ({', '.join(dict.fromkeys(f.metric for f in findings))})")
    for heading in ("attack", "method", "setting", "by", "found", "blind guess"):
        table.add_column(heading, no_wrap=heading in ("found", "blind guess"))
    for f in sorted(findings, key=lambda f: f.attack):
        setting = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                            for key, value in f.setting.items() if key in _SHOWN)  # fmt: skip
        table.add_row(f.attack, f.method, setting, f.adversary, _marked(f.verdict, ranged(f.found)), ranged(f.blind))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def _marked(verdict: str, text: str) -> Text:
    """Coloured, and with a sign where there are no colours."""
    colour, sign = _COLOURS.get(verdict, ("", " "))
    return Text(f"{sign} {text}", style=colour)


def ranged(interval: Interval) -> str:
    """A figure with its 95 % interval."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("[", "(").replace("]", ")")


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"--batches {text!r}: expected whole numbers from 1 on, such as 1,4")
    return found
