"""How each kind of fault is played, what `status` must say of it meanwhile, and how it is mended."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dictpfl.server.coordinator import JOURNAL
from tests.support.faults.ground import DEADLINE, Ground, durable, flip, kill, unflip
from tests.support.faults.lines import CUT, HANDSHAKE, OPEN, SLOW
from tests.support.faults.schedule import COORDINATOR, Fault
from tests.support.machines import free_port, until

HOOKS = Path(__file__).parent / "hooks"
"""On an institution's path it makes a clock that is wrong."""
JOURNAL_BITS = 3
"""Bits that are flipped in the journal, one at a time: a third of its bytes or so belong to no row."""
PATIENCE = 120.0
"""Seconds until `status` must have explained a fault; a machine may be busy."""
MENDED, STOPPED, UNHARMED, NOT_PLAYED, UNEXPLAINED = (
    "went on by itself",
    "stopped",
    "no stop",
    "not played",
    "UNEXPLAINED",
)


@dataclass(frozen=True)
class Row:
    """What became of one fault.

    Attributes:
        kind: of fault.
        where: the party that was struck.
        what: in particular, such as a file.
        round: closed rounds when it struck.
        seen_by: whose `status` explained it; "" if it stopped nothing.
        said: the sentence.
        repaired_by: what was done.
        outcome: one of the words above.
        seconds: from the stroke until it was mended.
    """

    kind: str
    where: str
    what: str
    round: int
    seen_by: str
    said: str
    repaired_by: str
    outcome: str
    seconds: float

    @property
    def wrong(self) -> bool:
        return self.outcome == UNEXPLAINED

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Player:
    """Plays faults on a ground, one after another."""

    def __init__(self, ground: Ground, tell: Callable[[str], None]) -> None:
        self.ground, self.tell = ground, tell
        self.journals: list[Path] = []
        """Copies of journals that were replaced by an older one."""
        self.replaced: int | None = None
        """Closed rounds when an institution's memory was replaced by an old one."""

    def play(self, fault: Fault) -> Iterator[Row]:
        """Wait for the fault's round, strike, see that `status` explains it, mend it."""
        self.ground.reached(fault.after)
        kind, began = fault.kind, time.monotonic()
        self.tell(f"round {self.ground.closed_rounds()}: {kind}, {fault.where}")
        if self.ground.finished:
            self.tell("  not played: the rounds were over before it came; give more by --rounds")
            return
        try:
            for row in getattr(self, f"_{kind.replace(' ', '_')}")(fault):
                self.tell(
                    f"  {row.what or kind}: {row.outcome}; {row.seen_by or 'nobody'}: {row.said[:160]} ({row.seconds:.0f} s)"
                )
                yield row
        except AssertionError as error:
            self.tell(f"  FAILED: {error}")
            yield self._row(fault, began, ("", ""), str(error)[:300], UNEXPLAINED)
            self.ground.recover()

    def _row(
        self, fault: Fault, began: float, told: tuple[str, str], repaired_by: str, outcome: str, what: str = ""
    ) -> Row:
        seen_by, said = told
        seconds = round(time.monotonic() - began, 1)
        said = said.replace(f"{self.ground.folder}/", "")
        return Row(
            fault.kind, fault.where, what, self.ground.closed_rounds(), seen_by, said, repaired_by,
            outcome if seen_by or outcome in (UNHARMED, NOT_PLAYED) else UNEXPLAINED, seconds,
        )  # fmt: skip

    def _at_work(self, fault: Fault, name: str | None = None) -> None:
        """Wait until the institution is at work, and the delay that was drawn."""
        who = name or fault.where
        with suppress(AssertionError):  # a round that waits for somebody else is a good moment, too
            self.ground.wait(lambda: self.ground.is_busy(who), 30, f"{who} at work", pause=0.02)
        time.sleep(fault.delay)

    def _offline(self, name: str) -> str:
        return rf"^{name}: offline"

    # kills

    def _task_killed(self, fault: Fault) -> Iterator[Row]:
        ground, began = self.ground, time.monotonic()
        before = ground.closed_rounds()
        self._at_work(fault)
        kill(*ground.tasks(ground.home(fault.where)))
        # Whether the round had its upload already or not, `status` says it afterwards, too; if it had, nothing was asked again.
        ground.reached(before + 1)
        told = ground.explained({COORDINATOR: rf"asked again .*{fault.where}: flower-error"}, 5)
        yield self._row(fault, began, told, "nothing: the round is asked again", MENDED if told[0] else UNHARMED)

    def _institution_killed(self, fault: Fault) -> Iterator[Row]:
        ground, began = self.ground, time.monotonic()
        self._at_work(fault)
        kill(ground.nodes[fault.where].process.pid)
        ground.nodes[fault.where].process.wait()
        told = ground.explained({fault.where: r"^DOWN: supernode"}, PATIENCE)
        ground.start_institution(fault.where)
        yield self._row(fault, began, told, "`institution up` again", STOPPED)

    def _coordinator_killed(self, fault: Fault) -> Iterator[Row]:
        ground, began = self.ground, time.monotonic()
        self._at_work(fault, fault.draw.choice(ground.founders))
        assert ground.up is not None
        kill(ground.up.process.pid)
        ground.up.process.wait()
        told = ground.explained({COORDINATOR: r"^DOWN: superlink"}, PATIENCE)
        ground.start_coordinator()
        ground.wait(ground.ready, 90, "coordinator ready")
        yield self._row(fault, began, told, "`coordinator up` again; the same run goes on", STOPPED)

    # stops

    def _institution_stopped(self, fault: Fault) -> Iterator[Row]:
        ground = self.ground
        self._at_work(fault)
        began = time.monotonic()
        kill(*ground.pids(fault.where), number=signal.SIGSTOP)
        told = ground.explained({fault.where: r"^DOWN: super", COORDINATOR: self._offline(fault.where)}, PATIENCE)
        time.sleep(max(0.0, DEADLINE + 5 - (time.monotonic() - began)))
        ground.thaw(fault.where)
        yield self._row(fault, began, told, "SIGCONT", STOPPED, f"longer than the deadline of {DEADLINE:.0f} s")

    def _coordinator_stopped(self, fault: Fault) -> Iterator[Row]:
        ground, began = self.ground, time.monotonic()
        self._at_work(fault, fault.draw.choice(ground.founders))
        kill(*ground.pids(COORDINATOR), number=signal.SIGSTOP)
        told = ground.explained({COORDINATOR: r"^DOWN: superlink"}, PATIENCE)
        ground.thaw(COORDINATOR)
        yield self._row(fault, began, told, "SIGCONT", STOPPED)

    # lines

    def _line(self, fault: Fault, mode: str) -> Iterator[Row]:
        ground, began, line = self.ground, time.monotonic(), self.ground.lines[fault.where]
        self._at_work(fault)
        line.handshake_bytes = fault.draw.randrange(1, 900)
        before = line.cuts
        line.set(mode)
        told = ground.explained({COORDINATOR: self._offline(fault.where)}, PATIENCE)
        until(lambda: line.cuts > before, 60, "a connection that was cut")
        line.set(OPEN)
        what = f"after {line.handshake_bytes} bytes of the server's answer" if mode == HANDSHAKE else ""
        yield self._row(fault, began, told, "the line is whole again", STOPPED, what)

    def _line_cut(self, fault: Fault) -> Iterator[Row]:
        yield from self._line(fault, CUT)

    def _line_cut_in_a_handshake(self, fault: Fault) -> Iterator[Row]:
        yield from self._line(fault, HANDSHAKE)

    def _line_slow(self, fault: Fault) -> Iterator[Row]:
        ground, began, line = self.ground, time.monotonic(), self.ground.lines[fault.where]
        before = ground.closed_rounds()
        line.bytes_a_second = fault.draw.randrange(1_500, 6_000)
        line.set(SLOW)
        ground.reached(before + 1)
        line.set(OPEN)
        yield self._row(
            fault, began, ("", ""), "nothing: the round takes longer", UNHARMED, f"{line.bytes_a_second} bytes/s"
        )

    # disks

    def _disk(self, fault: Fault, said: dict[str, str]) -> Iterator[Row]:
        ground = self.ground
        self._at_work(fault, fault.where if fault.where != COORDINATOR else fault.draw.choice(ground.founders))
        began = time.monotonic()
        if not ground.full(fault.where):
            yield self._row(fault, began, ("", "no file system may be mounted here"), "", NOT_PLAYED)
            return
        try:
            told = ground.explained({fault.where: r"^DISK: "}, PATIENCE)
            further = ground.explained(said, 45)
        finally:
            ground.room(fault.where)
        leader = ground.up if fault.where == COORDINATOR else ground.nodes[fault.where]
        assert leader is not None
        assert leader.process.poll() is None, f"`up` ended on a full disk: {leader.text[-300:]}"
        said_more = f"{told[1]}; {further[0]}: {further[1]}" if further[0] else told[1]
        yield self._row(fault, began, (told[0], said_more), "room was made", STOPPED)

    def _disk_full_at_an_institution(self, fault: Fault) -> Iterator[Row]:
        yield from self._disk(fault, {COORDINATOR: rf"{fault.where}: (memory|flower-error)"})

    def _disk_full_at_the_coordinator(self, fault: Fault) -> Iterator[Row]:
        yield from self._disk(fault, {COORDINATOR: r"^(STOPPED|DOWN)"})

    # clocks

    def _clock_wrong(self, fault: Fault) -> Iterator[Row]:
        ground = self.ground
        off = fault.draw.choice((-1, 1)) * fault.draw.randrange(420, 5_000)
        self._at_work(fault)
        began = time.monotonic()
        ground.stop_institution(fault.where)
        python = f"{HOOKS}:{_root()}"
        ground.start_institution(fault.where, PYTHONPATH=python, FAULTS_CLOCK_OFF=str(off))
        told = ground.explained({fault.where: r"clock"}, PATIENCE)
        ground.stop_institution(fault.where)
        ground.start_institution(fault.where)
        yield self._row(fault, began, told, "the clock was set, and `institution up` again", STOPPED, f"{off:+d} s")

    # clones

    def _clone(self, name: str) -> Path:
        clone = self.ground.folder / f"{name}-clone"
        shutil.rmtree(clone, ignore_errors=True)
        shutil.copytree(
            self.ground.home(name), clone, ignore=lambda at, names: {"run", "logs", "flower"} & set(names) | {
                one for one in names if one[0] == "."
            }
        )  # fmt: skip
        clone.chmod(0o700)
        return clone

    def _clone_beside(self, fault: Fault) -> Iterator[Row]:
        ground = self.ground
        self._at_work(fault)
        began, clone = time.monotonic(), self._clone(fault.where)
        second = ground.institution(clone, fault.where, free_port())
        try:
            told = ground.explained({fault.where: r"^(DOWN: super|CANNOT TAKE PART)"}, PATIENCE, folder=clone)
        finally:
            second.stop(30)
            shutil.rmtree(clone)
        yield self._row(fault, began, (f"the clone of {told[0]}", told[1]), "the clone was stopped", STOPPED)

    def _clone_in_its_place(self, fault: Fault) -> Iterator[Row]:
        """The clone serves a round while the original is off; then the original comes back, which knows less."""
        ground = self.ground
        self._at_work(fault)
        began, before = time.monotonic(), ground.closed_rounds()
        ground.stop_institution(fault.where)
        clone = self._clone(fault.where)
        second = ground.institution(clone, fault.where, free_port())
        try:
            ground.reached(before + 1)
        finally:
            second.stop(30)
        shutil.rmtree(clone)
        ground.start_institution(fault.where)
        yield self._row(
            fault,
            began,
            ("", ""),
            "the clone was stopped, the original started: it catches up",
            UNHARMED,
            "for a round",
        )

    # backups

    def _old_backup_at_an_institution(self, fault: Fault) -> Iterator[Row]:
        ground = self.ground
        self._at_work(fault)
        began = time.monotonic()
        pids = ground.pids(fault.where)
        kill(*pids)
        ground.nodes[fault.where].process.wait()
        told = ground.explained({fault.where: r"^DOWN: "}, PATIENCE)
        before = ground.closed_rounds()
        self.replaced = before
        ground.restore(fault.where)
        held = ground.held(fault.where)
        ground.start_institution(fault.where)
        age = before - (held.shared.round if held else 0)
        yield self._row(fault, began, told, "`institution up`: it catches up", STOPPED, f"{age} rounds old")

    def _old_backup_at_the_coordinator(self, fault: Fault) -> Iterator[Row]:
        """As docs/deploy.md types it: everything is gone but the backup."""
        ground = self.ground
        self._at_work(fault, fault.draw.choice(ground.founders))
        began = time.monotonic()
        assert ground.up is not None
        if ground.runs:
            ground.runs[-1].kill()
        kill(*ground.pids(COORDINATOR))
        ground.up.process.wait()
        told = ground.explained({COORDINATOR: r"^DOWN: "}, PATIENCE)
        before = ground.closed_rounds()
        self.journals.append(ground.journal_copy(ground.folder / f"journal-{len(self.journals)}.sqlite"))
        ground.restore(COORDINATOR)
        for path in (ground.coordinator / "run").glob("superlink.sqlite*"):
            path.unlink()
        age = before - ground.closed_rounds()
        ground.start_coordinator()
        ground.wait(ground.ready, 90, "coordinator ready")
        # With a backup of one round ago, institutions may not have applied what it lacks; then nothing is lost.
        ground.wait(lambda: ground.closed_rounds() > before - age or ground.asks_from, 180, "the run goes on or asks")
        asked = ground.asks_from
        told = ground.from_institutions() if asked else told
        how = "`coordinator up` and `run --from-institutions`" if asked else "`coordinator up` and `run`"
        # Masks of the sum that was lost may have been told, and an institution's memory may be an old copy, so that it trained again.
        if asked:
            seen = ground.wait(lambda: ground.closed_rounds() > before or self._refused_masks(), 240, "a round closes")
            if seen is not True:
                told, how = seen, f"{how}, then `memory/*.told.json` removed at all"
                ground.masks_forgotten()
        ground.reached(before + 1)
        yield self._row(
            fault,
            began,
            told,
            how,
            STOPPED,
            f"{age} rounds old",
        )

    def _refused_masks(self) -> tuple[str, str] | None:
        """Party and sentence of an institution whose status says that masks were asked for of another sum."""
        for party, text in self.ground.look(*self.ground.founders).items():
            for line in text.splitlines():
                if line.startswith("NOT ANSWERED") and "told.json" in line:
                    return party, " ".join(line.split())
        return None

    # flipped bits

    def _flipped_bits_at_an_institution(self, fault: Fault) -> Iterator[Row]:
        ground, name, draw = self.ground, fault.where, fault.draw
        home = ground.home(name)
        self._at_work(fault)
        gate = ground.lines[draw.choice([other for other in ground.founders if other != name])]
        gate.set(CUT)  # no round closes while files are damaged one after another
        files = durable(home)
        for path in filter(_unread, files):
            yield self._flipped(fault, home, path, draw, self._looked_at)
        ground.stop_institution(name)
        for path in [path for path in files if not _at_a_round(path) and not _unread(path)]:
            yield self._flipped(fault, home, path, draw, self._institution_stops)
        gate.set(OPEN)
        for path in filter(_at_a_round, files):
            yield self._flipped(fault, home, path, draw, self._round_stops)
        ground.start_institution(name)

    def _flipped_bits_at_the_coordinator(self, fault: Fault) -> Iterator[Row]:
        ground, draw = self.ground, fault.draw
        self._at_work(fault, draw.choice(ground.founders))
        gate = ground.lines[draw.choice(ground.founders)]
        gate.set(CUT)
        files = durable(ground.coordinator)
        node = draw.choice([path for path in files if path.parts[0] == "nodes"])  # one stands for all
        files = [path for path in files if path.parts[0] != "nodes" or path == node]
        for path in filter(_unread, files):
            yield self._flipped(fault, ground.coordinator, path, draw, self._looked_at)
        assert ground.up is not None
        ground.up.stop(30)
        for path in [path for path in files if not _unread(path)]:
            for _ in range(JOURNAL_BITS if path.name == JOURNAL else 1):
                yield self._flipped(fault, ground.coordinator, path, draw, self._coordinator_stops)
        gate.set(OPEN)
        ground.start_coordinator()
        ground.wait(ground.ready, 90, "coordinator ready")

    def _flipped(
        self, fault: Fault, home: Path, path: Path, draw: random.Random, stops: Callable[[Fault, Path], tuple[str, str]]
    ) -> Row:
        """Flip a bit of a file, see who says what, put the file back; a party that was started for it is stopped."""
        began, file = time.monotonic(), home / path
        bit = draw.randrange(8 * file.stat().st_size)
        whole, damaged = flip(file, bit)
        harmless = _of_no_weight(path) or (path.name == JOURNAL and _same_rows(whole, damaged, self.ground.folder))
        said = stops(fault, path)
        unflip(file, whole, damaged)
        harmless = harmless and not said[0]
        repaired = "the file was restored from the backup" if said[0] else "put back"
        return self._row(
            fault,
            began,
            said,
            repaired,
            UNHARMED if harmless else STOPPED,
            f"{_general(path)}, bit {bit % 8} of byte {bit // 8}",
        )

    def _looked_at(self, fault: Fault, path: Path) -> tuple[str, str]:
        """Nothing reads the file in a round. A custody log is read by who audits it."""
        ground = self.ground
        home = ground.coordinator if fault.where == COORDINATOR else ground.home(fault.where)
        if not path.name.startswith("custody.") or path.name == "custody.key":
            return "", ""
        audit = ground.said("audit", "verify", home)
        if audit.wait(60) == 0:
            return "", ""
        assert "Traceback" not in audit.text, audit.text
        return f"`audit verify` at {fault.where}", " ".join(audit.text.split("\n")[-2].split()) if audit.text else ""

    def _institution_stops(self, fault: Fault, _path: Path) -> tuple[str, str]:
        """`up` ends, or the task that is prepared ahead says that it cannot take part."""
        ground, name = self.ground, fault.where
        log = ground.logs / f"{name}.log"
        begun = len(log.read_text()) if log.exists() else 0
        ground.start_institution(name)
        command, sentinel = ground.nodes[name], ground.home(name) / "run" / "not-ready.json"
        planted = b'{"code": "asked", "reason": "by the test"}'
        asked = False

        def over() -> bool:
            nonlocal asked
            if command.process.poll() is not None:
                return True
            if not asked and '"event": "ready"' in command.text[begun:]:
                asked = True
                sentinel.write_bytes(planted)  # what is prepared ahead takes it away, or has a reason of its own
            return asked and (not sentinel.exists() or sentinel.read_bytes() != planted)

        try:
            until(over, 90, f"{name} ends or is ready")
            assert "Traceback" not in command.text[begun:], command.text[begun:]
            if command.process.poll() is None and not ground.not_ready(name):
                return "", ""
            return ground.explained({name: r"^(CANNOT TAKE PART|error \()"}, 5)
        finally:
            ground.stop_institution(name)

    def _round_stops(self, fault: Fault, _path: Path) -> tuple[str, str]:
        """Its answer in the open round names a code, and its own `status` or log says why."""
        ground, name = self.ground, fault.where
        ground.start_institution(name)
        before, deadline = ground.closed_rounds(), time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline and ground.closed_rounds() < before + 1 and not ground.finished:
                for party, text in ground.look(name, COORDINATOR).items():
                    for line in text.splitlines():
                        own = party == name and line.startswith(("CANNOT TAKE PART", "error ("))
                        code = re.search(rf"was asked for .*{name}: ([a-z-]+)", line) if party == COORDINATOR else None
                        if own or (code and not code[1].startswith(("deadline", "flower-error"))):
                            return party, " ".join(line.split())
                ground.keep_running()
            return "", ""
        finally:
            ground.stop_institution(name)

    def _coordinator_stops(self, _fault: Fault, _path: Path) -> tuple[str, str]:
        """`up` ends with a reason, or `status` has one; or it serves as if nothing were."""
        ground = self.ground
        ground.start_coordinator()
        command = ground.up
        assert command is not None

        def over() -> bool:
            return command.process.poll() is not None or "superexec" in ground.processes(ground.coordinator)

        try:
            until(over, 60, "coordinator ends or serves")
            time.sleep(1.0)
            (text,) = ground.look(COORDINATOR).values()
            wrong = [line for line in text.splitlines() if line.startswith(("error (", "`up` ended", "STOPPED"))]
            assert "Traceback" not in text, text
            return (COORDINATOR, " ".join(wrong[0].split())) if wrong else ("", "")
        finally:
            command.stop(30)


