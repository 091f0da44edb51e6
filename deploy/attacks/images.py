"""Similarity of a reconstruction to the truth, and grids of both to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

from dictpfl.common.files import replace_private

Image = NDArray[np.float64]
VALUES = ".npz"
"""Suffix of the file beside a picture, with what it shows: `truth` and `recovered`, (n, C, H, W)."""
_WINDOW = 7
_K1, _K2 = 0.01, 0.03


def ssim(guess: Image, truth: Image, span: float) -> float:
    """Measure the structural similarity of two images (C, H, W), 1 at best (Wang et al. 2004).

    Mean over channels and over all windows of 7 x 7 that lie inside (of the whole side, where that is smaller), with
    unbiased variances: as scikit-image computes it. `span`: largest less smallest value that a pixel can have. The values of
    a row of a table have no neighbours: each is a window of its own.
    """
    guess, truth = (one.reshape((1,) * (3 - one.ndim) + one.shape) for one in (guess, truth))
    window = min(_WINDOW, *truth.shape[1:])
    window -= 1 - window % 2
    return float(np.mean([_ssim(a, b, span, window) for a, b in zip(guess, truth, strict=True)]))


def _ssim(x: Image, y: Image, span: float, window: int) -> float:
    count = window * window
    unbiased = count / (count - 1) if count > 1 else 1.0
    mean_x, mean_y = uniform_filter(x, window), uniform_filter(y, window)
    var_x = unbiased * (uniform_filter(x * x, window) - mean_x**2)
    var_y = unbiased * (uniform_filter(y * y, window) - mean_y**2)
    both = unbiased * (uniform_filter(x * y, window) - mean_x * mean_y)
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    values = ((2 * mean_x * mean_y + c1) * (2 * both + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    edge = window // 2
    inner = values[edge : values.shape[0] - edge, edge : values.shape[1] - edge]
    return float(inner.mean())


def psnr(guess: Image, truth: Image, span: float) -> float:
    """Measure peak signal to noise, dB; at most 100."""
    error = float(((guess - truth) ** 2).mean())
    return 100.0 if error <= 0 else min(100.0, float(10 * np.log10(span**2 / error)))


def matched(guess: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    """Order reconstructions (n, C, H, W) as the truth, so that squared errors are smallest: a batch has no order."""
    flat_guess, flat_truth = guess.reshape(len(guess), -1), truth.reshape(len(truth), -1)
    costs = ((flat_truth[:, None, :] - flat_guess[None, :, :]) ** 2).mean(axis=2)
    _, columns = linear_sum_assignment(costs)
    return guess[columns]


def grid(path: Path, rows: Mapping[str, Sequence[Image]], title: str, columns: Sequence[str] = ()) -> None:
    """Write a PNG with a labelled row of images for each entry; images (C, H, W) with one or three channels.

    Its owner alone may read it, for what is beside a reconstruction is a training sample.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    wide = max(len(images) for images in rows.values())
    figure = Figure(figsize=(3.0 + 0.85 * wide, 0.55 + 0.95 * len(rows)), layout="constrained", dpi=120)
    axes = figure.subplots(len(rows), wide, squeeze=False)
    for number, (line, (label, images)) in enumerate(zip(axes, rows.items(), strict=True)):
        for place, ax in enumerate(line):
            ax.axis("off")
            if place < len(images):
                _show(ax, images[place])
            if number == 0 and place < len(columns):
                ax.set_title(columns[place], fontsize=7)
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    with mpl.rc_context({"savefig.facecolor": "white"}):
        replace_private(path, lambda made: figure.savefig(made, format="png", metadata={"Software": None}))


def keep_values(picture: Path, truth: Sequence[Image], recovered: Sequence[Image]) -> None:
    """Write what a picture shows beside it, for `overview`; as private as the picture."""
    picture.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(made: Path) -> None:
        with made.open("wb") as file:  # of a name without a suffix numpy would make another file
            np.savez_compressed(file, truth=np.stack(truth), recovered=np.stack(recovered))

    replace_private(picture.with_suffix(VALUES), write)


def overview(path: Path, pictures: Mapping[str, Path], title: str, pairs: int = 4) -> None:
    """Write a PNG with a row for each label: true images beside what was recovered, from the values beside its picture."""
    rows = {}
    for label, picture in pictures.items():
        with np.load(picture.with_suffix(VALUES)) as values:
            both = zip(values["truth"][:pairs], values["recovered"][:pairs], strict=True)
            rows[label] = [image for pair in both for image in pair]
    grid(path, rows, title, ["true", "recovered"] * pairs)


def _show(ax: Any, image: Image) -> None:
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / max(high - low, 1e-12)
    if image.shape[0] in (3, 4):
        ax.imshow(scaled.transpose(1, 2, 0), interpolation="nearest")
    else:
        ax.imshow(scaled[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
