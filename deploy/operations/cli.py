"""Commands for running a federation across machines; mounted by `dictpfl.deploy.cli`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.deploy import console
from dictpfl.deploy.ceremony.cli import Fingerprint
from dictpfl.deploy.extras import require
from dictpfl.deploy.operations.inviting_cli import accept, invite
from dictpfl.deploy.operations.members_cli import CoordinatorFolder, admit, dismiss, exclude, readmit
from dictpfl.deploy.operations.unlocking import unlock
from dictpfl.deploy.units import counted, human_bytes, human_seconds
from dictpfl.deploy.unread import refuse_unread

commands = typer.Typer()
"""Commands of the root: certificates, bundle, health, run, status."""
coordinator = typer.Typer(
    name="coordinator",
    rich_help_panel="Deploy",
    help="The coordinator's side of a deployment.",
    no_args_is_help=True,
    suggest_commands=False,
)
authority, institution = typer.Typer(name="authority"), typer.Typer(name="institution")
"""More commands of the ceremony's groups."""
for _group in (coordinator, authority, institution):
    commands.add_typer(_group)


InstitutionFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The institution's folder.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")]
Heartbeat = Annotated[float | None, typer.Option(help="Seconds between signs of life; the same at all parties.")]
MetricsPort = Annotated[int | None, typer.Option(help="Loopback port for Prometheus; 0: none.")]
Bundle = Annotated[str | None, typer.Option(metavar="SHA256", help="The app bundle agreed on; see `dictpfl bundle`.")]


@commands.command(rich_help_panel="Deploy")
def certificates(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where to write; private to its owner.")],
    name: Annotated[list[str] | None, typer.Option(help="DNS name or address of the coordinator; repeatable.")] = None,
    csr: Annotated[bool, typer.Option("--csr", help="Write a request for your own authority instead.")] = False,  # noqa: FBT002
    days: Annotated[
        int, typer.Option(min=1, max=3_650, help="Days of validity; those of the authority at most.")
    ] = 397,
) -> None:
    """Make the coordinator's TLS certificate: under a small authority for trying out, or a request to your own.

    Example: `dictpfl certificates --folder coordinator/tls --name coordinator.example.org`
    """
    from dictpfl.deploy.operations import certificates as made

    if csr:
        refuse_unread("days", because="the authority that signs a request (--csr) says how long the certificate serves")
        console.say(f"{made.request(folder, name or [])}: have it signed as {folder / made.CERTIFICATE}")
        return
    path = made.try_out(folder, name or [], days=days)
    console.say(
        f"{path} for {days} days; give {folder / made.CA} to the institutions, keep {folder / made.CA_KEY} offline"
    )


@commands.command(rich_help_panel="Deploy")
def bundle() -> None:
    """Show the hash of the app bundle that this installation runs; all parties compare it.

    Example: `dictpfl bundle`
    """
    from dictpfl.deploy.app import pinned
    from dictpfl.deploy.app.bundle import build

    console.say(pinned.sha256_of(build()))


@coordinator.command("install")
def coordinator_install(
    folder: CoordinatorFolder,
    half: Annotated[Path, typer.Argument(metavar="HALF", help="The folder `coordinator` that the authority made.")],
    authority_fingerprint: Fingerprint = None,
) -> None:
    """Check the coordinator's half of an epoch, install it, and admit its institutions; a running `up` may go on.

    Example: `dictpfl coordinator install epoch-1 --folder coordinator --authority-fingerprint FINGERPRINT`
    """
    from dictpfl.deploy.ceremony.asking import confirmed
    from dictpfl.deploy.ceremony.departures import STUDIES, ended_studies
    from dictpfl.deploy.operations.coordinator import install

    done = install(folder, half, authority_fingerprint=authority_fingerprint, confirm=confirmed)
    terms = done.terms
    console.say(
        f"epoch {terms.epoch} installed, from round {terms.first_round} on, of {', '.join(sorted(terms.members))}"
    )
    console.say(f"app {terms.app}")
    for names, what in ((done.came, "admitted"), (done.went, "dismissed")):
        for name in names:
            console.say(f"{name} {what}")
    for study, left in ended_studies(folder).items():
        console.say(
            f"study {study} ends, since {', '.join(left)} left: stop `coordinator up` of {folder / STUDIES / study}"
        )
    if done.running and done.running != terms.app:
        console.say("`coordinator up` runs another app: install the release that was agreed on, and start it again")


