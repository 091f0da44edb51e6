"""Flower app of the coordinator: opens the coordinator of this process's own folder and runs the rounds."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_utils import pull_objects

from dictpfl.common.errors import ConfigError
from dictpfl.server.recording import open_coordinator
from dictpfl.server.strategy import BlindStrategy

FOLDER = "DICTPFL_COORDINATOR"
"""Environment variable with the coordinator's folder."""

app = ServerApp()


@app.main()
def main(grid: Grid, _context: Context) -> None:
    """Run all rounds that are still missing; started again after a crash, it goes on where the journal ends.

    The folder comes from the environment of the process and never from the run config, which whoever starts a run
    may set.

    Raises:
        ConfigError: the environment names no folder.
        EngineError: rounds keep failing.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        raise ConfigError(f"Expected the coordinator's folder in {FOLDER}, which is not set: set it and start again.")
    coordinator = open_coordinator(Path(folder))
    give_up_fetching(coordinator.deadline_seconds)
    try:
        BlindStrategy(coordinator).start(grid)
    finally:
        coordinator.close_journal()


def give_up_fetching(seconds: float) -> None:
    """Have this process fetch the parts of a reply for so long at most; it counts as lost then, and the round is asked again.

    A reply whose maker's line broke in the middle is announced, and the rest of it does not come. Flower 1.42 would ask for it for as
    long as the SuperLink keeps its place, minutes in which no other reply is looked at and no deadline holds.
    """
    defaults = pull_objects.__kwdefaults__
    assert defaults is not None and "max_time" in defaults  # noqa: S101, PT018  Flower 1.42 has it by keyword
    defaults["max_time"] = seconds
