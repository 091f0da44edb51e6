"""The page of a coordinator's folder: times, sizes and counts, and who answered; it knows no more, and shows no more.

What it may show is `MAY_KNOW`; `docs/reference/what-each-party-sees.md` has the same list for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.operations.certificates import SOON_DAYS, standing
from dictpfl.deploy.operations.status import of_coordinator
from dictpfl.deploy.units import counted, human_bytes, human_seconds
from dictpfl.deploy.watch.charts import stacked
from dictpfl.deploy.watch.view import Card, Chart, Table, View, clock

MAY_KNOW = frozenset(
    {
        "federation", "key", "encrypted", "insecurities", "bundle", "rounds_wanted", "epoch", "stopped_before_round",
        "rounds", "refused", "excluded", "trouble", "processes", "nodes", "certificate_days_left", "disk", "disk_free",
        "asked_again", "times_asked_again", "not_ready", "down", "finished", "no_run", "overdue", "warnings",
    }
)  # fmt: skip
"""Facts that the page may be made of: ids and digests, what was agreed on, what each round weighed and took, and who was there."""
ROUNDS_MAY_KNOW = frozenset(
    {
        "round", "kind", "contributors", "senders", "ciphertexts", "bytes_up", "bytes_down", "seconds", "fold_seconds", "ended",
        "rejected", "void", "vain",
    }
)  # fmt: skip
"""Facts of a round that it may be made of."""
_LAST_ROUNDS = 12


class CoordinatorWatch:
    """A coordinator's folder, read again whenever somebody looks; nothing is loaded that could open or seal."""

    def __init__(self, folder: Path) -> None:
        """Set up.

        Raises:
            DictPFLError: not a coordinator's folder.
        """
        self._folder = folder
        of_coordinator(folder)

    def view(self) -> View:
        """Return the page as it is now.

        Raises:
            DictPFLError: the folder cannot be read.
        """
        told = {name: value for name, value in of_coordinator(self._folder).items() if name in MAY_KNOW}
        rounds = [{name: one[name] for name in one if name in ROUNDS_MAY_KNOW} for one in told["rounds"]]
        updates = [one for one in rounds if one["kind"] == RoundKind.UPDATE and not one["void"]]
        return View(
            whose="coordinator",
            title=f"Coordinator of federation {told['federation'][:16]}",
            lead="What the coordinator knows: who answered, how many bytes, how long. It has no key, and sees no value, figure, sample count.",
            done=len(updates),
            wanted=told["rounds_wanted"],
            ended=told["stopped_before_round"] is not None or len(updates) >= told["rounds_wanted"],
            alarms=[*_alarms(told, rounds)],
            cards=[*_cards(told, rounds)],
            charts=[*_charts(rounds)],
            tables=[*_tables(told, rounds)],
        )


def _alarms(told: Mapping[str, Any], rounds: list[dict[str, Any]]) -> Iterator[str]:
    if told["trouble"]:
        yield f"stopped: {told['trouble']}"
    if told["not_ready"]:
        yield f"`dictpfl coordinator up` ended: {told['not_ready']}"
    overdue = "no round has closed for two deadlines" if told["overdue"] else ""
    yield from filter(None, (told["no_run"], overdue, *told["warnings"], told["disk"]))
    yield from (f"insecure: {reason}" for reason in told["insecurities"])
    yield from (one["text"] for one in told["refused"])
    if told["asked_again"]:
        yield told["asked_again"]["text"]
    yield from (one["void"] for one in rounds if one["void"])
    for one in told["excluded"]:
        yield f"{one['name']} is excluded since {clock(one['at'])} UTC" + (
            f": {one['reason']}" if one["reason"] else ""
        )
    if rounds:
        names = _names(told)
        yield from (
            f"not in the last sum: {names.get(node) or node} ({why})" for node, why in rounds[-1]["rejected"].items()
        )
    if told["processes"]:  # left behind, too, by an `up` that was killed
        yield from told["down"]
    days = told["certificate_days_left"]
    if days is not None and days < SOON_DAYS:
        yield f"certificate: {standing(days)}"


