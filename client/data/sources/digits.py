"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8, ten classes."""

from __future__ import annotations

import numpy as np

from dictpfl.client.data.samples import Dataset, Samples, require_options
from dictpfl.client.data.source import SOURCES
from dictpfl.common.settings import Data

_DIGITS = (0.305, 0.376)  # mean and deviation of the published digits, over 16


@SOURCES.register("digits")
def digits(data: Data, _seed: int) -> Dataset:
    """Read all images, float32 (1, 8, 8), standardised by the published set's mean and deviation."""
    from sklearn.datasets import load_digits

    require_options(data, ())
    bunch = load_digits()
    images = bunch.images.astype(np.float32)[:, None] / 16
    samples = Samples((images - _DIGITS[0]) / _DIGITS[1], bunch.target.astype(np.int64))
    return Dataset(samples, 10, name="digits", class_names=tuple("0123456789"))
