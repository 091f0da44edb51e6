"""Founding: every unusual federation works, or is refused with a reason before its first round."""

from __future__ import annotations

import math
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.institution import forget_institutions
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError, DictPFLError, ParameterError
from dictpfl.deploy.describe.description import describe
from dictpfl.deploy.runs.census import CENSUS
from dictpfl.deploy.runs.run import CONFIG, HISTORY, LOCK, MODEL, PROGRESS, REPORT, STATE, SUMMARY
from dictpfl.deploy.simulation.counting import require_ordered, write_census
from dictpfl.deploy.simulation.founding import TEST, found, found_again
from dictpfl.deploy.simulation.groups import TEST_GROUPS
from dictpfl.deploy.simulation.local import run_local
from dictpfl.deploy.simulation.partition import divide
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted, tiny
from tests.support.harness import World


def play(config: FederationConfig, folder: Path) -> World:
    """Found and run to the end; all institutions hold the same state."""
    world = World.found(config, folder)
    world.run(most=12)
    world.digest()
    assert all(np.isfinite(state.values).all() for state in world.states())
    world.close()
    return world


SHORT = {"federation__rounds": 2}
IMAGES = {"data__limit": 120, "model__options": {"width": 2, "depth": 2}, "model__source": "cnn", **SHORT}

WORKS: dict[str, dict[str, Any]] = {
    "one institution": {"federation__participants": 1, "federation__min_participants": 1},
    "two institutions": {"federation__participants": 2, "federation__min_participants": 2},
    "fifty institutions": {"federation__participants": 50, "data__limit": 400, "federation__rounds": 1},
    "more than take part may come": {"federation__max_participants": 1000},
    "fifty samples for fifty": {
        "federation__participants": 50, "data__limit": 80, "federation__rounds": 1, "data__validation_share": 0.0,
    },
    "one step, one sample": {"training__batch_size": 1},
    "no validation": {"data__validation_share": 0.0},
    "skewed labels": {"data__partition": "dirichlet", "data__alpha": 0.05, "federation__participants": 6},
    "a cap of one sample": {"federation__sample_cap": 1},
    "a cap far above": {"federation__sample_cap": 1_000_000},
    "all dense": {"decomposition__enabled": False},
    "no hidden layer": {"model__options": {"hidden": []}},
    "a rank above the matrix": {"decomposition__rank": 1000},
    "a rank of one": {"decomposition__rank": 1},
    "refreshed every round": {"decomposition__refresh_every": 1, "federation__rounds": 3},
    "refreshed every other round": {"decomposition__refresh_every": 2, "federation__rounds": 3},
    "the smaller side": {"decomposition__orientation": "smaller", "decomposition__rank": 12},
    "paper scaling": {"decomposition__scaling": "paper"},
    "cores": {"decomposition__form": "core"},
    "cores as large as the matrix": {"decomposition__form": "core", "decomposition__rank": 1000},
    "cores of a convolution": {"decomposition__form": "core", "decomposition__rank": 3, **IMAGES},
    "dictionaries of gradients": {"decomposition__basis": "gradient", "data__public_share": 0.2, "decomposition__form": "core"},
    "everything pruned": {"pruning__s": 1.0, "pruning__tau": 1},
    "nothing pruned": {"pruning__s": 0.0},
    "frozen": {"pruning__pruned": "freeze"},
    "discarded": {"pruning__pruned": "discard"},
    "by tensor": {"pruning__scope": "tensor"},
    "only tables": {"pruning__kinds": ["table"]},
    "nothing is prunable": {"pruning__kinds": []},
    "few bits": {"grid__value_bits": 4},
    "many bits": {"grid__value_bits": 16},
    "many bits for ten thousand": {"federation__max_participants": 10_000, "grid__value_bits": 16},
    "batch norm shared": IMAGES,
    "batch norm local": {"decomposition__batch_norm": "local", **IMAGES},
    "batch norm frozen": {"decomposition__batch_norm": "frozen", **IMAGES},
    "a table of two classes": {"data__source": "breast_cancer", "data__limit": 0},
    "on the cpu": {"training__device": "cpu"},
    "in double precision": {"training__dtype": "float64"},
    "pretrained": {"data__public_share": 0.2, "model__pretrain": {"epochs": 1}},
    "local head": {"decomposition__local": ["*3*"]},
    "frozen by pattern": {"decomposition__frozen": ["*1*"]},
}  # fmt: skip


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", WORKS)
def test_it_works(name: str, tmp_path: Path) -> None:
    play(tiny(**(SHORT | WORKS[name])), tmp_path / "world")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "method", ["dictpfl", "dictpfl-paper", "plaintext", "fedhe-full", "fedhe-topk", "head-only", "fedml-he"]
)
@pytest.mark.parametrize("source", ["mlp", "cnn"])
def test_every_method(method: str, source: str, tmp_path: Path) -> None:
    kind = IMAGES if source == "cnn" else SHORT
    config = encrypted(**kind, method=method, toy_insecure=method in {"plaintext", "fedml-he"})
    world = play(config, tmp_path / "world")
    assert len(world.journal()) == 3 + (method == "fedml-he")
    world.close()


