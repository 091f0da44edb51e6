"""Seconds of a deployed round in which nobody has anything to do, and of digits' rounds: three institutions, real processes, TLS through nginx.

    python benchmarks/real_sizes.py --only e
    python benchmarks/sizes/e_empty_round.py        # this alone

`before`: everybody looks as Flower 1.42 does, SuperNodes every 3 s, tasks every 0.25 s. `after`: as `up` has them look. Digits' rounds are those of
experiments/digits.toml, from the first round's end to the last one's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.operations.certificates import try_out
from dictpfl.deploy.operations.health import free_port
from dictpfl.deploy.operations.institution import enrol
from dictpfl.deploy.operations.proxy import write_proxy
from dictpfl.deploy.operations.settings import CoordinatorSettings
from dictpfl.deploy.operations.status import of_coordinator
from dictpfl.deploy.simulation.founding import Founded, found

INSTITUTIONS, MOST_SECONDS = 3, 1.5
ROUNDS, SMALL_ROUNDS = 16, 8
FLOWERS = {"DICTPFL_POLL": "3"}
"""How a SuperNode of Flower 1.42 looks: the same pause always."""
EMPTY: Mapping[str, Any] = {
    "data.limit": 200,
    "model.source": "mlp",
    "model.options": {"hidden": [16]},
    "training.steps": 1,
    "federation.participants": INSTITUTIONS,
    "federation.deadline_seconds": 120.0,
}
"""One step of training on a few digits: what is left of the round is the deployment's."""
DIGITS = Path(__file__).parents[2] / "experiments" / "digits.toml"
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001  the entry point calls all parts alike
    """Seconds of the median empty round, before and after; `small`: fewer rounds."""
    rounds = SMALL_ROUNDS if small else ROUNDS
    empty = FederationConfig.of({}, dict(EMPTY) | {"federation.rounds": rounds})
    before, after = seconds_of_rounds(empty, FLOWERS), seconds_of_rounds(empty, {})
    digits = FederationConfig.load(DIGITS, {"federation.rounds": SMALL_ROUNDS} if small else {})
    digits_before, digits_after = seconds_of_rounds(digits, FLOWERS), seconds_of_rounds(digits, {})
    return {
        "institutions": INSTITUTIONS,
        "rounds": rounds,
        "line": "TLS through nginx" if NGINX else "TLS, no proxy",
        "before_seconds": round(statistics.median(before), 2),
        "after_seconds": round(statistics.median(after), 2),
        "before_slowest_seconds": round(max(before), 2),
        "after_slowest_seconds": round(max(after), 2),
        "digits": {
            "rounds": len(digits_after),
            "before_seconds": round(sum(digits_before), 1),
            "after_seconds": round(sum(digits_after), 1),
        },
        "most_seconds": MOST_SECONDS,
    }


def seconds_of_rounds(config: FederationConfig, environment: Mapping[str, str]) -> list[float]:
    """Seconds from the end of a round to the end of the next, of a deployment of its own that is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="empty-round-") as place:
        folder = Path(place)
        made = found(config, folder / "federation")
        with deployed(made, environment):
            _call("run", "--folder", made.coordinator)
        ends = [closed["ended"] for closed in of_coordinator(made.coordinator)["rounds"]]
    return [after - before for before, after in pairwise(ends)]


@contextmanager
def deployed(made: Founded, environment: Mapping[str, str]) -> Iterator[None]:
    """Coordinator, proxy and institutions as operators start them, each healthy, inside."""
    port, listen = free_port(), free_port()
    homes = [made.home(index) for index in range(INSTITUTIONS)]
    coordinator = made.coordinator
    try_out(coordinator / "tls", [])
    (coordinator / "nodes").mkdir(mode=0o700)
    CoordinatorSettings.updated(coordinator, port=port)
    for home in homes:
        shutil.copy(enrol(home), coordinator / "nodes" / f"{home.name}.pub")
        shutil.copy(coordinator / "tls" / "ca.pem", home / "ca.pem")
    with ExitStack() as running:
        running.enter_context(_program(_dictpfl("coordinator", "up", "--folder", coordinator), environment))
        _until_healthy(coordinator)
        if NGINX:
            proxy = write_proxy(coordinator, f"127.0.0.1:{listen}")
            command = [NGINX, "-p", str(coordinator / "run"), "-c", str(proxy), "-g", "daemon off;"]
            running.enter_context(_program(command, {}))
        address = f"127.0.0.1:{listen if NGINX else port}"
        for home in homes:
            given = ["--folder", home, "--coordinator", address, "--port", free_port()]
            running.enter_context(_program(_dictpfl("institution", "up", *given), environment))
        for home in homes:
            _until_healthy(home)
        yield


def _dictpfl(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "dictpfl.deploy.cli", *map(str, arguments)]


def _call(*arguments: Any) -> None:
    subprocess.run(_dictpfl(*arguments), check=True, stdout=subprocess.DEVNULL)


def _until_healthy(folder: Path, seconds: float = 180.0) -> None:
    def healthy() -> bool:
        return not subprocess.run(_dictpfl("health", "--folder", folder), capture_output=True, check=False).returncode

    deadline = time.monotonic() + seconds
    while not healthy():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{folder.name} does not serve after {seconds:.0f} s")
        time.sleep(0.5)


@contextmanager
def _program(command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure("--small" in sys.argv[1:]), indent=1) + "\n")
