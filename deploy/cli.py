"""The command line: what people run."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table

from common.config import FederationConfig
from common.errors import ConfigError, DictPFLError
from common.presets import METHODS
from deploy.ceremony import cli as ceremony
from deploy.exports import cli as exports
from deploy.operations import cli as operations
from deploy.overrides import overrides as _parsed
from deploy.privacy import cli as privacy
from deploy.review import cli as review
from deploy.units import human_bytes, human_count, human_factor, human_seconds, percent

app = typer.Typer(
    name="dictpfl",
    help="Federated fine-tuning on encrypted updates: decomposed, pruned by history, added under CKKS without a key.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(ceremony.authority, name="authority")
app.add_typer(ceremony.institution, name="institution")
app.add_typer(ceremony.audit, name="audit")
app.add_typer(operations.commands)
app.command()(exports.personalise)
app.command()(privacy.attack)
app.command()(review.report)
_PIPE_WIDTH = 120
"""Columns where there is no terminal to ask."""


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=max(_PIPE_WIDTH, console.width))


_out, _err = _console(), _console(stderr=True)


class EngineName(StrEnum):
    """What runs the apps."""

    FLOWER = "flower"
    LOCAL = "local"


class SealerName(StrEnum):
    """How uploads are sealed."""

    CKKS = "ckks"
    IDENTITY = "identity"


class ExportName(StrEnum):
    """What an export looks like."""

    SAFETENSORS = "safetensors"
    MERGED = "merged"
    PEFT = "peft"


class CheckpointName(StrEnum):
    """Which round's model."""

    LAST = "last"
    BEST = "best"


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration; `dictpfl init` writes one.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as training.epochs=2.")
]
EngineOption = Annotated[EngineName, typer.Option(help="flower: Flower's simulation runtime; local: one process.")]
CheckpointOption = Annotated[
    CheckpointName, typer.Option(help="last: the newest model; best: the one with the best validation figure.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what coordinator and institutions do.")]


