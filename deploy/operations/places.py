"""Names of files that `up` makes in the folder of a party, and the environment of its processes."""

from __future__ import annotations

import os
from pathlib import Path

from dictpfl.common.files import owner_only
from dictpfl.deploy.operations.environment import BUNDLE, HEARTBEAT, HOME, TASK, TASK_POLL
from dictpfl.deploy.operations.log_format import LOG_JSON

RUN, LOGS, FLOWER = "run", "logs", "flower"
SECRET, DATABASE, PROCESSES = "superexec.secret", "superlink.sqlite", "processes.json"
LAST_CONTACT, NO_CONTACT = "contact", "no-contact"
"""Files of a SuperNode: changed when the coordinator answers, and why it does not."""
LOCK = "lock"
NODES = "nodes"
LOOPBACK = "127.0.0.1"
_TASK_POLL_SECONDS = {"clientapp": "0.25", "serverapp": "1"}
"""At most between two looks for a task: institutions begin one in each exchange, a coordinator one in a run."""


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
    """Return the environment of a party's processes: Flower's home inside the folder; no telemetry, update check or installation."""
    return {
        HOME: str(folder / FLOWER),
        HEARTBEAT: str(heartbeat),
        BUNDLE: bundle,
        TASK: kind,
        LOG_JSON: "1" if log_json else "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        TASK_POLL: os.environ.get(TASK_POLL, _TASK_POLL_SECONDS[kind]),
        "PYTHONUNBUFFERED": "1",
        # Modules in the working directory hide neither ours nor Python's; an institution's tasks look there last.
        "PYTHONSAFEPATH": "1",
        # A proxy for the web in the operator's environment is none for loopback.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), LOOPBACK, "localhost"])),
        **more,
    }
