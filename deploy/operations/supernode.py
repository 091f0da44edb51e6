"""Repairs of the SuperNode of Flower 1.42: it looks in time, answers in step, waits for no dead app, and gives no line up.

Its signs of life go on, too, after a coordinator that could not take one.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dictpfl.common.files import write_private
from dictpfl.deploy.app.pinned import FAB
from dictpfl.deploy.operations.environment import CONTACT, HEARTBEAT, HOME, POLL
from dictpfl.deploy.operations.pace import Pace, fetch_soon
from dictpfl.deploy.operations.places import NO_CONTACT
from dictpfl.deploy.operations.superlink import AGAIN

REPLY_SECONDS, FLOWERS_REPLY_SECONDS = 0.05, 0.5
"""Seconds between two looks for the app's reply, inside one machine: of one that is quick, and Flower's own."""
_TOUCH_SECONDS = 1.0
"""Least time between two notes of a contact: a SuperNode asks several times a second while a round is on."""


class Impatient:
    """An object store that does not wait for ever for what nobody will bring any more.

    A client app that dies while it hands over its reply leaves objects that are announced and never come. Flower's
    SuperNode asks for them again and again, and takes no other message until it is restarted. An error ends that: it logs
    it, forgets the reply, and goes on; the coordinator asks for the round again.
    """

    def __init__(self, store: Any, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._seconds, self._clock = store, seconds, clock
        self._since: float | None = None

    def get(self, object_id: str) -> bytes | None:
        """Return an object's bytes; empty while it is on its way.

        Raises:
            TimeoutError: nothing came for too long.
        """
        content: bytes | None = self._store.get(object_id)
        if content != b"":
            self._since = None
        elif self._since is None:
            self._since = self._clock()
        elif self._clock() - self._since > self._seconds:
            raise TimeoutError(
                f"a reply that its app announced did not come within {self._seconds:.0f} s; it is dropped"
            )
        return content

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on as it is."""
        return getattr(self._store, name)


def drop_what_never_comes() -> None:
    """Have this process's SuperNode hand its replies over by an `Impatient` store."""
    module = importlib.import_module("flwr.supernode.start_client_internal").__dict__
    push = module["_push_messages"]
    # As long as the SuperLink waits for a sign of life: an app that is alive brings its next piece sooner.
    patience = 2 * float(os.environ.get(HEARTBEAT) or 30.0)

    def push_or_drop(*, object_store: Any, **others: Any) -> None:
        push(object_store=Impatient(object_store, patience), **others)

    module["_push_messages"] = push_or_drop


def set_pace() -> None:
    """Have a SuperNode look again at once after a look that the coordinator held, and soon for the reply of its app.

    Flower looks every 3 s, and for its app's reply every 0.5 s. `DICTPFL_POLL` gives another pause, at most, that stays the same.
    """
    module = importlib.import_module("flwr.supernode.start_client_internal").__dict__
    client = importlib.import_module("flwr.supernode.fleet_http_client").__dict__["FleetHttpClient"]
    pull_messages, pull = client.PullMessages, module["_pull_and_store_message"]
    fixed, replies = os.environ.get(POLL), Pace(REPLY_SECONDS, FLOWERS_REPLY_SECONDS)
    held = False

    def pull_and_note(self: Any, request: Any) -> Any:
        nonlocal held
        answer = pull_messages(self, request)
        held = answer.reconnect.reconnect == AGAIN
        return answer

    def pull_and_begin(**how: Any) -> Any:
        run = pull(**how)
        replies.stirred()
        return run

    def sleep(wanted: float) -> None:
        nonlocal held
        if fixed:
            time.sleep(min(wanted, float(fixed)))
        elif wanted <= FLOWERS_REPLY_SECONDS:
            time.sleep(replies.pause())
        elif not held:
            time.sleep(wanted)
        held = False

    client.PullMessages, module["_pull_and_store_message"] = pull_and_note, pull_and_begin
    module["time"] = SimpleNamespace(**{**vars(time), "sleep": sleep})


def answer_in_step() -> None:
    """Have a SuperNode send the reply to the message that it received last before it looks for another.

    Flower's sends whatever reply it finds first. Where a message came from a run that had just ended, that is the stale
    reply, and from then on every reply waits for the next message: the institution misses every round (flwr 1.42).
    """
    module = importlib.import_module("flwr.supernode.start_client_internal").__dict__
    push = module["_push_messages"]

    def push_until_answered(state: Any, **how: Any) -> None:
        with state.lock_msg_store:
            asked = [key for key, entry in state.msg_store.items() if not entry.message.metadata.reply_to_message_id]
        push(state=state, **how)
        # A message leaves the store with its reply, also with one that says that its task has died.
        while asked and asked[-1] in state.msg_store:
            push(state=state, **how)

    module["_push_messages"] = push_until_answered


