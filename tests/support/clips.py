"""Clips as files, and an encoder for them, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SIDE, PATCH, WIDTH = 16, 8, 8
"""Of the encoder's frames and patches, in pixels; of its tokens."""


def tiny_encoder(folder: Path, seed: int = 0, registers: int = 0, **changes: object) -> str:
    """Save a vision transformer as timm does, with weights drawn by seed; its source."""
    timm = pytest.importorskip("timm")
    arguments = {
        "img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2, "num_classes": 0, "reg_tokens": registers,
    } | changes  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", **arguments)
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return f"timm:{folder}"


def write_clips(folder: Path, each: int = 3, seed: int = 0, side: int = 24) -> Path:
    """Write a folder of clips of 5 frames for each of two classes, dark and bright; the folder."""
    rng = np.random.default_rng(seed)
    for name, low in (("dark", 0), ("bright", 120)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            frames = [Image.fromarray(rng.integers(low, low + 120, (side, side, 3), dtype=np.uint8)) for _ in range(5)]
            frames[0].save(folder / name / f"{number}.tif", save_all=True, append_images=frames[1:])
    return folder
