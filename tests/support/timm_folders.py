"""Folders of timm's models that are made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def tiny_vit(folder: Path, classes: int) -> Any:
    """Write a vision transformer of one block for 8 x 8 pixels of one channel, and return it; skips where timm is missing."""
    timm = pytest.importorskip("timm")
    sizes = {
        "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": classes, "in_chans": 1,
    }  # fmt: skip
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    timm.models.save_for_hf(model, str(folder), model_args=sizes, safe_serialization=True)
    return model
