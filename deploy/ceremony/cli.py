"""Commands of the ceremony: `dictpfl authority`, `dictpfl institution`, `dictpfl audit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.ceremony.asking import (
    app_here,
    asked_passphrase,
    compare,
    confirmed,
    say_ended,
    say_identity,
    say_issued,
    shape_of,
)
from dictpfl.deploy.extras import require
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.unread import refuse_unread

authority = typer.Typer(
    name="authority",
    rich_help_panel="Deploy",
    help="Make the key and the genesis; then not needed until the next epoch.",
    no_args_is_help=True,
    suggest_commands=False,
)
institution = typer.Typer(
    name="institution",
    rich_help_panel="Deploy",
    help="Take part: identity, bundle, exported state.",
    no_args_is_help=True,
    suggest_commands=False,
)
audit = typer.Typer(
    name="audit",
    rich_help_panel="Simulate",
    help="Check what parties recorded.",
    no_args_is_help=True,
    suggest_commands=False,
)
commands = typer.Typer()
for _group in (authority, institution, audit):
    commands.add_typer(_group)

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File (mode 0600 or 0400) whose first line is the passphrase. Without it: the systemd credential "
        "dictpfl-passphrase, then a prompt."
    ),
]
NewPassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File (mode 0600 or 0400) whose first line is the new passphrase. Without it: the systemd credential "
        "dictpfl-new-passphrase, then a prompt."
    ),
]
AuthorityFolder = Annotated[Path, typer.Option("--folder", help="The authority's folder.")]
InstitutionFolder = Annotated[Path, typer.Option("--folder", help="The institution's folder.")]
Name = Annotated[str, typer.Option(help="The party's name: letters, digits, '.', '_', '-'.")]
Fingerprint = Annotated[
    str | None,
    typer.Option(
        "--authority-fingerprint",
        help="As the authority read it out: eight words, or 64 hexadecimal digits. Asked for once.",
    ),
]
Named = "NAME=identity.pub"
Checked = Annotated[
    bool, typer.Option("--checked", help="You compared every fingerprint with its institution by phone; do not ask.")
]
AppHash = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="SHA256",
        help="The app bundle that all parties run, as `dictpfl bundle` shows it. Default: at genesis that of the dictpfl "
        "installed here, at a rotation as before.",
    ),
]
Out = Annotated[Path, typer.Option(*OUT, help="Folder for bundles and the coordinator's half; missing or empty.")]


@authority.command("identity")
def authority_identity(
    name: Name, folder: AuthorityFolder = Path("authority"), passphrase_file: PassphraseFile = None
) -> None:
    """Make the authority's keys; its fingerprint is what institutions check bundles against.

    Example: `dictpfl authority identity --name ministry --folder authority --passphrase-file passphrase`
    """
    _make(folder, name, "authority", passphrase_file)


@institution.command("identity")
def institution_identity(
    name: Name, folder: InstitutionFolder = Path("institution"), passphrase_file: PassphraseFile = None
) -> None:
    """Make the institution's keys; hand out identity.pub, and read its fingerprint to the authority by phone.

    Example: `dictpfl institution identity --name north --folder institution --passphrase-file passphrase`
    """
    _make(folder, name, "institution", passphrase_file)


@authority.command("template")
def authority_template(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="To write; must not exist.")] = Path("federation.toml"),
) -> None:
    """Write a configuration to fill in: what real institutions agree on, with masks on their uploads.

    Example: `dictpfl authority template federation.toml`
    """
    from dictpfl.deploy.ceremony.template import write_template

    write_template(out)
    console.say(f"{out}: fill it in with all institutions, then `dictpfl authority genesis`")


@authority.command()
def genesis(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What all agreed on; sample_cap must be set.")],
    institutions: Annotated[list[str], typer.Option("--institution", metavar=Named, help="One for each institution.")],
    out: Out,
    sample_shape: Annotated[str, typer.Option(metavar="AxBxC", help="Shape of one sample, such as 64 or 1x8x8.")],
    outputs: Annotated[int, typer.Option(min=1, help="Outputs of the model, such as the number of classes.")],
    weights: Annotated[Path | None, typer.Option(help="W0, safetensors, in place of model.weights.")] = None,
    app: AppHash = None,
    folder: AuthorityFolder = Path("authority"),
    passphrase_file: PassphraseFile = None,
    checked: Checked = False,  # noqa: FBT002
) -> None:
    """Fix everything, make the key, write one sealed bundle for each institution and the coordinator's half.

    Example: `dictpfl authority genesis federation.toml --folder authority --passphrase-file passphrase
    --institution north=north.pub --institution south=south.pub --institution west=west.pub --sample-shape 1x8x8
    --outputs 10 --out epoch-1`
    """
    require("institution", "authority genesis")
    use_working_directory()
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.ceremony.authority import found

    agreed = FederationConfig.load(config)
    console.warn_insecure(agreed.insecurities)
    files = _named(institutions)
    compare(files, checked=checked)
    issued = found(
        folder,
        asked_passphrase(passphrase_file),
        agreed,
        files,
        out,
        app=app or app_here(),
        sample_shape=shape_of(sample_shape),
        outputs=outputs,
        weights=weights,
    )
    say_issued(issued)


@authority.command()
def rotate(
    states: Annotated[
        list[Path],
        typer.Option("--state", help="From `institution export-state`; of two institutions, which must agree."),
    ],
    out: Out,
    add: Annotated[list[str] | None, typer.Option("--add", metavar=Named, help="An institution that comes.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="NAME", help="One that leaves.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Update rounds in all; 0: as before.")] = 0,
    app: AppHash = None,
    abandon: Annotated[bool, typer.Option("--abandon", help="Drop epochs that were issued but never begun.")] = False,  # noqa: FBT002
    one_state: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--one-state", help="Take one institution's word for the state, where no other can export it."),
    ] = False,
    folder: AuthorityFolder = Path("authority"),
    passphrase_file: PassphraseFile = None,
    checked: Checked = False,  # noqa: FBT002
) -> None:
    """Begin an epoch under a new key, with institutions added or removed; shared state goes on.

    Example: `dictpfl authority rotate --folder authority --passphrase-file passphrase --state north.state --state
    south.state --out epoch-2`
    """
    require("institution", "authority rotate")
    from dictpfl.deploy.ceremony.authority import rotate as begin

    added = _named(add or [])
    compare(added, checked=checked)
    passphrase = asked_passphrase(passphrase_file)
    issued = begin(
        folder,
        passphrase,
        states,
        out,
        add=added,
        remove=remove or [],
        app=app or "",
        rounds=rounds,
        abandon=abandon,
        least=1 if one_state else 2,
    )
    say_issued(issued)


@institution.command("join")
def institution_join(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="From the authority, for this institution.")],
    authority_fingerprint: Fingerprint = None,
    folder: InstitutionFolder = Path("institution"),
    passphrase_file: PassphraseFile = None,
    no_own_code: Annotated[bool, typer.Option("--no-own-code", help="Refuse code that is not dictpfl's.")] = False,  # noqa: FBT002
) -> None:
    """Check a bundle, open it, make its dictionaries again from W0, and install its epoch.

    Example: `dictpfl institution join north.bundle --folder institution --passphrase-file passphrase
    --authority-fingerprint FINGERPRINT`
    """
    require("institution", "institution join")
    use_working_directory()
    from dictpfl.deploy.ceremony.joining import join

    joined = join(
        folder,
        asked_passphrase(passphrase_file),
        bundle,
        authority_fingerprint=authority_fingerprint,
        confirm=confirmed,
        passphrase_file=passphrase_file,
        own_code=not no_own_code,
        on_code=_show_code,
    )
    if joined.repeated:
        console.say(f"{folder} is in epoch {joined.epoch} already, by this bundle: nothing was changed")
    else:
        console.say(f"joined epoch {joined.epoch}, from round {joined.first_round} on")
    say_ended(joined.ended)
    console.say(f"with        {', '.join(sorted(joined.terms.members))}")
    console.say(f"federation  {joined.federation.hex()}")
    console.say(f"app         {joined.terms.app}")


def _show_code(named: Mapping[str, str]) -> None:
    console.say(
        "This configuration runs code that is not dictpfl's, now and in every round, with this account's rights:"
    )
    for key, code in named.items():
        console.say(f"  {key} = {code!r}")
    console.say(
        "Read it. `--no-own-code` refuses such a bundle; allowed_code in institution.toml names what may run here."
    )


@institution.command("export-state")
def institution_export_state(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="To write; only the authority can open it.")],
    folder: InstitutionFolder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write the shared state for the authority, which needs it to begin an epoch.

    Example: `dictpfl institution export-state north.state --folder institution --passphrase-file passphrase`
    """
    from dictpfl.deploy.ceremony.export import export_state

    state = export_state(folder, asked_passphrase(passphrase_file), out)
    console.say(f"{out}: shared state before round {state.round}, digest {state.digest.hex()}")


