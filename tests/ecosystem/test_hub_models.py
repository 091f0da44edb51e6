"""Models of transformers and timm: built, decomposed as their family needs, and merged again."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn

from dictpfl.client.data.samples import PADDING, Samples
from dictpfl.client.model.build import build_model
from dictpfl.client.model.hub import architecture_of
from dictpfl.client.model.rules import Role, survey
from dictpfl.client.model.twin import decompose
from dictpfl.client.training.calling import arguments, forward
from dictpfl.client.training.reached import require_tables_reached
from dictpfl.client.training.tasks.classification import Classification
from dictpfl.client.training.train import train
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Decomposition, Model, Training

Folders = Callable[[str], Path]
TEXT, IMAGE = (12,), (1, 8, 8)


def ids(length: int = 12) -> Tensor:
    found = torch.randint(4, 40, (5, length), generator=torch.Generator().manual_seed(0))
    found[1, 5:], found[3, 9:] = PADDING, PADDING
    return found


def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def hub(folder: Path, **options: Any) -> Model:
    return Model(source=f"transformers:{folder}", options=options)


def built(kind: str, folders: Folders, **options: Any) -> nn.Module:
    vit = kind == "vit"
    outputs = 64 if options.get("head") == "causal-lm" else 3
    return build_model(hub(folders(kind), **options), IMAGE if vit else TEXT, outputs, seed=1)


HYBRID = {
    **dict.fromkeys(("*.conv1d.weight", "*.A_log", "*.D", "*.dt_bias"), Role.DENSE), "lm_head.weight": Role.FROZEN,
}  # fmt: skip
"""What hybrids of Mamba-2 and attention have in common: their short convolutions and the scan's own parameters are few, and dense."""
# Patterns of every weight, and its role; what no pattern names must be small and dense.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Role]]] = {
    "bert": ("bert", {}, {"*query.weight": Role.TABLE, "*key.weight": Role.TABLE, "*value.weight": Role.TABLE,
        "*dense.weight": Role.TABLE, "*embeddings.weight": Role.FROZEN, "classifier.*": Role.DENSE}),
    "roberta": ("roberta", {}, {"*query.weight": Role.TABLE, "*key.weight": Role.TABLE, "*value.weight": Role.TABLE,
        "roberta.*dense.weight": Role.TABLE, "*embeddings.weight": Role.FROZEN, "classifier.*": Role.DENSE}),
    "llama": ("llama", {}, {"*_proj.weight": Role.TABLE, "*embed_tokens.weight": Role.FROZEN, "score.weight": Role.DENSE}),
    "llama-lm": ("llama", {"head": "causal-lm"}, {"*_proj.weight": Role.TABLE, "*embed_tokens.weight": Role.FROZEN,
        "lm_head.weight": Role.FROZEN}),
    "gpt2": ("gpt2", {}, {"*attn.c_*.weight": Role.TABLE, "*mlp.c_*.weight": Role.TABLE, "*.wte.weight": Role.FROZEN,
        "*.wpe.weight": Role.FROZEN, "score.weight": Role.DENSE}),
    "gpt2-lm": ("gpt2", {"head": "causal-lm"}, {"*attn.c_*.weight": Role.TABLE, "*mlp.c_*.weight": Role.TABLE,
        "*.wte.weight": Role.FROZEN, "*.wpe.weight": Role.FROZEN}),
    "nemotron_h-lm": ("nemotron_h", {"head": "causal-lm"}, HYBRID | {"*_proj.weight": Role.TABLE, "*.embeddings.weight": Role.FROZEN}),
    "bamba-lm": ("bamba", {"head": "causal-lm"}, HYBRID | {"*_proj.weight": Role.TABLE, "*.embed_tokens.weight": Role.FROZEN}),
    "vit": ("vit", {}, {"*_proj.weight": Role.TABLE, "*.fc?.weight": Role.TABLE, "*projection.weight": Role.TABLE,
        "*cls_token": Role.DENSE, "*position_embeddings": Role.DENSE, "classifier.*": Role.DENSE}),
}  # fmt: skip
family = pytest.mark.parametrize("name", FAMILIES)