class Contact:
    """Notes when the coordinator answered last, as the time at which a file was changed, and says why it does not.

    That goes into the log once, and into a file next to the other for `status` and `health`.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Note in the file at `path`; None: nowhere."""
        self._path, self._clock = path, clock
        self._noted = -_TOUCH_SECONDS
        self._said = ""

    def made(self) -> None:
        """Note an answer."""
        if self._said:
            self._note("")
        self._said = ""
        if self._path is not None and self._clock() - self._noted >= _TOUCH_SECONDS:
            self._noted = self._clock()
            self._path.touch(mode=0o600)

    def lost(self, error: Exception) -> None:
        """Say why there is none, if that is news: Flower does at its level of detail only."""
        text = f"{type(error).__name__}: {error}"
        if text != self._said:
            self._said = text
            _say(f"coordinator not reached, keeps trying: {text}")
            self._note(text)

    def _note(self, text: str) -> None:
        if self._path is not None:
            with suppress(OSError):  # a full disk is said by whatever must write
                write_private(self._path.with_name(NO_CONTACT), text.encode())


def give_no_line_up(contact: Contact) -> None:
    """Have a line that broke tried again however it broke, also in the middle of a TLS handshake.

    Flower takes every error for final whose text has `ssl`, `tls` or `certificate`, and its SuperNode then stays up without ever
    asking again: one restart of the proxy at the wrong moment, and an institution is out until somebody looks. Trying again risks
    nothing, since nothing is sent before the certificate fits; and once an expired one is renewed, rounds go on by themselves.
    """
    import httpx

    module = importlib.import_module("flwr.supernode.fleet_http_connection").__dict__
    make = module["make_simple_http_retry_invoker"]

    def make_patient() -> Any:
        invoker = make()
        is_final, on_success, on_backoff = invoker.should_giveup, invoker.on_success, invoker.on_backoff

        def should_giveup(error: Exception) -> bool:
            return not isinstance(error, httpx.TransportError) and bool(is_final(error))

        def succeeded(state: Any) -> None:
            contact.made()
            on_success(state)

        def backs_off(state: Any) -> None:
            contact.lost(state.exception)
            on_backoff(state)

        invoker.should_giveup, invoker.on_success, invoker.on_backoff = should_giveup, succeeded, backs_off
        return invoker

    module["make_simple_http_retry_invoker"] = make_patient


def keep_beating() -> None:
    """Have signs of life go on after an answer that Flower does not expect.

    Flower's thread for them ends at any error of the SuperLink's own, such as 500 while its disk is full (flwr 1.42). The SuperNode lives
    on, asks for work and is never given any: it counts as offline until somebody restarts it. An error of the SuperLink is tried
    again here, and any other ends the SuperNode, as Flower does when it is not let in (401), so that its supervisor starts it anew.
    """
    import httpx

    module = importlib.import_module("flwr.supernode.fleet_http_connection").__dict__
    sender = module["HeartbeatSender"]

    def patient(beat: Callable[[], bool]) -> Any:
        said = ""

        def beat_again() -> bool:
            nonlocal said
            try:
                taken = beat()
            except Exception as error:  # noqa: BLE001 -- whatever it is, the thread must not end while the process lives
                if (text := f"{type(error).__name__}: {error}") != said:
                    _say(f"a sign of life was not taken: {text}")
                said = text
                status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
                if status < httpx.codes.INTERNAL_SERVER_ERROR and status != httpx.codes.UNAUTHORIZED:
                    os.kill(os.getpid(), signal.SIGINT)
                return False
            said = ""
            return taken

        return sender(beat_again)

    module["HeartbeatSender"] = patient


def take_known_app(kept: Path) -> None:
    """Have a SuperNode read the agreed app from this machine, if the coordinator names that one; each new run would send it anew.

    Args:
        kept: file with the bundle that `up` installed; 1.7 MB, minutes of a slow line. Its tasks check it in any case.
    """
    client = importlib.import_module("flwr.supernode.fleet_http_client").__dict__["FleetHttpClient"]
    messages = importlib.import_module("flwr.proto.fab_pb2").__dict__
    ask = client.GetFab

    def read_or_ask(self: Any, request: Any) -> Any:
        content = kept.read_bytes() if kept.exists() else b""
        if hashlib.sha256(content).hexdigest() != request.hash_str:
            return ask(self, request)
        return messages["GetFabResponse"](fab=messages["Fab"](hash_str=request.hash_str, content=content))

    client.GetFab = read_or_ask


def end_once() -> None:
    """Have a second interrupt do nothing to a SuperNode that is ending; it must be called before Flower sets its own handler.

    When a node is not let in, each of Flower's threads that hears so interrupts the process. The second interrupt broke into the end
    that the first had begun, and left a process that neither worked nor ended (flwr 1.42 puts back the handler that it found).
    """
    signal.signal(signal.SIGINT, lambda _number, _frame: None)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  this program's log


def mend() -> None:
    """Make all repairs, in this process."""
    noted = os.environ.get(CONTACT)
    give_no_line_up(Contact(Path(noted) if noted else None))
    keep_beating()
    end_once()
    if home := os.environ.get(HOME):
        take_known_app(Path(home) / FAB)
    drop_what_never_comes()
    answer_in_step()
    set_pace()
    fetch_soon()
