"""Flower's tasks, run from the agreed app and from nothing else; a process of its own for each.

One process loads what takes seconds, then waits for orders and forks for each: a round then costs the work that is in it,
and not the loading of torch. It holds no key and no data; the forks that serve tasks do, and end with them.

Flower would unpack and run whatever bundle its server sends. Here the bundle that came is compared with the agreed
one, the files installed beforehand are compared with the agreed bundle, and those files are what runs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import select
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dictpfl
from dictpfl.deploy.app import pinned
from dictpfl.deploy.operations import slots
from dictpfl.deploy.operations.child import set_heartbeat
from dictpfl.deploy.operations.environment import AHEAD, BUNDLE, HOME, INSTITUTION
from dictpfl.deploy.operations.log_format import configure, wants_json
from dictpfl.deploy.operations.pace import fetch_soon
from dictpfl.deploy.own_modules import use_working_directory

_REAP_SECONDS = 1.0
_SLOW = (
    "flwr.supernode.runtime.run_clientapp",
    "numpy",
    "torch",
    "dictpfl.client.app",
    "dictpfl.client.institution",
    "torch._dynamo",
)


class Pin:
    """Takes the place of Flower's installer and loader within one task."""

    def __init__(self, home: Path, agreed: str) -> None:
        self.folder = home / pinned.FILES
        self.refusal: str | None = None
        self._home, self._agreed = home, agreed

    def check(self, content: bytes) -> None:
        """Compare what came and what is installed with what was agreed. Raises `pinned.Mismatch`."""
        pinned.require_in_force(self._home.parent, self._agreed)
        pinned.require(content, self._agreed, "the one that the coordinator sends")
        self.folder = pinned.verified(self._home, self._agreed)

    def check_or_refuse(self, content: bytes, *, skip_prompt: bool = False) -> Path:
        """Check, but keep the reason of a refusal for the app that answers in place of the agreed one."""
        del skip_prompt
        try:
            self.check(content)
        except pinned.Mismatch as error:
            self.refusal = str(error)
            print(f"REFUSED {error}", file=sys.stderr, flush=True)  # noqa: T201  the task's own log
        return self.folder

    def check_or_raise(self, content: bytes, *, skip_prompt: bool = False) -> Path:
        """Check, and raise what does not fit; what is imported from now on is the agreed app's."""
        del skip_prompt
        self.check(content)
        self._use()
        return self.folder

    def client_app(self, *_names: str) -> Any:
        """Return the agreed app; or one that answers every message with the bare code `bundle`, while its operator is told why."""
        self._use()
        _tell_operator(self.refusal)
        return importlib.import_module("dictpfl.client.app").app if self.refusal is None else _refusing()

    def slow_modules(self) -> list[str]:
        """List modules worth loading before a task comes; what is installed is checked again when one does."""
        try:
            self.folder = pinned.verified(self._home, self._agreed)
        except pinned.Mismatch:
            return []  # said when a task comes
        self._use()
        return list(_SLOW)

    def _use(self) -> None:
        """Import `dictpfl.client` and its like from the agreed app from now on; nothing has imported them before."""
        rooms = str(self.folder / "dictpfl")
        if rooms not in dictpfl.__path__:
            dictpfl.__path__.insert(0, rooms)


def _tell_operator(refusal: str | None) -> None:
    """Note for `status` and `health` why the coordinator's app is not run; None: it is."""
    # Not at the top: nothing of the app is imported before it is checked.
    from dictpfl.common.errors import AppBundleError
    from dictpfl.deploy.operations import readiness

    if folder := os.environ.get(INSTITUTION):
        with suppress(OSError):  # a full disk is said by whatever writes next
            readiness.note(Path(folder), AppBundleError(refusal) if refusal else None, readiness.OTHER_APP)


def _refusing() -> Any:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        from dictpfl.client.messages import encode_reply
        from dictpfl.common.messages.protocol import Reply, Status

        return Message(encode_reply(Reply(Status.REFUSED, round=0, position=0, code="bundle")), reply_to=message)

    return app


def run_client(order: dict[str, Any], pin: Pin) -> None:
    """Flower's `flwr-clientapp`, with the pin in place of installer and loader."""
    module = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    module.__dict__["install_from_fab"] = pin.check_or_refuse
    module.__dict__["get_project_dir"] = lambda *_names: pin.folder
    module.__dict__["get_load_client_app_fn"] = lambda **_options: pin.client_app
    module.run_clientapp(**_arguments(order))


def run_server(order: dict[str, Any], pin: Pin) -> None:
    """Flower's `flwr-serverapp`, with the pin in place of the installer."""
    module = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    module.__dict__["install_from_fab"] = pin.check_or_raise
    module.__dict__["get_project_dir"] = lambda *_names: pin.folder
    module.run_serverapp(log_queue=queue.Queue(), **_arguments(order))


