"""Every experiment has one state and one model: data in memory or by the batch, one process or several, one Ray node or two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import ROOT
from tests.system.test_experiments import FILES, tiny_settings

pytest.importorskip("ray")
# Ray and Flower both use what their libraries call old, and Ray leaves sockets to the end of the process.
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore"),
]

LAZY = {"imagefolder", "videofolder", "datasets", "parquet"}
# A process of its own: nodes are its children, and Ray keeps to one cluster a process.
NODES = """
import sys
from ray.cluster_utils import Cluster

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
nodes.add_node(num_cpus=2)
print(nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
"""


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdout is not None
        yield cluster.stdout.readline().strip()
        cluster.communicate("", timeout=60)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_state_and_model_do_not_depend_on_the_machinery(
    path: Path, tmp_path: Path, two_nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = FederationConfig.load(path)
    if config.privacy.mechanism != "none":
        pytest.skip("noise is drawn anew in each run")
    settings = tiny_settings(path, config)
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "one process": ({}, {"engine": "local"}),
        "several processes": ({}, {"engine": "flower"}),
        "two nodes": ({}, {"engine": "flower", "ray_address": two_nodes}),
    }
    if config.data.source in LAZY:
        ways["by the batch"] = ({"data.lazy": True}, {"engine": "local"})
        ways["by the batch, two workers"] = ({"data.lazy": True, "training.workers": 2}, {"engine": "local"})
    found = {}
    for way, (more, engine) in ways.items():
        run = simulate(FederationConfig.load(path, settings | more), tmp_path / way.replace(" ", "-"), **engine)
        found[way] = (run.summary["state_digest"], run.summary["model_sha256"])
    assert len(set(found.values())) == 1, found
