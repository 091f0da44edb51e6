"""The deployment on which faults are played: founded by the ceremony, each institution behind a line of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from dictpfl.client.folder import TRAIN, VALIDATION
from dictpfl.client.keys.epochs import Keyring
from dictpfl.client.memory.record import Memory
from dictpfl.deploy.simulation.founding import found
from dictpfl.server.coordinator import JOURNAL
from tests.support.ceremonial import Ceremonial
from tests.support.faults.lines import Line
from tests.support.machines import NGINX, Command, config, free_port, until

NAMES = ("berlin", "kyoto", "oslo", "quito", "turin", "vienna")
NOT_BACKED_UP = ("run", "logs", "flower", "nginx.conf")
"""What runs in a party's folder and what `up` makes anew: no part of a backup (docs/deploy.md#backup)."""
DEADLINE = 45.0
SETTINGS: dict[str, Any] = {
    "training.steps": 60,
    "training.learning_rate": 0.05,
    "federation.sample_cap": 64,
    "federation.deadline_seconds": DEADLINE,
    "defences.masks": True,
    "defences.integrity": True,
}
"""Beyond the smallest federation: every defence that has a file of its own, and a deadline that a fault may outlast."""


def kill(*pids: int, number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def durable(folder: Path) -> list[Path]:
    """The files that a party must not lose, relative to its folder: all but what runs there, and empty ones."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return sorted(path.relative_to(folder) for path in paths if not _passing(path.relative_to(folder)))


def _passing(path: Path) -> bool:
    return path.parts[0] in NOT_BACKED_UP or path.name.startswith(".") or path.name.endswith(("-wal", "-shm"))


def flip(path: Path, bit: int) -> tuple[bytes, bytes]:
    """Flip one bit of a file where it is, since others may have it open; return what it held, and what it holds now."""
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << (bit % 8)
    with path.open("r+b") as file:
        file.seek(bit // 8)
        file.write(damaged[bit // 8 : bit // 8 + 1])
    return whole, bytes(damaged)


def unflip(path: Path, whole: bytes, damaged: bytes) -> None:
    """Put a file back, but for what was written to it since."""
    now = path.read_bytes() if path.exists() else b""
    if now.startswith(damaged):
        with path.open("r+b") as file:
            file.write(whole)
    elif path.suffix == ".sqlite" or not now:
        path.write_bytes(whole)
        path.chmod(0o600)


class Ground(Ceremonial):
    """A federation in which every round waits for all, so that a fault delays rounds and changes none."""

    heartbeat = 10.0
    abandoned = False
    """Set by whoever waits for nothing of it any more."""

    def __init__(self, folder: Path, names: Sequence[str], rounds: int) -> None:
        """Found it, as operators do: identities, genesis, bundles, and all have joined."""
        self.disks: set[str] = set()
        super().__init__(
            folder, names, (),
            **SETTINGS, **{"federation.min_participants": len(names), "federation.rounds": rounds},
        )  # fmt: skip
        self.all([self.join(name) for name in self.founders])
        self.lines: dict[str, Line] = {}
        self.runs: list[Command] = []

    def _divide(self, parts: int) -> None:
        data = {name.replace(".", "__"): v for name, v in self._settings.items() if name.startswith("data.")}
        made = found(config(**data, federation__participants=parts), self.folder / "data")
        self._shape = made.genesis.sample_shape
        for index, name in enumerate(self.names):
            self.home(name).mkdir(mode=0o700)
            for file in (TRAIN, VALIDATION):
                shutil.copy(made.home(index) / file, self.home(name) / file)

    def copy(self, folder: Path, disks: Sequence[str] = ()) -> Self:
        """The same federation elsewhere, before its first round: same keys, same data, ports of its own.

        Args:
            folder: to make.
            disks: parties that get a small disk of their own, which can be full.
        """
        made = object.__new__(type(self))
        made.__dict__ |= self.__dict__
        made.folder, made.coordinator, made.logs = folder, folder / self.coordinator.name, folder / "outputs"
        made.port, made.listen = free_port(), free_port() if NGINX else 0
        made.nodes, made.lines, made.runs, made.up, made._nginx = {}, {}, [], None, None
        made._ports = {name: free_port() for name in self.names}
        made.disks = set()
        folder.mkdir(parents=True)
        for party in disks:
            (folder / party).mkdir(mode=0o700)
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=1g,mode=700", "tmpfs", folder / party],
                capture_output=True,
                check=False,
            )
            if mounted.returncode == 0:
                made.disks.add(party)
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, ignore=lambda *_: {"outputs"})
        for party in (*self.names, "coordinator"):
            (folder / party).chmod(0o700)
        made.logs.mkdir()
        return made

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Everything is up inside, each institution behind its line; nothing runs or is mounted afterwards."""
        try:
            self.start_coordinator()
            self.wait(self.ready, 90, "coordinator ready")
            for name in self.founders:
                self.lines[name] = Line(self.listen or self.port)
                self.start_institution(name)
            yield self
        finally:
            for name in self.founders:
                with suppress(Exception):
                    self.thaw(name)
            for run in self.runs:
                run.kill()
            with suppress(Exception):
                self.stop()
            for line in self.lines.values():
                line.close()
            for party in self.disks:
                subprocess.run(["umount", "--lazy", self.folder / party], capture_output=True, check=False)

    def start_institution(self, index: Any, **environment: str) -> None:
        self.nodes[index] = self.institution(self.home(index), index, self._ports[index], environment)

    def institution(self, folder: Path, line: str, port: int, environment: dict[str, str] | None = None) -> Command:
        return Command(
            ["institution", "up", "--folder", folder, "--coordinator", self.lines[line].address,
             "--port", port, "--heartbeat", self.heartbeat, "--log-json"],
            self.logs / f"{folder.name}.log", environment,
        )  # fmt: skip

    def stop_institution(self, name: str) -> None:
        self.nodes[name].stop(30)

    # the run

    def keep_running(self) -> None:
        """Type `dictpfl run` (again): after a crash the same command goes on."""
        if self.runs and self.runs[-1].process.poll() is None:
            return
        if self.runs and self.runs[-1].process.returncode == 0:
            return
        self.runs.append(self.run(log=f"run-{len(self.runs) + 1}.log"))

    @property
    def asks_from(self) -> bool:
        """True where the run that was typed last asks from which round to go on."""
        return bool(self.runs) and "--from-institutions" in self.runs[-1].text

    def from_institutions(self) -> tuple[str, str]:
        """Read in `status` who holds which state, and type the newest, as people would agree by phone; return party and sentence."""
        party, told = self.explained({"coordinator": r"^STOPPED: .*--from-institutions"}, 120)
        held = re.findall(r"^ +\S+: round (\d+), (\S+)$", self.look("coordinator")["coordinator"], re.MULTILINE)
        assert held, "no status says who holds which state"
        number, words = max(held, key=lambda one: int(one[0]))
        until(lambda: self.runs[-1].process.poll() is not None, 60, "the run that asks ends")
        again = f"run-{len(self.runs) + 1}.log"
        self.runs.append(self.run("--from-institutions", number, "--digest", words, log=again))
        return party, told

    def masks_forgotten(self) -> None:
        """Have all agree by phone that masks of the open round may be told of another sum, as docs/how-to/incidents.md says."""
        for name in self.founders:
            for path in (self.home(name) / "memory").glob("*.told.json"):
                path.unlink()

    @property
    def finished(self) -> bool:
        return bool(self.runs) and self.runs[-1].process.poll() == 0

    def wait(self, condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.2) -> Any:
        """Wait, while the run is kept going."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.abandoned:
            if value := condition():
                return value
            if self.runs and self._coordinator_alive():
                self.keep_running()
            time.sleep(pause)
        raise AssertionError(f"{what}: not within {seconds:.0f} s")

    def _coordinator_alive(self) -> bool:
        return (
            self.up is not None and self.up.process.poll() is None and "superlink" in self.processes(self.coordinator)
        )

    def reached(self, rounds: int, seconds: float = 240) -> int:
        """Wait for so many closed rounds."""
        return int(
            self.wait(lambda: self.finished or self.closed_rounds() >= rounds, seconds, f"{rounds} closed rounds")
        )

    def closed_rounds(self) -> int:
        with suppress(Exception):  # a journal that is being replaced
            return self.rounds()
        return -1

    # what an operator sees

    def look(self, *parties: str, folder: Path | None = None) -> dict[str, str]:
        """What `dictpfl status` prints for these parties."""
        homes = {
            party: folder or (self.coordinator if party == "coordinator" else self.home(party)) for party in parties
        }
        asked = {}
        for party, home in homes.items():
            log = self.logs / f"status-{party}.txt"
            log.unlink(missing_ok=True)
            asked[party] = Command(["status", "--folder", home], log, {"COLUMNS": "500"})
        for command in asked.values():
            command.wait(90)
        return {party: command.text for party, command in asked.items()}

    def explained(self, said: dict[str, str], seconds: float, folder: Path | None = None) -> tuple[str, str]:
        """Wait until the status of a party has a line that fits its pattern.

        Args:
            said: a pattern by party.
            seconds: to wait.
            folder: in place of a party's own.

        Returns:
            Party and sentence; both empty if it said nothing in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            for party, text in self.look(*said, folder=folder).items():
                for line in text.splitlines():
                    if re.search(said[party], line):
                        return party, " ".join(line.split())
            if time.monotonic() > deadline:
                return "", ""
            if self.runs and self._coordinator_alive():
                self.keep_running()

    def recover(self) -> None:
        """Whole lines, room, everybody up: after a fault that did not go as it should."""
        for line in self.lines.values():
            line.set("open")
        for party in self.disks:
            self.room(party)
        for party in (*self.founders, "coordinator"):
            self.thaw(party)
        if self.up is None or self.up.process.poll() is not None:
            self.start_coordinator()
            self.wait(self.ready, 90, "coordinator ready")
        for name in self.founders:
            if self.nodes[name].process.poll() is not None:
                self.start_institution(name)

    # disks

    def full(self, party: str) -> bool:
        """Take away all room that is left on a party's disk; False: it has no disk of its own."""
        if party not in self.disks:
            return False
        for _ in range(50):
            free = os.statvfs(self.folder / party)
            used = (free.f_blocks - free.f_bfree) * free.f_frsize
            self._size(party, f"{used}")
            free = os.statvfs(self.folder / party)
            if free.f_bavail == 0:
                return True
        return True

    def room(self, party: str) -> None:
        self._size(party, "1g")

    def _size(self, party: str, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder / party], capture_output=True, check=False)

    # processes and files

    def pids(self, party: str) -> list[int]:
        """Everything that runs for a party: supervisor first."""
        folder = self.coordinator if party == "coordinator" else self.home(party)
        leader = self.up if party == "coordinator" else self.nodes.get(party)
        programs = ("superlink", "superexec") if party == "coordinator" else ("supernode", "superexec")
        pids = [pid for program in programs for pid in self.children(folder, program)]
        return [*([leader.process.pid] if leader else []), *pids]

    def thaw(self, party: str) -> None:
        kill(*self.pids(party), number=signal.SIGCONT)

    def back_up(self, party: str) -> Path:
        """What docs/deploy.md types: an institution's folder; the coordinator's with the journal by VACUUM INTO."""
        folder = self.coordinator if party == "coordinator" else self.home(party)
        backup = self.folder / "backups" / party
        shutil.rmtree(backup, ignore_errors=True)
        backup.mkdir(parents=True, mode=0o700)
        for path in folder.iterdir():
            if path.name in NOT_BACKED_UP or path.name.startswith((".", JOURNAL)):
                continue
            if path.is_dir():
                shutil.copytree(path, backup / path.name)
            else:
                shutil.copy2(path, backup / path.name)
        if party == "coordinator":
            self.journal_copy(backup / JOURNAL)
        return backup

    def journal_copy(self, to: Path) -> Path:
        import sqlite3

        connection = sqlite3.connect(self.coordinator / JOURNAL)
        try:
            connection.execute("VACUUM INTO ?", (str(to),))
        finally:
            connection.close()
        to.chmod(0o600)
        return to

    def restore(self, party: str) -> None:
        """Put the backup in place of everything but what runs."""
        folder = self.coordinator if party == "coordinator" else self.home(party)
        for path in folder.iterdir():
            if path.name not in NOT_BACKED_UP:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.folder / "backups" / party, folder, dirs_exist_ok=True)
        folder.chmod(0o700)

    def digests(self) -> list[str]:
        return [self.record(name).shared.digest.hex() for name in self.founders]

    def held(self, name: str) -> Any:
        return Memory(self.home(name) / "memory", self.agreed.uploads.federation).recall()

    def keyring(self, name: str) -> Keyring:
        from dictpfl.client.folder import InstitutionSettings

        return Keyring(self.home(name), InstitutionSettings.load(self.home(name)))

    def not_ready(self, name: str) -> str:
        try:
            found_reason = json.loads((self.home(name) / "run" / "not-ready.json").read_text())
            return f"{found_reason['code']}: {found_reason['reason']}"
        except (OSError, ValueError, KeyError):
            return ""
