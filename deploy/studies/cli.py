"""Commands of studies: `dictpfl study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.ceremony.asking import app_here, asked_passphrase, say_issued, shape_of
from dictpfl.deploy.ceremony.cli import PassphraseFile
from dictpfl.deploy.extras import require
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dictpfl.deploy.ceremony.identity import Identity
    from dictpfl.deploy.studies.store import Studies, Study

commands = typer.Typer(
    name="study",
    rich_help_panel="Deploy",
    help="Run study after study with the institutions of a federation, without another ceremony.",
    no_args_is_help=True,
    suggest_commands=False,
)

Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The party's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The study.")]
Which = Annotated[str, typer.Argument(metavar="NAME|FILE", help="The study, or a paper of it, which is taken up.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who get the notice.")]
Output = Annotated[Path | None, typer.Option(*OUT, metavar="FILE", help="Signed paper to write, and to send.")]
Institutions = Annotated[
    list[str] | None, typer.Option("--institution", metavar="NAME", help="Whom to ask; default: all of the network.")
]
Days = Annotated[int, typer.Option(min=0, max=36_500, help="Days in which it may be approved.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key.")]
Weights = Annotated[Path | None, typer.Option(help="W0, safetensors; its hash is part of the text.")]


@commands.command()
def propose(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="As for `dictpfl authority genesis`.")],
    sample_shape: Annotated[str, typer.Option(metavar="AxBxC", help="Shape of one sample, such as 64 or 1x8x8.")],
    outputs: Annotated[int, typer.Option(min=1, help="Outputs of the model, such as the number of classes.")],
    name: Annotated[str, typer.Option(help="The study's name; default: the configuration's.")] = "",
    title: Annotated[str, typer.Option(help="What it is for, in a sentence.")] = "",
    data: Annotated[str, typer.Option(help="What samples must be, in a sentence.")] = "",
    institutions: Institutions = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Hours that it may run at an institution.")] = 24.0,
    memory: Annotated[float, typer.Option("--memory", min=0.1, help="GiB that each of its processes may take.")] = 4.0,
    gpu: Annotated[bool, typer.Option("--gpu", help="It wants a GPU.")] = False,  # noqa: FBT002
    days: Days = 30,
    weights: Weights = None,
    output: Output = None,
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Propose a study, as its lead: an institution of the network, or its authority.

    Example: `dictpfl study propose wide.toml --sample-shape 64 --outputs 10 --hours 12 --folder authority
    --passphrase-file passphrase`
    """
    require("institution", "study propose")
    use_working_directory()
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.studies.proposing import Asked
    from dictpfl.deploy.studies.proposing import propose as make

    studies, lead, _ = _opened(folder, passphrase_file)
    asked = Asked(title, data, shape_of(sample_shape), outputs, hours, memory, gpu, days)
    agreed = FederationConfig.load(config)
    _place(output, name or agreed.name, "proposal")
    study = make(
        studies, lead, agreed, asked, app=app_here(), name=name, institutions=institutions or (), weights=weights
    )
    _say_proposed(study, output)


