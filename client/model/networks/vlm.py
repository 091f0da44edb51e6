"""A small vision-language model: patches of a picture, then a question's words, read by a decoder that is built as Llama."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn

from dictpfl.client.model import hub
from dictpfl.client.model.build import MODELS
from dictpfl.client.model.networks.shapes import image_shape
from dictpfl.client.model.tokens.families import llama
from dictpfl.client.model.tokens.reduction import Reduction
from dictpfl.client.model.tokens.seam import Between, Frames, Tokens
from dictpfl.client.model.tokens.stack import require_deep, run
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.settings import Model

_PATCHES = "patches"
_PLACES = 0.5
"""Deviation of places to begin with; a projector of torch's own makes about as much of a vision transformer's outputs, which have deviation 1."""


@MODELS.register("vlm")
class VisionLanguage(nn.Module):
    """A picture's tokens and a question's, one after the other, causal; the last word of the question answers, by a linear head.

    A sample is the picture's pixels, then the question's token numbers, -1 behind the last: float32 (C H W + words).

    Args:
        sample_shape: (C H W + words,).
        outputs: answers.
        image: (C, H, W).
        vision: "patches", or "timm:FOLDER" or "timm:NAME": a vision transformer that stays frozen.
        language: "transformers:FOLDER", a decoder built as Llama; empty: a new one of the options below.
        patch: side of a patch of "patches", at least 1; divides height and width.
        image_tokens: tokens that the decoder reads of a picture: means of squares of patches, one square a token; 0: each patch is one.
        words: size of the vocabulary of a new decoder.
        width: of a new decoder.
        layers: of a new decoder.
        heads: of attention in a new decoder, at least 1; divides `width`, into an even number of values each.
        mlp_ratio: width of an MLP over `width`.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        outputs: int,
        *,
        image: Sequence[int],
        vision: str = _PATCHES,
        language: str = "",
        patch: int = 8,
        image_tokens: int = 0,
        words: int = 128,
        width: int = 128,
        layers: int = 8,
        heads: int = 4,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        self.image = image_shape(image, "vlm")
        pixels = self.image[0] * self.image[1] * self.image[2]
        if len(sample_shape) != 1 or sample_shape[0] <= pixels:
            raise ConfigError(
                f"vlm needs samples of {pixels} pixels (model.options.image = {list(self.image)}) and a question's tokens behind them; these "
                f'samples are {tuple(sample_shape)}: name columns of pictures and of questions in data.options (image, text), use data.source = "mosaic", or one of your own'
            )
        self.pixels = pixels
        self.language = (
            _pretrained(language) if language else _decoder(words, width, layers, heads, int(width * mlp_ratio))
        )
        width = int(self.language.config.hidden_size)
        self.vision, wide, self.grid = _vision(vision, self.image, patch, width)
        self.square = _square(self.grid, image_tokens)
        self.places = self.grid[0] * self.grid[1] // self.square**2
        self.prefix = int(getattr(self.vision, "num_prefix_tokens", 0))
        self.projector = nn.Linear(wide, width)
        self.place_pos_embed = nn.Parameter(torch.empty(self.places, width))
        self.head = nn.Linear(width, outputs)
        self.reduction: Reduction | None = None
        # As far as what the projector says of a patch: a model that hardly sees where it looks does not learn to look (benchmarks/autoprune.py --mosaic).
        nn.init.normal_(self.place_pos_embed, std=_PLACES)

    def take_reduction(self, reduction: Reduction) -> None:
        """Put a reducer between the decoder's layers, or before them.

        Raises:
            ConfigError: too shallow, or one that leaves nothing.
        """
        if isinstance(reduction.reducer, Between):
            require_deep(len(self.language.layers))
            reduction.reducer.courses(len(self.language.layers), self.places, 0)
        else:
            reduction.reducer.kept(1, self.places)
        self.reduction = reduction

    def seen(self, pictures: Tensor) -> Tensor:
        """Tokens of pictures, (batch, C, H, W) to (batch, places, width)."""
        if isinstance(self.vision, nn.Conv2d):
            patches = self.vision(pictures).flatten(2).transpose(1, 2)
        else:
            with torch.no_grad():
                patches = self.vision.forward_features(pictures)[:, self.prefix :]  # type: ignore[operator]
        if self.square > 1:
            grid = patches.transpose(1, 2).unflatten(2, self.grid)
            patches = F.avg_pool2d(grid, self.square).flatten(2).transpose(1, 2)
        found: Tensor = self.projector(patches) + self.place_pos_embed
        return found

    def forward(self, samples: Tensor) -> Tensor:
        """(batch, C H W + words) to (batch, outputs)."""
        seen = self.seen(samples[:, : self.pixels].reshape(-1, *self.image))
        ids = samples[:, self.pixels :].round().long()
        if (largest := int(ids.max())) >= (known := self.language.embed_tokens.num_embeddings):
            raise ModelError(
                f"a question's token is {largest}, and the decoder knows {known} (0 to {known - 1}); set model.options.words to the tokenizer's "
                "number of tokens, or name the tokenizer of model.options.language"
            )
        asked = self.language.embed_tokens(ids.clamp(min=0))
        lengths = (ids >= 0).sum(dim=1).clamp(min=1)  # what stands behind the last word is below 0
        index, answers = [], []
        for length in sorted(set(lengths.tolist())):  # a question is read as if it stood alone: there is no padding
            group = torch.nonzero(lengths == length).flatten()
            for inner, answer in self._answered(seen[group], asked[group, :length]):
                index.append(group[inner])
                answers.append(answer)
        hidden = self.language.norm(torch.cat(answers)[torch.cat(index).argsort()])
        outputs: Tensor = self.head(hidden)
        return outputs

    def _answered(self, seen: Tensor, asked: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Numbers of samples, and the last word's hidden state before the last norm, group by group."""
        everybody, length = torch.arange(len(seen), device=seen.device), asked.shape[1]
        places = torch.arange(self.places, device=seen.device).expand(len(seen), -1)
        behind = torch.arange(self.places, self.places + length, device=seen.device).expand(len(seen), -1)
        tokens = Tokens(
            torch.cat([asked, seen], dim=1),
            torch.cat([behind, places], dim=1),
            seen.new_ones(len(seen), length + self.places),
            length,
        )
        layers, how = list(self.language.layers), llama.Layers(self.language.rotary_emb)
        if self.reduction is not None and self.reduction.acts(training=self.training):
            if isinstance(self.reduction.reducer, Between):
                ended = run(layers, how, tokens, 0, self.reduction.reducer, self.reduction.told)
                return [(inner, left.hidden[:, length - 1]) for inner, left in ended]
            kept = self.reduction.once(Frames(seen.unsqueeze(1)))
            weight = seen.new_ones(len(seen), length + kept.positions.shape[1])
            tokens = Tokens(
                torch.cat([asked, kept.hidden], dim=1), torch.cat([behind, kept.positions], dim=1), weight, length
            )
            self.reduction.read(layers, tokens.hidden, length + self.places)
        for layer in layers:
            tokens = Tokens(how.run(layer, tokens), tokens.positions, tokens.weight, length)
        return [(everybody, tokens.hidden[:, length - 1])]


def _decoder(words: int, width: int, layers: int, heads: int, inner: int) -> Any:
    if heads < 1 or width < 1 or width % heads or width // heads % 2:  # positions turn pairs of values
        raise ConfigError(
            f"vlm: heads {heads} must be at least 1 and divide the width {width} into an even number of values each; change model.options"
        )
    transformers = hub.library("transformers")
    config = transformers.LlamaConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner, use_cache=False,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaModel(config)


def _pretrained(source: str) -> Any:
    """The decoder of a folder, without its head."""
    library, name = hub.split(source)
    if library != "transformers" or not name:
        raise ConfigError(
            f"model.options.language is {source!r}; expected transformers:FOLDER, a decoder built as Llama"
        )
    built = hub.build(Model(source=source, options={"head": "causal-lm"}), (1,), 1)
    if not llama.matches(built):
        raise ConfigError(f"model.options.language: {type(built).__name__} is none of {llama.NAME}")
    return llama.stack(built)


def _square(grid: tuple[int, int], tokens: int) -> int:
    """Side of the squares of patches that become one token each."""
    high, wide = grid
    if not tokens:
        return 1
    could = {high * wide // side**2: side for side in range(min(grid), 0, -1) if not (high % side or wide % side)}
    if tokens not in could:
        raise ConfigError(
            f"model.options.image_tokens is {tokens}; pictures of {high} x {wide} patches can be read as {', '.join(map(str, could))} tokens"
        )
    return could[tokens]


def _vision(source: str, image: tuple[int, int, int], patch: int, width: int) -> tuple[nn.Module, int, tuple[int, int]]:
    """The encoder, its width, and how many patches it has from top to bottom and from left to right; one of timm is frozen."""
    if source == _PATCHES:
        if patch < 1 or image[1] % patch or image[2] % patch:
            raise ConfigError(
                f"vlm: patch {patch} must divide pictures of {image[1]} x {image[2]}, and be at least 1; change model.options"
            )
        return nn.Conv2d(image[0], width, patch, stride=patch), width, (image[1] // patch, image[2] // patch)
    library, name = hub.split(source)
    if library != "timm" or not name:
        raise ConfigError(f'model.options.vision is {source!r}; expected "patches", timm:FOLDER or timm:NAME')
    built: Any = hub.build(Model(source=source, options={"img_size": image[1]}), image, 1)
    if not hasattr(built, "blocks") or not hasattr(built.patch_embed, "grid_size"):
        raise ConfigError(f"model.options.vision: {type(built).__name__} is no vision transformer")
    built.reset_classifier(0)
    return built.requires_grad_(requires_grad=False), int(built.num_features), tuple(built.patch_embed.grid_size)
