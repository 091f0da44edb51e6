"""A model of pictures and questions: what it reads, with fewer tokens and without, and a federation of a tiny one under encryption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dictpfl.client.data.samples import PADDING
from dictpfl.client.data.source import load_dataset
from dictpfl.client.data.sources.mosaic import ANSWERS, CELL, WORDS, text_of
from dictpfl.client.model.build import build_model
from dictpfl.client.model.tokens.install import install, reduce_tokens, reduction_of
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data, Model
from dictpfl.common.settings import Tokens as Settings
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import encrypted, tiny

pytest.importorskip("transformers")
SIDE = 3
OPTIONS: dict[str, Any] = {"image": [1, 24, 24], "width": 16, "layers": 3, "heads": 2, "words": len(WORDS)}
MOSAIC: dict[str, Any] = {
    "data__source": "mosaic",
    "data__options": {"count": 90, "side": SIDE},
    "data__limit": 0,
    "model__source": "vlm",
    "model__options": OPTIONS,
    "decomposition__embeddings": "dense",
    "federation__rounds": 2,
}


def drawn(**options: Any) -> Any:
    return load_dataset(Data(source="mosaic", options={"count": 40, "side": SIDE} | options), 3)


def made(**options: Any) -> tuple[nn.Module, Tensor]:
    samples = torch.tensor(drawn().samples.features)
    return build_model(Model(source="vlm", options=OPTIONS | options), tuple(samples.shape[1:]), 12, 1).eval(), samples


def test_questions_and_answers_are_those_of_the_picture() -> None:
    """Held to a reader of the picture itself: each cell's digit is the one whose image it is."""
    from sklearn.datasets import load_digits

    found, digits = drawn(count=300), load_digits()
    known = {
        (image / 16).astype(np.float32).tobytes(): int(label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    assert set(found.groups) == {"cell", "count", "beside"}
    answered = set()
    for sample, label in zip(found.samples.features, found.samples.labels, strict=True):
        pixels, question = (
            sample[: (CELL * SIDE) ** 2].reshape(CELL * SIDE, CELL * SIDE),
            sample[(CELL * SIDE) ** 2 :].astype(int),
        )
        grid = np.empty((SIDE, SIDE), dtype=int)
        for y in range(SIDE):
            for x in range(SIDE):
                cell = pixels[CELL * y : CELL * (y + 1), CELL * x : CELL * (x + 1)] * 0.376 + 0.305
                grid[y, x] = known[(np.round(cell * 16) / 16).astype(np.float32).tobytes()]
        words = [WORDS[n] for n in question]
        if words[0] == "which":
            expected = str(grid[int(words[5].split()[1]) - 1, int(words[5].split()[3]) - 1])
        elif words[0] == "how":
            expected = str(min(9, int((grid == int(words[2].split()[1])).sum())))
        else:
            one, other = int(words[1].split()[1]), int(words[4].split()[1])
            pairs = {
                (int(grid[y, x]), int(grid[v, u]))
                for y in range(SIDE)
                for x in range(SIDE)
                for v, u in ((y + 1, x), (y, x + 1))
                if v < SIDE and u < SIDE
            }
            expected = "yes" if pairs & {(one, other), (other, one)} else "no"
        assert ANSWERS[label] == expected
        answered.add(expected)
    assert {"yes", "no"} < answered
    assert text_of(found.samples.features[0][(CELL * SIDE) ** 2 :].astype(int)).endswith("?")


def test_the_picture_and_the_question_are_read() -> None:
    model, samples = made()
    whole = model(samples)
    assert whole.shape == (40, 12)
    blind, deaf = samples.clone(), samples.clone()
    blind[:, : model.pixels] = 0.0  # type: ignore[index, operator, misc]
    deaf[:, model.pixels] = (deaf[:, model.pixels] + 1) % len(WORDS)  # type: ignore[index, operator, assignment]
    assert not torch.allclose(model(blind), whole, atol=1e-4)
    assert not torch.allclose(model(deaf), whole, atol=1e-4)


def test_it_is_what_the_library_s_decoder_computes() -> None:
    model, samples = made()
    seen = model.seen(samples[:, :576].unflatten(1, (1, 24, 24)))  # type: ignore[operator]
    asked = model.language.embed_tokens(samples[:, 576:].long())  # type: ignore[operator, union-attr]
    hidden = model.language(inputs_embeds=torch.cat([seen, asked], dim=1)).last_hidden_state  # type: ignore[operator]
    torch.testing.assert_close(model.head(hidden[:, -1]), model(samples), atol=1e-5, rtol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize(("reducer", "keep", "options"), [
    ("autoprune", 0.5, {}), ("autoprune", 0.5, {"adapt": "own", "gamma": 5.0}), ("grid", 0.5, {}), ("dtm", 0.5, {}),
])  # fmt: skip
def test_fewer_tokens_are_read_and_every_sample_alone_reads_the_same(
    reducer: str, keep: float, options: dict[str, Any]
) -> None:
    model, samples = made()
    samples[::3, -1] = PADDING  # questions of two lengths
    whole = model(samples)
    assert install(model, Settings(reducer=reducer, keep=1.0)) is None
    assert torch.equal(model(samples), whole)
    reduce_tokens(model, reducer, keep=keep, **options)
    found = model(samples)
    assert not torch.allclose(found, whole, atol=1e-6)
    torch.testing.assert_close(torch.cat([model(one[None]) for one in samples]), found, atol=1e-5, rtol=1e-5)
    told = reduction_of(model)
    assert told is not None
    assert told.told.read[-1] / told.told.samples < SIDE**2 + 6
    found.square().sum().backward()
    assert model.vision.weight.grad is not None  # type: ignore[union-attr]
    assert bool(model.vision.weight.grad.abs().sum() > 0)  # type: ignore[union-attr, operator]


def test_padding_behind_a_question_changes_nothing() -> None:
    model, samples = made()
    wide = torch.nn.functional.pad(samples, (0, 5), value=float(PADDING))
    torch.testing.assert_close(model(wide), model(samples), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": [1, 40, 40]}, "needs samples of 1600 pixels"),
        ({"patch": 7}, "patch 7 must divide"),
        ({"patch": 0}, "patch 0 must divide .* at least 1"),
        ({"patch": -8}, "patch -8 must divide"),
        ({"heads": 3}, "heads 3 must be at least 1 and divide the width"),
        ({"heads": 0}, "heads 0 must be at least 1"),
        ({"width": 12, "heads": 4}, "into an even number of values each"),
        ({"vision": "resnet"}, 'expected "patches", timm:FOLDER'),
        ({"language": "gpt"}, "expected transformers:FOLDER"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**options)


def test_options_of_questions_out_of_range_say_so() -> None:
    with pytest.raises(ConfigError, match="some of cell, count, beside"):
        drawn(questions=["colour"])


def test_frozen_encoder_and_a_decoder_of_a_folder(tmp_path: Path) -> None:
    """Folders of both libraries: nothing of the encoder is trained, and questions are in the decoder's own tokens."""
    timm = pytest.importorskip("timm")
    from transformers import LlamaConfig, LlamaForCausalLM

    arguments = {"img_size": 24, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    vision = timm.create_model("vit_tiny_patch16_224", **arguments)
    timm.models.save_for_hf(vision, tmp_path / "vision", model_args=arguments, safe_serialization=True)
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, vocab_size=len(WORDS)
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "language")
    samples = torch.tensor(drawn(channels=3).samples.features)
    chosen = {
        "image": [3, 24, 24],
        "vision": f"timm:{tmp_path / 'vision'}",
        "language": f"transformers:{tmp_path / 'language'}",
    }
    model = build_model(Model(source="vlm", options=chosen), tuple(samples.shape[1:]), 12, 1)
    assert model(samples).shape == (40, 12)
    assert model.places == 9
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("vision.")}


@pytest.mark.parametrize("reducer", ["none", "autoprune"])
def test_a_tiny_one_trains_under_encryption(reducer: str, tmp_path: Path) -> None:
    """Encrypted and not it is one state, and a reducer changes no byte that is sent."""
    chosen = MOSAIC | ({"tokens__reducer": reducer, "tokens__keep": 0.5} if reducer != "none" else {})
    sealed = simulate(encrypted(**chosen), tmp_path / "ckks", engine="local").summary
    opened = simulate(tiny(**chosen), tmp_path / "identity", engine="local").summary
    whole = simulate(encrypted(**MOSAIC), tmp_path / "whole", engine="local").summary
    assert sealed["state_digest"] == opened["state_digest"]
    assert sealed["bytes"] == whole["bytes"]
    assert (sealed["state_digest"] != whole["state_digest"]) == (reducer != "none")


def test_squares_of_patches_are_read_as_one_token() -> None:
    one, samples = made(patch=4, image_tokens=9)
    assert (one.grid, one.square, one.places) == ((6, 6), 2, 9)
    whole, _ = made(patch=4)
    whole.vision.load_state_dict(one.vision.state_dict())
    whole.projector.load_state_dict(one.projector.state_dict())
    with torch.no_grad():
        pictures = samples[:2, : one.pixels].reshape(-1, *one.image)
        all_read = (whole.seen(pictures) - whole.place_pos_embed).unflatten(1, (6, 6))
        means = torch.stack([all_read[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2, 4) for x in (0, 2, 4)], 1)
        torch.testing.assert_close(one.seen(pictures) - one.place_pos_embed, means, rtol=0, atol=1e-6)
        assert one(samples[:2]).shape == (2, 12)


def test_tokens_that_no_squares_make_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        ConfigError, match=r"image_tokens is 16; pictures of 6 x 6 patches can be read as 1, 4, 9, 36 tokens"
    ):
        made(patch=4, image_tokens=16)
    with pytest.raises(ConfigError, match="image_tokens is -4"):
        made(patch=4, image_tokens=-4)
