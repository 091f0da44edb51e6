"""Commands for running a federation across machines; mounted by `deploy.cli`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table

from common.errors import ConfigError, DictPFLError
from deploy.ceremony.cli import Fingerprint, institution
from deploy.operations.proxy import ProxyKind
from deploy.units import human_bytes, human_seconds

commands = typer.Typer()
"""Commands of the root: certificates, bundle, health, run, status."""
coordinator = typer.Typer(no_args_is_help=True, help="The coordinator's side of a deployment.")
commands.add_typer(coordinator, name="coordinator")

_console = Console()
_out = _console if _console.is_terminal else Console(width=120)

CoordinatorFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The coordinator's folder.")]
SiteFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The institution's folder.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")]
Heartbeat = Annotated[float | None, typer.Option(help="Seconds between signs of life; the same at all parties.")]
MetricsPort = Annotated[int | None, typer.Option(help="Loopback port for Prometheus; 0: none.")]
Bundle = Annotated[str | None, typer.Option(metavar="SHA256", help="The app bundle agreed on; see `dictpfl bundle`.")]


@commands.command()
def certificates(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where to write; private to its owner.")],
    name: Annotated[list[str] | None, typer.Option(help="DNS name or address of the coordinator; repeatable.")] = None,
    csr: Annotated[bool, typer.Option("--csr", help="Write a request for your own authority instead.")] = False,  # noqa: FBT002
    days: Annotated[int, typer.Option(help="Days of validity.")] = 397,
) -> None:
    """Make the coordinator's TLS certificate: under a small authority for trying out, or a request to your own."""
    from deploy.operations import certificates as made

    if csr:
        _say(f"{made.request(folder, name or [])}: have it signed as {folder / made.CERTIFICATE}")
        return
    path = made.try_out(folder, name or [], days=days)
    _say(f"{path} for {days} days; give {folder / made.CA} to the institutions, keep {folder / made.CA_KEY} offline")


@commands.command()
def bundle() -> None:
    """Show the hash of the app bundle that this installation runs; all parties compare it."""
    from deploy.operations import apps, pinned

    _out.print(pinned.sha256_of(apps.build()), highlight=False, soft_wrap=True)


@coordinator.command("install")
def coordinator_install(
    folder: CoordinatorFolder,
    half: Annotated[Path, typer.Argument(metavar="HALF", help="The folder `coordinator` that the authority made.")],
    authority_fingerprint: Fingerprint = None,
) -> None:
    """Check the coordinator's half of an epoch, install it, and admit its institutions; a running `up` may go on."""
    from deploy.ceremony.cli import confirmed
    from deploy.operations.coordinator import install

    done = install(folder, half, authority_fingerprint=authority_fingerprint, confirm=confirmed)
    terms = done.terms
    _say(f"epoch {terms.epoch} installed, from round {terms.first_round} on, of {', '.join(sorted(terms.members))}")
    _say(f"app {terms.app}")
    for names, what in ((done.came, "admitted"), (done.went, "dismissed")):
        for name in names:
            _say(f"{name} {what}")
    if done.running and done.running != terms.app:
        _say("`coordinator up` runs another app: install the release that was agreed on, and start it again")


@coordinator.command("up")
def coordinator_up(
    folder: CoordinatorFolder,
    port: Annotated[int | None, typer.Option(help="Loopback port of the SuperLink.")] = None,
    heartbeat: Heartbeat = None,
    bundle: Bundle = None,
    metrics_port: MetricsPort = None,
    log_json: LogJson = False,  # noqa: FBT002
) -> None:
    """Run SuperLink and SuperExec under supervision until stopped; options are kept in coordinator.toml."""
    from deploy.operations.coordinator import up
    from deploy.operations.log_format import configure

    configure(as_json=log_json)
    with _said(as_json=log_json):
        up(folder, log_json=log_json, port=port, heartbeat=heartbeat, bundle=bundle, metrics_port=metrics_port)


@coordinator.command()
def admit(
    folder: CoordinatorFolder,
    name: Annotated[str, typer.Argument(help="The institution's name.")],
    public_key: Annotated[Path, typer.Argument(metavar="NODE.pub", help="From `dictpfl institution enrol`.")],
) -> None:
    """Let an institution's node take part; at once if the coordinator is up, else when it starts."""
    from common.errors import ProcessError
    from common.files import write_private
    from common.keys import owner_only
    from deploy.ceremony.custody import record
    from deploy.ceremony.identity import coordinator_signer, require_name
    from deploy.ceremony.installing import node_digest
    from deploy.operations.control import connected
    from deploy.operations.places import NODES
    from deploy.operations.settings import CoordinatorSettings

    require_name(name)
    kept = owner_only(folder / NODES) / f"{name}.pub"
    before = kept.read_bytes() if kept.exists() else None
    write_private(kept, public_key.read_bytes())
    settings = CoordinatorSettings.load(folder)
    try:
        with connected(settings.superlink, folder / settings.ca) as control:
            control.admit(kept)
    except ConfigError:
        # It would be refused again at every start.
        kept.unlink() if before is None else write_private(kept, before)
        raise
    except ProcessError:
        said = f"{name} will be admitted when the coordinator starts"
    else:
        said = f"{name} admitted"
    record(folder, coordinator_signer(folder), "node admitted", institution=name, key=node_digest(kept))
    _say(said)


