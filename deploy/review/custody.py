"""Custody logs, verified and put in words: who made, received and changed a key, and when rounds were closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dictpfl.common.errors import DictPFLError
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.operations.witness import CLOSED

_WORDS = {
    "identity made": "made its own keys",
    "genesis": "founded the federation and made its key",
    "rotation": "made a new key",
    "bundle opened": "opened its sealed bundle: has had the key from here on",
    "epoch joined": "installed the key",
    "epoch installed": "installed its half of the agreement; there is no key in it",
    "node admitted": "admitted an institution's connection",
    "node dismissed": "ended an institution's admission",
    "passphrase changed": "sealed its secrets under a new passphrase",
    "state exported": "exported the shared state for a change of key",
    "study proposed": "proposed a study on this network",
    "study approved": "approved a study's text",
    "study refused": "refused a study",
    "study paused": "paused a study",
    "study aborted": "ended a study for good",
    "study installed": "installed its half of a study; there is no key in it",
}
_SHORT = 12
"""Digits of a digest that a table shows; the log has all."""


@dataclass(frozen=True)
class Entry:
    """A line for people: when, what, and what else the log says of it."""

    at: str
    what: str
    details: str


@dataclass(frozen=True)
class Log:
    """A party's log.

    Attributes:
        party: name of whose log it is.
        role: of that party.
        words: fingerprint of that party, as it is read out by phone.
        whole: order, chain, signatures and end were checked and hold.
        verdict: the same in words, or what is wrong.
        count: entries in all.
        entries: of a whole log, rounds that follow each other put together.
    """

    party: str
    role: str
    words: str
    whole: bool
    verdict: str
    count: int
    entries: Sequence[Entry]


def logs(folder: Path) -> list[Log]:
    """Read all custody logs below a folder, by role and name; one that does not hold says so in place of its entries."""
    paths = {path.resolve(): path for path in sorted(folder.rglob(custody.LOG))}
    return sorted((_log(path, folder) for path in paths.values()), key=lambda log: (log.role, log.party))


def _log(path: Path, folder: Path) -> Log:
    try:
        (checked,) = custody.verify(path)
    except DictPFLError as error:
        said = str(error).replace(f"{folder}/", "")
        return Log(path.parent.name, "", "", whole=False, verdict=said, count=0, entries=())
    party, count = checked.party, len(checked.entries)
    verdict = f"whole: {count} entries; order, chain, signatures and end hold"
    words = spoken(party.fingerprint)
    return Log(
        party.name,
        str(party.role),
        words,
        whole=True,
        verdict=verdict,
        count=count,
        entries=tuple(_told(checked.entries)),
    )


def _told(entries: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    closed: list[Mapping[str, Any]] = []
    for entry in entries:
        follows = _is_round(entry) and (not closed or entry["facts"]["round"] == closed[-1]["facts"]["round"] + 1)
        if not follows:
            yield from _rounds(closed)
            closed = []
        if _is_round(entry):
            closed.append(entry)
            continue
        event = str(entry["event"])
        yield Entry(str(entry["at"]), _WORDS.get(event, event), _details(entry["facts"]))
    yield from _rounds(closed)


def _is_round(entry: Mapping[str, Any]) -> bool:
    """Tell whether an entry is about a round in the form in which a coordinator writes it."""
    counts = (entry["facts"].get(name) for name in ("round", "contributors"))
    return entry["event"] == CLOSED and all(isinstance(count, int) for count in counts)


def _rounds(closed: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    if not closed:
        return
    first, last = closed[0]["facts"], closed[-1]["facts"]
    which = f"round {first['round']}" if len(closed) == 1 else f"rounds {first['round']} to {last['round']}"
    counts = sorted({entry["facts"]["contributors"] for entry in closed})
    most = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield Entry(str(closed[0]["at"]), f"closed {which}", f"{most} institutions in a sum")


def _details(facts: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name.replace('_', ' ')} {_value(value)}" for name, value in facts.items() if value not in ("", None)
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({_value(one)})" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(one) for one in value)
    text = str(value)
    return text[:_SHORT] + "…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text  # noqa: PLR2004 -- SHA-256
