"""A federation with a teacher: encrypted and in clear alike, and no other teacher than the agreed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dictpfl.client.compress.cutting.shrink import shrink
from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.folder import TEACHER
from dictpfl.client.institution import Institution
from dictpfl.client.model.build import build_model
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError
from dictpfl.common.genesis import Genesis
from dictpfl.common.settings import Model, Preprocessing
from dictpfl.deploy.audit.replay.identity import federation_id
from dictpfl.deploy.compress.distilling import distil_folder
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.founding import found
from dictpfl.deploy.simulation.simulate import simulate
from dictpfl.deploy.teaching import require_same_columns, widths, with_teacher
from tests.support.federations import tiny

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tiny(federation__rounds=2), tmp_path_factory.mktemp("first") / "run", engine="local")


def second(first: Run, small: Path, **changes: object) -> FederationConfig:
    model = Finished.load(first.folder).merged()
    samples = Samples.load(first.folder / "test.npz")
    cut = shrink(model, samples, ffn=8)
    save_file({n: t.contiguous() for n, t in cut.model.state_dict().items()}, small)
    sizes = [m.out_features for m in cut.model if isinstance(m, torch.nn.Linear)][:-1]
    options: dict[str, object] = {
        "training__task": "distillation", "distillation__teacher": str(first.folder), "distillation__temperature": 2.0,
        "model__weights": str(small), "model__options": {"hidden": sizes}, "federation__rounds": 2,
    }  # fmt: skip
    return tiny(**options | changes)


def test_a_second_federation_learns_from_the_first_ones_model(first: Run, tmp_path: Path) -> None:
    sealed = simulate(
        second(first, tmp_path / "small.safetensors", encryption__sealer="ckks", toy_insecure=False),
        tmp_path / "sealed",
        engine="local",
    )
    clear = simulate(
        second(first, tmp_path / "small.safetensors"),
        tmp_path / "clear",
        engine="local",
    )
    assert sealed.summary["model_sha256"] == clear.summary["model_sha256"]
    assert sealed.summary["state_digest"] == clear.summary["state_digest"]
    labels = simulate(
        second(first, tmp_path / "small.safetensors", distillation__weight=0.0), tmp_path / "labels", engine="local"
    )
    assert labels.summary["model_sha256"] != sealed.summary["model_sha256"]
    home = sealed.folder / "institutions" / "institution-001"
    genesis = Genesis.load(home)
    assert federation_id(home) == genesis.federation, "the audit computes another id"
    assert genesis.config.distillation.recorded["source"] == "mlp"
    teacher, expected = load_file(home / TEACHER), Finished.load(first.folder).merged().state_dict()
    assert all(torch.equal(teacher[name], tensor) for name, tensor in expected.items())
    # What was distilled is distilled again at home, by the task behind it.
    said = distil_folder(
        str(clear.folder), str(first.folder), tmp_path / "again", data=first.folder / "test.npz", steps=1, weight=0.5
    )
    assert "accuracy" in said


def test_a_teacher_may_have_opened_tallies(tmp_path: Path) -> None:
    run = simulate(tiny(federation__rounds=1, tallies__opening=["classes"]), tmp_path / "run", engine="local")
    made = found(second(run, tmp_path / "small.safetensors"), tmp_path / "second")
    assert made.genesis.config.distillation.recorded["source"] == "mlp"


def test_another_teacher_is_refused_and_so_is_none(first: Run, tmp_path: Path) -> None:
    config = second(first, tmp_path / "small.safetensors")
    founded = found(config, tmp_path / "run")
    home = founded.home(0)
    Institution(home)
    held = load_file(home / TEACHER)
    (home / TEACHER).unlink()
    with pytest.raises(ConfigError, match="cannot read the teacher"):
        Institution(home)
    name = next(iter(held))
    held[name] = held[name] + 1e-3
    save_file(held, home / TEACHER)
    with pytest.raises(ConfigError, match="not the teacher of this federation"):
        Institution(home)


def test_the_id_says_the_teacher_and_not_where_it_lay(first: Run, tmp_path: Path) -> None:
    config = second(first, tmp_path / "small.safetensors")
    one = found(config, tmp_path / "one").genesis
    (tmp_path / "moved").symlink_to(first.folder)
    moved = config.model_copy(
        update={"distillation": config.distillation.model_copy(update={"teacher": str(tmp_path / "moved")})}
    )
    assert found(moved, tmp_path / "two").genesis.federation == one.federation
    warm = config.model_copy(update={"distillation": config.distillation.model_copy(update={"temperature": 1.5})})
    assert found(warm, tmp_path / "three").genesis.federation != one.federation


def test_a_teacher_that_reads_other_columns_is_refused(first: Run, tmp_path: Path) -> None:
    config = second(first, tmp_path / "small.safetensors")
    samples = Samples.load(first.folder / "test.npz")
    student = build_model(config.model, samples.features.shape[1:], 10, seed=1)
    assert with_teacher(config, student, [samples], 10)[1]
    scaled = config.data.model_copy(update={"preprocessing": Preprocessing(scale="standard")})
    with pytest.raises(ConfigError, match="prepare columns otherwise"):
        with_teacher(config.model_copy(update={"data": scaled}), student, [samples], 10)
    one, other = (config.data.model_copy(update={"features": list(names)}) for names in ("ab", "ba"))
    require_same_columns(one, one)
    with pytest.raises(ConfigError, match="reads the columns a, b, the student b, a"):
        require_same_columns(one, other)


def test_what_contradicts_itself_is_refused(first: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distillation\.teacher names no model"):
        tiny(training__task="distillation")
    with pytest.raises(ConfigError, match=r"training\.task is 'classification'"):
        tiny(distillation__teacher="runs/first")
    with pytest.raises(ConfigError, match="no folder 'nowhere'"):
        found(tiny(training__task="distillation", distillation__teacher="nowhere"), tmp_path / "run")


def test_a_teacher_of_other_classes_is_refused(first: Run) -> None:
    samples = Samples.load(first.folder / "test.npz")
    config = tiny(training__task="distillation", distillation__teacher=str(first.folder))
    student = build_model(Model(source="mlp"), samples.features.shape[1:], 3, seed=1)
    with pytest.raises(ConfigError, match="knows 10 classes or tokens, the student 3"):
        with_teacher(config, student, [samples], 3)


class Reader(nn.Module):
    """Reads so many tokens at most."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(most, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1])
        return ((self.words(input_ids) + self.places(places)) * attention_mask.unsqueeze(-1)).sum(dim=1)


def test_a_teacher_is_tried_on_the_longest_text() -> None:
    """The first one was tried, and a later one that was longer than the teacher reads ended in an error of torch."""
    texts = np.full((3, 8), PADDING)
    texts[:, 0], texts[1, :6] = 1, 2
    samples = Samples(texts, np.zeros(3, np.int64))
    with pytest.raises(ConfigError, match="does not take the student's samples"):
        widths(Reader(5), Reader(8), [samples])
    assert widths(Reader(6), Reader(8), [samples]) == (4, 4)
    with pytest.raises(ConfigError, match="a sample may have 8 tokens"):
        widths(Reader(6), Reader(8), [samples], others=True)
    assert widths(Reader(8), Reader(8), [samples], others=True) == (4, 4)