@coordinator.command()
def dismiss(
    folder: CoordinatorFolder,
    name: Annotated[str, typer.Argument(help="The institution's name, as in nodes/NAME.pub.")],
) -> None:
    """Strike an institution's node off for good, as when it has left; the coordinator must be up."""
    from deploy.ceremony.custody import record
    from deploy.ceremony.identity import coordinator_signer
    from deploy.operations.control import connected
    from deploy.operations.coordinator import admitted
    from deploy.operations.settings import CoordinatorSettings

    kept = {path.stem: path for path in admitted(folder)}
    if name not in kept:
        raise ConfigError(f"{name!r} is not admitted; admitted are {sorted(kept)}")
    settings = CoordinatorSettings.load(folder)
    with connected(settings.superlink, folder / settings.ca) as control:
        control.dismiss(kept[name])
    record(folder, coordinator_signer(folder), "node dismissed", institution=name)
    # Last: as long as the file is there, the next start would admit the node again, and this can be repeated.
    kept[name].unlink()
    _say(f"{name} dismissed")


@coordinator.command()
def proxy(
    folder: CoordinatorFolder,
    listen: Annotated[str, typer.Option(metavar="[HOST:]PORT", help="Where institutions connect.")],
    kind: Annotated[ProxyKind, typer.Option(help="Whose configuration to write.")] = ProxyKind.NGINX,
) -> None:
    """Write the configuration of the TLS proxy that stands in front."""
    from deploy.operations.proxy import command, write_proxy

    path = write_proxy(folder, listen, kind)
    _say(f"{path} written; {command(kind, path)}")


@institution.command()
def enrol(folder: SiteFolder) -> None:
    """Make the node's key for Flower; the public half goes to the coordinator."""
    from deploy.operations.institution import enrol as make

    _say(f"{make(folder.resolve())}: send it to the coordinator, who runs `dictpfl coordinator admit`")


@institution.command("up")
def institution_up(
    folder: SiteFolder,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The coordinator's proxy.")] = None,
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="Authority of the coordinator's certificate.")] = None,
    port: Annotated[int | None, typer.Option(help="Loopback port between SuperNode and SuperExec.")] = None,
    heartbeat: Heartbeat = None,
    bundle: Bundle = None,
    metrics_port: MetricsPort = None,
    log_json: LogJson = False,  # noqa: FBT002
) -> None:
    """Run SuperNode and SuperExec under supervision until stopped; options are kept in node.toml."""
    from deploy.operations.institution import up
    from deploy.operations.log_format import configure

    configure(as_json=log_json)
    path = None if ca is None else str(Path(ca).resolve())
    given = {"coordinator": coordinator, "ca": path, "port": port, "heartbeat": heartbeat, "bundle": bundle}
    given["metrics_port"] = metrics_port
    with _said(as_json=log_json):
        up(folder, log_json=log_json, **given)


@commands.command()
def health(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="A coordinator's or institution's folder.")],
) -> None:
    """Ask the health checks of a party's programs; exit code 0 if all serve, 1 if not. For containers and monitors."""
    from deploy.operations import health as probe

    found = probe.of(folder)
    for program in found:
        _say(f"{program.program}: {program.found}")
    if not found:
        _say("`up` is not running in this folder")
    if not found or not all(program.serves for program in found):
        raise typer.Exit(1)


@commands.command()
def run(
    folder: CoordinatorFolder,
    rounds: Annotated[int | None, typer.Option(min=1, help="Update rounds in all; default: as agreed.")] = None,
    drain: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--drain", help="End after the round that is open, as before a rotation; everybody gets the last sum."
        ),
    ] = False,
    log_json: LogJson = False,  # noqa: FBT002
) -> None:
    """Start the federation, or go on with it, and show each round as it closes."""
    from deploy.operations.draining import rounds_to_end_with
    from deploy.operations.log_format import configure
    from deploy.operations.running import run as run_to_the_end
    from server.journal import ClosedRound

    if drain and rounds is not None:
        raise ConfigError("run: expected one of --rounds and --drain")
    configure(as_json=log_json)

    def show(closed: ClosedRound, contributors: int, size: int) -> None:
        took = human_seconds(closed.ended - closed.started)
        text = f"round {closed.round} ({closed.kind}): {contributors} institutions, {human_bytes(closed.bytes_up)} up, "
        facts = {"event": "round", "round": closed.round, "kind": str(closed.kind), "contributors": contributors}
        _say(json.dumps(facts) if log_json else f"{text}{human_bytes(size)} down, {took}")

    with _said(as_json=log_json):
        done = run_to_the_end(folder, rounds_to_end_with(folder) if drain else rounds, on_round=show)
    _say(
        f"{done} rounds closed, all institutions told"
        if not log_json
        else json.dumps({"event": "done", "rounds": done})
    )