@authority.command("passphrase")
def authority_passphrase(
    folder: AuthorityFolder = Path("authority"),
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: NewPassphraseFile = None,
) -> None:
    """Seal the authority's secrets under a new passphrase.

    Example: `dictpfl authority passphrase --folder authority --passphrase-file passphrase --new-passphrase-file
    passphrase.new`
    """
    _change(folder, passphrase_file, new_passphrase_file)


@institution.command("passphrase")
def institution_passphrase(
    folder: InstitutionFolder = Path("institution"),
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: NewPassphraseFile = None,
) -> None:
    """Seal the institution's secrets under a new passphrase; a running `up` may go on.

    Example: `dictpfl institution passphrase --folder institution --passphrase-file passphrase --new-passphrase-file
    passphrase.new`
    """
    _change(folder, passphrase_file, new_passphrase_file)


@audit.command("verify")
def audit_verify(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR", help="A custody.jsonl, a folder that holds some, or evidence of a refused sum."
        ),
    ],
    head: Annotated[Path | None, typer.Option(help="A custody.head kept elsewhere.")] = None,
    identity: Annotated[Path | None, typer.Option(help="identity.pub of the party that signed.")] = None,
    institution: Annotated[
        Path | None, typer.Option(help="Of evidence: folder of an institution, whose key looks inside the sum.")
    ] = None,
) -> None:
    """Check custody logs (order, chain, signatures, and that the end is there), or evidence of a refused sum.

    Example: `dictpfl audit verify coordinator`
    """
    from dictpfl.deploy.ceremony.custody import verify
    from dictpfl.deploy.ceremony.evidence import judge

    if place.suffix == ".json":
        refuse_unread("head", "identity", because=f"of custody logs, and {place} is evidence of a sum")
        for line in judge(place, institution).lines():
            console.say(line)
        return
    refuse_unread("institution", because=f"of evidence of a sum, a .json file, and {place} is none")
    for log in verify(place, head=head, identity=identity):
        for entry in log.entries:
            facts = ", ".join(f"{name} {value}" for name, value in sorted(entry["facts"].items()))
            console.say(f"{entry['at']}  {log.party.name}: {entry['event']}  {facts}")
        console.say(
            f"whole: {len(log.entries)} entries of {log.party.role} {log.party.name}, {spoken(log.party.fingerprint)}"
        )


