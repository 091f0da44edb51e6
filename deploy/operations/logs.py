"""Each program's output in a file of its own that does not grow for ever, and the exit code that it only says there."""

from __future__ import annotations

import logging
import re
import subprocess
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path

from dictpfl.common.files import owner_only
from dictpfl.deploy.operations.log_format import as_json_line

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EXIT = re.compile(r"Exit Code: (\d+)")
_TAKEN = re.compile(r"Port in server address \S+ is already in use")
"""Line of Flower 1.42 about its health server, after which one of its threads ends: the process lives on and does nothing."""
_BYTES, _KEPT = 5_000_000, 3


class _Bounded(RotatingFileHandler):
    """A file that does not grow for ever; while the disk is full, lines are lost without a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Lose the line."""


class ProgramLog:
    """Output of a program, and the exit code that Flower's programs only say in words."""

    def __init__(self, path: Path, *, as_json: bool = False) -> None:
        """Begin, before the program starts.

        Args:
            path: of the file; its folder is made with mode 0700.
            as_json: write one JSON object a line, whatever the program writes.
        """
        owner_only(path.parent)
        self.path = path
        self._as_json = as_json
        self.exit_code: int | None = None
        self.reason = ""
        self.port_taken = False
        self._handler = _Bounded(path, maxBytes=_BYTES, backupCount=_KEPT, encoding="utf-8")
        self._thread: threading.Thread | None = None

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Copy the output of a process until it ends."""
        self.exit_code, self.reason, self.port_taken = None, "", False
        self._thread = threading.Thread(target=self._copy, args=(process,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left and release the file."""
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        self._handler.close()

    def _copy(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101  it was asked for
        listening = 0
        with process.stdout as output:
            for raw in output:
                line = _ANSI.sub("", raw.decode("utf-8", "replace")).rstrip()
                kept = as_json_line(line, self.path.stem) if self._as_json and line else line
                self._handler.emit(logging.makeLogRecord({"msg": kept, "levelno": logging.INFO}))
                if _TAKEN.search(line):
                    self.port_taken = True
                if match := _EXIT.search(line):
                    self.exit_code, listening = int(match[1]), 3
                elif listening and line.strip():
                    self.reason = f"{self.reason} {line.split(':', 1)[-1].strip()}".strip()
                    listening -= 1