@commands.command()
def clone(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the clone.")],
    set_: Set = None,
    institutions: Institutions = None,
    days: Days = 30,
    weights: Weights = None,
    output: Output = None,
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Propose a study like one that is here, with other settings, institutions, or a W0 such as its model.

    Example: `dictpfl study clone wide wider --set federation.rounds=20 --folder authority --passphrase-file
    passphrase`
    """
    require("institution", "study clone")
    use_working_directory()
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.studies.proposing import Asked, require_w0
    from dictpfl.deploy.studies.proposing import propose as make

    _place(output, new, "proposal")
    studies, lead, _ = _opened(folder, passphrase_file)
    if new in studies.names():
        raise ConfigError(f"{new!r} is a study already; name the clone otherwise")
    of = studies.get(name).wanted
    require_w0(of, weights)
    had = of.config
    # Room in a sum that nobody chose, and a proposal fills in, is for those who are asked now: else nobody could be added.
    unsaid = had.model_copy(update={"federation": had.federation.model_copy(update={"max_participants": 0})})
    had = unsaid if unsaid.capacity == had.capacity else had
    config = FederationConfig.of(had.model_dump(mode="json"), overrides(set_), origin=f"the clone of {name}")
    asked = Asked(of.title, of.data, of.sample_shape, of.outputs, of.hours, of.memory_gib, of.gpu, days)
    names = institutions or sorted(set(of.institutions) & set(studies.network.members))
    study = make(
        studies, lead, config, asked, app=app_here(), name=new, institutions=names, weights=weights, parent=of.digest.hex()
    )  # fmt: skip
    _say_proposed(study, output)


@commands.command()
def show(
    which: Which,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the page; default: with the study.")
    ] = None,
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take up a paper of a study, if a file is given, and say in plain words what the study is; the same as a page.

    Example: `dictpfl study show wide.proposal --folder institution`
    """
    from dictpfl.deploy.studies.deciding import stop
    from dictpfl.deploy.studies.plain import facts

    use_working_directory()
    studies, _ = _network(folder, passphrase_file)
    study = studies.take(which)
    if study.aborted:
        stop(study)
        _log_abort(studies, study)
    console.say(f"{study.name}: {study.state(studies.network.own)}")
    if study.proposal is None:
        return
    reasons = _reasons(studies, study)
    for fact in facts(study.proposal):
        console.say(f"{fact.question + ':':<22} {fact.answer}")
    console.say(f"{'text:':<22} {study.proposal.digest.hex()}")
    for reason in reasons or ():
        console.say(f"{'against the policy:':<22} {console.one_line(reason)}")
    if reasons == []:
        console.say(f"{'policy:':<22} kept; `dictpfl study approve {study.name}` approves it")
    _say_history(study)
    from dictpfl.deploy.studies.page import write_page

    console.say(f"{'page:':<22} {write_page(study, reasons, page)}")


@commands.command()
def approve(
    which: Which, output: Output = None, folder: Folder = Path("institution"), passphrase_file: PassphraseFile = None
) -> None:
    """Approve the text of a study, or go on with one that was paused; refused if it breaks policy.toml.

    Example: `dictpfl study approve wide --folder institution --passphrase-file passphrase`
    """
    from dictpfl.deploy.studies.deciding import approve as decide

    use_working_directory()
    studies, identity, _ = _opened(folder, passphrase_file)
    study = studies.take(which)
    path = _place(output, study.name, "approved")
    notice = decide(studies, study, identity, app_here(), path)
    console.say(f"approved {study.name}, text {notice.digest.hex()}")
    console.say(f"{path}: send it to the authority")


@commands.command()
def refuse(
    which: Which,
    reason: Reason = "",
    output: Output = None,
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Refuse a study; what runs of it here stops.

    Example: `dictpfl study refuse wide --reason 'not on these data' --folder institution --passphrase-file
    passphrase`
    """
    from dictpfl.deploy.studies.deciding import refuse as decide

    studies, identity, _ = _opened(folder, passphrase_file)
    study = studies.take(which)
    path = _place(output, study.name, "refused")
    decide(studies, study, identity, reason, path)
    console.say(f"refused {study.name}; {path}: send it to the authority and the lead")


@commands.command()
def pause(
    name: Name,
    reason: Reason = "",
    output: Output = None,
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Stop what runs of a study here until it is approved again; the others go on without.

    Example: `dictpfl study pause wide --reason 'the machine moves' --folder institution --passphrase-file
    passphrase`
    """
    from dictpfl.deploy.studies.deciding import pause as decide

    studies, identity, _ = _opened(folder, passphrase_file)
    study = studies.get(name)
    path = _place(output, study.name, "paused")
    decide(studies, study, identity, reason, path)
    console.say(f"paused {study.name}; `dictpfl study approve {study.name}` and `study up {study.name}` go on with it")


@commands.command()
def abort(
    name: Name,
    reason: Reason = "",
    output: Output = None,
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """End a study for good, as its lead or the authority; each party stops it by `dictpfl study show` of the paper.

    Example: `dictpfl study abort wide --reason 'a fault in its data' --folder authority --passphrase-file
    passphrase`
    """
    from dictpfl.deploy.studies.deciding import abort as decide

    studies, identity, _ = _opened(folder, passphrase_file)
    study = studies.get(name)
    path = _place(output, study.name, "aborted")
    decide(studies, study, identity, reason, path)
    console.say(f"aborted {study.name}; {path}: send it to all, who stop it by `dictpfl study show {in_shell(path)}`")


@commands.command("list")
def list_(folder: Folder = Path("institution")) -> None:
    """List the studies that this party knows, with their states.

    Example: `dictpfl study list --folder institution`
    """
    from dictpfl.deploy.studies.network import own_of
    from dictpfl.deploy.studies.store import listed

    there = False
    for name, state, text in listed(folder, own_of(folder)):
        of = "" if state.startswith("damaged") else "no text here"
        if text:
            of = f"version {text.version} by {text.lead.name}, {counted(text.config.federation.rounds, 'round')}"
        there = True
        console.say(f"{name:<24} {state:<22} {of}".rstrip())
    if not there:
        console.say("no studies")


@commands.command()
def key(
    which: Which,
    papers: Annotated[list[Path], typer.Argument(metavar="APPROVAL...", help="Notices that institutions sent.")],
    out: Annotated[Path, typer.Option(*OUT, help="Folder for bundles and the coordinator's half; missing or empty.")],
    weights: Weights = None,
    folder: Folder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a study's key, as the authority, and seal it to those who approved, and to nobody else.

    Example: `dictpfl study key wide.proposal berlin.approved oslo.approved --out wide-1 --folder authority
    --passphrase-file passphrase`
    """
    require("institution", "study key")
    use_working_directory()
    from dictpfl.deploy.studies.keying import make_key
    from dictpfl.deploy.studies.papers import read_paper

    studies, authority, passphrase = _opened(folder, passphrase_file)
    study = studies.take(which)
    for path in papers:
        studies.receive(read_paper(path), str(path))
    study = studies.get(study.name)
    issued = make_key(studies, study, authority, passphrase, out, weights)
    say_issued(issued)


@commands.command()
def up(
    which: Annotated[str, typer.Argument(metavar="NAME|BUNDLE", help="The study; at first the bundle with its key.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with train.npz and validation.npz; default: the network's."),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The study's port at the coordinator; default: the network's."),
    ] = None,
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="Authority of the coordinator's certificate.")] = None,
    port: Annotated[int | None, typer.Option(help="Loopback port between SuperNode and SuperExec.")] = None,
    heartbeat: Annotated[
        float | None, typer.Option(help="Seconds between signs of life; the same at all parties.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Loopback port for Prometheus; 0: none.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,  # noqa: FBT002
    folder: Folder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take the key of an approved study, and run it here within its limits until it is stopped or has had its hours.

    Example: `dictpfl study up wide.bundle --folder institution --passphrase-file passphrase`
    """
    require("institution", "study up")
    use_working_directory()
    from dictpfl.deploy.operations.log_format import configure
    from dictpfl.deploy.studies.taking_part import make_ready, run, take_key

    folder = folder.resolve()
    app = app_here()
    studies, _ = _network(folder, None)
    if Path(which).is_file():
        study, joined = take_key(studies, Path(which), asked_passphrase(passphrase_file), passphrase_file, app)
        console.say(f"{study.name}: key of epoch {joined.epoch} taken, with {', '.join(sorted(joined.terms.members))}")
    else:
        study = studies.get(which)
    given: dict[str, Any] = {"coordinator": coordinator, "ca": str(Path(ca).resolve()) if ca else None, "port": port}
    given |= {"heartbeat": heartbeat, "metrics_port": metrics_port}
    told = make_ready(studies, study, data, app, passphrase_file=passphrase_file, **given)
    configure(as_json=log_json)
    run(studies, study, told, log_json=log_json)


@commands.command()
def install(
    half: Annotated[Path, typer.Argument(metavar="HALF", help="The folder `coordinator` that the authority made.")],
    port: Annotated[int | None, typer.Option(help="Loopback port of the study's SuperLink.")] = None,
    folder: Folder = Path("coordinator"),
) -> None:
    """Install the coordinator's half of a study, below the network's folder; it is run from there as any federation.

    Example: `dictpfl study install wide-1 --folder coordinator`
    """
    from dictpfl.deploy.studies.coordinating import install_half

    studies, _ = _network(folder, None)
    study, done = install_half(studies, half, port=port)
    console.say(f"{study.name} installed in {study.folder}, of {', '.join(sorted(done.terms.members))}")
    console.say(f"app {done.terms.app}")


def _network(folder: Path, passphrase_file: Path | None) -> tuple[Studies, bytes | None]:
    """Return a party's studies; only an authority's list of members needs its passphrase."""
    from dictpfl.deploy.ceremony.identity import Role
    from dictpfl.deploy.studies.network import Network, own_of
    from dictpfl.deploy.studies.store import Studies

    passphrase = asked_passphrase(passphrase_file) if own_of(folder).role is Role.AUTHORITY else None
    return Studies(folder, Network.of(folder, passphrase)), passphrase


def _opened(folder: Path, passphrase_file: Path | None) -> tuple[Studies, Identity, bytes]:
    """Return a party's studies, and the party with its keys."""
    from dictpfl.deploy.ceremony.identity import open_identity
    from dictpfl.deploy.studies.network import Network
    from dictpfl.deploy.studies.store import Studies

    passphrase = asked_passphrase(passphrase_file)
    identity = open_identity(folder, passphrase)
    return Studies(folder, Network.of(folder, passphrase)), identity, passphrase


def _log_abort(studies: Studies, study: Study) -> None:
    """Enter an abort that a coordinator took up into its log, once; whose key is sealed enters its own decisions only."""
    from dictpfl.deploy.ceremony import custody
    from dictpfl.deploy.ceremony.identity import Role, coordinator_signer

    notice = study.aborted
    if notice is None or studies.network.own.role is not Role.COORDINATOR:
        return
    facts = {"study": study.name, "by": notice.by.name, "reason": notice.reason}
    (log,) = custody.verify(studies.party / custody.LOG)
    if not any(entry["event"] == "study aborted" and entry["facts"] == facts for entry in log.entries):
        custody.record(studies.party, coordinator_signer(studies.party), "study aborted", **facts)


def _reasons(studies: Studies, study: Study) -> Sequence[str] | None:
    from dictpfl.deploy.ceremony.identity import Role
    from dictpfl.deploy.studies.policy import Policy, broken

    if studies.network.own.role is not Role.INSTITUTION:
        return None
    return list(broken(Policy.load(studies.party), study.wanted, app_here()))


def _say_history(study: Study) -> None:
    from dictpfl.deploy.studies.store import versions

    earlier = [v for v in versions(study) if v.digest != study.wanted.digest]
    for version in earlier:
        console.say(f"{'earlier:':<22} version {version.version}, text {version.digest.hex()}")
    for notice in sorted(study.notices, key=lambda n: n.at):
        of = "" if notice.digest == study.wanted.digest else f" (of text {notice.digest.hex()[:16]})"
        said = f"{notice.at} by {notice.by.name}{of} {notice.reason}".rstrip()
        console.say(f"{notice.kind + ':':<22} {console.one_line(said)}")


def _place(output: Path | None, study: str, what: str) -> Path:
    """Return where a paper goes, before it is signed: what is signed and cannot be sent counts here and nowhere else."""
    path = output or Path(f"{study}.{what}")
    console.require_place(path)
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder; name a file by --output")
    return path


def _say_proposed(study: Study, output: Path | None) -> None:
    path = _place(output, study.name, "proposal")
    path.write_bytes(study.wanted.to_bytes())
    console.say(f"{study.name}, version {study.wanted.version}, text {study.wanted.digest.hex()}")
    console.say(f"{path}: send it to {', '.join(sorted(study.wanted.institutions))} and the authority")
