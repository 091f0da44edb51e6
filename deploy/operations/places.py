"""Names of files that `up` makes in the folder of a party, and the environment of its processes."""

from __future__ import annotations

import os
from pathlib import Path

from common.keys import owner_only
from deploy.operations.child import HEARTBEAT, TASK
from deploy.operations.log_format import LOG_JSON
from deploy.operations.task import BUNDLE, HOME

RUN, LOGS, FLOWER = "run", "logs", "flower"
SECRET, DATABASE, PROCESSES = "superexec.secret", "superlink.sqlite", "processes.json"
NODES = "nodes"
LOOPBACK = "127.0.0.1"
_TASK_POLL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
"""Seconds between a SuperExec's looks for tasks."""


def prepare(folder: Path) -> Path:
    """Make the folders of a party, mode 0700.

    Raises:
        KeyFileError: others may enter one of them.
    """
    for part in (folder, folder / RUN, folder / LOGS, folder / FLOWER):
        owner_only(part)
    return folder


def environment(
    folder: Path, *, heartbeat: float, bundle: str, kind: str, log_json: bool = False, **more: str
) -> dict[str, str]:
    """For a party's processes: Flower's home inside the folder; no telemetry, update check or installation."""
    return {
        HOME: str(folder / FLOWER),
        HEARTBEAT: str(heartbeat),
        BUNDLE: bundle,
        TASK: kind,
        LOG_JSON: "1" if log_json else "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        _TASK_POLL: os.environ.get(_TASK_POLL, "0.25"),
        "PYTHONUNBUFFERED": "1",
        # A `common` or `server` in the working directory must not hide the agreed one.
        "PYTHONSAFEPATH": "1",
        # A proxy for the web in the operator's environment is none for loopback.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), LOOPBACK, "localhost"])),
        **more,
    }