@coordinator.command("up")
def coordinator_up(
    folder: CoordinatorFolder,
    port: Annotated[int | None, typer.Option(help="Loopback port of the SuperLink.")] = None,
    heartbeat: Heartbeat = None,
    bundle: Bundle = None,
    metrics_port: MetricsPort = None,
    log_json: LogJson = False,  # noqa: FBT002
) -> None:
    """Run SuperLink and SuperExec under supervision until stopped; options are kept in coordinator.toml.

    Example: `dictpfl coordinator up --folder coordinator`
    """
    from dictpfl.deploy.operations.coordinator import up
    from dictpfl.deploy.operations.log_format import configure

    configure(as_json=log_json)
    with _said(as_json=log_json):
        up(folder, log_json=log_json, port=port, heartbeat=heartbeat, bundle=bundle, metrics_port=metrics_port)


for _command in (admit, dismiss, exclude, readmit):
    coordinator.command()(_command)


@coordinator.command()
def proxy(
    folder: CoordinatorFolder,
    listen: Annotated[str, typer.Option(metavar="[HOST:]PORT", help="Where institutions connect.")],
    kind: Annotated[Literal["nginx", "caddy"], typer.Option(help="Whose configuration to write.")] = "nginx",
) -> None:
    """Write the configuration of the TLS proxy that stands in front.

    Example: `dictpfl coordinator proxy --folder coordinator --listen 0.0.0.0:443`
    """
    from dictpfl.deploy.operations.proxy import ProxyKind, command, write_proxy

    program = ProxyKind(kind)
    path = write_proxy(folder, listen, program)
    console.say(f"{path} written; {command(program, path)}")


authority.command("invite")(invite)
institution.command("accept")(accept)


@institution.command()
def enrol(folder: InstitutionFolder) -> None:
    """Make the node's key for Flower; the public half goes to the coordinator.

    Example: `dictpfl institution enrol --folder institution`
    """
    from dictpfl.deploy.operations.institution import enrol as make

    console.say(f"{make(folder.resolve())}: send it to the coordinator, who runs `dictpfl coordinator admit`")


institution.command()(unlock)


@institution.command("up")
def institution_up(
    folder: InstitutionFolder,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The coordinator's proxy.")] = None,
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="Authority of the coordinator's certificate.")] = None,
    port: Annotated[int | None, typer.Option(help="Loopback port between SuperNode and SuperExec.")] = None,
    heartbeat: Heartbeat = None,
    bundle: Bundle = None,
    metrics_port: MetricsPort = None,
    log_json: LogJson = False,  # noqa: FBT002
) -> None:
    """Run SuperNode and SuperExec under supervision until stopped; options are kept in node.toml.

    Example: `dictpfl institution up --folder institution`
    """
    require("institution", "institution up")
    from dictpfl.deploy.operations.institution import up
    from dictpfl.deploy.operations.log_format import configure

    configure(as_json=log_json)
    path = None if ca is None else str(Path(ca).resolve())
    given = {"coordinator": coordinator, "ca": path, "port": port, "heartbeat": heartbeat, "bundle": bundle}
    given["metrics_port"] = metrics_port
    with _said(as_json=log_json):
        up(folder, log_json=log_json, **given)


