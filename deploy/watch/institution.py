"""The page of an institution's folder: its own figures, which leave it nowhere else, and what all institutions share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dictpfl.client.folder import DIARY
from dictpfl.client.keys.epochs import home
from dictpfl.client.memory.diary import read_diary
from dictpfl.client.memory.record import Memory
from dictpfl.common.config import FederationConfig
from dictpfl.common.genesis import DOCUMENT
from dictpfl.common.law.layout import Layout
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.operations.status import of_institution
from dictpfl.deploy.units import human_bytes, human_count, human_seconds
from dictpfl.deploy.watch.parts import course, digits, figure_name, privacy_cards, time_split, traffic
from dictpfl.deploy.watch.view import Card, Chart, Share, Table, View, clock

_LAST_LINES = 16


@dataclass(frozen=True)
class _Round:
    """What the diary says of one exchange of updates, numbered as people count, from 1."""

    number: int
    up: int
    down: int
    metric: float | None
    loss: float | None
    seconds: Mapping[str, float]


class InstitutionWatch:
    """An institution's folder, read again whenever its diary has grown."""

    def __init__(self, folder: Path) -> None:
        """Set up.

        Raises:
            DictPFLError: not an institution that has joined a federation.
        """
        self._folder = folder
        of_institution(folder)
        document = json.loads((home(folder) / DOCUMENT).read_bytes())
        self._config = FederationConfig.model_validate(document["config"])
        self._layout, self._federation = Layout.from_json(document["layout"]), bytes.fromhex(document["federation"])

    @cached_property
    def _figure(self) -> str:
        return figure_name(self._config)

    def view(self) -> View:
        """Return the page as it is now.

        Raises:
            DictPFLError: the folder cannot be read.
        """
        standing, entries = of_institution(self._folder), read_diary(self._folder / DIARY)
        rounds, wanted = _rounds(entries), self._config.federation.rounds
        return View(
            whose="institution",
            title=f"{standing['name']} in {self._config.name}",
            lead="What this institution knows: its own figures, and the state that all institutions share. Nothing here is sent anywhere.",
            done=standing["updates"],
            wanted=wanted,
            ended=standing["stopped"] or standing["updates"] >= wanted,
            alarms=[*self._config.insecurities, *_alarms(standing)],
            cards=[*self._cards(standing, rounds)],
            charts=[*self._charts(rounds)],
            tables=[*self._tables(standing, entries)],
        )

    def _cards(self, standing: Mapping[str, Any], rounds: Sequence[_Round]) -> Iterator[Card]:
        measured = [one for one in rounds if one.metric is not None]
        if measured:
            yield Card(
                f"Own validation {self._figure}", digits(measured[-1].metric), f"loss {digits(measured[-1].loss)}"
            )
        best = standing["best_after_updates"]
        if best is not None:
            yield Card("Best by validation", f"after round {best}", "of all institutions together")
        counted = standing["delivery"]
        yield Card("Uploads lately", f"{counted['counted']} in the sums", f"{counted['missed']} not")
        yield Card(
            "Sent",
            human_bytes(sum(one.up for one in rounds)),
            f"received {human_bytes(sum(one.down for one in rounds))}",
        )
        yield from privacy_cards(standing["privacy"])

    def _charts(self, rounds: Sequence[_Round]) -> Iterator[Chart]:
        figures = {"own validation, before the round": [(one.number, one.metric) for one in rounds]}
        yield from course(self._figure, figures, {"own validation": [(one.number, one.loss) for one in rounds]})
        yield traffic([(one.number, one.up, one.down) for one in rounds])
        yield time_split([(one.number, one.seconds) for one in rounds])

    def _tables(self, standing: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
        if rows := self._pruned():
            yield Table(
                "Pruned by layer, in the state that all institutions share",
                ("tensor", "kind", "values", "pruned"),
                rows,
            )
        yield Table(
            "This institution's diary",
            ("when (UTC)", "event", "exchange", "bytes", self._figure, "loss", "seconds"),
            [
                (
                    clock(line.get("at")), str(line.get("event")), str(line["round"]), human_bytes(line.get("bytes", 0)),
                    digits(line.get("metric")), digits(line.get("loss")), human_seconds(sum(line.get("seconds", {}).values())),
                )
                for line in reversed(entries[-_LAST_LINES:])
            ],
            "Exchanges are numbered from 0, as in all logs; scores and measurements are exchanges, too.",
        )  # fmt: skip
        yield Table(
            "The federation",
            ("what", "is"),
            [
                ("federation id", standing["federation"]),
                ("digest of shared state", standing["state_digest"] or "-"),
                ("shared values", human_count(self._layout.size)),
            ],
            "Institutions that are in step have the same digest after the same round.",
        )

    def _pruned(self) -> list[tuple[str, str, str, Share]]:
        record = Memory(self._folder / "memory", self._federation).recall()
        if record is None:
            return []
        rests = record.shared.history.idle >= self._config.pruning.tau
        return [
            (
                entry.name,
                str(entry.kind),
                human_count(entry.size),
                Share(float(rests[entry.span].mean()), f"of {entry.name} pruned"),
            )
            for entry in self._layout.entries
            if entry.size
        ]


def _alarms(standing: Mapping[str, Any]) -> Iterator[str]:
    if text := standing["refusals"]["text"]:
        yield text
    if standing["not_ready"]:
        yield f"cannot take part: {standing['not_ready']}"
    if standing["disk"]:
        yield str(standing["disk"])
    if last := standing["delivery"].get("last_missed"):
        row = standing["delivery"]["missed_in_a_row"]
        if row:
            yield f"the upload of exchange {last['round']} is not in its sum, {row} in a row by now: {last['meaning']}"
    if void := ", ".join(str(line["round"]) for line in standing["void"]):
        yield f"void lately, at every institution: exchange {void}. Nothing of the sum was applied"
    if standing["processes"]:  # left behind, too, by an `up` that was killed
        yield from standing["down"]
    yield from standing["warnings"]


def _rounds(entries: Iterable[Mapping[str, Any]]) -> list[_Round]:
    """Put what belongs to one update together; an upload that was repeated counts once, as it was last made."""
    made: dict[int, Mapping[str, Any]] = {}
    came: dict[int, Mapping[str, Any]] = {}
    for line in entries:
        if line.get("event") == "uploaded" and line.get("kind") == RoundKind.UPDATE:
            made[line["round"]] = line
        elif line.get("event") in ("applied", "void"):
            came[line["round"]] = line
    return [
        _Round(
            index + 1, int(made[number]["bytes"]), int(came.get(number, {}).get("bytes", 0)), made[number].get("metric"),
            made[number].get("loss"),
            {**came.get(number, {}).get("seconds", {}), **made[number].get("seconds", {})},
        )
        for index, number in enumerate(sorted(made))
    ]  # fmt: skip
