"""Where a run's time goes, by phase: functions of the project are timed where they are called, each second counted once."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

OTHER = "other"
ROUND: Mapping[str, Sequence[str]] = {
    "train": ("client.uploading:train",),
    "evaluate": ("client.uploading:evaluate",),
    "seal": ("client.uploading:seal_update", "client.uploading:Uploads._sealed"),
    "open": ("client.institution:apply",),
    "digest": ("common.state:SharedState.tag",),
    "store": ("client.memory:Memory.store", "server.journal:Journal.record"),
    "to and from the model": ("client.workbench:Workbench.twin_at", "client.twin:Twin.read"),
    "fold": ("server.folding:Fold.add", "server.folding:Fold.aggregate"),
    "carry": (
        "client.app:decode_request",
        "client.app:encode_reply",
        "server.strategy:encode_request",
        "server.strategy:decode_reply",
    ),
    "start": ("client.institution:Institution.__init__",),
    "observe": ("deploy.observer:Observer.test", "deploy.observer:apply"),
}
"""Functions of each phase of a round, as they are called: `module:name`. What one of them calls of another phase counts there."""
FOUNDING: Mapping[str, Sequence[str]] = {
    "data": ("deploy.founding:load_dataset", "deploy.founding:divide"),
    "model": ("deploy.founding:build_model",),
    "try it out": ("deploy.founding:require_trainable",),
    "dictionaries": ("deploy.founding:make_dictionaries",),
    "key": ("deploy.founding:make_key",),
    "write": ("deploy.founding:_write", "deploy.founding:write_census"),
}
"""The same of founding, without pretraining."""


class Phases:
    """Seconds by phase, of the processor (all threads of this process) and by the clock; a phase inside another is taken out of it."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self._open: list[str] = []
        self._since = (0.0, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside towards a phase."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        now = (time.process_time(), time.perf_counter())
        if self._open:
            name = self._open[-1]
            self.cpu[name] = self.cpu.get(name, 0.0) + now[0] - self._since[0]
            self.wall[name] = self.wall.get(name, 0.0) + now[1] - self._since[1]
        self._since = now

    @contextmanager
    def watching(self, targets: Mapping[str, Sequence[str]]) -> Iterator[None]:
        """Time the functions named, wherever they are called from inside; what remains of the time inside is `OTHER`."""
        with ExitStack() as stack:
            for name, places in targets.items():
                for place in places:
                    holder, attribute = _found(place)
                    timed = self._timed(name, getattr(holder, attribute))
                    stack.enter_context(patch.object(holder, attribute, timed))
            with self.phase(OTHER):
                yield

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.phase(name):
                return function(*arguments, **options)

        return timed


def _found(place: str) -> tuple[Any, str]:
    """Where a name stands: `module:name` or `module:Class.name`."""
    module, _, path = place.partition(":")
    *outer, attribute = path.split(".")
    holder: Any = importlib.import_module(module)
    for part in outer:
        holder = getattr(holder, part)
    return holder, attribute
