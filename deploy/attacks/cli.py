"""`dictpfl attack`: tries what can be read of data, method by method, and checks what holds ciphertexts."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console as terminal
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.attacks.defaults import DEFAULT_ATTACKS, DEFAULT_PARTS
from dictpfl.deploy.extras import require
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dictpfl.deploy.attacks.results import CiphertextCheck, Family, Finding, Interval, PrivacyResults

commands = typer.Typer()

_READING: tuple[Family, ...] = ("labels", "inversion")
_SHOWN = ("batch", "institutions", "words", "rank", "runs", "worlds", "samples", "rounds", "members")
_COLOURS = {
    "succeeds": ("red", "!"),
    "better than blind": ("yellow", "+"),
    "no better than blind": ("green", " "),
    "not measured": ("", "?"),
}
_VERDICTS = {"FAILED": ("red", "!"), "cannot tell": ("yellow", "?"), "ok": ("green", " ")}
_WIDTH = 160
"""Columns of the tables where there is no terminal to ask."""
BROKEN = 3
"""Exit status where an attack does not work even on plaintext."""
WRONG = 4
"""Exit status where a check of ciphertexts failed, whatever else is wrong."""


@commands.command(rich_help_panel="Simulate")
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
    attacks: Annotated[
        str,
        typer.Option(
            help="Attacks on one institution's update, of each method that leaves values readable: labels, closed-form, dlg, idlg, cosine, "
            "cosine-labels-known, the name of an installed plug-in, or `package.module:name`. `none` for nothing."
        ),
    ] = ",".join(DEFAULT_ATTACKS),
    parts: Annotated[
        str,
        typer.Option(
            help="Attacks that run federations of their own: collusion, membership, property, tokens, sums, rounds, "
            "tallies, thresholds; and, taking longer, all-sums, worlds, times. `none` for nothing."
        ),
    ] = ",".join(DEFAULT_PARTS),
    effort: Annotated[float, typer.Option(min=0.01, help="Factor on the iterations of inversion.")] = 1.0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(*OUT, help="Folder; default runs/NAME-attack. An earlier attack is replaced.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the attacked runs, keys included, in --out.")] = False,  # noqa: FBT002
) -> None:
    """Attack the data of every method that leaves some readable, and check the ciphertexts of those that encrypt all.

    Each method is a real run; results are tables, pictures and privacy.json. Exit status 3: an attack does not work even on
    plaintext, so that nothing it found means anything. 4: a check of ciphertexts failed, so that encryption is wrong, whatever attacks did.

    Example: `dictpfl attack federation.toml --set training.optimizer=sgd --set training.steps=1 --out runs/attack`
    """
    require("simulation", "attack")
    use_working_directory()
    import structlog

    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.attacks.attack import DEFAULT, Settings, harder
    from dictpfl.deploy.attacks.attack import attack as run_attack
    from dictpfl.deploy.attacks.inversion import Effort
    from dictpfl.deploy.attacks.methods import SUBJECTS
    from dictpfl.deploy.attacks.results import PICTURES
    from dictpfl.deploy.runs.run import folder_of

    console = terminal.console(width=_WIDTH)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    changed = overrides(set_)
    names = list(SUBJECTS) if methods == "all" else _names(methods) if methods else DEFAULT
    if not names:
        raise ConfigError(f"--methods {methods!r} names none; expected some of {', '.join(SUBJECTS)}, or `all`")
    settings = Settings(
        attacks=_names(attacks),
        parts=_names(parts),
        methods=names,
        batches=_numbers(batches),
        victims=victims,
        effort=harder(Effort(), effort),
        keep=keep,
    )
    folder = out or folder_of(FederationConfig.load(config, changed).name, "attack")

    def tell(finding: Finding) -> None:
        batch = f", batch {finding.setting['batch']}" if "batch" in finding.setting else ""
        console.print(f"{finding.method}: {finding.attack}{batch}: {finding.verdict}", highlight=False, markup=False)

    results = run_attack(config, folder, settings, overrides=changed, on_finding=tell)
    show(console, results)
    if results.skipped:
        console.print(f"Not tried: {'; '.join(results.skipped)}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"results {folder / 'privacy.json'}", soft_wrap=True, highlight=False, markup=False)
    if results.overview:
        console.print(f"picture {folder / PICTURES / results.overview}", soft_wrap=True, highlight=False, markup=False)
    if results.broken:
        names_of = ", ".join(f"{c.attack} ({c.metric} {c.found:.2f}, required {c.required:g})" for c in results.broken)
        console.print(f"[bold red]BROKEN[/] on plaintext: {names_of}. What these found elsewhere means nothing.")
    if results.wrong:
        wrong = "; ".join(f"{c.method}: {c.what}: {c.detail}" for c in results.wrong)
        console.print(f"[bold red]WRONG[/] encryption: {wrong}", highlight=False)
    if results.broken or results.wrong:
        raise typer.Exit(WRONG if results.wrong else BROKEN)


def show(console: Console, results: PrivacyResults) -> None:
    """Print attacks on data, one institution's update by method and the rest by kind; then checks of ciphertexts."""
    from rich.text import Text

    from dictpfl.deploy.attacks.results import TITLES

    console.print("Attacks on data: where values are readable", "", style="bold")
    reading = results.of(*_READING)
    for batch in sorted({int(f.setting["batch"]) for f in reading}):
        console.print(matrix([f for f in reading if f.setting["batch"] == batch], batch))
    console.print(Text.assemble("  ", *(part for v in _COLOURS for part in (_marked(v, v), "   "))), "")
    rest = [f for f in results.findings if f.family not in _READING]
    for family in dict.fromkeys(f.family for f in rest):
        console.print(listing(TITLES.get(family, family), [f for f in rest if f.family == family]), "")
    if results.checks:
        table = _table("Where nothing is encrypted")
        for heading in ("attack", "measure", "required", "reached"):
            table.add_column(heading, justify="right" if heading in ("required", "reached") else "left")
        for c in results.checks:
            table.add_row(c.attack, c.metric, f"{c.required:g}", f"{c.found:.2f}" + ("" if c.met else " BROKEN"))
        console.print(table, "")
    console.print("Ciphertexts: checks that fail when encryption is wrong", "", style="bold")
    if results.ciphertexts:
        console.print(topics(results.ciphertexts), "")
    else:
        console.print("Not checked: no method that encrypts everything was asked for.", "")
    if results.detections:
        table = _table("What cheating gets away with")
        for heading in ("attempt", "by", "outcome", "noticed by"):
            table.add_column(heading)
        for d in results.detections:
            table.add_row(d.attack, d.adversary, d.outcome, d.by or "-")
        console.print(table, "")