@commands.command(rich_help_panel="Deploy")
def health(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="A coordinator's or institution's folder.")],
) -> None:
    """Ask the health checks of a party's programs; exit code 0 if all serve, 1 if not. For containers and monitors.

    Example: `dictpfl health --folder coordinator`
    """
    from dictpfl.deploy.operations import health as probe

    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a party's folder, found none")
    programs = probe.of(folder)
    for program in programs:
        console.say(f"{program.program}: {program.found}")
    if not programs:
        console.say(probe.NOT_UP)
    if not programs or not all(program.serves for program in programs):
        raise typer.Exit(1)


@commands.command(rich_help_panel="Deploy")
def run(
    folder: CoordinatorFolder,
    rounds: Annotated[int | None, typer.Option(min=1, help="Update rounds in all; default: as agreed.")] = None,
    drain: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--drain", help="End after the round that is open, as before a rotation; everybody gets the last sum."
        ),
    ] = False,
    from_institutions: Annotated[
        int | None,
        typer.Option(
            metavar="ROUND",
            min=1,
            help="Go on from institutions' state of this round: the journal was lost, and there is no newer backup.",
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Which state of that round, as institutions' own `dictpfl status` shows it and they read it out by phone. Needed where "
            "fewer than half of them hold one state.",
        ),
    ] = None,
    log_json: LogJson = False,  # noqa: FBT002
) -> None:
    """Start the federation, or go on with it, and show each round as it closes.

    Example: `dictpfl run --folder coordinator --rounds 7`
    """
    from dictpfl.deploy.operations.log_format import configure
    from dictpfl.deploy.operations.running import away, rounds_to_end_with
    from dictpfl.deploy.operations.running import run as run_to_the_end
    from dictpfl.server.rows import ClosedRound

    if drain and rounds is not None:
        raise ConfigError("run: expected one of --rounds and --drain")
    if drain and from_institutions is not None:
        raise ConfigError(
            "run: --drain waits for the open round, which cannot close before --from-institutions was typed alone"
        )
    if digest is not None and from_institutions is None:
        raise ConfigError("run: --digest says which state of a round is meant; give --from-institutions ROUND, too")
    configure(as_json=log_json)

    def show(closed: ClosedRound, contributors: int, size: int) -> None:
        took, whose = human_seconds(closed.ended - closed.started), counted(contributors, "institution")
        text = f"round {closed.round} ({closed.kind}): {whose}, {human_bytes(closed.bytes_up)} up, "
        facts = {"event": "round", "round": closed.round, "kind": str(closed.kind), "contributors": contributors}
        console.say(json.dumps(facts) if log_json else f"{text}{human_bytes(size)} down, {took}")

    with _said(as_json=log_json):
        wanted = rounds_to_end_with(folder) if drain else rounds
        done = run_to_the_end(folder, wanted, restart_from=from_institutions, digest=digest, on_round=show)
    absent = away(folder)
    if log_json:
        console.say(json.dumps({"event": "done", "rounds": done} | ({"not_told": absent} if absent else {})))
    elif absent:
        console.say(
            f"{counted(done, 'round')} closed; NOT told, since not online: {', '.join(absent)}. Their model stays an older one until they are "
            "back and you type `dictpfl run` once more, which tells them and closes no round"
        )
    else:
        console.say(f"{counted(done, 'round')} closed, all institutions told")


