"""Two Ray nodes on one host: they train, and shared state has the bits of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

pytestmark = pytest.mark.slow
pytest.importorskip("ray")

# A process of its own: nodes are its children, and Ray keeps to one cluster a process.
SCRIPT = """
import json, os, sys
from pathlib import Path
from ray.cluster_utils import Cluster

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
nodes.add_node(num_cpus=1, num_gpus=1)
try:
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.simulation.simulate import simulate

    base = Path(sys.argv[1])
    config = FederationConfig.model_validate_json((base / "config.json").read_bytes())
    run = simulate(config, base / "run", engine="flower", ray_address=nodes.address, on_devices=print)
    print(json.dumps([run.summary["state_digest"], run.summary["model_sha256"]]))
finally:
    nodes.shutdown()
"""

MODEL = """
import os
from pathlib import Path
from torch import nn

def made(sample_shape, outputs):
    with (Path(__file__).parent / "built").open("a") as file:
        file.write(f"{os.environ.get('RAY_RAYLET_PID', 'none')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))
"""


def test_two_nodes_train_and_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "written_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tiny(
        model__source="written_model:made", model__options={}, federation__participants=4, federation__rounds=2
    )
    here = simulate(config, tmp_path / "local", engine="local").summary
    (tmp_path / "built").unlink()
    (tmp_path / "config.json").write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said, *_, last = done.stdout.splitlines()
    assert said.startswith("devices: those of the Ray cluster at ")
    assert json.loads(last) == [here["state_digest"], here["model_sha256"]]
    raylets = {line.split()[0]: line.split()[1] for line in (tmp_path / "built").read_text().splitlines()}
    raylets.pop("none")  # whoever founded the federation
    assert len(raylets) == 2, "an actor on each of the nodes"
    # Each node claims a GPU, and its one actor got it: there is none here, so it trained on the processor, and said so.
    assert set(raylets.values()) == {"0"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["devices"] == {"cpu, float32": {"institutions": 4, "rounds": 8}}