@commands.command()
def status(
    folder: Annotated[
        Path, typer.Option("--folder", "--site", metavar="DIR", help="A coordinator's or institution's folder.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Show where a federation stands: at the coordinator sizes and times, at an institution its own metrics."""
    from client.site import SITE
    from deploy.operations.status import of_coordinator, of_institution

    own = (folder / SITE).exists()
    found = of_institution(folder) if own else of_coordinator(folder)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    elif own:
        _show_institution(found)
    else:
        _show_coordinator(found)


def _show_coordinator(found: dict[str, Any]) -> None:
    done = sum(r["kind"] == "update" for r in found["rounds"])
    _say(f"federation {found['federation'][:16]}, {done} of {found['rounds_wanted']} update rounds")
    if found["stopped_before_round"] is not None:
        _say(f"institutions stopped early: no update from round {found['stopped_before_round']} on")
    for reason in found["insecurities"]:
        _say(f"INSECURE (toy_insecure): {reason}")
    table = Table(box=None)
    for heading in (
        "round",
        "kind",
        "in the sum",
        "ciphertexts",
        "up",
        "down",
        "time",
        "of it adding",
        "not in the sum",
    ):
        table.add_column(heading, justify="right")
    names = {str(node["node"]): node["name"] for node in found["nodes"] or ()}
    for r in found["rounds"]:
        missing = ", ".join(f"{names.get(node) or node}: {why}" for node, why in r["rejected"].items())
        table.add_row(
            str(r["round"]), r["kind"], str(r["contributors"]), str(r["ciphertexts"]), human_bytes(r["bytes_up"]),
            human_bytes(r["bytes_down"]), human_seconds(r["seconds"]), human_seconds(r["fold_seconds"]), missing,
        )  # fmt: skip
    _out.print(table)
    if found["nodes"] is None:
        _say("the SuperLink does not answer: `dictpfl coordinator up` is not running")
    for node in found["nodes"] or ():
        seen = (
            "never seen"
            if node["seconds_since_seen"] is None
            else f"seen {human_seconds(node['seconds_since_seen'])} ago"
        )
        _say(f"{node['name'] or node['node']}: {node['status']}, {seen}")
    if found["certificate_days_left"] is not None:
        _say(f"certificate: {found['certificate_days_left']:.0f} days left")


def _show_institution(found: dict[str, Any]) -> None:
    _say(
        f"{found['name']} in federation {found['federation'][:16]}: round {found['round']}, {found['updates']} updates"
    )
    _say(f"state digest {found['state_digest']}")
    if found["best_after_updates"] is not None:
        stop = "; all institutions have stopped" if found["stopped"] else ""
        _say(f"best by validation: the model after {found['best_after_updates']} updates{stop}")
    for line in (*_deliveries(found["delivery"]), *_spent(found["privacy"])):
        _say(line)
    table = Table(box=None)
    for heading in ("when (UTC)", "event", "round", "bytes", "metric", "loss", "seconds"):
        table.add_column(heading, justify="right")
    for entry in found["diary"]:
        when = time.strftime("%m-%d %H:%M:%S", time.gmtime(entry.get("at", 0)))
        numbers = [f"{entry[name]:.4f}" if name in entry else "-" for name in ("metric", "loss")]
        seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in entry.get("seconds", {}).items())
        table.add_row(
            when,
            str(entry.get("event")),
            str(entry.get("round")),
            human_bytes(entry.get("bytes", 0)),
            *numbers,
            seconds,
        )
    _out.print(table)


@contextmanager
def _said(*, as_json: bool) -> Iterator[None]:
    """Where logs are JSON, the reason for an end is a line of it, too."""
    try:
        yield
    except DictPFLError as error:
        if not as_json:
            raise
        structlog.get_logger(__name__).error("stopped", code=error.code, reason=str(error))
        raise typer.Exit(1) from None


def _deliveries(found: dict[str, Any]) -> Iterator[str]:
    yield f"uploads lately: {found['counted']} in the sums, {found['missed']} not"
    if last := found.get("last_missed"):
        row = f", {found['missed_in_a_row']} in a row by now" if found["missed_in_a_row"] > 1 else ""
        yield f"the upload of round {last['round']} is not in its sum{row}: {last['meaning']}"


def _spent(found: dict[str, Any] | None) -> Iterator[str]:
    if found:
        whom = "each training sample" if found["mechanism"] == "example" else "this institution as a whole"
        limit = f", of {found['limit']:g} allowed" if found["limit"] else ""
        yield f"differential privacy of {whom}: epsilon {found['epsilon']:.3f} at delta {found['delta']:g}{limit}"


def _say(text: str) -> None:
    _out.print(text, soft_wrap=True, highlight=False, markup=False)