@family
def test_default_roles(name: str, folders: Folders) -> None:
    kind, options, patterns = FAMILIES[name]
    found = survey(built(kind, folders, **options), Decomposition())
    unseen = set(patterns)
    for parameter, role in found.items():
        named = [p for p in patterns if fnmatchcase(parameter, p)]
        unseen -= set(named)
        small = parameter.endswith("bias") or "norm" in parameter.lower() or ".ln_" in parameter
        assert (role is patterns[named[0]]) if named else (role is Role.DENSE and small), parameter
    assert not unseen


@family
@pytest.mark.parametrize("orientation", ["paper", "smaller"])
def test_twin_and_merged_model_compute_the_same(name: str, orientation: str, folders: Folders) -> None:
    kind, options, _ = FAMILIES[name]
    model = built(kind, folders, **options).double().eval()
    x = images().double() if kind == "vit" else ids()
    twin = decompose(model, rank=2, orientation=orientation)
    twin.eval()
    torch.testing.assert_close(forward(twin.module, x), forward(model, x))
    twin.load(np.random.default_rng(0).normal(size=twin.layout.size))
    moved = forward(twin.module, x)
    assert not torch.allclose(moved, forward(model, x))
    plain = twin.merge()
    assert {n: (type(m)) for n, m in plain.named_modules()} == {n: type(m) for n, m in model.named_modules()}
    torch.testing.assert_close(forward(plain.eval(), x), moved)


@family
def test_every_table_is_reached_by_the_gradient(name: str, folders: Folders) -> None:
    kind, options, _ = FAMILIES[name]
    twin = decompose(built(kind, folders, **options), rank=2)
    twin.train()
    forward(twin.module, images() if kind == "vit" else ids()).square().sum().backward()
    for entry, _, parameter in twin.trainable():
        assert parameter.grad is not None, entry