@app.command()
def simulate(
    config: ConfigFile,
    set_: Overrides = None,
    method: Annotated[str | None, typer.Option(help="A preset: " + ", ".join(METHODS) + ".")] = None,
    sealer: Annotated[SealerName | None, typer.Option(help="identity encrypts nothing, for comparison.")] = None,
    engine: EngineOption = EngineName.FLOWER,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME-METHOD.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was stopped in --out.")] = False,  # noqa: FBT002
    record: Annotated[bool, typer.Option("--record", help="Keep every upload as the coordinator sees it.")] = False,  # noqa: FBT002
    verbose: Verbose = False,  # noqa: FBT002
) -> None:
    """Simulate a federation on this machine, encrypted end to end, and write a report."""
    from deploy.progress import LiveProgress
    from deploy.simulation import simulate as run_simulation

    _logging(verbose=verbose)
    checked = FederationConfig.load(config, _overrides(set_, method, sealer))
    _warn(checked)
    folder = out or _free_folder(Path("runs") / f"{checked.name}-{checked.method}", resume=resume)
    title = f"{checked.name} ({checked.method})"
    with LiveProgress(_out, title, checked.federation.rounds, verbose=verbose) as progress:
        run = run_simulation(
            checked,
            folder,
            engine=engine.value,
            resume=resume,
            record=record,
            on_round=progress.closed,
            on_founded=progress.founded,
        )
    _print_summary(run.summary)
    _out.print(f"report  {run.folder / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def compare(
    config: ConfigFile,
    methods: Annotated[str, typer.Option(help="Presets, separated by commas.")] = "plaintext,fedhe-full,dictpfl",
    set_: Overrides = None,
    engine: EngineOption = EngineName.FLOWER,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/NAME-compare.")] = None,
    verbose: Verbose = False,  # noqa: FBT002
) -> None:
    """Run several methods on the same data, seed and rounds; print a table, write plots."""
    from deploy.comparison import compare as run_comparison
    from deploy.comparison import configurations
    from deploy.progress import LiveProgress

    _logging(verbose=verbose)
    configs = configurations(config, [m.strip() for m in methods.split(",") if m.strip()], _overrides(set_))
    first = next(iter(configs.values()))
    folder = out or _free_folder(Path("runs") / f"{first.name}-compare", resume=False)

    def watch(config: FederationConfig) -> LiveProgress:
        return LiveProgress(_out, f"{config.name} ({config.method})", config.federation.rounds, verbose=verbose)

    runs = run_comparison(configs, folder, engine=engine.value, watch=watch)
    _print_comparison([run.summary for run in runs])
    _out.print(f"report  {folder.resolve() / 'compare.html'}", soft_wrap=True, highlight=False)
    for run in runs:
        _out.print(f"        {run.folder / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def inspect(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")]) -> None:
    """Show what a run reached and what crossed the wire."""
    from deploy.run import Run

    run = Run.load(folder)
    _print_summary(run.summary)
    table = Table(title="rounds", title_justify="left", box=None)
    for heading in ("round", "kind", "in the sum", "sent", "ciphertexts", "up", "down", "test", "validation"):
        table.add_column(heading, justify="right")
    for r in run.history:
        table.add_row(
            str(r.round), r.kind, str(r.contributors), human_count(r.sent), str(r.ciphertexts), human_bytes(r.bytes_up),
            human_bytes(r.bytes_down), percent(r.accuracy), percent(r.validation_accuracy),
        )  # fmt: skip
    _out.print(table)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, or an institution's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File (safetensors) or new folder to write.")],
    format_: Annotated[
        ExportName,
        typer.Option(
            "--format",
            help="safetensors: the merged model (W0 + D T) in one file; merged: a folder that transformers or timm loads; "
            "peft: a LoRA adapter.",
        ),
    ] = ExportName.SAFETENSORS,
    checkpoint: CheckpointOption = CheckpointName.LAST,
) -> None:
    """Write the model for use without dictpfl: merged under its original names, or as an adapter of its base."""
    if format_ is not ExportName.SAFETENSORS:
        from deploy.exports.exporter import export_adapter, export_merged
        from deploy.exports.finished import Finished

        finished = Finished.load(folder, checkpoint.value)
        if format_ is ExportName.MERGED:
            export_merged(finished, output)
            _out.print(f"{output}  merged model", soft_wrap=True, highlight=False)
        else:
            base = export_adapter(finished, output)
            _out.print(f"{output}  adapter for {base}", soft_wrap=True, highlight=False)
        return
    from client.site import SITE
    from deploy.run import Run, sha256_of

    if (folder / SITE).exists():
        from deploy.operations.model import write_model

        _out.print(f"{output}  {write_model(folder, output, checkpoint.value)}", soft_wrap=True, highlight=False)
        return
    if checkpoint is CheckpointName.BEST:
        from deploy.exports.exporter import export_safetensors
        from deploy.exports.finished import Finished

        updates = export_safetensors(Finished.load(folder, "best"), output)
        _out.print(f"{output}  after {updates} updates, sha256 {sha256_of(output)}", soft_wrap=True, highlight=False)
        return
    run = Run.load(folder)
    if sha256_of(run.model_path) != run.summary["model_sha256"]:
        raise ConfigError(
            f"{run.model_path} does not match the run's summary; it was altered. Run the simulation again"
        )
    output.write_bytes(run.model_path.read_bytes())
    _out.print(f"{output}  sha256 {run.summary['model_sha256']}", soft_wrap=True, highlight=False)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, or an institution's folder.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="An .npz of samples, or a file or folder of the federation's own data.source. Default: the test split of "
            "a run, the validation split of an institution."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of [data].")
    ] = None,
    checkpoint: CheckpointOption = CheckpointName.LAST,
) -> None:
    """Measure the federation's model on data of your own; nothing leaves this machine."""
    from deploy.exports.evaluation import evaluate_on

    found = evaluate_on(folder, data, _overrides(set_), checkpoint.value)
    _out.print(
        f"{found.metric_name} {found.metric:.4f}  loss {found.loss:.4f}  samples {found.samples}", highlight=False
    )
    if not found.recall:
        return
    table = Table(box=None)
    for heading in ("class", "samples", "recognised"):
        table.add_column(heading, justify="right")
    for number, (count, share) in found.recall.items():
        name = found.names[number] if number < len(found.names) else str(number)
        table.add_row(name, str(count), percent(share))
    _out.print(table)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="CONFIG.toml")] = Path("federation.toml"),
) -> None:
    """Write a commented configuration to start from."""
    from deploy.reference import commented_toml

    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; name another file")
    path.write_text(commented_toml(), encoding="utf-8")
    _out.print(f"{path} written; `dictpfl simulate {path}` runs it", soft_wrap=True, highlight=False)


@app.command()
def doctor(
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Check a party's folder of a deployment as well.")
    ] = None,
) -> None:
    """Check this machine: versions, processors, CKKS, Flower; exit code 1 if something needed is missing."""
    from deploy.doctor import checks, deployment_checks

    table, failed = Table(box=None), False
    for heading in ("", "check", "found"):
        table.add_column(heading)
    for check in [*checks(), *(deployment_checks(folder) if folder is not None else ())]:
        failed |= check.ok is False
        mark = {True: "[green]ok[/]", False: "[red]FAIL[/]", None: "[yellow]note[/]"}[check.ok]
        table.add_row(mark, check.name, check.found)
    _out.print(table)
    if failed:
        raise typer.Exit(1)


