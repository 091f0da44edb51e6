"""The same data, seed and rounds under several methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from common.config import FederationConfig
from common.errors import ConfigError
from common.presets import METHODS
from deploy.founding import Founded
from deploy.observer import RoundRecord
from deploy.report import write_comparison
from deploy.run import Run, write_json
from deploy.simulation import Engine, simulate

_FIGURES = ("method", "insecure", "metric", "accuracy", "values", "bytes", "seconds", "state_digest")


def configurations(
    path: Path | str, methods: Sequence[str], overrides: Mapping[str, Any] | None = None
) -> dict[str, FederationConfig]:
    """A checked configuration for each method, all of them before the first one runs.

    A method that encrypts nothing, or a part, admits `toy_insecure` here: it is compared, not deployed.

    Raises:
        ConfigError: an unknown method, one twice, or none.
    """
    if not methods or len(set(methods)) != len(methods):
        raise ConfigError(f"methods {list(methods)}: expected at least one, and each once; known: {', '.join(METHODS)}")
    made = {}
    for method in methods:
        changed = {**(overrides or {}), "method": method}
        if method in ("plaintext", "fedml-he"):
            changed["toy_insecure"] = True
        made[method] = FederationConfig.load(path, changed)
    return made


class Watcher(Protocol):
    """What is told how a run goes on."""

    def founded(self, founded: Founded) -> None:
        """Called once, before the first round."""

    def closed(self, record: RoundRecord) -> None:
        """Called with each closed round."""


def compare(
    configs: Mapping[str, FederationConfig],
    out: Path | str,
    *,
    engine: Engine = "flower",
    watch: Callable[[FederationConfig], AbstractContextManager[Watcher]] | None = None,
) -> list[Run]:
    """Run every configuration into a folder of its own, then write compare.json and compare.html."""
    folder = Path(out).resolve()
    runs = []
    for method, config in configs.items():
        with (watch or _unwatched)(config) as watcher:
            runs.append(
                simulate(
                    config,
                    folder / method,
                    engine=engine,
                    on_round=watcher.closed,
                    on_founded=watcher.founded,
                )
            )
    write_json(folder / "compare.json", [{key: run.summary[key] for key in _FIGURES} for run in runs])
    write_comparison(runs, folder / "compare.html")
    return runs


@contextmanager
def _unwatched(_config: FederationConfig) -> Iterator[Watcher]:
    """A watcher that says nothing."""
    yield _Silent()


class _Silent:
    def founded(self, founded: Founded) -> None:
        """Say nothing."""

    def closed(self, record: RoundRecord) -> None:
        """Say nothing."""
