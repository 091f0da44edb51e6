"""Many institutions in one process: one model, one W0 on disk, and the bits of as many processes. Two hundred of them, nightly."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, ref

import pytest
from torch import nn

import dictpfl.client.institution
import dictpfl.client.training.workbench
from dictpfl.client.institution import forget_institutions
from dictpfl.client.memory import record, resting
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.simulation.local import run_local
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny
from tests.support.harness import World

each_many = pytest.mark.parametrize("institutions", [7, pytest.param(200, marks=pytest.mark.nightly)])

MODEL = """
import os
from pathlib import Path
from torch import nn

def made(sample_shape, outputs):
    with (Path(__file__).parent / "built").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))
"""


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the user's own that writes down which process builds it."""
    (tmp_path / "counted_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counted_model", raising=False)
    # Another test's federation is the same one, and whatever still holds its institutions would lend its bench to this test's.
    forget_institutions()
    monkeypatch.setattr(dictpfl.client.training.workbench, "_BENCHES", WeakValueDictionary())
    return tmp_path / "built"


def many(institutions: int) -> FederationConfig:
    return tiny(
        model__source="counted_model:made", model__options={}, data__limit=0, federation__rounds=1,
        federation__participants=institutions, data__validation_share=0.0,
    )  # fmt: skip


def builds(file: Path) -> Counter[int]:
    return Counter(int(line) for line in file.read_text().split())


@each_many
def test_institutions_of_a_process_share_one_model(institutions: int, built: Path, tmp_path: Path) -> None:
    run = simulate(many(institutions), tmp_path / "run", engine="local")
    assert run.records[0].contributors == institutions
    # Once to found the federation, once for the bench of them all and of the observer.
    assert builds(built) == {os.getpid(): 2}


def test_w0_is_one_file(built: Path, tmp_path: Path) -> None:
    del built
    world = World.found(many(5), tmp_path / "world")
    for name in ("weights.safetensors", "genesis.safetensors"):
        assert len({(world.home(node) / name).stat().st_ino for node in world.nodes}) == 1


@pytest.mark.slow
@each_many
def test_each_process_of_flowers_runtime_builds_one_model(institutions: int, built: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    run = simulate(many(institutions), tmp_path / "run", engine="flower")
    assert run.records[0].contributors == institutions
    counted = builds(built)
    assert counted.pop(os.getpid()) == 2
    assert set(counted.values()) == {1}
    assert 1 <= len(counted) <= len(os.sched_getaffinity(0))


CONFIGS: dict[str, dict[str, Any]] = {
    "refreshed": {"decomposition__refresh_every": 1},
    "a head of one's own": {"decomposition__local": ["*3*"]},
    "statistics of one's own": {
        "model__source": "cnn", "model__options": {"width": 2, "depth": 2}, "decomposition__batch_norm": "local",
        "data__limit": 120,
    },
    "encrypted": {"encryption__sealer": "ckks", "toy_insecure": False},
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGS)
def test_sharing_changes_no_bit(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against institutions that are alone: opened anew for each request, each with a model built for it alone."""
    template = World.found(tiny(**CONFIGS[what]), tmp_path / "template")
    together, alone = template.copy(tmp_path / "together"), template.copy(tmp_path / "alone")
    run_local(together.coordinator_folder, together.folder / "institutions", 3)
    forget_institutions()
    monkeypatch.setattr(dictpfl.client.institution, "workbench_of", dictpfl.client.training.workbench.Workbench)
    while not alone.coordinator.finished:
        for node in alone.nodes:
            alone.kill_institution(node)
        alone.exchange()
    alone.close()
    assert together.digests() == alone.digests()
    for node in template.nodes:
        ours, theirs = together.record(node), alone.record(node)
        assert ours.residual.values.tobytes() == theirs.residual.values.tobytes()
        assert {n: v.tobytes() for n, v in ours.local.items()} == {n: v.tobytes() for n, v in theirs.local.items()}


def test_institutions_that_rest_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = World.found(tiny(decomposition__local=["*3*"]), tmp_path / "template")
    awake, tired = template.copy(tmp_path / "awake"), template.copy(tmp_path / "tired")
    awake.run()
    monkeypatch.setattr(resting, "MOST_BYTES", 0)
    monkeypatch.setattr(record, "MAPPED", 0)  # and what they owe is mapped, as that of large models is
    tired.run()
    last = tired.institution(2)
    for node in (0, 1):
        assert tired.institution(node)._record is None
        assert tired.institution(node)._uploads.own.nbytes == 0
    assert last._record is not None
    for node in template.nodes:
        ours, theirs = tired.record(node), awake.record(node)
        assert ours.shared.digest == theirs.shared.digest
        assert ours.residual.values.tobytes() == theirs.residual.values.tobytes()
        assert {n: v.tobytes() for n, v in ours.local.items()} == {n: v.tobytes() for n, v in theirs.local.items()}
    for world in (awake, tired):
        world.close()


def test_institutions_in_step_hold_one_shared_state(tmp_path: Path) -> None:
    world = World.found(tiny(), tmp_path / "world")
    world.run()
    held = [world.institution(node)._record for node in world.nodes]
    assert len({id(record.shared) for record in held if record}) == 1
    assert len({id(world.institution(node)._genesis) for node in world.nodes}) == 1
    world.close()


def test_the_model_is_let_go_with_its_institutions(tmp_path: Path) -> None:
    world = World.found(tiny(), tmp_path / "world")
    world.exchange()
    kept: ref[nn.Module] = ref(world.institution(0)._bench.twin.module)
    for node in world.nodes:
        world.kill_institution(node)
    gc.collect()
    assert kept() is None
    world.close()
