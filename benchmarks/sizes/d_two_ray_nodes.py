"""Two Ray nodes against one: rounds a minute of the same federation, and the same bits.

Both nodes are on this host, each with half of its processors, joined by Ray's own network protocol. What a second machine adds, less the
network between; the coordinator's process folds and tests in between and shares the host, which a machine of its own would not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lib.machine import median

_WANTED = 1.6
_RUN = """
import json, sys
from pathlib import Path
from ray.cluster_utils import Cluster

order = json.loads(sys.argv[1])
head = {"num_cpus": order["cpus"], "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
for _ in range(order["nodes"] - 1):
    cluster.add_node(num_cpus=order["cpus"])
try:
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.simulation.simulate import simulate

    config = FederationConfig.of({}, order["settings"])
    run = simulate(config, Path(order["out"]), engine="flower", ray_address=cluster.address)
    rounds = [record.seconds for record in run.records if record.kind == "update"]
    print(json.dumps({"rounds": rounds, "digest": run.summary["state_digest"]}))
finally:
    cluster.shutdown()
"""


def measure(small: bool) -> dict[str, Any]:  # noqa: FBT001 -- the form of all rows
    """Run the federation on one node, then on two."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return {"skipped": "one processor: two nodes would take turns"}
    settings = {
        "federation.participants": 4, "federation.rounds": 3 if small else 8, "model.source": "vit_tiny",
        "data.limit": 600 if small else 0, "training.steps": 10 if small else 150, "training.device": "cpu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        one, two = (
            _run({"nodes": nodes, "cpus": cores // 2, "settings": settings, "out": f"{folder}/{nodes}"}, Path(folder))
            for nodes in (1, 2)
        )
    figures = {name: _figures(found) for name, found in (("one", one), ("two", two))}
    factor = figures["two"]["rounds_a_minute"] / figures["one"]["rounds_a_minute"]
    return {
        "nodes_have_processors": cores // 2,
        "load_before": round(os.getloadavg()[0], 2),
        "settings": settings,
        **figures,
        "factor": factor,
        "same_digest": one["digest"] == two["digest"],
        "wanted_factor": _WANTED,
        "reason": "" if factor >= _WANTED else _reason(figures, cores),
    }


def _run(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(order)], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _figures(found: dict[str, Any]) -> dict[str, float]:
    """Medians over the rounds but for the first, in which each process builds its model."""
    rounds = found["rounds"][1:]
    length = median([seconds["round"] for seconds in rounds])
    train = median([seconds["train"] for seconds in rounds])
    return {"rounds_a_minute": 60 / length, "round_seconds": length, "train_seconds_an_institution": train}


def _reason(figures: dict[str, dict[str, float]], cores: int) -> str:
    """Say what kept the second node from adding as much as it has."""
    slower = figures["two"]["train_seconds_an_institution"] / figures["one"]["train_seconds_an_institution"]
    alone = 2 * figures["two"]["train_seconds_an_institution"]
    rest = max(0.0, 1 - alone / figures["two"]["round_seconds"])
    return (
        f"both nodes are on one host of {cores} processors, which coordinator, test and whatever else runs share: training an institution took "
        f"{slower:.2f} times as long beside the other node, and {rest:.0%} of a round of two nodes was not training"
    )
