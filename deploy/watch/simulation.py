"""The page of a simulation's run folder: whoever simulates plays all parties, so it shows what all of them know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dictpfl.client.folder import DIARY, InstitutionSettings
from dictpfl.client.memory.diary import read_diary, troubles
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DictPFLError
from dictpfl.common.files import in_shell
from dictpfl.common.genesis import DOCUMENT
from dictpfl.common.law.layout import Layout
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.operations.metrics import Diary
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.run import (
    INSTITUTIONS,
    PROGRESS,
    SUMMARY,
    closed_rounds,
    first_institution,
    is_at_work,
)
from dictpfl.deploy.units import human_bytes, human_count, human_seconds
from dictpfl.deploy.watch.parts import (
    called,
    course,
    digits,
    figure_name,
    privacy_cards,
    time_split,
    traffic,
    validations,
)
from dictpfl.deploy.watch.view import Card, Chart, Share, Table, View, clock

LAST_ROUNDS = 12
_TAIL = 1 << 16
"""Bytes at the end of a diary in which an alarm is looked for."""
_MOST_ROWS = 60
"""Most institutions in the table; those that nothing is wrong with are left out first."""


class RunWatch:
    """A run folder, read again whenever somebody looks."""

    def __init__(self, folder: Path) -> None:
        """Set up.

        Raises:
            ConfigError: no run was begun there.
        """
        self._folder = folder
        self._config, _ = closed_rounds(folder)
        self._layout: Layout | None = None
        self._diaries: dict[Path, Diary] = {}

    @cached_property
    def _figure(self) -> str:
        return figure_name(self._config)

    def view(self) -> View:
        """Return the page as it is now.

        Raises:
            DictPFLError: the folder cannot be read.
        """
        config, history = closed_rounds(self._folder)
        updates = [record for record in history if record.kind == RoundKind.UPDATE]
        summary = _json(self._folder / SUMMARY)
        homes = sorted((self._folder / INSTITUTIONS).glob("*"))
        return View(
            whose="simulation",
            title=f"{config.name}: {config.method}",
            lead=_lead(config),
            done=max((record.update for record in updates), default=0),
            wanted=config.federation.rounds,
            ended=summary is not None,
            alarms=[*config.insecurities, *self._alarms(history, homes, ended=summary is not None)],
            cards=[*self._cards(config, history, updates, summary)],
            charts=[*self._charts(history, updates)],
            tables=[*self._tables(history, updates, homes)],
        )

    def _alarms(self, history: Sequence[RoundRecord], homes: Sequence[Path], *, ended: bool) -> Iterator[str]:
        if not ended and not is_at_work(self._folder):
            yield f"no process works here: the run was stopped. `dictpfl simulate {in_shell(self._folder)} --resume` goes on"
        for record in history[-1:]:
            for node, why in record.rejected.items():
                yield f"an upload is not in the last sum (node {node}): {why}"
        void: set[int] = set()
        for home in homes:
            found = troubles(read_diary(home / DIARY, _TAIL))
            void |= {int(line["round"]) for line in found["void"]}
            yield from (
                f"{home.name} refused the sum of exchange {line['round']}: {line.get('reason', 'not known')}"
                for line in found["refused"]
            )
        if void:
            yield f"void exchanges, of which nothing was applied: {', '.join(map(str, sorted(void)))}"

    def _cards(
        self,
        config: FederationConfig,
        history: Sequence[RoundRecord],
        updates: Sequence[RoundRecord],
        summary: dict[str, Any] | None,
    ) -> Iterator[Card]:
        figures = [record for record in updates if record.test is not None]
        if figures:
            last, validated = figures[-1], [r for r in history if r.validation is not None]
            said = f"validation {digits(validated[-1].validation)}" if validated else ""
            yield Card(f"Test {self._figure}", digits(last.test), said)
        yield Card(
            "One institution sent",
            human_bytes(sum(r.bytes_up for r in history)),
            f"{human_count(sum(r.sent for r in history))} values",
        )
        yield Card("One institution received", human_bytes(sum(r.bytes_down for r in history)))
        seconds = (summary or {}).get("seconds", {}).get("total") or (_json(self._folder / PROGRESS) or {}).get(
            "seconds"
        )
        if seconds is not None:
            yield Card(
                "Time", human_seconds(seconds), _left(updates, config.federation.rounds) if summary is None else "ended"
            )
        yield from privacy_cards(self._privacy(config))

    def _privacy(self, config: FederationConfig) -> dict[str, Any] | None:
        """Return the largest account of all institutions."""
        if config.privacy.mechanism == "none":
            return None
        from dictpfl.client.memory.record import Memory
        from dictpfl.client.privacy.guard import spent

        document = json.loads((first_institution(self._folder) / DOCUMENT).read_bytes())
        accounts = []
        for home in sorted((self._folder / INSTITUTIONS).glob("*")):
            try:
                account = spent(config, Memory(home / "memory", bytes.fromhex(document["federation"])).path)
            except DictPFLError:
                continue  # before its first release
            if account is not None:
                accounts.append(account)
        return max(accounts, key=lambda one: float(one["epsilon"]), default=None)

    def _charts(self, history: Sequence[RoundRecord], updates: Sequence[RoundRecord]) -> Iterator[Chart]:
        yield from course(
            self._figure,
            {
                "test": [(r.update, r.test) for r in updates],
                "validation, all institutions": validations(history, "validation"),
            },
            {
                "test": [(r.update, r.test_loss) for r in updates],
                "validation, all institutions": validations(history, "validation_loss"),
                "training": [(r.update, r.train_loss) for r in updates],
            },
            ringed="validation, all institutions",
            higher=self._config.selection.higher,
        )
        yield traffic([(r.update, r.bytes_up, r.bytes_down) for r in updates])
        yield time_split([(r.update, r.seconds) for r in updates])

    def _tables(
        self, history: Sequence[RoundRecord], updates: Sequence[RoundRecord], homes: Sequence[Path]
    ) -> Iterator[Table]:
        yield self._institutions(history, homes)
        yield Table(
            "Last rounds",
            ("round", "in the sum", "values sent", "up", "down", "test", "validation before", "seconds"),
            [
                (
                    called(record), str(record.contributors), human_count(record.sent), human_bytes(record.bytes_up),
                    human_bytes(record.bytes_down), digits(record.test), digits(record.validation),
                    human_seconds(record.seconds.get("round", 0.0)),
                )
                for record in reversed(history[-LAST_ROUNDS:])
            ],
            "Test figures are of the model after the round, validation figures of the model before it.",
        )  # fmt: skip
        if updates and (layout := self._sizes()) is not None:
            last = updates[-1].sent_by_tensor
            rows = [
                (
                    entry.name,
                    str(entry.kind),
                    human_count(entry.size),
                    Share(1 - last[entry.name] / entry.size, f"of {entry.name} pruned"),
                )
                for entry in layout.entries
                if entry.name in last
            ]
            yield Table(f"Pruned by layer, round {updates[-1].update}", ("tensor", "kind", "values", "not sent"), rows)

    def _institutions(self, history: Sequence[RoundRecord], homes: Sequence[Path]) -> Table:
        open_round = history[-1].round + 1 if history else 0
        rows = []
        for home in homes:
            diary = self._diaries.setdefault(home, Diary(home / DIARY))
            diary.read()
            answered = diary.round is not None and diary.round >= open_round
            state = "answered" if answered else "at work or waiting"
            counts = f"{diary.events.get('uploaded', 0)}", f"{diary.events.get('refused', 0)}"
            rows.append(
                (answered, (_name(home), state, clock(diary.at), *counts, human_bytes(diary.bytes.get("uploaded", 0))))
            )
        rows.sort(key=lambda row: row[0])
        shown = [row for _, row in rows[:_MOST_ROWS]]
        left = f"{len(rows) - len(shown)} more institutions have answered." if len(rows) > len(shown) else ""
        return Table(
            "Institutions",
            ("institution", "in this round", "last heard (UTC)", "uploads", "sums refused", "sent"),
            shown,
            left,
        )

    def _sizes(self) -> Layout | None:
        if self._layout is None:
            try:
                document = json.loads((first_institution(self._folder) / DOCUMENT).read_bytes())
                self._layout = Layout.from_json(document["layout"])
            except (OSError, ValueError, KeyError):
                return None  # still being founded
        return self._layout


def _lead(config: FederationConfig) -> str:
    sealed = "encrypted under CKKS" if config.encryption.sealer == "ckks" else "NOT encrypted"
    return f"{config.federation.participants} institutions train {config.model.source} on {config.data.source}; uploads are {sealed}."


def _left(updates: Sequence[RoundRecord], wanted: int) -> str:
    """Estimate the time that is left from the rounds so far, the first left out, which loads libraries."""
    taken = [record.seconds.get("round", 0.0) for record in updates[1:]]
    return f"about {human_seconds((wanted - updates[-1].update) * sum(taken) / len(taken))} left" if taken else ""


def _name(home: Path) -> str:
    try:
        return InstitutionSettings.load(home).name
    except DictPFLError:
        return home.name


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found