def test_refresh_of_a_weight_stored_by_input(folders: Folders) -> None:
    model = built("gpt2", folders).double().eval()
    twin = decompose(model, rank=2)
    twin.eval()
    twin.load(np.random.default_rng(0).normal(size=twin.layout.size))
    before = forward(twin.module, ids())
    name = "transformer.h.0.mlp.c_fc.weight"
    tables = {e.name: twin.layout.unflatten(twin.read())[e.name] for e in twin.layout.entries if str(e.kind) == "table"}
    twin.rebase(tables, {n: twin._dictionary(n) for n in tables})
    assert twin.base(name).shape == (32, 128)
    assert not twin.module.get_submodule(name.removesuffix(".weight")).table.any()
    torch.testing.assert_close(forward(twin.module, ids()), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_padding_changes_nothing(kind: str, folders: Folders) -> None:
    model = built(kind, folders).double().eval()
    wide = forward(model, ids())
    one = forward(model, ids()[1:2, :5])
    torch.testing.assert_close(wide[1:2], one)
    _, named = arguments(model, ids()[1:2])
    assert named["input_ids"].shape == (1, 5)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_token_without_an_embedding_is_named(kind: str, folders: Folders) -> None:
    """On a GPU the process would end at it, and say neither where nor which."""
    model = built(kind, folders).eval()
    known = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokens = ids()
    tokens[1, 0] = known - 1
    assert torch.isfinite(forward(model, tokens)).all()
    tokens[1, 0] = known
    with pytest.raises(
        ModelError, match=rf"a text's token is {known}, and the model knows {known} .*data\.options\.tokenizer"
    ):
        forward(model, tokens)


def test_padding_is_refused_by_a_model_that_cannot_tell() -> None:
    model = nn.Sequential(nn.Embedding(64, 4), nn.Flatten(), nn.Linear(48, 2))
    assert forward(model, ids().clamp(min=0)).shape == (5, 2)
    with pytest.raises(ModelError, match="attention_mask"):
        forward(model, ids())


def test_weights_of_a_folder_are_taken_and_the_head_is_new(checkpoint: Folders) -> None:
    from transformers import AutoModel

    model = build_model(hub(checkpoint("bert")), TEXT, 3, seed=1)
    body = AutoModel.from_pretrained(checkpoint("bert")).state_dict()
    assert all(torch.equal(model.state_dict()[f"bert.{n}"], t) for n, t in body.items())
    assert model.classifier.weight.shape == (3, 32)
    again = build_model(hub(checkpoint("bert")), TEXT, 3, seed=1)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    random = build_model(hub(checkpoint("bert"), pretrained=False), TEXT, 3, seed=1)
    assert not torch.equal(
        random.bert.encoder.layer[0].output.dense.weight, body["encoder.layer.0.output.dense.weight"]
    )


@family
def test_the_recorded_architecture_needs_no_folder(name: str, folders: Folders) -> None:
    kind, options, _ = FAMILIES[name]
    model = built(kind, folders, **options)
    recorded = architecture_of(model, "transformers:x")
    again = build_model(
        Model(source="transformers:./gone", options=options, architecture=recorded),
        IMAGE if kind == "vit" else TEXT, 64 if "head" in options else 3, seed=2,
    )  # fmt: skip
    again.load_state_dict(model.state_dict())
    x = images() if kind == "vit" else ids()
    assert torch.equal(forward(again.eval(), x), forward(model.eval(), x))
    assert str(folders(kind)) not in str(recorded)


def test_options_reach_the_configuration(folders: Folders) -> None:
    assert built("bert", folders, hidden_dropout_prob=0.4).config.hidden_dropout_prob == 0.4


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        ("transformers:", {}, "after the colon"),
        ("transformers:./nowhere", {}, "no folder"),
        ("transformers:BERT", {"head": "tail"}, "sequence-classification"),
        ("transformers:BERT", {"hiden_size": 3}, "hiden_size"),
        ("timm:no_such_model_at_all", {"pretrained": False}, "cannot be built"),
        ("timm:resnet18", {"pretrained": False, "colour": 3}, "cannot be built"),
    ],
)
def test_what_cannot_be_built_is_one_clear_message(
    source: str, options: dict[str, Any], match: str, folders: Folders
) -> None:
    model = Model(source=source.replace("BERT", str(folders("bert"))), options=options)
    with pytest.raises(ConfigError, match=match):
        build_model(model, TEXT if "transformers" in source else (3, 32, 32), 3, seed=1)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "best.pt", "last.ckpt", "checkpoint.pth.tar"])
def test_pickled_weights_are_refused(name: str, folders: Folders, tmp_path: Path) -> None:
    """All but .bin were passed over, and W0 was random without a word."""
    (tmp_path / "config.json").write_bytes((folders("bert") / "config.json").read_bytes())
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match="pickled"):
        build_model(hub(tmp_path), TEXT, 3, seed=1)


def test_without_a_network_a_hub_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="local-dir FOLDER"):
        build_model(Model(source="transformers:some-owner/some-model"), TEXT, 3, seed=1)


