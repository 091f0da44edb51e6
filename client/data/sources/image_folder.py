"""A folder of images for each class, as torchvision's `ImageFolder` reads it."""

from __future__ import annotations

from dictpfl.client.data.readers.files import image_files, in_memory
from dictpfl.client.data.samples import Dataset
from dictpfl.client.data.source import SOURCES
from dictpfl.common.settings import Data


@SOURCES.register("imagefolder")
def image_folder(data: Data, seed: int) -> Dataset:
    """A folder of folders, one for each class, as torchvision's `ImageFolder` reads it.

    `data.options`:

    - `size`: 224 by default, or [height, width]: the shorter side is scaled, the middle is cut out.
    - `mode`: `RGB` or `L` (grey), or `I;16` (grey in 16 bits, as of a scanner), with `window`, the values that become 0 and 1: [0, 65535] by
      default. What is beyond is cut off.
    - `mean`, `std`: of each channel, for values from 0 to 1: constants that are public. ImageNet's by default, 0.5 for grey.
    - `classes`: folder names in the order of their numbers; sorted by default. In a deployment set it.
    - `sites`: true for a folder of such folders, one for each institution (SITE/CLASS/NAME.png): the groups of
      `data.partition = "column"`.

    Raises:
        ConfigError: an option out of range.
        DataError: no images, or one that cannot be read.
    """
    return in_memory(image_files(data), data, seed)
