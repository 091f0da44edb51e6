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

from common.errors import ConfigError
from deploy.overrides import overrides

if TYPE_CHECKING:
    from deploy.privacy.results import Finding, Interval, PrivacyResults

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
    from deploy.privacy.subjects import SUBJECTS

    console = Console()
    console = console if console.is_terminal else Console(width=max(140, console.width))
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
    if results.broken:
        names_of = ", ".join(f"{c.attack} ({c.metric} {c.found:.2f}, required {c.required:g})" for c in results.broken)
        console.print(f"[bold red]BROKEN[/] on plaintext: {names_of}. What these found elsewhere means nothing.")
        raise typer.Exit(BROKEN)


def show(console: Console, results: PrivacyResults) -> None:
    """Print what was found, attack by method."""
    table = Table(title="what attackers found", title_justify="left", box=None)
    for heading in ("attack", "method", "batch", "by", "metric", "found", "blind guess", "verdict"):
        table.add_column(heading, no_wrap=True)
    colours = {"succeeds": "red", "better than blind": "yellow", "no better than blind": "green"}
    for f in sorted(results.findings, key=lambda f: (f.family, f.attack, int(f.setting.get("batch", 0)))):
        table.add_row(
            f.attack, f.method, str(f.setting.get("batch", "-")), f.adversary, f.metric, ranged(f.found), ranged(f.blind),
            f"[{colours.get(f.verdict, 'white')}]{f.verdict}[/]",
        )  # fmt: skip
    console.print(table)
    if results.detections:
        table = Table(title="what cheating gets away with", title_justify="left", box=None)
        for heading in ("by", "attempt", "outcome", "noticed by"):
            table.add_column(heading, no_wrap=True)
        for d in results.detections:
            table.add_row(d.adversary, d.attack, d.outcome, d.by or "-")
        console.print(table)


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
