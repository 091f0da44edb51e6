"""A folder of clips for each class."""

from __future__ import annotations

from dictpfl.client.data.readers.files import clip_files, in_memory
from dictpfl.client.data.samples import Dataset
from dictpfl.client.data.source import SOURCES
from dictpfl.common.settings import Data


@SOURCES.register("videofolder")
def video_folder(data: Data, seed: int) -> Dataset:
    """A folder of folders of clips, one for each class: samples (F, C, H, W), or with `features` (F, 1 + N, D + 1).

    `data.options`:

    - `frames`: 32 by default, evenly spaced, first and last included; a shorter clip repeats its last one.
    - `fps`: frames of a second, from the first on, in place of evenly spaced ones; 0, the default: over the whole clip.
    - `size`, `mode`, `mean`, `std`: as of `imagefolder`.
    - `classes`: folder names in the order of their numbers; sorted by default. In a deployment set it.
    - `features`: `timm:FOLDER` or `timm:NAME`, a vision transformer that each clip goes through once; `size`, `mean` and `std` are then its own by
      default (`dictpfl.client.data.features.ClipFeatures`).
    - `features_folder`: where they are kept; `.features` among the clips by default.
    - `features_sha256`: digest of the encoder and of what it is given that all agreed on; another is refused.

    Raises:
        ConfigError: an option out of range, clips that need `dictpfl[video]`, no encoder, or another than was agreed on.
        DataError: no clips, one that cannot be read, or more of them than half of the machine's memory holds.
    """
    return in_memory(clip_files(data), data, seed)