def graded(folder: Path, words: Sequence[str], **changes: Any) -> FederationConfig:
    """A table whose labels are words."""
    rows = [f"{place % 7},{place % 5},{words[place % len(words)]}" for place in range(60)]
    (folder / "grades.csv").write_text("\n".join(["a,b,label", *rows]), encoding="utf-8")
    return tiny(**SHORT, data__source="csv", data__path=str(folder / "grades.csv"), data__limit=0, **changes)


@pytest.mark.parametrize(
    "asked", [{"training__task": "ordinal"}, {"training__metric": "class-distance"}, {"training__metrics": ["kappa"]}]
)
def test_grades_in_words_want_an_order(asked: dict[str, Any], tmp_path: Path) -> None:
    """By their letters, `low` was one from `medium` and one from `high`: distances and kappa were of another scale."""

    def tried(*words: str, **more: Any) -> None:
        config = graded(tmp_path, words, **(asked | more))
        require_ordered(config, load_dataset(config.data, config.seed))

    with pytest.raises(DataError, match="high, low, medium, in the order of their letters"):
        found(graded(tmp_path, ("low", "medium", "high"), **asked), tmp_path / "refused")
    with pytest.raises(DataError, match="high, low, medium"):
        describe(graded(tmp_path, ("low", "medium", "high"), **asked))
    with pytest.raises(DataError, match="s1, s10, s2"):
        tried("s1", "s2", "s10")
    tried("low", "medium", "high", data__options={"classes": ["low", "medium", "high"]})
    tried("no", "yes")
    tried("0", "1", "2", "3")
    asked.clear()
    tried("low", "medium", "high")


@pytest.mark.parametrize(("task", "counted"), [("classification", True), ("contrastive", False)])
def test_labels_that_are_not_read_are_not_counted(task: str, counted: bool, tmp_path: Path) -> None:
    """A run of pairs had as many classes as a side has numbers, and its report pictured them."""
    config = tiny(training__task=task)
    dataset = Dataset(Samples(np.zeros((30, 2, 4), np.float32), np.zeros(30, np.int64)), outputs=16)
    write_census(config, dataset, divide(dataset, config.data, 3, 1), tmp_path)
    assert (tmp_path / CENSUS).exists() == counted


@pytest.mark.parametrize("participants", [1, 2])
def test_few_institutions_are_refused_with_the_reason(participants: int) -> None:
    with pytest.raises(ParameterError, match="subtract its own update", check=lambda e: e.code == "insecure"):
        encrypted(federation__participants=participants, federation__min_participants=participants)
    with pytest.raises(ConfigError, match="no round could ever close"):
        encrypted(federation__participants=participants)


