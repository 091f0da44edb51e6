"""A frozen public image encoder: what it makes of frames, and whom its class token attends to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dictpfl.client.model import hub
from dictpfl.client.model.build import weights_digest
from dictpfl.client.model.tokens.seam import Tokens
from dictpfl.client.model.tokens.stack import rows_to_columns, watching
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Model

_AT_ONCE = 8  # frames: memory is that of a few, however long a clip is
_COLOURS = 3


@dataclass(frozen=True)
class Encoder:
    """Vision transformer of timm with a class token, frozen, float32.

    Attributes:
        model: the module, in evaluation mode.
        size: side of a frame that it takes, in pixels.
        patch: side of one of its patches.
        mean, std: of each channel of a frame with values from 0 to 1, as timm's configuration has them.
        digest: SHA-256 over architecture and weights as they are stored, hexadecimal; a classifier, which is left out, is no part of it.
    """

    model: Any
    size: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def places(self) -> int:
        """Patches of a frame, N."""
        return (self.size // self.patch) ** 2

    @property
    def width(self) -> int:
        """Values of a token, D."""
        return int(self.model.num_features)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run frames through it, a few at a time.

        Args:
            frames: (F, 3, size, size), with `mean` and `std` taken out.

        Returns:
            Tokens after the last norm, (F, 1 + N, D), the class token first and registers left out; and the class token's attention to each
            patch in the last block, the mean over its heads, (F, N): it attends to itself and to registers as well, so that a row's sum is
            below 1.
        """
        prefix, mixer = int(self.model.num_prefix_tokens), self.model.blocks[-1].attn
        hidden, attention = [], []
        for part in torch.split(frames, _AT_ONCE):
            with watching([mixer.qkv]) as seen:
                out: Tensor = self.model.forward_features(part)
            q, k = torch.unflatten(seen[0], -1, (3, int(mixer.num_heads), -1)).permute(2, 0, 3, 1, 4)[:2]
            q, k = mixer.q_norm(q), mixer.k_norm(k)
            places = torch.arange(out.shape[1]).expand(len(part), -1)
            tokens = Tokens(out, places, torch.ones(places.shape), prefix)
            attention.append(rows_to_columns(q, k, tokens, q.shape[-1] ** -0.5)[:, :, 0].mean(dim=1))
            hidden.append(torch.cat([out[:, :1], out[:, prefix:]], dim=1))
        return torch.cat(hidden), torch.cat(attention)


def load_encoder(source: str, key: str, size: int = 0) -> Encoder:
    """Load `timm:FOLDER` or `timm:NAME`: safetensors and a configuration; no code that comes with it is run.

    Args:
        source: of the encoder.
        key: that named it, for messages.
        size: side of its frames in pixels, to which its positions are resized; 0: the one that it was made for.

    Raises:
        ConfigError: not of timm, missing, without weights, no vision transformer with a class token, or a size that its patches do not divide.
    """
    library, name = hub.split(source)
    if library != "timm" or not name:
        raise ConfigError(
            f"{key} is {source!r}; expected timm:FOLDER or timm:NAME, a vision transformer with a class token"
        )
    folder = hub.folder_of(name, key)
    if folder is not None and not any(Path(folder).glob("*.safetensors")):
        # timm would go on with random ones, and no two institutions would have the same.
        raise ConfigError(
            f"{key}: {folder} holds no weights; expected a folder that timm saved, with model.safetensors"
        )
    built = _built(source, key, {})
    patch, own = _sides(built, source, key)
    if size and (size % patch or size < patch):
        raise ConfigError(
            f"{key}: frames of {size} pixels, and patches of {source!r} are {patch} wide; expected a multiple of {patch}, as data.options.size, "
            f"or leave it at its own {own}"
        )
    # Before positions are resized: another machine's last bits of that would make another digest of the same encoder.
    digest = _digest(built)
    if size and size != own:
        built = _built(source, key, {"img_size": size})
    said = built.pretrained_cfg or {}
    mean, std = (tuple(float(value) for value in said.get(name) or (0.5,) * _COLOURS) for name in ("mean", "std"))
    return Encoder(built, size or own, patch, mean, std, digest)


def _digest(built: Any) -> str:
    said = hub.architecture_of(built, "timm:")
    arguments = {key: value for key, value in said["arguments"].items() if key not in ("num_classes", "in_chans")}
    weights = weights_digest(built.state_dict())
    made = json.dumps([said["architecture"], arguments], sort_keys=True, default=str)
    return hashlib.sha256(made.encode() + weights).hexdigest()


def _built(source: str, key: str, options: dict[str, Any]) -> Any:
    try:
        # Its classifier is left out: of a checkpoint without one it would be drawn by chance.
        built = hub.build(Model(source=source, options=options), (_COLOURS, 1, 1), 0)
    except ConfigError as error:
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"{key}: {source!r} cannot be loaded: {reason}; name a folder that timm saved (`hf download NAME --local-dir FOLDER` where there "
            "is a network)"
        ) from error
    return built.eval().requires_grad_(requires_grad=False)


def _sides(built: Any, source: str, key: str) -> tuple[int, int]:
    """Sides of a patch and of a frame of a vision transformer.

    Raises:
        ConfigError: another family, or sides that are not equal.
    """
    blocks, embedder = getattr(built, "blocks", None), cast("Any", getattr(built, "patch_embed", None))
    plain = isinstance(blocks, nn.Sequential) and hasattr(getattr(blocks[-1], "attn", None), "q_norm")
    if not plain or getattr(built, "cls_token", None) is None or not getattr(embedder, "img_size", None):
        raise ConfigError(
            f"{key}: {source!r} is a {type(built).__name__} without a class token whose attention can be read; expected a vision transformer "
            "with one, such as ViT or DINOv2"
        )
    (height, breadth), (tall, wide) = embedder.patch_size, embedder.img_size
    if height != breadth or tall != wide:
        raise ConfigError(
            f"{key}: {source!r} takes frames of {tall} x {wide} in patches of {height} x {breadth}; expected squares"
        )
    return int(height), int(tall)
