"""Fewer tokens without a federation: what a reducer leaves of a clip, as a picture, and what reducers cost a model of one's own."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dictpfl.client.data.images import fitting
from dictpfl.client.data.videos import images_of
from dictpfl.client.model.tokens.encoder import load_encoder
from dictpfl.client.model.tokens.install import install, reduction_of, take_off, with_gamma
from dictpfl.client.model.tokens.reducers.autoprune import MEASURED
from dictpfl.client.model.tokens.seam import Before, Frames, Reduced, make_reducer
from dictpfl.client.training.measuring import means
from dictpfl.client.training.timing import timed
from dictpfl.client.training.train import evaluate
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Tokens as Settings
from dictpfl.deploy.compress.source import Source
from dictpfl.deploy.exports.reduced import reducer_words

_ACROSS, _GAP, _DIM = 8, 4, 0.22
_SHOWN = 112  # pixels of a frame's side in a picture
_RED, _YELLOW = (214, 48, 49), (255, 200, 40)
BEFORE = ("fastvid", "dtm", "salient", "tome", "grid", "frames", "random")
_OF_FASTVID: Mapping[str, Mapping[str, Any]] = {
    "fixed segments": {"segments": "fixed"},
    "clusters": {"segments": "clusters"},
}
BETWEEN: Mapping[str, Mapping[str, Any]] = {
    "fixed": {},
    "fixed, no merging": {"merge": False},
    "flat": {"k": 0.0},
    "steep": {"k": 0.4},
    "pyramid": {"curve": "pyramid"},
    "early": {"curve": "early"},
    "random tokens": {"pick": "random"},
}
"""Arms of `autoprune` on one curve for all samples."""
ADAPTING = {f"{adapt} MI": adapt for adapt in ("own", "shuffled", "reversed")}
"""Arms of `autoprune` whose curve is by each sample's mutual information, by another's, and by its opposite."""
_CALIBRATED = 64
"""Samples on which it is measured how fast their slope falls with information."""
OWN = "as trained"


@dataclass(frozen=True)
class Look:
    """Tokens that a reducer left of a clip.

    Attributes:
        images: frames as they were looked at, uint8 (F, side, side, 3).
        reduced: tokens that stayed.
        side: places on each side of a frame.
        milliseconds: time of choosing and merging.
    """

    images: NDArray[np.uint8]
    reduced: Reduced
    side: int
    milliseconds: float

    @property
    def cuts(self) -> list[int]:
        """Frames that begin a segment; empty of a reducer without segments."""
        return [] if self.reduced.cuts is None else torch.nonzero(self.reduced.cuts[0]).flatten().tolist()

    @property
    def kept(self) -> int:
        """Number of tokens that stayed."""
        return int(self.reduced.positions.shape[1])


def look(
    clip: Path,
    *,
    reducer: str,
    keep: float,
    frames: int,
    side: int,
    encoder: str,
    options: Mapping[str, Any],
    fps: float = 0.0,
) -> Look:
    """Reduce the tokens of a clip.

    Args:
        clip: a file.
        reducer: one that works before a stack.
        keep: share that stays.
        frames: number of frames.
        side: places on each side of a frame; an encoder says it itself.
        encoder: `timm:FOLDER` or `timm:NAME`, a vision transformer whose patches are the tokens; empty: the pixels of places are.
        options: of the reducer.
        fps: frames of a second of the clip, from its first; 0: evenly spaced over the whole clip.

    Raises:
        ConfigError: a reducer that works between layers, an encoder of another family, or options out of range.
        DataError: no clip.
    """
    made = make_reducer(Settings(reducer=reducer, keep=keep, options=dict(options)))
    if not isinstance(made, Before):
        raise ConfigError(
            f"{reducer!r} with keep {keep:g} has nothing to do before a stack; expected one of {', '.join(BEFORE)}, and keep below 1"
        )
    images = images_of(clip, frames, fps)
    found, side = _encoded(images, encoder) if encoder else (_of_pixels(images, side), side)
    began = time.perf_counter()
    reduced = made.once(found)
    spent = 1000 * (time.perf_counter() - began)
    shown = fitting({"size": _SHOWN // side * side, "mode": "RGB", "mean": 0, "std": 1})
    return Look(
        (np.stack([shown(image) for image in images]) * 255).astype(np.uint8).transpose(0, 2, 3, 1),
        reduced,
        side,
        spent,
    )


def _of_pixels(images: Sequence[Any], side: int) -> Frames:
    pixels = 8 * side
    fit = fitting({"size": pixels, "mode": "RGB", "mean": 0.5, "std": 0.5})
    values = torch.tensor(np.stack([fit(image) for image in images]))
    patches = values.unfold(2, 8, 8).unfold(3, 8, 8)  # (F, C, side, side, 8, 8)
    hidden = patches.permute(0, 2, 3, 1, 4, 5).reshape(1, len(images), side * side, -1)
    # Pixels are alike in sign: what all tokens, and all frames, have in common would make every cosine 1.
    return Frames(
        hidden - hidden.mean(dim=(1, 2), keepdim=True), (hidden - hidden.mean(dim=1, keepdim=True)).flatten(2)
    )


def _encoded(images: Sequence[Any], source: str) -> tuple[Frames, int]:
    """Tokens of a frozen encoder, its class token as the frames' features, and whom that attends to in the last block."""
    encoder = load_encoder(source, "--encoder")
    fit = fitting({"size": encoder.size, "mean": encoder.mean, "std": encoder.std})
    tokens, attention = encoder.encode(torch.tensor(np.stack([fit(image) for image in images])))
    side = encoder.size // encoder.patch
    return Frames(tokens[None, :, 1:], tokens[None, :, 0], attention[None]), side