def topics(checks: Sequence[CiphertextCheck]) -> Table:
    """Tabulate checks of ciphertexts: topics by methods, and what each topic cannot see."""
    from rich.text import Text

    from dictpfl.deploy.attacks.ciphertexts import summary, topic_of

    methods = list(dict.fromkeys(c.method for c in checks))
    table = _table("Lines of the audit of a recorded run without fault, of all lines")
    table.add_column("check", no_wrap=True)
    for method in methods:
        table.add_column(method)
    table.add_column("cannot see", overflow="fold")
    for name in dict.fromkeys(c.topic for c in checks):
        lines = [c for c in checks if c.topic == name]
        cells = (summary([c for c in lines if c.method == method]) for method in methods)
        table.add_row(name, *(_marked(verdict, text) for verdict, text in cells), Text(topic_of(lines[0].what).unseen))
    return table


def matrix(findings: Sequence[Finding], batch: int) -> Table:
    """Tabulate methods by attacks at one batch."""
    from rich.text import Text

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
    """Tabulate findings line by line."""
    table = _table(f"{title} ({', '.join(dict.fromkeys(f.metric for f in findings))})")
    for heading in ("attack", "method", "setting", "by", "found", "blind guess"):
        table.add_column(heading, no_wrap=heading in ("found", "blind guess"))
    for f in sorted(findings, key=lambda f: f.attack):
        setting = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                            for key, value in f.setting.items() if key in _SHOWN)  # fmt: skip
        table.add_row(f.attack, f.method, setting, f.adversary, _marked(f.verdict, ranged(f.found)), ranged(f.blind))
    return table


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def _marked(verdict: str, text: str) -> Text:
    """Colour a text, and put a sign before it where there are no colours."""
    from rich.text import Text

    colour, sign = (_COLOURS | _VERDICTS).get(verdict, ("", " "))
    return Text(f"{sign} {text}", style=colour)


def ranged(interval: Interval) -> str:
    """Write a figure with its 95 % interval."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("[", "(").replace("]", ")")


def _names(text: str) -> list[str]:
    """Split at commas; `none` is nothing."""
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"--batches {text!r}: expected whole numbers from 1 on, such as 1,4")
    return numbers
