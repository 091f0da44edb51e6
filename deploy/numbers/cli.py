"""Command `dictpfl audit numbers`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import counted, percent
from dictpfl.deploy.unread import refuse_unread

if TYPE_CHECKING:
    from dictpfl.client.data.digits import Histogram

audit = typer.Typer(name="audit")

DOCUMENT, PAGE = "numbers.json", "numbers.html"
_OF_MODELS = ("corpus", "against", "tasks", "samples", "shots", "free", "neurons", "digit", "draws", "seed", "device")
"""Options of a language model."""


@audit.command()
def numbers(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A folder of transformers with its tokenizer; a run of a language model; or a run that tallied numbers.",
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option(*OUT, help="New folder for numbers.json and numbers.html.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="A table (.csv, .tsv, .parquet) whose digits are counted, in place of a model.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="Of --data: names with commas, one that has a comma in double quotes; default: all that hold measurements."
        ),
    ] = "",
    into: Annotated[
        Path | None,
        typer.Option(
            help="Of --data: an institution's folder; leaves numbers.json there, counts alone, for the tally `numbers`."
        ),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Of a model: a text whose numbers its neurons are held against.")
    ] = None,
    against: Annotated[
        str, typer.Option(metavar="MODEL", help="Of a model: another one, side by side, such as the one before tuning.")
    ] = "",
    tasks: Annotated[str, typer.Option(help="Of a model: kinds of questions, with commas.")] = "all",
    samples: Annotated[int, typer.Option(min=2, help="Of a model: questions of each kind.")] = 100,
    shots: Annotated[int, typer.Option(min=0, help="Of a model: examples in front of each question.")] = 2,
    free: Annotated[bool, typer.Option("--free", help="Of a model: let it write answers by itself, too.")] = False,  # noqa: FBT002
    neurons: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.5, help="Of a model (experimental): share of neurons to silence for a digit; 0: none."
        ),
    ] = 0.0,
    digit: Annotated[
        list[int] | None, typer.Option(min=0, max=9, help="Of --neurons: whose neurons; default: each of the ten.")
    ] = None,
    draws: Annotated[
        int, typer.Option(min=0, help="Of --neurons: draws of as many random neurons, for each digit.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of questions and draws.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Hold digits against what is to be expected: of a table, of all institutions' tables together, or of a language model.

    Nothing is sent. A test points to numbers worth a look; it proves nothing about who wrote them.

    Example: `dictpfl audit numbers --data patients.csv --columns pressure,dose -o digits`
    """
    use_working_directory()
    from dictpfl.common.errors import ConfigError

    if bool(source) == (data is not None):
        raise ConfigError("name a MODEL or a run, or a table by --data; one of them")
    if output is not None:
        from dictpfl.deploy.exports.exporter import refuse_full

        refuse_full(output)
        if into is not None and into.resolve() == output.resolve():
            raise ConfigError(f"--into and -o are both {output}; name a folder of its own for the page by -o")
    if data is not None:
        refuse_unread(*_OF_MODELS, because=f"of a language model, and {data} is a table")
        _of_table(data, columns, into, output)
        return
    refuse_unread("columns", "into", because="of a table, and --data names none")
    if against and Path(against).resolve() == Path(source).resolve():
        raise ConfigError(f"--against {against} is the model itself; name another one, or none")
    if _of_tally(source, output):
        return
    from dictpfl.deploy.numbers.model import Asked

    if not neurons:
        refuse_unread(
            "digit", "draws", because="of neurons that are silenced, and --neurons says how many, such as 0.001"
        )
    kinds = () if tasks == "all" else tuple(word.strip() for word in tasks.split(","))
    asked = Asked(kinds, samples, shots, seed, free, neurons, tuple(digit or ()), draws)
    _of_model(source, against, asked, corpus, output, device)


