"""Models as folders that transformers or timm load by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dictpfl.client.data.images import Normalisation
from dictpfl.client.data.texts import load_tokenizer
from dictpfl.client.model import hub
from dictpfl.client.model.build import build_model
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.runs.census import metadata_of
from dictpfl.deploy.tensors import disk_errors, write_tensors

WEIGHTS = "model.safetensors"
BASE = "base"


def save_model(
    model: nn.Module, source: str, folder: Path, *, classes: Sequence[str] = (), pixels: Normalisation | None = None
) -> None:
    """Write a model's folder: `save_pretrained` of transformers, timm's own form, or safetensors under its names.

    Args:
        model: plain.
        source: `model.source` of what made it.
        folder: made if missing.
        classes: names of its outputs, where they are known.
        pixels: mean and deviation by which its pictures were normalised, where they are known.

    Raises:
        ConfigError: the library that made the model is missing.
        OSError: the disk refuses.
    """
    library, _ = hub.split(source)
    folder.mkdir(parents=True, exist_ok=True)
    if library == "transformers":
        model.config._name_or_path = ""  # type: ignore[union-attr] # noqa: SLF001 -- a path of this machine, which transformers would write
        if classes and len(classes) == model.config.num_labels:  # type: ignore[union-attr]
            model.config.id2label = dict(enumerate(classes))  # type: ignore[union-attr]
            model.config.label2id = {name: number for number, name in enumerate(classes)}  # type: ignore[union-attr]
        with disk_errors(folder):
            model.save_pretrained(folder)  # type: ignore[operator]
    elif library == "timm":
        hub.library("timm")
        from timm.models import save_for_hf

        recorded = hub.architecture_of(model, source)
        known: Any = model.pretrained_cfg
        # Where programs look for names of labels timm writes only those that it is handed; those of another head are none of this one.
        same = known.get("num_classes") == model.num_classes
        names = {key: known[key] for key in ("label_names", "label_descriptions") if same and known.get(key)}
        if len(classes) == model.num_classes:
            names = {"label_names": list(classes)}
        if pixels is not None:
            mean, std = (
                np.broadcast_to(values, recorded["arguments"].get("in_chans", 3)).tolist() for values in pixels
            )
            # As `dictpfl.client.data.images` fits a picture: the whole of its shorter side.
            model.pretrained_cfg = {**known, "mean": mean, "std": std, "crop_pct": 1.0, "interpolation": "bicubic"}  # type: ignore[assignment]
        with disk_errors(folder):
            save_for_hf(
                model,
                str(folder),
                model_config=names,
                model_args=recorded["arguments"] or None,
                safe_serialization=True,
            )
    else:
        tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        write_tensors(folder / WEIGHTS, tensors, {"format": "pt", **metadata_of(classes)})


def save_tokenizer(config: FederationConfig, folder: Path) -> str:
    """Write the tokenizer beside the model; says why not where it cannot be had here.

    Raises:
        OSError: the disk refuses.
    """
    name = str(config.data.options.get("tokenizer", ""))
    if not name:
        return ""
    try:
        tokenizer = load_tokenizer(name)
    except ConfigError as error:
        return f"The tokenizer is not part of this folder: {error}"
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # what tokenizers raises of a full disk has no class of its own
        raise OSError(f"cannot write the tokenizer to {folder}: {error}") from error
    return ""


def published_base(finished: Finished, needed: dict[str, Tensor]) -> str:
    """The folder or hub name whose weights are W0, if those of `needed` are bit for bit the same; else empty."""
    config = finished.genesis.config
    library, name = hub.split(config.model.source)
    if library != "transformers" or config.model.weights or not config.model.options.get("pretrained", True):
        return ""
    try:
        fresh = build_model(
            config.model.model_copy(update={"architecture": {}}), finished.genesis.sample_shape,
            finished.genesis.outputs, config.seed + 1,
        ).state_dict()  # fmt: skip
    except DictPFLError:
        return ""
    # With another seed: what the checkpoint lacks is random, and must not pass for its own.
    same = all(key in fresh and torch.equal(fresh[key], value) for key, value in needed.items())
    return name if same else ""


def loading_lines(
    model: nn.Module, source: str, where: str, arguments: str = "", options: Mapping[str, Any] | None = None
) -> list[str]:
    """Lines of Python that load a folder or a hub's model without dictpfl.

    Args:
        model: that was written.
        source: `model.source` of what made it.
        where: the folder.
        arguments: further ones of transformers' call, after a comma.
        options: `model.options` that make a network of this project as it is now, where they are not those of a configuration at hand.
    """
    library, _ = hub.split(source)
    if library == "transformers":
        kind = type(model).__name__
        return [f"from transformers import {kind}", f"model = {kind}.from_pretrained('{where}'{arguments}).eval()"]
    if library == "timm":
        return ["import timm", f"model = timm.create_model('local-dir:{where}', pretrained=True).eval()"]
    return [
        "from safetensors.torch import load_file",
        f"model = ...  # as {source} makes it" + (f" with {dict(options)}" if options else ""),
        f"model.load_state_dict(load_file('{where}/{WEIGHTS}'))",
    ]
