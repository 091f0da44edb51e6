"""Questions about pictures: a column of images and one of text (`data.options.image` and `text`), as `model.source = "vlm"` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dictpfl.client.data import images, texts
from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = (
    "image",
    *images.OPTIONS,
    *(option for option in texts.OPTIONS if option not in ("prompt", "template", "long")),
)
"""Options of `data.options` that are read: those of images, and of texts that answer by a class."""


def asked(data: Data, frame: pd.DataFrame, known_classes: tuple[str, ...] = (), *, seed: int) -> Dataset:
    """Read rows of a picture, a question and an answer: float32 (n, C H W + max_tokens), the pixels and then the question's tokens.

    Answers are classes; -1 stands behind the last token. Of many rows only those that `data.limit` keeps (drawn by seed) are decoded.

    Raises:
        ConfigError: options of language models, or no tokenizer.
        DataError: columns missing, or pictures that cannot be read.
    """
    if data.options.get("target") == "next":
        raise ConfigError(
            'data.options.target is "next": a question about a picture is answered by a class; leave it out, or leave data.options.image out'
        )
    words = texts.tokens(data, frame, known_classes, seed=seed)
    seen = images.pixels(data, frame, known_classes, seed=seed)  # the same rows: both draw by the same seed
    flat = seen.samples.features.reshape(len(seen.samples), -1)
    features = np.concatenate([flat, words.samples.features.astype(np.float32)], axis=1)
    return Dataset(
        Samples(features, words.samples.labels),
        words.outputs,
        words.groups,
        words.splits,
        name=words.name,
        class_names=words.class_names,
        picture=seen.sample_shape,
    )