def _of_table(path: Path, columns: str, into: Path | None, output: Path | None) -> None:
    from dictpfl.deploy.numbers.data import described, leave_counts, of_file

    found, names, left_out = of_file(path, _listed(columns))
    left = leave_counts(found, names, into) if into is not None else None
    document = {
        "format": "dictpfl-digits-1",
        "of": path.name,
        "columns": names,
        "left_out": left_out,
        "data": described(found),
    }
    _tell_data(document["data"], f"{', '.join(names)} of {path.name}")  # type: ignore[arg-type]
    if left_out:
        console.say(
            f"left out, as identifiers, codes or dates, or without numbers: {', '.join(left_out)}; --columns takes them"
        )
    if left is not None:
        console.say(f"counts for the tally `numbers`  {left}")
    _write(output, document)


def _listed(columns: str) -> list[str]:
    """Names of columns, separated by commas; one that has a comma stands in quotes, as in a CSV."""
    from dictpfl.common.errors import ConfigError

    try:
        words = next(csv.reader([columns], skipinitialspace=True))
    except csv.Error as error:
        raise ConfigError(
            f"--columns {columns!r}: {error}; expected names with commas, one that has a line's end in double quotes"
        ) from error
    return [word.strip() for word in words if word.strip()]


def _of_tally(source: str, output: Path | None) -> bool:
    """Show what a run's institutions tallied together; False: they did not, or it is no run."""
    from dictpfl.deploy.exports.finished import Finished
    from dictpfl.deploy.numbers.data import described, tallied

    folder = Path(source)
    if not ((folder / "summary.json").exists() or (folder / "institution.toml").exists()):
        return False
    finished = Finished.load(folder)
    pooled = tallied(finished)
    if pooled is None:
        return False
    refuse_unread(*_OF_MODELS, because=f"of a language model, and {source} shows what its institutions tallied")
    found, institutions = pooled
    name = finished.genesis.config.name
    document = {"format": "dictpfl-digits-1", "of": name, "institutions": institutions, "data": described(found)}
    _tell_data(document["data"], f"{counted(institutions, 'institution')} of {name} together")  # type: ignore[arg-type]
    _write(output, document)
    return True


def _tell_data(data: dict[str, Any], whose: str) -> None:
    table = console.table("digits", "numbers", "chi-square", "p", "deviation", title=f"digits of {whose}")
    table.add_column("", overflow="fold")
    for test in data["tests"]:
        tested = test["p"] is not None
        table.add_row(
            test["what"], f"{test['count']:,}", f"{test['statistic']:.1f} of {test['freedom']}" if tested else "-",
            f"{test['p']:.2g}" if tested else "-", f"{test['deviation']:.4f}" if test["deviation"] is not None else "-", test["verdict"],
        )  # fmt: skip
    console.out.print(table)
    console.say(
        f"{data['numbers']:,} numbers, {data['zeros']:,} zeros, {data['others']:,} other words; a test points to numbers, it proves nothing"
    )


def _of_model(source: str, against: str, asked: Any, corpus: Path | None, output: Path | None, device: str) -> None:
    from dictpfl.deploy.numbers.model import audit
    from dictpfl.deploy.numbers.sources import reader_of

    text = _corpus(corpus) if corpus else None
    outcomes = {}
    for name in filter(None, (source, against)):
        console.say(f"{Path(name).name}")
        outcomes[name] = audit(reader_of(name, device), asked, corpus=text, note=console.say)
        _tell_model(name, outcomes[name])
    words = None if text is None else {"of": corpus.name if corpus else "", "first": _shares(text)}
    document = {
        "format": "dictpfl-digits-1",
        "of": Path(source).name,
        "corpus": words,
        "models": {
            Path(n).name + (", against" if n == against and Path(against).name == Path(source).name else ""): o
            for n, o in outcomes.items()
        },
    }
    _write(output, document)


def _corpus(path: Path) -> Histogram:
    from dictpfl.client.data.digits import histogram, numbers_in
    from dictpfl.common.errors import DataError

    try:
        return histogram(numbers_in(path.read_text(encoding="utf-8")), every=True)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the text {path}: {error}") from error


def _shares(found: Histogram) -> list[float]:
    first = found.part("first")
    return [int(count) / max(1, int(first.sum())) for count in first]