def _overrides(pairs: list[str] | None, method: str | None = None, sealer: SealerName | None = None) -> dict[str, Any]:
    """Dotted overrides from the command line; values are read as TOML, and as text where that fails."""
    found = _parsed(pairs)
    if method:
        found["method"] = method
    if sealer:
        found["encryption.sealer"] = sealer.value
    if method in ("plaintext", "fedml-he") or sealer is SealerName.IDENTITY:
        # Asked for by name on this command line, for a simulation: admitted, and said loudly.
        found["toy_insecure"] = True
    return found


def _free_folder(wanted: Path, *, resume: bool) -> Path:
    """The folder, or the first free one with a number behind it."""
    if resume:
        return wanted
    number, folder = 2, wanted
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder


def _warn(config: FederationConfig) -> None:
    for reason in config.insecurities:
        _err.print(f"[bold red]INSECURE[/] (toy_insecure): {reason}", soft_wrap=True)


def _print_summary(summary: Mapping[str, Any]) -> None:
    values, size, seconds = summary["values"], summary["bytes"], summary["seconds"]
    crypto = seconds["seal"] + seconds["fold"] + seconds["open"]
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = [
        ("method", f"{summary['method']}, {'encrypted' if summary['encrypted'] else 'NOT (fully) ENCRYPTED'}"),
        (f"test {summary['metric']}", f"{summary['accuracy']:.4f} after {summary['rounds']} rounds"),
        ("values", f"{human_count(values['model'])} in the model, {human_count(values['shared'])} shared, "
                   f"{human_count(values['sent'])} sent in all"),
        ("fewer values", f"{human_factor(summary['reduction']['values'])} (decomposition "
                         f"{human_factor(summary['reduction']['decomposition'])}, pruning "
                         f"{human_factor(summary['reduction']['pruning'])})"),
        ("bytes", f"{human_bytes(size['up'])} up, {human_bytes(size['down'])} down, one institution, all rounds"),
        ("time", f"{human_seconds(seconds['total'])}; training {human_seconds(seconds['train'])} an institution, "
                 f"seal, fold and open {human_seconds(crypto)}"),
        ("state digest", summary["state_digest"]),
        ("model sha256", summary["model_sha256"]),
    ]  # fmt: skip
    best = summary.get("best")  # runs of earlier releases have none
    if best:
        reached = "" if best["accuracy"] is None else f", test {summary['metric']} {best['accuracy']:.4f}"
        stop = "; stopped early" if summary["stopped"] else ""
        rows.insert(2, ("best by validation", f"{best['figure']:.4f} after {best['updates']} rounds{reached}{stop}"))
    for row in rows:
        table.add_row(*row)
    _out.print(table, highlight=False, soft_wrap=True)


def _print_comparison(summaries: list[Mapping[str, Any]]) -> None:
    table = Table(title="one institution, all rounds", title_justify="left", box=None)
    table.add_column("method", no_wrap=True)
    table.add_column("uploads", no_wrap=True)
    for heading in (summaries[0]["metric"], "values sent", "up", "down", "training", "crypto"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in summaries:
        crypto = s["seconds"]["seal"] + s["seconds"]["fold"] + s["seconds"]["open"]
        table.add_row(
            s["method"], "[red]INSECURE[/]" if s["insecure"] else "encrypted", f"{s['accuracy']:.4f}",
            human_count(s["values"]["sent"]), human_bytes(s["bytes"]["up"]), human_bytes(s["bytes"]["down"]),
            human_seconds(s["seconds"]["train"]), human_seconds(crypto),
        )  # fmt: skip
    _out.print(table)
    _out.print(
        "accuracy on the test split; crypto: seal, fold and open; plaintext sends four bytes a value, as float32"
    )


def _logging(*, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=level, stream=sys.stderr)


def main() -> None:
    """Entry point: a foreseen error is one clear paragraph and exit code 1; a traceback would be a defect."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        app()
    except DictPFLError as error:
        _err.print(f"[bold red]error[/] ({error.code}): ", end="")
        _err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except json.JSONDecodeError as error:
        _err.print(f"[bold red]error[/]: a file of this run is damaged: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("stopped; `--resume` goes on from the last closed round")
        sys.exit(130)


if __name__ == "__main__":
    main()