REFUSED: dict[str, dict[str, Any]] = {
    "more institutions than samples": {"federation__participants": 50, "data__limit": 40},
    "an unknown data set": {"data__source": "nothing"},
    "a missing file": {"data__source": "csv", "data__path": "no/such/file.csv"},
    "an unknown model": {"model__source": "nothing"},
    "an unknown option": {"model__options": {"hiden": [3]}},
    "a convolution over a table": {"model__source": "cnn", "data__source": "breast_cancer", "model__options": {}},
    "missing weights": {"model__weights": "no/such.safetensors"},
    "pretraining on nothing": {"model__pretrain": {"epochs": 1}},
    "an unknown task": {"training__task": "nothing"},
    "an unknown device": {"training__device": "abacus"},
    "an unknown schedule": {"pruning__schedule": "nothing"},
    "an unknown allocator": {"decomposition__allocator": "nothing"},
    "nothing is trained": {"decomposition__frozen": ["*"]},
    "nothing is shared": {"decomposition__local": ["*"]},
    "hidden of no width": {"model__options": {"hidden": [0]}},
    "hidden of a negative width": {"model__options": {"hidden": [-1]}},
    "hidden is a word": {"model__options": {"hidden": "wide"}},
    "a head for a regression": {"training__task": "regression"},
    "a metric of another task": {"training__metrics": ["r2"]},
    "a column partition of digits": {"data__partition": "column", "data__column": "hospital"},
    "too little security": {"encryption__ring_degree": 2048},
    "shares that leave nothing": {"data__test_share": 0.9, "data__public_share": 0.5},
    "one sample": {"data__limit": 1},
    "an option of digits": {"data__source": "digits", "data__options": {"x": 1}},
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_the_first_round(name: str, tmp_path: Path) -> None:
    """With a reason of this project's own; what is not refused has to run."""
    with pytest.raises(DictPFLError) as caught:
        found(tiny(**REFUSED[name]), tmp_path / "world")
    assert len(str(caught.value)) > 20


class Wide(nn.Module):
    """A model that notes how many samples it is given, and whether they are to be gone back through."""

    seen: ClassVar[list[tuple[int, bool]]] = []

    def __init__(self, sample_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(math.prod(sample_shape), 8), nn.Linear(8, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((len(x), torch.is_grad_enabled()))
        return self.head(self.hidden(x.flatten(1)).relu())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("batch", "measured"), [(4, 8), (32, 1), (1, 5)])
def test_a_model_is_tried_on_no_more_than_a_step_takes(batch: int, measured: int, tmp_path: Path) -> None:
    """What outgrows memory would otherwise be founding, and not training: a language model's outputs are gigabytes."""
    sys.modules["users_own_model"] = sys.modules[__name__]
    Wide.seen.clear()
    found(
        tiny(
            model__source="users_own_model:Wide",
            model__options={},
            training__batch_size=batch,
            training__evaluation_batch=measured,
            **SHORT,
        ),
        tmp_path / "world",
    )
    assert max(count for count, backward in Wide.seen if backward) == batch
    assert max(count for count, backward in Wide.seen if not backward) == measured


def without_a_class() -> Dataset:
    """One class that no institution but the last has, and samples in groups of very unequal size."""
    rng = np.random.default_rng(0)
    sizes = {"a": 1, "b": 2, "c": 40}
    groups = np.array([name for name, count in sizes.items() for _ in range(3 * count)])
    labels = np.where(groups == "c", rng.integers(0, 3, len(groups)), 0)
    return Dataset(Samples(rng.normal(size=(len(groups), 5)), labels.astype(np.int64)), 3, groups)


@pytest.mark.usefixtures("quiet")
def test_one_sample_and_missing_classes(tmp_path: Path) -> None:
    """A user's data by column: one institution has about one sample, two know one class of three."""
    sys.modules["users_own_data"] = sys.modules[__name__]
    config = tiny(
        data__source="users_own_data:without_a_class",
        data__partition="column",
        data__limit=0,
        data__test_share=0.3,
        **SHORT,
    )
    world = play(config, tmp_path / "world")
    sizes = [len(Samples.load(world.home(node) / "train.npz")) for node in world.nodes]
    assert min(sizes) <= 3
    assert max(sizes) > 30


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "name", ["Universitätsklinik Köln", "two words", "mit\u00a0NBSP", "病院", "a'b\"c", "100%", "-rf"]
)
def test_unusual_folders(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    founded = found(encrypted(**SHORT), folder)
    forget_institutions()
    run_local(founded.coordinator, founded.institutions, 3)
    forget_institutions()
    assert World(folder, 3).digest()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "world").write_text("a file")
    with pytest.raises(DictPFLError):
        found(tiny(), tmp_path / "world")


def test_only_the_owner_reads(tmp_path: Path) -> None:
    """Genesis holds the seed, the key file the key, samples are the institution's own."""
    founded = found(encrypted(), tmp_path / "world")
    lax = {}
    for path in [
        *founded.institutions.rglob("*"),
        *founded.coordinator.rglob("*"),
        founded.institutions,
        founded.coordinator,
    ]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077 and path.name != "weights.safetensors":
            lax[path.name] = oct(mode)
    assert lax == {}


def test_the_same_seed_founds_the_same_federation(tmp_path: Path) -> None:
    first, second = (found(tiny(), tmp_path / name) for name in ("a", "b"))
    other = found(tiny(seed=2), tmp_path / "c")
    assert first.genesis.federation == second.genesis.federation != other.genesis.federation


def test_each_key_is_another(tmp_path: Path) -> None:
    first, second = (found(encrypted(), tmp_path / name) for name in ("a", "b"))
    assert first.genesis.fingerprint != second.genesis.fingerprint
    assert first.genesis.federation == second.genesis.federation


def test_a_run_is_found_again(tmp_path: Path) -> None:
    config = encrypted()
    founded = found(config, tmp_path / "world")
    again = found_again(config, tmp_path / "world")
    assert again.genesis.federation == founded.genesis.federation
    assert again.genesis.fingerprint == founded.genesis.fingerprint
    with pytest.raises(ConfigError, match=r"another configuration: seed is 1 there and 2 here\. Resume"):
        found_again(encrypted(seed=2), tmp_path / "world")
    for key, here in (("deadline_seconds", 9.0), ("sample_cap", 64), ("max_participants", 9)):
        with pytest.raises(ConfigError, match=rf"federation\.{key} is [\d.]+ there and {here} here\. Resume"):
            found_again(encrypted(**{f"federation__{key}": here}), tmp_path / "world")
    assert found_again(encrypted(federation__rounds=9), tmp_path / "world").notes
    with pytest.raises(DictPFLError):
        found_again(config, tmp_path / "nowhere")


def test_a_founding_that_was_killed_begins_anew(tmp_path: Path) -> None:
    """At any moment: with all files but the last one, with a part of one under another name, with those of another configuration."""
    found(tiny(), tmp_path)
    np.save(tmp_path / TEST_GROUPS, np.array(["north"] * 40))
    for name in (TEST, TEST_GROUPS, CENSUS, CONFIG):
        (tmp_path / f".{name}.x7_y8z9a").touch(mode=0o600)
    run = simulate(tiny(federation__rounds=1), tmp_path, engine="local", resume=True)
    assert run.summary["test_by_group"] == {}
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".") and path.name != LOCK]


def test_a_founding_leaves_a_federation_that_has_begun_as_it_is(tmp_path: Path) -> None:
    simulate(tiny(federation__rounds=1), tmp_path, engine="local")
    (tmp_path / CONFIG).unlink()
    for name in (HISTORY, SUMMARY, MODEL, STATE, REPORT, PROGRESS):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "tensorboard")
    with pytest.raises(ConfigError, match="has begun; it is not overwritten"):
        simulate(tiny(federation__rounds=1), tmp_path, engine="local", resume=True)
    assert (tmp_path / TEST).exists()


def test_the_coordinators_folder_holds_its_half_only(tmp_path: Path) -> None:
    founded = found(encrypted(), tmp_path / "world")
    assert [path.name for path in founded.coordinator.iterdir()] == ["federation.json"]
