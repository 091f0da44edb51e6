"""`dictpfl describe`: what a configuration means, before it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dictpfl.deploy import console
from dictpfl.deploy.extras import require
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import human_bytes, human_count, human_seconds

commands = typer.Typer()


@commands.command(rich_help_panel="Begin")
def describe(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration; `dictpfl init` writes one.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as decomposition.rank=2."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Show what each parameter becomes and why, and what a round costs in bytes, memory and time; nothing is run.

    Example: `dictpfl describe federation.toml --set decomposition.rank=8`
    """
    require("simulation", "describe")
    use_working_directory()
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.describe.description import describe as made

    checked = FederationConfig.load(config, overrides(set_))
    found = made(checked)
    if as_json:
        console.say(json.dumps(found.facts() | {"insecure": list(checked.insecurities)}, indent=1))
        return
    table = console.table()
    for heading in ("parameter", "shape", "values", "becomes", "sent", "bytes", "why"):
        table.add_column(
            heading, justify="right" if heading in ("values", "sent", "bytes") else "left", overflow="fold"
        )
    for row in found.rows:
        shape = " x ".join(map(str, row.shape))
        sent = (human_count(row.shared), human_bytes(row.bytes)) if row.shared else ("-", "-")
        table.add_row(row.name, shape, human_count(row.values), row.role, *sent, row.why)
    console.out.print(table, highlight=False)
    facts = console.table()
    facts.show_header = facts.pad_edge = False
    counts = found.facts()["values"]
    opening, closing = (
        f"a round each for {', '.join(names)}, sealed" if names else "nothing"
        for names in (found.statistics, found.closing)
    )
    for line in (
        ("values", f"{human_count(counts['model'])} in the model, {human_count(counts['shared'])} shared"),
        ("bytes up a round", f"{human_bytes(found.upload)} at most, {human_bytes(found.first)} in the first; in clear, the whole model: "
                             f"{human_bytes(found.plaintext)}"),
        ("institutions", f"{found.parties}, {found.samples} training samples each on average, of shape "
                         f"{'x'.join(map(str, found.sample_shape))}, {found.outputs} outputs"),
        ("memory", f"about {human_bytes(found.memory)} an institution, without activations and libraries"),
        ("time", f"about {human_seconds(found.train_seconds)} of training and {human_seconds(found.seal_seconds)} of sealing a round, on "
                 "this machine"),
        ("before round 1", opening),
        ("after the last", closing),
    ):  # fmt: skip
        facts.add_row(*line)
    for column in facts.columns:
        column.justify = "left"
    console.out.print(facts, highlight=False, soft_wrap=True)
    console.warn_insecure(checked.insecurities)
    console.remark(found.warnings)