def _cards(told: Mapping[str, Any], rounds: list[dict[str, Any]]) -> Iterator[Card]:
    last = rounds[-1] if rounds else None
    if last is not None:
        yield Card(
            "In the last sum",
            counted(last["contributors"], "institution"),
            f"{counted(len(last['rejected']), 'upload')} not in it",
        )
        yield Card(
            "Last round took", human_seconds(last["seconds"]), f"of it adding {human_seconds(last['fold_seconds'])}"
        )
    yield Card(
        "Uploads received", human_bytes(sum(one["bytes_up"] for one in rounds)), "of all institutions, all rounds"
    )
    if told["nodes"] is None:
        yield Card("SuperLink", "does not answer", "`dictpfl coordinator up` is not running")
    else:
        online = sum(node["status"] == "online" for node in told["nodes"])
        yield Card("Institutions online", f"{online} of {len(told['nodes'])}")
    if (days := told["certificate_days_left"]) is not None:
        yield Card("Certificate", f"{days:.0f} days left" if days > 0 else f"ended {-days:.0f} days ago")


def _charts(rounds: list[dict[str, Any]]) -> Iterator[Chart]:
    numbers = [one["round"] for one in rounds]
    uploads, sums = [one["bytes_up"] for one in rounds], [one["bytes_down"] for one in rounds]
    yield Chart(
        stacked("Bytes", {"uploads, all institutions": uploads, "the sum": sums}, numbers, shown=human_bytes),
        f"Bytes of all uploads, and of the sum, in each exchange; {human_bytes(sum(uploads))} of uploads in all.",
    )
    adding = [min(one["fold_seconds"], one["seconds"]) for one in rounds]
    waiting = [max(0.0, one["seconds"] - fold) for one, fold in zip(rounds, adding, strict=True)]
    yield Chart(
        stacked("Time", {"waiting for institutions": waiting, "adding": adding}, numbers, shown=human_seconds),
        f"Seconds of each exchange: {human_seconds(sum(waiting))} waiting, {human_seconds(sum(adding))} adding in all.",
    )


def _tables(told: Mapping[str, Any], rounds: list[dict[str, Any]]) -> Iterator[Table]:
    names = _names(told)
    if told["nodes"]:
        last = rounds[-1] if rounds else {"senders": [], "rejected": {}}
        rows = []
        for node in told["nodes"]:
            seen, name = node["seconds_since_seen"], node["name"] or str(node["node"])
            heard = "never" if seen is None else "within a minute" if seen < 60 else f"{human_seconds(seen)} ago"  # noqa: PLR2004
            why = last["rejected"].get(str(node["node"]))
            rows.append((name, node["status"], heard, "in the sum" if name in last["senders"] else why or "-"))
        yield Table("Institutions", ("institution", "connection", "heard", "last exchange"), rows)
    yield Table(
        "Last exchanges",
        ("exchange", "kind", "in the sum", "ciphertexts", "up", "down", "seconds", "of it adding", "ended (UTC)", "not in the sum"),
        [
            (
                str(one["round"]), f"{one['kind']}, void" if one["void"] else one["kind"], str(one["contributors"]),
                str(one["ciphertexts"]),
                human_bytes(one["bytes_up"]), human_bytes(one["bytes_down"]), human_seconds(one["seconds"]),
                human_seconds(one["fold_seconds"]), clock(one["ended"]),
                ", ".join(f"{names.get(node) or node}: {why}" for node, why in one["rejected"].items()) or "-",
            )
            for one in reversed(rounds[-_LAST_ROUNDS:])
        ],
        "Exchanges are numbered from 0, as in all logs; scores and measurements are exchanges, too.",
    )  # fmt: skip
    yield Table(
        "The federation",
        ("what", "is"),
        [
            ("federation id", told["federation"]),
            ("key fingerprint", told["key"]),
            ("epoch", str(told["epoch"])),
            ("uploads", "encrypted" if told["encrypted"] else "NOT ENCRYPTED"),
        ],
    )


def _names(told: Mapping[str, Any]) -> dict[str, str]:
    return {str(node["node"]): node["name"] for node in told["nodes"] or ()}