def _tell_model(name: str, outcome: dict[str, Any]) -> None:
    reading, errors, spelling = outcome["reading"], outcome["first_errors"], outcome.get("spelling")
    table = console.table(
        "digit", "truth", "written", "95 %", "first errors", "selectivity", title=f"digits of {Path(name).name}"
    )
    for d in range(10):
        table.add_row(
            str(d), percent(reading["truth"][d]), percent(reading["shares"][d]), f"{100 * reading['low'][d]:.1f} to {100 * reading['high'][d]:.1f}",
            percent(errors["shares"][d]) if errors else "-", f"{outcome['profile']['selectivity'][d]:.1f}",
        )  # fmt: skip
    console.out.print(table)
    if spelling:
        console.say(
            f"digits come up to {spelling['longest']} to a token: shares are those of tokens' first characters, beside the truth's own; first errors are left out; "
            "selectivity is that of the tokens of one digit"
        )
    told = f"{reading['places']:,} digits, {percent(reading['accuracy'])} right; {percent(reading['distance'])} away from even"
    if spelling:
        told = (
            f"{reading['places']:,} tokens, {percent(reading['accuracy'])} of their first characters right, {percent(reading['chance'])} by chance; "
            f"{percent(reading['distance'])} away from the truth's shares"
        )
    against = outcome["profile"]["against_benford"]
    if against is not None:
        told += f"; neurons' selectivity against Benford r = {against:.2f}"
    console.say(told)
    if "free" in outcome:
        free = outcome["free"]
        console.say(
            f"by itself: {free['numbers']} numbers in {free['answers']} answers, {percent(free['right'])} right, {percent(free['first'][0])} begin with 1"
        )
        if "characters" in free:
            own = free["characters"]
            console.say(
                f"by itself: 1 begins {percent(own['shares'][1])} of {own['tokens']:,} tokens ({100 * own['low'][1]:.1f} to {100 * own['high'][1]:.1f}), "
                f"{percent(own['truth'][1])} of the truth's"
            )
    if "neurons" in outcome:
        _tell_neurons(outcome["neurons"], several=spelling is not None)


def _tell_neurons(found: dict[str, Any], *, several: bool) -> None:
    table = console.table(
        "silenced",
        "its share before",
        "after",
        "accuracy",
        "mended",
        "broken",
        title=f"{found['count']} of {found['of']} neurons",
    )
    for d in found["digits"]:
        effect = found["effects"][f"digit {d}"]
        table.add_row(
            f"digit {d}", percent(found["plain"]["shares"][d]), percent(effect["shares"][d]), percent(effect["accuracy"]), str(effect["mended"]),
            str(effect["broken"]),
        )  # fmt: skip
    console.out.print(table)
    console.say(
        f"accuracy {percent(found['plain']['accuracy'])} before; away from {'the truth' if several else 'even'} {percent(found['plain']['distance'])} before"
    )
    if several:
        console.say(
            "neurons are chosen by the tokens of one digit; longer tokens are not ranked, and what changes is their first character"
        )
    if found["random_low"] is not None:
        held = found["diagonal"] < found["random_low"]
        console.say(
            f"mean change of the own digit {100 * found['diagonal']:+.1f} points, 5th percentile of random draws {100 * found['random_low']:+.1f}: "
            f"{'these neurons carry the preference' if held else 'not shown that these neurons carry the preference'}"
        )
        console.say(
            f"mended less broken {found['mended']:+d}, 95th percentile of random draws {found['random_mended']:+.0f}; in earlier probes the cure was mixed: "
            "the preference moved to the next digit. Nothing of it is offered as a remedy"
        )


def _write(output: Path | None, document: dict[str, Any]) -> None:
    """Write numbers.json and numbers.html into a new folder, mode 0600."""
    if output is None:
        return
    from dictpfl.common.files import write_private
    from dictpfl.deploy.exports.exporter import new_folder
    from dictpfl.deploy.numbers.page import page

    with new_folder(output, private=True):
        write_private(output / DOCUMENT, (json.dumps(document, indent=1) + "\n").encode())
        write_private(output / PAGE, page(document).encode())
    console.say(f"{output}")
