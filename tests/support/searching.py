"""Search for bytes in files and in the memory of living processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GCORE = shutil.which("gcore")
_PIECE = 64 << 20


def search(files: Iterable[Path], memory: Iterable[Held], needles: Mapping[str, bytes]) -> dict[str, str]:
    """Where each needle is found; files that vanish hold nothing."""
    found_in: dict[str, str] = {}

    def look(data: bytes, place: str) -> None:
        for name, needle in needles.items():
            if name not in found_in and needle in data:
                found_in[name] = place

    for path in files:
        for data in pieces(path, max(map(len, needles.values()))):
            look(data, str(path))
    for held in memory:
        look(held.data, held.place)
    return found_in


@dataclass(frozen=True)
class Held:
    """What a process held at one moment, a part of it; `place` says which."""

    place: str
    data: bytes


def held_by(pids: Iterable[int]) -> list[Held]:
    """A copy of the memory of processes, so that they need not be held up while it is searched; empty parts left out."""
    return [
        Held(f"memory of {pid}: {place}", data)
        for pid in pids
        for place, data in (*memory_of(pid), *nameless_files_of(pid))
        if data.count(0) < len(data)
    ]


def pieces(path: Path, overlap: int) -> Iterator[bytes]:
    """A file's bytes, in pieces that overlap by what the longest needle needs."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        tail = b""
        while data := file.read(_PIECE):
            yield tail + data
            tail = data[-overlap:]


def memory_of(pid: int) -> Iterator[tuple[str, bytes]]:
    """Heap, stacks, anonymous and shared maps, whether it may write to them (now) or not; not files that it only reads."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, _, _, inode, *name = line.split()
            start, end = (int(number, 16) for number in span.split("-"))
            of_file = inode != "0" and "w" not in rights
            if "r" not in rights or of_file or (name and name[0].startswith("[v")):
                continue
            with suppress(OSError, OverflowError), Path(f"/proc/{pid}/mem").open("rb") as memory:
                memory.seek(start)
                yield f"{span} {rights} {' '.join(name)}", memory.read(end - start)


def nameless_files_of(pid: int) -> Iterator[tuple[str, bytes]]:
    """Files without a name that a process has open: memory files, and deleted ones."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("/memfd:") or target.endswith("(deleted)"):
                    with entry.open("rb") as file:
                        yield target, file.read()


def core_of(pid: int, folder: Path) -> Path:
    """A core dump of a living process, as a debugger would take it."""
    assert GCORE is not None
    subprocess.run([GCORE, "-o", str(folder / "core"), str(pid)], check=True, capture_output=True, timeout=120)
    return folder / f"core.{pid}"


def files_below(folder: Path) -> list[Path]:
    """Every regular file, sockets and pipes left out."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def open_files_of(pid: int) -> list[Path]:
    """Regular files that a process has open, wherever they are."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = entry.readlink()
                if target.is_file() and not str(target).startswith(("/dev/", "/proc/")):
                    found.append(target)
    return found
