"""One task of Flower's, run from the agreed app and from nothing else; a process of its own for each.

Flower would unpack and run whatever bundle its server sends. Here the bundle that came is compared with the agreed
one, the files installed beforehand are compared with the agreed bundle, and those files are what runs.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import select
import sys
from pathlib import Path
from typing import Any

from deploy.operations import pinned
from deploy.operations.child import set_heartbeat

HOME, BUNDLE, SITE = "FLWR_HOME", "DICTPFL_BUNDLE", "DICTPFL_SITE"
_SLOW = ("flwr.supernode.runtime.run_clientapp", "numpy", "torch", "client.app", "client.institution", "torch._dynamo")


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
        """As `check`, but keep the reason for the app that answers in place of the agreed one."""
        del skip_prompt
        try:
            self.check(content)
        except pinned.Mismatch as error:
            self.refusal = str(error)
            print(f"REFUSED {error}", file=sys.stderr, flush=True)  # noqa: T201  the task's own log
        return self.folder

    def check_or_raise(self, content: bytes, *, skip_prompt: bool = False) -> Path:
        """As `check`."""
        del skip_prompt
        self.check(content)
        return self.folder

    def client_app(self, *_names: str) -> Any:
        """The agreed app; or one that answers every message with the bare code `bundle`."""
        self._use()
        return importlib.import_module("client.app").app if self.refusal is None else _refusing()

    def import_ahead(self) -> None:
        """Load what takes seconds until a task is there; what is installed is checked again when one comes."""
        try:
            self.folder = pinned.verified(self._home, self._agreed)
        except pinned.Mismatch:
            return  # said when a task comes
        self._use()
        for name in _SLOW:
            # A task must show a sign of life soon after it was claimed, so it does not wait for what it may not need.
            if select.select([sys.stdin], [], [], 0.0)[0]:
                return
            importlib.import_module(name)
        self._open_ahead()

    @staticmethod
    def _open_ahead() -> None:
        """Open the institution (its key costs an Argon2id) and prepare its next upload, while nothing is asked."""
        site = os.environ.get(SITE)
        if not site or select.select([sys.stdin], [], [], 0.0)[0]:
            return
        try:
            importlib.import_module("client.institution").open_institution(Path(site)).prepare()
        except Exception as error:  # noqa: BLE001  said in full when a task comes and needs it
            print(f"not prepared ahead: {error}", file=sys.stderr, flush=True)  # noqa: T201  the task's own log

    def _use(self) -> None:
        if sys.path[0] != str(self.folder):
            sys.path.insert(0, str(self.folder))


def _refusing() -> Any:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        from client.carriage import encode_reply
        from common.protocol import Reply, Status

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


def main() -> None:
    """Run the task whose order comes on standard input; the kind is the one argument."""
    set_heartbeat()
    sys.dont_write_bytecode = True
    pin = Pin(Path(os.environ[HOME]), os.environ[BUNDLE])
    if sys.argv[1] == "clientapp":
        pin.import_ahead()
    text = sys.stdin.buffer.read()
    if not text:
        return  # the SuperExec is gone
    {"clientapp": run_client, "serverapp": run_server}[sys.argv[1]](json.loads(text), pin)


if __name__ == "__main__":
    main()