def picture(seen: Look) -> Any:
    """Draw a contact sheet, an image of Pillow: kept tokens bright, merged ones framed in yellow, a red bar before each segment."""
    from PIL import Image, ImageDraw

    frames, size = len(seen.images), seen.images.shape[1]
    cell, across = size // seen.side, min(_ACROSS, frames)
    down = -(-frames // across)
    sheet = Image.new("RGB", (across * (size + 2 * _GAP), down * (size + 2 * _GAP)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    bright = np.zeros((frames, seen.side * seen.side), dtype=bool)
    merged = np.zeros_like(bright)
    places = seen.reduced.positions[0].numpy()
    bright.reshape(-1)[places] = True
    merged.reshape(-1)[places[seen.reduced.merged[0].numpy()]] = True
    for number, image in enumerate(seen.images):
        left, top = number % across * (size + 2 * _GAP) + _GAP, number // across * (size + 2 * _GAP) + _GAP
        mask = np.kron(bright[number].reshape(seen.side, seen.side), np.ones((cell, cell)))[..., None]
        sheet.paste(Image.fromarray((image * np.where(mask > 0, 1.0, _DIM)).astype(np.uint8)), (left, top))
        for place in np.flatnonzero(merged[number]).tolist():
            x, y = left + place % seen.side * cell, top + place // seen.side * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=_YELLOW)
        if number in seen.cuts:
            draw.rectangle((left - _GAP, top, left - 1, top + size - 1), fill=_RED)
    return sheet


@dataclass(frozen=True)
class Row:
    """One arm of a comparison.

    Attributes:
        arm: its name.
        read: tokens that a layer reads, the mean; of a clip those before the stack.
        metric: mean over samples.
        loss: mean over samples.
        milliseconds: of a sample, forward.
        products: multiply-adds of the layers as a share of those on all tokens.
    """

    arm: str
    read: float
    metric: float
    loss: float
    milliseconds: float
    products: float


@dataclass(frozen=True)
class Compared:
    """Arms of a comparison, and what is to be said of them.

    Attributes:
        rows: all tokens first, then the reducer that the model was trained with, if it has one.
        notes: sentences.
    """

    rows: Sequence[Row]
    notes: Sequence[str]


def compared(source: Source, keep: float, reducers: Sequence[str]) -> Compared:
    """Measure a model with all its tokens and with each arm's, on the samples of a source.

    A reducer that the model was trained with is taken off for all rows but its own.

    Args:
        source: model and samples; those that calibrate are never those that are measured.
        keep: share of the tokens that stays, of every arm but the model's own.
        reducers: to compare beside the usual ones.

    Raises:
        ConfigError: a model of no family that is known, or a budget that leaves nothing.
    """
    plain, notes, own = copy.deepcopy(source.model), [], []
    former = take_off(plain)
    if former is not None:
        trained = copy.deepcopy(source.model)
        if (reduction := reduction_of(trained)) is not None:
            reduction.forget()
        own = [_row(OWN, source, trained)]
        named = reducer_words(source.config.tokens) or f"a {type(former.reducer).__name__}"
        notes = [
            f'this model was trained with the token reducer {named}: "{OWN}" is with it, all other rows are with it taken off'
        ]
    if (shallow := _nothing_between(plain)) is None:
        arms = {name: Settings(reducer="autoprune", keep=keep, options=dict(of)) for name, of in BETWEEN.items()}
        adapting, why = _adapting(source, plain, keep)
        arms, notes = arms | adapting, [*notes, *why]
    else:
        notes.append(f"rules between layers are left out: {shallow}")
        arms = {name: Settings(reducer=name, keep=keep) for name in BEFORE}
        arms |= {name: Settings(reducer="fastvid", keep=keep, options=dict(of)) for name, of in _OF_FASTVID.items()}
    arms |= {name: Settings(reducer=name, keep=keep) for name in reducers}
    rows = [_row("all tokens", source, plain), *own]
    for arm, settings in arms.items():
        model = copy.deepcopy(plain)
        install(model, settings)
        rows.append(_row(arm, source, model))
    return Compared(rows, notes)


def _nothing_between(model: nn.Module) -> ConfigError | None:
    """Say why no reducer can stand between a model's layers though one may before them; None where one can.

    Raises:
        ConfigError: it can have neither.
    """
    try:
        install(copy.deepcopy(model), Settings(reducer="autoprune", keep=0.9))
    except ConfigError as error:
        try:
            install(copy.deepcopy(model), Settings(reducer="grid", keep=0.9))
        except ConfigError:
            raise error from None
        return error
    return None


def _adapting(source: Source, plain: nn.Module, keep: float) -> tuple[dict[str, Settings], list[str]]:
    """Arms with a curve for each sample, and on what they were calibrated; none where a model cannot have them, and why."""
    named = ", ".join(ADAPTING)
    if not len(source.calibration):
        return {}, [f"{named} are left out: the run has no public samples to calibrate them by; name some by --data"]
    few = source.calibration.take(np.arange(min(_CALIBRATED, len(source.calibration))))
    options = {"adapt": "own", "gamma": MEASURED}
    try:
        found = with_gamma(
            plain,
            Settings(reducer="autoprune", keep=keep, options=options),
            lambda model: evaluate(model, few, source.task),
        )
    except ConfigError as error:
        return {}, [f"{named} are left out: {error}"]
    arms = {
        name: found.model_copy(update={"options": found.options | {"adapt": adapt}}) for name, adapt in ADAPTING.items()
    }
    return arms, [f"{named}: gamma is {found.options['gamma']:.3g}, measured on {len(few)} other samples"]


def _row(arm: str, source: Source, model: nn.Module) -> Row:
    found, spent = timed(model, source.measure, source.task)
    reduction = reduction_of(model)
    read, products = float("nan"), 1.0
    if reduction is not None and reduction.told.samples:
        report = reduction.report()
        read, products = sum(report.tokens) / len(report.tokens), report.products
    loss, metric = means(found)
    return Row(arm, read, metric, loss, 1000 * spent / len(source.measure), products)