@audit.command("fingerprint")
def audit_fingerprint(file: Annotated[Path, typer.Argument(metavar="identity.pub")]) -> None:
    """Show the fingerprint of an identity, to compare by phone.

    Example: `dictpfl audit fingerprint north.pub`
    """
    from dictpfl.deploy.ceremony.identity import PublicIdentity

    say_identity(PublicIdentity.load(file))


def _make(folder: Path, name: str, role: Literal["authority", "institution"], passphrase_file: Path | None) -> None:
    from dictpfl.deploy.ceremony.custody import record
    from dictpfl.deploy.ceremony.identity import PUBLIC, Role, make_identity

    identity = make_identity(folder, name, Role(role), asked_passphrase(passphrase_file, new=True))
    record(folder, identity, "identity made", fingerprint=identity.public.fingerprint.hex())
    console.say(f"{folder / PUBLIC}: hand it out, and read this fingerprint out by phone")
    say_identity(identity.public)


def _change(folder: Path, old_file: Path | None, new_file: Path | None) -> None:
    from dictpfl.client.keys.vault import NEW_CREDENTIAL
    from dictpfl.deploy.ceremony.passphrase import change_passphrase

    old = asked_passphrase(old_file)
    new = asked_passphrase(new_file, new=True, option="--new-passphrase-file", credential=NEW_CREDENTIAL)
    files = change_passphrase(folder, old, new, new_file=new_file)
    console.say(f"sealed anew: {', '.join(files)}")
    console.say(
        "backups made before still open under the old passphrase; replace them"
        + (f", and remove {old_file}" if old_file else "")
    )


def _named(pairs: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path or name in files:
            raise ConfigError(f"{pair!r}: expected {Named}, each name once")
        files[name] = Path(path)
    return files
