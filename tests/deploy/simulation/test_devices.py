"""Devices of a simulation: who gets which share, what is refused, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, EngineError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.simulation.cluster import _look, _troubles, reached, require_address
from dictpfl.deploy.simulation.devices import AUTO, Cards, cards, concurrent, devices, of_cluster, share
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

TWO = Cards(("A", "A"))
NONE = Cards(reason="no GPU was found")


@pytest.mark.parametrize(
    ("gpus", "cores", "institutions", "client_cpus", "each", "at_once"),
    [
        (0, 8, 3, 1, 0.0, 3),
        (1, 16, 3, 1, 0.3333, 3),
        (2, 16, 3, 1, 0.5, 3),
        (4, 16, 3, 1, 1.0, 3),
        (1, 2, 200, 1, 0.5, 2),
        (8, 64, 1000, 2, 0.25, 32),
        (3, 16, 7, 1, 0.3333, 7),
        (1, 1, 5, 4, 1.0, 1),
    ],
)
def test_a_share_is_even_and_is_used_up(
    gpus: int, cores: int, institutions: int, client_cpus: float, each: float, at_once: int
) -> None:
    assert share(gpus, cores, institutions, client_cpus) == each
    assert concurrent(gpus, cores, institutions, client_cpus, each) == at_once
    if gpus:
        on_a_card = int(1 / each)  # as Flower counts actors
        assert on_a_card * gpus >= at_once, "a share that is too large leaves processors idle"


def test_nodes_without_a_gpu_take_no_share_of_one() -> None:
    nodes = [{"CPU": 32.0, "GPU": 2.0}, {"CPU": 64.0}, {"CPU": 32.0, "GPU": 2.0}]
    assert of_cluster(nodes, 1000, 1.0) == share(4, 64, 1000, 1.0) == 0.0625
    assert of_cluster([{"CPU": 4.0}], 3, 1.0) == 0.0


def plan(found: Cards = TWO, engine: str = "flower", cores: int = 8, cluster: str = "", **changes: Any) -> Any:
    return devices(tiny(**changes), engine=engine, found=found, cores=cores, cluster=cluster)


def test_an_engine_of_another_name_is_refused(tmp_path: Path) -> None:
    """It was engine flower, whatever it was called."""
    with pytest.raises(ConfigError, match="engine is 'locl'; expected `flower` or `local`"):
        simulate(tiny(), tmp_path / "run", engine="locl")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_shared_unless_somebody_says_otherwise() -> None:
    made = plan()
    assert (made.gpus, made.client_gpus) == (2, 0.5)
    assert made.line == "devices: 3 institutions at once, 0.5 of a GPU each; 2 x A"
    assert plan(resources__gpus=1).client_gpus == 0.3333
    assert plan(resources__client_gpus=2).line.startswith("devices: 1 institution at once, 2 of a GPU each")
    assert plan(resources__client_cpus=4).line.startswith("devices: 2 institutions at once, one GPU each")
    assert plan(engine="local").line == "devices: 1 institution at once, one GPU each; 1 x A"


def test_a_fall_to_the_processor_is_said() -> None:
    assert plan(NONE).line == "devices: 3 institutions at once, on the processor; no GPU was found"
    assert plan(training__device="cpu").line.endswith("on the processor; training.device is cpu")


@pytest.mark.parametrize("engine", ["flower", "local"])
def test_no_gpu_means_none_for_this_process_either(engine: str) -> None:
    """It tests the shared model, and would take one: Ray hides them from its actors alone."""
    made = plan(engine=engine, resources__gpus=0)
    assert (made.gpus, made.config.training.device) == (0, "cpu")
    assert plan(NONE, engine=engine, resources__gpus=0).config.training.device == "auto", "a run may go on elsewhere"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resources__gpus": 3}, "3 GPUs are asked for and 2"),
        ({"resources__client_gpus": 4}, "no institution could train"),
        ({"found": NONE, "resources__gpus": 1}, "1 GPUs are asked for and 0 can be used here \\(no GPU was found\\)"),
        ({"found": NONE, "resources__client_gpus": 0.5}, "0 GPUs may be used"),
        ({"training__device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
        ({"training__device": "cuda", "resources__gpus": 0}, "give no GPU to anybody"),
        ({"training__device": "cpu", "resources__gpus": 1}, "training.device is cpu"),
        ({"engine": "local", "resources__gpus": 2}, "one institution after another"),
        ({"engine": "local", "resources__client_gpus": 0.5}, "one after another"),
        ({"engine": "local", "cluster": "auto"}, "engine flower"),
        ({"cluster": "auto", "resources__gpus": 2}, "ray start --num-gpus"),
    ],
)
def test_what_is_not_there_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(**changes)


def test_a_cluster_says_itself_what_it_has() -> None:
    made = plan(NONE, cluster="10.0.0.1:6379")
    assert (made.gpus, made.client_gpus) == (None, AUTO)
    assert plan(cluster="auto", resources__client_gpus=0.25).client_gpus == 0.25


def test_a_federation_on_processors_takes_no_gpus_of_a_cluster() -> None:
    """Each institution took a share of one, and nodes without any stayed idle."""
    assert plan(NONE, cluster="auto", training__device="cpu").client_gpus == 0.0
    for changes in (
        {"training__device": "cuda:1"},
        {"training__device": "cpu", "resources__client_gpus": 0.5},
        {"training__device": "cuda", "resources__client_gpus": 0},
    ):
        with pytest.raises(ConfigError, match=r"training\.device is"):
            plan(NONE, cluster="auto", **changes)


def test_a_driver_without_a_torch_that_uses_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from dictpfl.deploy.simulation import devices as module

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(module, "_DRIVER", tmp_path)
    assert "built without CUDA" in cards().reason
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cards().reason.startswith("CUDA_VISIBLE_DEVICES is ''")


def test_resources_are_no_part_of_the_agreement(tmp_path: Path) -> None:
    from dataclasses import replace

    from dictpfl.deploy.audit.replay.identity import federation_id
    from tests.support.harness import World

    world = World.found(tiny(), tmp_path)
    genesis = Genesis.load(world.home(world.nodes[0]))
    other = FederationConfig.of(
        {}, {"resources.gpus": 3, "resources.client_gpus": 0.25, "resources.client_cpus": 2}
    ).resources
    changed = replace(genesis, config=genesis.config.model_copy(update={"resources": other}))
    assert changed.federation == genesis.federation
    changed.save(tmp_path)
    assert federation_id(tmp_path) == genesis.federation, "the audit leaves it out as well"


@pytest.mark.parametrize(
    "address", ["ray://10.0.0.1:10001", "10.0.0.1", "10.0.0.1:99999", "here:there", ":6379", "here:²"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        require_address(address)


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    require_address("auto")
    require_address("127.0.0.1:1")
    with pytest.raises(EngineError, match="ray start --head --port 1"):
        reached("127.0.0.1:1")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ray_address": "ray://head:10001"}, "Ray Client"),
        ({"ray_address": "auto", "engine": "local"}, "engine flower"),
    ],
)
def test_what_is_refused_leaves_no_folder(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        simulate(tiny(), tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_node_that_cannot_work_on_the_files_is_told_from_one_that_can(tmp_path: Path) -> None:
    """What a node finds, and what is made of it; the nodes themselves are in test_cluster.py."""
    home, institutions = str(tmp_path), tmp_path / "institutions"
    assert _troubles(_look(str(tmp_path / "elsewhere"), str(institutions))) == [
        f"it has no folder {tmp_path}/elsewhere"
    ]
    (missing,) = _troubles(_look(home, str(institutions)))
    assert missing.startswith(f"it cannot write into {institutions}/institution-000 (No such file")
    (institutions / "institution-000").mkdir(parents=True)
    seen = _look(home, str(institutions))
    assert _troubles(seen) == []
    assert list((institutions / "institution-000").iterdir()) == []
    older = seen | {"releases": seen["releases"] | {"torch": "1.0"}}
    assert _troubles(older)[0].startswith("it has other releases: torch 1.0, here ")