@pytest.mark.parametrize("source", ["transformers:some-owner/some-model", "timm:resnet18", "timm:hf-hub:some/one"])
def test_whatever_library_carries_the_hub_its_error_is_one_message(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests, httpx and httpx2 have each carried huggingface_hub, and each raises errors of its own."""
    unreached = HfHubHTTPError.__bases__[0]

    def silent(*_: object, **__: object) -> None:
        raise unreached("no route to the hub")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", silent)
    with pytest.raises(ConfigError, match="cannot be built"):  # nothing of it was downloaded before
        build_model(Model(source=source), TEXT if "transformers" in source else (3, 32, 32), 3, seed=1)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr("timm.create_model", silent)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", silent)
    with pytest.raises(ConfigError, match="no route to the hub"):  # it answered, and then no more
        build_model(Model(source=source), TEXT if "transformers" in source else (3, 32, 32), 3, seed=1)


TIMM: dict[str, tuple[dict[str, Any], dict[str, Role]]] = {
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 1}, {"*qkv.weight": Role.TABLE, "*.fc?.weight": Role.TABLE,
        "*attn.proj.weight": Role.TABLE, "patch_embed.proj.weight": Role.TABLE, "head.*": Role.DENSE,
        "pos_embed": Role.DENSE, "cls_token": Role.DENSE}),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)}, {"*conv_dw.weight": Role.DENSE,
        "*.fc?.weight": Role.TABLE, "*downsample.1.weight": Role.TABLE, "head.fc.weight": Role.DENSE}),
    "resnet18": ({}, {"*conv?.weight": Role.TABLE, "*downsample.0.weight": Role.TABLE, "*running*": Role.STATISTIC,
        "fc.*": Role.DENSE}),
    "resnext50_32x4d": ({"layers": (1, 1, 1, 1)}, {"*conv?.weight": Role.TABLE, "fc.*": Role.DENSE}),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    options, patterns = TIMM[name]
    source = Model(source=f"timm:{name}", options={"pretrained": False} | options)
    model = build_model(source, (3, 32, 32), 5, seed=1).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (2, 5)
    found = survey(model, Decomposition())
    for pattern, role in patterns.items():
        hits = {r for n, r in found.items() if fnmatchcase(n, pattern)}
        assert hits == {role}, pattern
    twin = decompose(model, rank=2)
    twin.eval()
    twin.load(twin.read() + np.random.default_rng(0).normal(size=twin.layout.size) * 0.01)
    torch.testing.assert_close(twin.merge().eval()(x), twin.module(x), atol=1e-4, rtol=1e-4)
    recorded = architecture_of(model, source.source)
    again = build_model(source.model_copy(update={"architecture": recorded}), (3, 32, 32), 5, seed=2).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_a_weight_used_past_its_layer_is_refused() -> None:
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.honest, self.sly, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(nn.functional.linear(self.honest(x), self.sly.weight)))

    few = Samples(np.ones((2, 16), np.float32), np.zeros(2, np.int64))
    with pytest.raises(ModelError, match=r'code uses sly\.weight past.*dense = \["sly\.weight"\]'):
        require_tables_reached(Sly(), Decomposition(), few)
    require_tables_reached(Sly(), Decomposition(dense=["sly.weight"]), few)


def test_timm_s_own_bypass_is_found() -> None:
    """BEiT hands its qkv weight to the function that multiplies."""
    options = {"pretrained": False, "img_size": 32, "depth": 1}
    model = build_model(Model(source="timm:beit_base_patch16_224", options=options), (3, 32, 32), 2, seed=1)
    few = Samples(np.ones((1, 3, 32, 32), np.float32), np.zeros(1, np.int64))
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv\.weight"):
        require_tables_reached(model, Decomposition(), few)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_checkpointing_changes_memory_not_results(kind: str, folders: Folders) -> None:
    samples = Samples(ids().numpy(), np.array([0, 1, 2, 0, 1]))
    found = []
    for on in (False, True):
        twin = decompose(built(kind, folders), rank=2)
        training = Training(device="cpu", steps=2, gradient_checkpointing=on)
        train(twin, samples, training, Classification(), seed=1)
        found.append(twin.read())
        assert not any(getattr(m, "gradient_checkpointing", False) for m in twin.module.modules())
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


def test_a_language_model_without_padding_and_end_learns_every_word(tmp_path: Path) -> None:
    """Padding was word 0 then, whose embedding began at zero and had no gradient; masked, it needs no word of its own."""
    import transformers

    size = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 16}
    config = transformers.LlamaConfig(**size, vocab_size=64, intermediate_size=24, eos_token_id=None, bos_token_id=None)
    config.save_pretrained(tmp_path)
    model = build_model(hub(tmp_path, head="causal-lm"), TEXT, 64, seed=1)
    short = torch.tensor([[0, 5, 0, 7]])
    padded = torch.tensor([[0, 5, 0, 7, PADDING, PADDING], [1, 2, 3, 4, 5, 6]])
    outputs = forward(model, padded)[:1, :4]
    torch.testing.assert_close(outputs, forward(model, short), atol=1e-6, rtol=1e-5)
    outputs.square().sum().backward()
    rows = model.get_parameter("model.embed_tokens.weight")
    assert rows.grad is not None
    assert bool(rows[0].any())
    assert bool(rows.grad[0].any())
