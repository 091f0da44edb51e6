"""`dictpfl simulate`, `compare` and `inspect`: federations on this machine."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell
from dictpfl.common.presets import METHODS
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.extras import require
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.simulation.printed import print_comparison, print_summary
from dictpfl.deploy.units import counted, figure, human_bytes, human_count

if TYPE_CHECKING:
    from dictpfl.common.config import FederationConfig

commands = typer.Typer()


class EngineName(StrEnum):
    """Runtime of the two apps."""

    FLOWER = "flower"
    LOCAL = "local"


class SealerName(StrEnum):
    """Way that uploads are sealed."""

    CKKS = "ckks"
    IDENTITY = "identity"


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration; `dictpfl init` writes one.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as training.epochs=2.")
]
EngineOption = Annotated[EngineName, typer.Option(help="flower: Flower's simulation runtime; local: one process.")]
Gpus = Annotated[
    int | None,
    typer.Option(
        min=0, help="GPUs that institutions share, resources.gpus; all unless said, 0: none.", show_default=False
    ),
]
RayAddress = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="Head node of a Ray cluster whose nodes train; they see --out at the same path."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what coordinator and institutions do.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the result.")]


@commands.command(rich_help_panel="Simulate")
def simulate(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml", help="Configuration; `dictpfl init` writes one. With --resume also a run folder."
        ),
    ],
    set_: Overrides = None,
    method: Annotated[str | None, typer.Option(help="A preset: " + ", ".join(METHODS) + ".")] = None,
    sealer: Annotated[SealerName | None, typer.Option(help="identity encrypts nothing, for comparison.")] = None,
    engine: EngineOption = EngineName.FLOWER,
    gpus: Gpus = None,
    ray_address: RayAddress = "",
    out: Annotated[Path | None, typer.Option(*OUT, help="Run folder; default runs/NAME-METHOD.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was stopped in --out.")] = False,  # noqa: FBT002
    record: Annotated[bool, typer.Option("--record", help="Keep every upload as the coordinator sees it.")] = False,  # noqa: FBT002
    test_every: Annotated[
        int,
        typer.Option(
            min=1, metavar="ROUNDS", help="Measure on the test split every so many rounds, and after the last."
        ),
    ] = 1,
    quiet: Quiet = False,  # noqa: FBT002
    verbose: Verbose = False,  # noqa: FBT002
) -> None:
    """Simulate a federation on this machine, encrypted end to end, and write a report.

    Example: `dictpfl simulate federation.toml --out runs/mine`
    """
    require("simulation", "simulate")
    use_working_directory()
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.reports.progress import LiveProgress
    from dictpfl.deploy.simulation.simulate import simulate as run_simulation

    _logging(verbose=verbose)
    asked = _overrides(set_, method, sealer, gpus)
    stopped = config if config.is_dir() else None
    checked = (
        FederationConfig.load(config, asked) if stopped is None else _agreed_in(stopped, asked, out, resume=resume)
    )
    console.warn_insecure(checked.insecurities)
    folder = stopped or out or _free_folder(checked.name, checked.method, resume=resume)
    if resume:
        _require_begun(folder)
    title = f"{checked.name} ({checked.method})"
    with (
        LiveProgress(console.out, title, checked.federation.rounds, quiet=quiet) as progress,
        _interruptible(folder, named=bool(out or stopped)),
    ):
        run = run_simulation(
            checked,
            folder,
            engine=engine.value,
            resume=resume,
            record=record,
            on_round=progress,
            on_founded=lambda founded: console.remark(founded.notes),
            on_devices=_say_devices,
            ray_address=ray_address,
            test_every=test_every,
        )
    print_summary(run.summary)
    console.say(f"report  {run.folder / 'report.html'}")


@commands.command(rich_help_panel="Simulate")
def compare(
    config: ConfigFile,
    methods: Annotated[
        str, typer.Option(help="Presets and baselines (majority, alone, pooled), separated by commas.")
    ] = "plaintext,fedhe-full,dictpfl",
    seeds: Annotated[
        str, typer.Option(help="Seeds, separated by commas: figures become means with intervals. Default: the file's.")
    ] = "",
    set_: Overrides = None,
    engine: EngineOption = EngineName.FLOWER,
    gpus: Gpus = None,
    out: Annotated[Path | None, typer.Option(*OUT, help="Folder; default runs/NAME-compare.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was stopped in --out.")] = False,  # noqa: FBT002
    quiet: Quiet = False,  # noqa: FBT002
    verbose: Verbose = False,  # noqa: FBT002
) -> None:
    """Run several methods on the same data, seeds and rounds; print a table, write plots.

    Example: `dictpfl compare federation.toml --methods majority,alone,pooled,dictpfl --seeds 1,2,3`
    """
    require("simulation", "compare")
    use_working_directory()
    from dictpfl.deploy.reports.progress import LiveProgress
    from dictpfl.deploy.simulation.comparison import compare as run_comparison
    from dictpfl.deploy.simulation.comparison import configurations

    _logging(verbose=verbose)
    changed = _overrides(set_, gpus=gpus)
    for option, key, told in (("--methods", "method", True), ("--seeds", "seed", bool(_words(seeds)))):
        if told and key in changed:
            raise ConfigError(f"--set {key}: {option} says which; leave it out")
    configs = configurations(config, _words(methods), changed)
    first = next(iter(configs.values()))
    folder = out or _free_folder(first.name, "compare", resume=resume)

    def watch(named: str, config: FederationConfig) -> LiveProgress:
        return LiveProgress(console.out, f"{config.name} ({named})", config.federation.rounds, quiet=quiet)

    with _interruptible(folder, named=out is not None):
        compared = run_comparison(
            configs, folder, engine=engine.value, seeds=_numbers(seeds), resume=resume, watch=watch,
            on_devices=cache(_say_devices),  # once for all
        )  # fmt: skip
    print_comparison(compared)
    console.say(f"report  {folder.resolve() / 'compare.html'}")
    for run in compared:
        console.say(f"        {run.folder / 'report.html'}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: expected numbers separated by commas, such as 1,2,3") from error


@contextmanager
def _interruptible(folder: Path, *, named: bool) -> Iterator[None]:
    """Say how to go on with what the user stopped.

    Args:
        folder: of the run.
        named: the command line says which.
    """
    try:
        yield
    except KeyboardInterrupt:
        again = shlex.join(word for word in sys.argv[1:] if word != "--resume")
        where = "" if named else f" --out {in_shell(folder)}"
        console.err.print(
            f"stopped; `dictpfl {again}{where} --resume` goes on from the last closed round",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(console.INTERRUPTED) from None


@commands.command(rich_help_panel="Simulate")
def inspect(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")]) -> None:
    """Show what a run reached and what crossed the wire; of one that goes on or was stopped, the rounds so far.

    Example: `dictpfl inspect runs/mine`
    """
    from dictpfl.deploy.runs.run import SUMMARY, Run, closed_rounds

    if (folder / SUMMARY).exists():
        run = Run.load(folder)
        history = run.records
        print_summary(run.summary)
    else:
        config, history = closed_rounds(folder)
        updates = max((record.update for record in history), default=0)
        console.say(
            f"unfinished: {updates} of {counted(config.federation.rounds, 'round')}; `dictpfl simulate {in_shell(folder)} --resume` goes on"
        )
    table = console.table(
        "round",
        "kind",
        "in the sum",
        "sent",
        "ciphertexts",
        "up",
        "down",
        "test after",
        "validation before",
        title="rounds",
    )
    for r in history:
        table.add_row(
            str(r.update) if r.kind == "update" else "-", r.kind, str(r.contributors), human_count(r.sent), str(r.ciphertexts), human_bytes(r.bytes_up),
            human_bytes(r.bytes_down), figure(r.test, r.metric), figure(r.validation, r.metric),
        )  # fmt: skip
    console.out.print(table)


def _say_devices(line: str) -> None:
    console.err.print(line, markup=False, highlight=False, soft_wrap=True)


def _overrides(
    pairs: list[str] | None, method: str | None = None, sealer: SealerName | None = None, gpus: int | None = None
) -> dict[str, Any]:
    """Return the dotted settings of `--set`, `--method`, `--sealer` and `--gpus`."""
    changed = overrides(pairs)
    said = {
        "--method": ("method", method),
        "--sealer": ("encryption.sealer", sealer),
        "--gpus": ("resources.gpus", gpus),
    }
    for option, (key, value) in said.items():
        if value is not None and key in changed:
            raise ConfigError(f"--set {key}: {option} says it; leave one of them out")
    if gpus is not None:
        changed["resources.gpus"] = gpus
    if method:
        changed["method"] = method
    if sealer:
        changed["encryption.sealer"] = sealer.value
    if method in ("plaintext", "fedml-he") or sealer is SealerName.IDENTITY:
        # Asked for by name on this command line, for a simulation: admitted, and said loudly.
        changed["toy_insecure"] = True
    return changed


def _agreed_in(folder: Path, asked: Mapping[str, Any], out: Path | None, *, resume: bool) -> FederationConfig:
    """Read the configuration that lies in a run folder, with what is asked for by name on top.

    Raises:
        ConfigError: no run was begun there, it is not to be resumed, or another folder is named beside it.
    """
    from dictpfl.common.config import FederationConfig
    from dictpfl.common.errors import ConfigError
    from dictpfl.deploy.runs.run import closed_rounds

    if not resume or out is not None:
        raise ConfigError(
            f"{folder} is a folder; expected a configuration, or `dictpfl simulate {in_shell(folder)} --resume` to go on with the run in it"
        )
    agreed, _ = closed_rounds(folder)
    return FederationConfig.of(agreed.model_dump(mode="json"), asked, origin=str(folder))


def _require_begun(folder: Path) -> None:
    """Refuse to begin anew where something was to be resumed; a run that was stopped while it was founded is said to start again.

    Raises:
        ConfigError: nothing is there.
    """
    from dictpfl.common.errors import ConfigError
    from dictpfl.deploy.runs.run import CONFIG

    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigError(
            f"nothing to resume in {folder}; name the run's folder, or leave --resume away to begin a run"
        )
    if not (folder / CONFIG).exists():
        console.remark([f"the run in {folder} was stopped before it was founded whole; it begins anew"])


def _free_folder(name: str, what: str, *, resume: bool) -> Path:
    """Return the folder in `runs` that is named after the configuration, or the first free one with a number behind it."""
    from dictpfl.deploy.runs.run import folder_of

    wanted = folder_of(name, what)
    if resume:
        return wanted
    number, folder = 2, wanted
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder


def _without_traceback(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Say in a word what was raised; with `-v` the whole traceback is shown."""
    raised = event.pop("exc_info", None)
    error = raised if isinstance(raised, BaseException) else sys.exception() if raised else None
    if error is not None:
        event.setdefault("reason", f"{type(error).__name__}: {error}")
    return event


class _OfData:
    """Let warnings through that say what became of data and weights, each once; what a round repeats is for `-v`."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """Drop an event, or leave it as it was before its place was noted."""
        import structlog

        place = Path(event.pop("pathname")).as_posix()
        if method == "warning":
            said = repr(sorted(event.items(), key=str))
            if not any(room in place for room in _TOLD) or said in self._told:
                raise structlog.DropEvent
            self._told.add(said)
        return event


_TOLD = ("/client/data/", "/client/model/", "/client/training/unread")


def _logging(*, verbose: bool) -> None:
    import structlog

    level = logging.INFO if verbose else logging.ERROR
    structlog.reset_defaults()
    *before, rendering = structlog.get_config()["processors"]
    place = structlog.processors.CallsiteParameterAdder({structlog.processors.CallsiteParameter.PATHNAME})
    structlog.configure(
        processors=[*before, rendering] if verbose else [place, _OfData(), *before, _without_traceback, rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if verbose else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=level, stream=sys.stderr)