@commands.command(rich_help_panel="Deploy")
def status(
    folder: Annotated[
        Path, typer.Option("--folder", "--institution", metavar="DIR", help="A coordinator's or institution's folder.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Show where a federation stands: at the coordinator sizes and times, at an institution its own metrics.

    Example: `dictpfl status --folder institution`
    """
    from dictpfl.deploy.ceremony.identity import Role
    from dictpfl.deploy.operations.begun import role_of
    from dictpfl.deploy.operations.showing import show_coordinator
    from dictpfl.deploy.operations.status import of_coordinator, of_institution

    own = role_of(folder) is Role.INSTITUTION
    standing = of_institution(folder) if own else of_coordinator(folder)
    if as_json:
        from dictpfl.common.documents import json_text

        sys.stdout.write(json_text(standing, indent=1) + "\n")
    elif own:
        _show_institution(standing)
    else:
        show_coordinator(standing)


def _show_institution(standing: dict[str, Any]) -> None:
    console.say(
        f"{standing['name']} in federation {standing['federation'][:16]}: round {standing['round']}, {standing['updates']} updates"
    )
    for word, reason in (
        ("CANNOT TAKE PART", standing["not_ready"]),
        ("NOT ANSWERED", standing["not_answered"]),
        ("DISK", standing["disk"]),
    ):
        if reason:
            console.say(f"{word}: {reason}")
    for word, lines in (("DOWN", standing["down"]), ("WARNING", standing["warnings"])):
        for line in lines:
            console.say(f"{word}: {line}")
    console.say(f"state digest {standing['state_digest'] or 'of no round yet'}")
    if standing["state_words"]:
        console.say(
            f"by phone, should the coordinator's journal be lost: round {standing['round']}, {standing['state_words']}"
        )
    if standing["best_after_updates"] is not None:
        stop = "; all institutions have stopped" if standing["stopped"] else ""
        console.say(f"best by validation: the model after {standing['best_after_updates']} updates{stop}")
    for line in (*_refused(standing), *_deliveries(standing["delivery"]), *_spent(standing["privacy"])):
        console.say(line)
    from dictpfl.deploy.operations.certificates import SOON_DAYS
    from dictpfl.deploy.operations.certificates import standing as certificate_standing

    if (days := standing["certificate_days_left"]) is not None and days < SOON_DAYS:
        console.say(f"certificate of the coordinator's authority: {certificate_standing(days)}")
    table = console.table("when (UTC)", "event", "round", "bytes", "metric", "loss", "seconds")
    for entry in standing["diary"]:
        when = time.strftime("%m-%d %H:%M:%S", time.gmtime(entry.get("at", 0)))
        numbers = [f"{entry[name]:.4f}" if entry.get(name) is not None else "-" for name in ("metric", "loss")]
        seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in entry.get("seconds", {}).items())
        table.add_row(
            when,
            str(entry.get("event")),
            str(entry.get("round")),
            human_bytes(entry.get("bytes", 0)),
            *numbers,
            seconds,
        )
    console.out.print(table)


@contextmanager
def _said(*, as_json: bool) -> Iterator[None]:
    """Log the reason for an end as a line of JSON, too, where logs are JSON."""
    try:
        yield
    except DictPFLError as error:
        if not as_json:
            raise
        import structlog

        structlog.get_logger(__name__).error("stopped", code=error.code, reason=str(error))
        raise typer.Exit(1) from None


def _refused(standing: dict[str, Any]) -> Iterator[str]:
    if text := standing["refusals"]["text"]:
        yield text
    if rounds := ", ".join(str(line["round"]) for line in standing["void"]):
        yield f"void lately, for every institution: round {rounds}. Nothing of the sum was applied; logs say why"


def _deliveries(uploads: dict[str, Any]) -> Iterator[str]:
    yield f"uploads lately: {uploads['counted']} in the sums, {uploads['missed']} not"
    if last := uploads.get("last_missed"):
        row = f", {uploads['missed_in_a_row']} in a row by now" if uploads["missed_in_a_row"] > 1 else ""
        yield f"the upload of round {last['round']} is not in its sum{row}: {last['meaning']}"


def _spent(privacy: dict[str, Any] | None) -> Iterator[str]:
    if privacy:
        whom = "each training sample" if privacy["mechanism"] == "example" else "this institution as a whole"
        limit = f", of {privacy['limit']:g} allowed" if privacy["limit"] else ""
        yield f"differential privacy of {whom}: epsilon {privacy['epsilon']:.3f} at delta {privacy['delta']:g}{limit}"
