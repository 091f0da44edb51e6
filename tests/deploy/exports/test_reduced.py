"""A model that reads fewer tokens: whoever measures or exports it is told so, and the card's line gives its outputs back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import dictpfl
from dictpfl.client.training.calling import forward
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.reduced import reducer_notes, reducer_words
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

pytest.importorskip("timm")
TOKENS: dict[str, Any] = {
    "model__source": "timm:vit_tiny_patch16_224",
    "model__options": {
        "pretrained": False, "img_size": 8, "patch_size": 1, "in_chans": 1, "embed_dim": 16, "depth": 3, "num_heads": 2,
    },
    "training__steps": 2,
    "federation__rounds": 1,
    "tokens__reducer": "autoprune",
    "tokens__keep": 0.3,
    "tokens__options": {"adapt": "own", "gamma": "measured"},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tiny(**TOKENS), tmp_path_factory.mktemp("reduced") / "run", engine="local")


def typed(*arguments: object) -> str:
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def line_of(text: str) -> str:
    """The line of Python that puts a reducer back."""
    return re.findall(r"`model = (dictpfl\.reduce_tokens\(.*?\))`", text)[0]  # type: ignore[no-any-return]


def test_the_card_s_line_gives_the_federation_s_outputs(run: Run, tmp_path: Path) -> None:
    import timm

    said = typed("export", run.folder, "--format", "merged", "-o", tmp_path / "merged")
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "Trained with the token reducer `autoprune` (keep = 0.3, adapt = own, gamma = 5.0" in card
    assert "without it changes outputs" in card
    assert line_of(said) == line_of(card)
    model = timm.create_model(f"local-dir:{tmp_path / 'merged'}", pretrained=True).eval()
    images, expected = torch.randn(5, 1, 8, 8), Finished.load(run.folder).merged()
    with torch.no_grad():
        assert not torch.equal(model(images), forward(expected, images))
        model = eval(line_of(card), {"dictpfl": dictpfl, "model": model})  # noqa: S307 -- what a reader types
        assert torch.equal(model(images), forward(expected, images))


@pytest.mark.parametrize("kind", ["peft", "safetensors"])
def test_every_form_names_it(run: Run, kind: str, tmp_path: Path) -> None:
    output = tmp_path / ("model.safetensors" if kind == "safetensors" else "out")
    said = typed("export", run.folder, "--format", kind, "-o", output)
    assert "gamma=5.0" in line_of(said)
    if kind != "safetensors":
        assert line_of((output / "README.md").read_text(encoding="utf-8")) == line_of(said)


@pytest.mark.parametrize("command", [("cut", "--to", "0.8"), ("prune", "--sparsity", "0.5", "--method", "magnitude")])
def test_smaller_models_name_it_too(run: Run, command: tuple[str, ...], tmp_path: Path) -> None:
    home = run.folder / "institutions" / "institution-000"
    typed(command[0], home, *command[1:], "-o", tmp_path / "out")
    assert "keep=0.3" in line_of((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))


def test_evaluate_names_it(run: Run) -> None:
    assert "measured with the token reducer `autoprune` (keep = 0.3, " in typed("evaluate", run.folder)
    assert dictpfl.evaluate(run).reducer.startswith("`autoprune` (keep = 0.3")


def test_of_all_tokens_nothing_is_said() -> None:
    plain = tiny()
    assert (reducer_words(plain.tokens), reducer_notes(plain.tokens)) == ("", [])
    whole = tiny(**TOKENS | {"tokens__keep": 1.0, "tokens__options": {}})
    assert reducer_notes(whole.tokens) == []
    late = tiny(**TOKENS | {"tokens__apply": "evaluate", "tokens__options": {}})
    (note,) = reducer_notes(late.tokens)
    assert note.startswith("Trained on all tokens and measured with the token reducer `autoprune` (keep = 0.3)")
    assert "reduce_tokens(model, 'autoprune', keep=0.3, apply='evaluate')" in note
