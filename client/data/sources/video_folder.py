"""A folder of clips for each class."""

from __future__ import annotations

from dictpfl.client.data.readers.files import clip_files, in_memory
from dictpfl.client.data.samples import Dataset
from dictpfl.client.data.source import SOURCES
from dictpfl.common.settings import Data


@SOURCES.register("videofolder")
def video_folder(data: Data, seed: int) -> Dataset:
    """A folder of folders of clips, one for each class: samples (F, C, H, W).

    `data.options`:

    - `frames`: 32 by default, evenly spaced, first and last included; a shorter clip repeats its last one.
    - `size`, `mode`, `mean`, `std`: as of `imagefolder`.
    - `classes`: folder names in the order of their numbers; sorted by default. In a deployment set it.

    Raises:
        ConfigError: an option out of range, or clips that need `dictpfl[video]`.
        DataError: no clips, one that cannot be read, or more of them than half of the machine's memory holds.
    """
    return in_memory(clip_files(data), data, seed)