def _arguments(order: dict[str, Any]) -> dict[str, Any]:
    certificates = order["certificates"]
    return {
        "runtime_api_address": order["address"],
        "token": order["token"],
        "insecure": order["insecure"],
        "certificates": Path(certificates).read_bytes() if certificates else None,
        "parent_pid": order["parent"],
        "runtime_dependency_install": False,
    }


class Nursery:
    """Forks for each order, a line of JSON on standard input, until that ends.

    While nothing runs it keeps a spare: a fork that has done what `prepare` does, and serves the next order. What that
    leaves in memory (a key, encryptions of zero) is in no other process, since only this one forks.
    """

    def __init__(
        self,
        run: Callable[[dict[str, Any], Pin], None],
        pin: Pin,
        ahead: list[str],
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._run, self._pin, self._ahead, self._prepare = run, pin, ahead, prepare
        self._children: set[int] = set()
        self._spare: tuple[int, int] | None = None
        """Its number, and where it waits for its order."""
        self._spare_wanted = prepare is not None
        self._read = b""

    def serve(self) -> None:
        """Load what was named, between orders if some come early; return once nobody can order any more."""
        while True:
            self._reap()
            # A task must show a sign of life soon after it was claimed, so it does not wait for what it may not need.
            if self._idle() and not select.select([0], [], [], 0.0)[0]:
                self._use_idleness()
                continue
            if not select.select([0], [], [], _REAP_SECONDS)[0]:
                continue
            piece = os.read(0, 1 << 16)
            if not piece:
                return  # the SuperExec is gone
            *orders, self._read = (self._read + piece).split(b"\n")
            for order in orders:
                self._begin(order)

    def _idle(self) -> bool:
        return bool(self._ahead) or (self._spare_wanted and not self._children)

    def _use_idleness(self) -> None:
        if not self._ahead:
            self._spare, self._spare_wanted = self._forked(self._prepare), False
            return
        importlib.import_module(self._ahead.pop(0))
        if not self._ahead:
            # A collection in a fork would write to every page that it shares with the others.
            gc.collect()
            gc.freeze()

    def _begin(self, order: bytes) -> None:
        child, channel = self._spare or self._forked(None)
        try:
            _write_all(channel, order)
        except BrokenPipeError:  # the spare was killed
            os.close(channel)
            os.waitpid(child, 0)
            child, channel = self._forked(None)
            _write_all(channel, order)
        os.close(channel)
        self._children.add(child)
        self._spare, self._spare_wanted = None, self._prepare is not None

    def _forked(self, prepare: Callable[[], None] | None) -> tuple[int, int]:
        """Fork a process that prepares, waits for its order, serves it and ends; return its id and where it listens."""
        reading, writing = os.pipe()
        child = os.fork()
        if child:
            os.close(reading)
            return child, writing
        status = 1
        try:
            os.close(writing)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if prepare is not None:
                prepare()
            with open(reading, "rb") as channel:  # noqa: PTH123  a descriptor
                order = channel.read()
            if order:  # or nobody is there any more to give one
                with slots.taken():
                    self._run(json.loads(order), self._pin)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:  # noqa: BLE001  the fork ends here, whatever happens
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        self._children = {child for child in self._children if os.waitpid(child, os.WNOHANG)[0] == 0}
        if self._spare is not None and os.waitpid(self._spare[0], os.WNOHANG)[0]:
            os.close(self._spare[1])
            self._spare = None  # no other before the next order: preparing may be what it died of


def _write_all(channel: int, data: bytes) -> None:
    while data:
        data = data[os.write(channel, data) :]


def open_ahead() -> None:
    """Open the institution (its key costs an Argon2id) and prepare its next upload; why it cannot is noted for its operator."""
    # Not at the top: nothing of the app is imported before it is checked.
    from dictpfl.deploy.operations import readiness

    folder, trouble = Path(os.environ[INSTITUTION]), None
    try:
        importlib.import_module("dictpfl.client.institution").open_institution(folder).prepare()
    except Exception as error:  # noqa: BLE001  said in full when a task comes and needs it
        print(f"not prepared ahead: {error}", file=sys.stderr, flush=True)  # noqa: T201  the task's own log
        trouble = error
    with suppress(OSError):  # a full disk is said by whatever writes next
        readiness.note(folder, trouble)


def main() -> None:
    """Start tasks of the kind that the one argument names."""
    set_heartbeat()
    fetch_soon()
    configure(as_json=wants_json(os.environ))
    sys.dont_write_bytecode = True
    # numpy's own threads would start with its import, and a process with threads must not fork. torch has its own setting.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    pin = Pin(Path(os.environ[HOME]), os.environ[BUNDLE])
    if sys.argv[1] == "serverapp":
        Nursery(run_server, pin, []).serve()
        return
    use_working_directory()  # an institution's model or data source may be a module of its own there
    wanted = os.environ.get(AHEAD)
    ahead = [] if wanted == "nothing" else pin.slow_modules()
    prepare = open_ahead if ahead and wanted != "modules" and os.environ.get(INSTITUTION) else None
    Nursery(run_client, pin, ahead, prepare).serve()


if __name__ == "__main__":
    main()