def _same_rows(whole: bytes, damaged: bytes, folder: Path) -> bool:
    """Whether two SQLite files hold the same rows: parts of a page that no row uses may hold anything."""
    held = []
    for data in (whole, damaged):
        copy = folder / "journal-compared.sqlite"
        copy.write_bytes(data)
        with suppress(sqlite3.DatabaseError, UnicodeDecodeError), closing(sqlite3.connect(copy)) as database:
            held.append(list(database.iterdump()))
        copy.unlink()
    return len(held) == 2 and held[0] == held[1]


def _unread(path: Path) -> bool:
    """Files that no party reads while it runs, or on which nothing rests."""
    return any(
        fnmatch(str(path), pattern)
        for pattern in ("custody.*", "diary.jsonl", "handover.state", "node.pub", "tls/ca.key")
    )


def _at_a_round(path: Path) -> bool:
    """Files that are read when a sum comes."""
    return path.name.endswith((".told.json", ".opened.jsonl"))


_NO_WEIGHT = (
    "diary.jsonl", "custody.*", "handover.state", "node.pub", "identity.pub", "*.toml", "ca.key", "*.pem", "*.npz",
    "authority.json", "nodes/*.pub", "custody.key", "*.told.json", "*.opened.jsonl", "node.key", "server.key",
)  # fmt: skip
"""Files of which not every bit matters, or that nothing reads in a round: a flip need not stop anything, and the digest tells."""


def _of_no_weight(path: Path) -> bool:
    return any(fnmatch(str(path), pattern) or fnmatch(path.name, pattern) for pattern in _NO_WEIGHT)


def _general(path: Path) -> str:
    """A file's name without the federation's id, which differs from seed to seed."""
    return (
        f"memory/*{''.join(path.suffixes[-2:] if path.suffix in ('.json', '.jsonl') else path.suffixes[-1:])}"
        if path.parts[0] == "memory"
        else str(path)
    )


def _root() -> Path:
    from tests.support import ROOT

    return ROOT
