"""The three manuals of docs/deploy, followed word for word: every role a shell and a folder of its own, real processes over TLS.

They are typed in the order of docs/deploy.md (`tests.support.manuals`). What they leave to people is done here as they would:
files are carried where a **Send** line says, words are read out from one party's screen to another's, and the lines in
CAPITALS are filled in. All else is typed as it stands.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dictpfl.deploy.simulation.flower import session
from tests.support import ROOT
from tests.support.manuals import (
    AUTHORITY,
    COORDINATOR,
    FOUNDERS,
    INSTITUTIONS,
    NEWCOMER,
    Block,
    Piece,
    Send,
    pages,
    plan,
)
from tests.support.shown import not_shown

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
BLOCK_SECONDS = 400.0


@dataclass
class Machine:
    """A shell in a folder of its own, whose variables and background jobs stay from block to block."""

    name: str
    folder: Path
    environment: dict[str, str]
    printed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._errors = self.folder.parent / f"{self.name}.stderr"
        with self._errors.open("wb") as errors:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env={**self.environment, "HOME": str(self.folder)},
                start_new_session=True,
            )
        self._tell("set -euo pipefail")

    def _tell(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode() + b"\n")
        self._shell.stdin.flush()

    def type(self, block: Block, code: str) -> str:
        """Run a block as typed; what it printed."""
        script = self.folder.parent / f"{self.name}-{Path(block.page).stem}-{block.line}.sh"
        script.write_text(code, encoding="utf-8")
        mark = f"done-{block.line}-{time.monotonic_ns()}"
        self._tell(f". {shlex.quote(str(script))} < /dev/null; echo; echo {mark}")
        printed = self._until(mark, block)
        self.printed.append(printed)
        return printed

    def _until(self, mark: str, block: Block) -> str:
        assert self._shell.stdout is not None
        out, text, deadline = self._shell.stdout.fileno(), b"", time.monotonic() + BLOCK_SECONDS
        while not text.endswith(f"\n{mark}\n".encode()):
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(out, 1 << 16) if ready else b""
            if not piece:
                why = "failed" if ready else f"took more than {BLOCK_SECONDS:.0f} s"
                raise AssertionError(
                    f"docs/{block.page}, line {block.line}, at {self.name}: {why}\n{block.code}\n--- printed\n"
                    f"{text.decode(errors='replace')[-3000:]}\n--- errors\n{self.errors[-3000:]}\n--- up.log\n{self.log[-3000:]}"
                )
            text += piece
        return text.decode(errors="replace").removesuffix(f"\n{mark}\n")

    @property
    def errors(self) -> str:
        return self._errors.read_text(encoding="utf-8", errors="replace")

    @property
    def log(self) -> str:
        path = self.folder / "up.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def heard(self) -> str:
        """All that its operator saw on the screen."""
        return "\n".join(self.printed)

    def stop(self) -> None:
        """Ask what runs in this machine's session to stop, and its proxy."""
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / "coordinator" / "run" / "nginx.pid").read_text()), signal.SIGTERM)
        for pid in session(self._shell.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if pid != self._shell.pid else signal.SIGKILL)

    def end(self) -> None:
        """Wait until nothing of it runs; after a while, see to it."""
        deadline = time.monotonic() + 20
        while session(self._shell.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in session(self._shell.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with self._shell:
            pass


class World:
    """All machines, and the people who carry files and read out words."""

    def __init__(self, folder: Path) -> None:
        tools = folder / "bin"
        tools.mkdir(parents=True)
        _tool(tools / "dictpfl", f'exec {shlex.quote(sys.executable)} -m dictpfl.deploy.cli "$@"')
        _tool(tools / "python", f'exec {shlex.quote(sys.executable)} "$@"')
        _tool(tools / "nginx", f'exec {shlex.quote(NGINX or "nginx")} "$@"')
        environment = {k: v for k, v in os.environ.items() if k != "CREDENTIALS_DIRECTORY"}
        environment |= {"PATH": f"{tools}:{environment['PATH']}", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.machines: dict[str, Machine] = {}
        try:
            for name in (AUTHORITY, COORDINATOR, *INSTITUTIONS):
                self.machines[name] = Machine(name, folder / name, environment)
        except BaseException:
            self.end()
            raise
        self.ports = dict(zip(("proxy", "metrics", *self.machines), free_ports(len(self.machines) + 2), strict=True))
        self.typed: set[tuple[str, int]] = set()

    def follow(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Send):
                self.carry(piece)
            elif isinstance(piece, Block):
                for machine in piece.machines:
                    self.type(piece, self.machines[machine])

    def type(self, block: Block, machine: Machine) -> None:
        if block.file:
            (machine.folder / block.file).write_text(block.code, encoding="utf-8")
        else:
            began = time.monotonic()
            printed = machine.type(block, self.filled_in(block, machine.name) if block.settings else block.code)
            missing = not_shown(block.shows, printed)
            assert missing is None, (
                f"docs/{block.page}, line {block.line}, at {machine.name}: the page shows\n  {missing}\nprinted was\n{printed}\n"
                f"{machine.errors[-2000:]}"
            )
            sys.stdout.write(
                f"{block.page:22} line {block.line:4} {machine.name:12} {time.monotonic() - began:6.1f} s\n"
            )
        self.typed.add(block.place)

    def filled_in(self, block: Block, name: str) -> str:
        """The lines in CAPITALS, as this operator fills them in."""
        values = {
            "NAME": name,
            "HOST": "localhost",
            "LISTEN": f"127.0.0.1:{self.ports['proxy']}",
            "COORDINATOR": f"localhost:{self.ports['proxy']}",
            "LOCAL": str(self.ports[name]),
            "METRICS": str(self.ports["metrics"]),
            "BUNDLE": "epoch-2.bundle" if name == NEWCOMER else "epoch-1.bundle",
        }
        lines = []
        for line in block.code.splitlines():
            variable = line.partition("=")[0]
            value = self.read_out() if variable == "AUTHORITY" else values[variable]
            lines.append(f"{variable}={shlex.quote(value)}")
        return "\n".join(lines) + "\n"

    def read_out(self) -> str:
        """The authority's eight words, from its own screen."""
        (words,) = set(re.findall(r"^authority ministry\n  (\S.*)$", self.machines[AUTHORITY].heard, re.MULTILINE))
        return str(words)

    def carry(self, send: Send) -> None:
        carried = 0
        for sender in send.senders:
            for reader in send.readers:
                institution = reader if reader in INSTITUTIONS else sender
                source, target = (path.replace("$NAME", institution) for path in (send.source, send.target))
                found, kept = self.machines[sender].folder / source, self.machines[reader].folder / target
                if not found.exists():
                    continue
                carried += 1
                kept.parent.mkdir(parents=True, exist_ok=True)
                if found.is_dir():
                    shutil.copytree(found, kept)
                else:
                    shutil.copyfile(found, kept)
        assert carried, f"nothing to send: {send}"

    def end(self) -> None:
        for machine in self.machines.values():
            machine.stop()
        for machine in self.machines.values():
            machine.end()


def _tool(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


# the manuals, followed


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "w")
    try:
        yield made
    finally:
        made.end()


@pytest.mark.deployment
@pytest.mark.skipif(NGINX is None, reason="NO PROXY, so the manuals cannot be followed: apt-get install nginx-light")
def test_the_manuals_word_for_word(world: World) -> None:
    pieces = plan(pages())
    world.follow(pieces)
    assert world.typed == {piece.place for piece in pieces if isinstance(piece, Block)}
    screens = {name: machine.heard for name, machine in world.machines.items()}

    # What people compare by phone.
    assert len({re.findall(r"^[0-9a-f]{64}$", text, re.MULTILINE)[0] for text in screens.values()}) == 1
    for name in INSTITUTIONS:
        (words,) = set(re.findall(rf"^institution {name}\n  (\S.*)$", screens[name], re.MULTILINE))
        assert words in screens[AUTHORITY]
    prints = re.compile(r"^sha256 Fingerprint=(.*)$", re.MULTILINE | re.IGNORECASE)
    assert len({f for name in (COORDINATOR, AUTHORITY) for f in prints.findall(screens[name])}) == 1

    # The model went on from where it was, and is the same for all who are in.
    states = {name: status(world.machines[name]) for name in ("berlin", "kyoto", NEWCOMER)}
    assert {state["updates"] for state in states.values()} == {7}
    assert len({state["state_digest"] for state in states.values()}) == 1
    left = status(world.machines["oslo"])
    assert left["updates"] == 3
    assert len(re.findall(r"^round \d+ \(\w+\): 3 institutions, ", screens[COORDINATOR], re.MULTILINE)) == 11
    models = {re.findall(r"^model.safetensors .* sha256 (\w+)$", screens[name], re.MULTILINE)[0] for name in FOUNDERS}
    assert len(models) == 1
    assert "Traceback" not in "".join(machine.errors + machine.log for machine in world.machines.values())


def status(machine: Machine) -> dict[str, object]:
    block = Block("", 0, "dictpfl status --folder institution --json\n", (machine.name,))
    found = json.loads(machine.type(block, block.code))
    assert isinstance(found, dict)
    return found
