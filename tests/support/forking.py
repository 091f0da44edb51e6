"""Programs in processes of their own, forked from one that has loaded torch and its like already: loading takes most of a command.

The child is what a fresh process would be: its own folder, environment, arguments, streams and exit code, and it loads every
module of this project itself. Only libraries in `LOADED` are there before; what a test says of loading needs a real process.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

LOADED = (
    "torch", "torch._dynamo", "numpy", "pandas", "pyarrow", "sklearn.datasets", "sklearn.metrics", "scipy.stats",
    "scipy.sparse.linalg", "tenseal", "flwr_datasets.partitioner", "matplotlib.figure", "pydantic", "typer", "rich.console",
    "rich.table", "safetensors.torch", "structlog", "jinja2", "cryptography", "httpx",
)  # fmt: skip
"""torch loads its `_dynamo` at an optimiser's first step; together with the rest it takes four fifths of a small federation's time."""
_ENVIRONMENT = dict(os.environ)
_PROGRAM = Path(sys.executable).with_name("dictpfl")
_CLIENT = """#!{python} -IS
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps({{"words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
server.sendmsg([len(asked).to_bytes(4, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(asked)
ended = server.makefile().read().split()
code = int(ended[-1])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def ran(
    words: Sequence[object], cwd: Path, *, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run `dictpfl` with these words, as `subprocess.run` with captured text would.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed.
    """
    asked = {"words": [str(word) for word in words], "cwd": str(cwd), "env": {**(env or os.environ)}}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(_server())
            _ask(server, asked, [nothing.fileno(), out.fileno(), err.fileno()])
            answer = server.makefile(encoding="ascii")
            pid = int(answer.readline())
            server.settimeout(timeout)
            try:
                code = int(answer.readline())
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), timeout) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read().decode(), err.read().decode())


@cache
def programs() -> str:
    """A folder to put first into PATH: its `dictpfl` is forked, too."""
    folder = Path(_server()).parent
    program = folder / "dictpfl"
    program.write_text(_CLIENT.format(python=sys.executable, address=_server()), encoding="utf-8")
    program.chmod(0o700)
    return str(folder)


@cache
def _server() -> str:
    """Start what forks; return the address that it listens at. It ends with this process, which holds its standard input."""
    folder = Path(tempfile.mkdtemp(prefix="forking-"))
    address = str(folder / "socket")
    process = subprocess.Popen(
        [sys.executable, __file__, address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n", "no process to fork from"
    atexit.register(process.communicate)
    return address


def _ask(server: socket.socket, asked: Mapping[str, object], streams: Sequence[int]) -> None:
    text = json.dumps(asked).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
    server.sendmsg([len(text).to_bytes(4, "little")], rights)
    server.sendall(text)


def _serve(address: str) -> None:
    """Fork a process for each that asks, until the one that started this is gone."""
    import gc
    import importlib

    for name in LOADED:
        with contextlib.suppress(ModuleNotFoundError):  # an extra that is not installed
            importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    print("listening", flush=True)  # noqa: T201
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(Path(address).parent, ignore_errors=True)
            return
        client, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            _tend(client)
            os._exit(0)
        client.close()


def _tend(client: socket.socket) -> None:
    """Fork the program, and tell its number and how it ended."""
    length, streams, _, _ = socket.recv_fds(client, 4, 3)
    text, size = b"", int.from_bytes(length, "little")
    while len(text) < size:
        text += client.recv(size - len(text))
    pid = os.fork()
    if pid == 0:
        client.close()
        _run(json.loads(text), streams)
    client.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _run(asked: Mapping[str, object], streams: Sequence[int]) -> None:
    """Be the program that was asked for; does not return."""
    import random
    import threading
    import traceback

    import numpy as np

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(asked["cwd"]))
    os.environ.clear()
    os.environ.update(asked["env"])  # type: ignore[call-overload]
    random.seed()
    np.random.seed()  # noqa: NPY002 -- a fresh process's numbers are not its neighbour's
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path]
    sys.path[:] = [str(_PROGRAM.parent), *given, *sys.path[1:]]
    sys.argv[:] = [str(_PROGRAM), *map(str, asked["words"])]  # type: ignore[call-overload]
    code = 0
    try:
        from dictpfl.deploy.cli import main

        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 -- as the interpreter does
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for written in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            written.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
