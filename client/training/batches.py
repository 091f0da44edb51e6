"""Batches for local training: their order, changes made to images on the way, and worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor
from torch.utils.data import Dataset

from dictpfl.client.training.unread import Batch, Prepared, Unread, loaded
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Training

_IMAGES = 4  # dimensions of a batch of images
_MASKS = 3  # and of a batch of masks, of which each is a picture of classes, at least
_SHIFT = 8  # a picture moves by up to this part of its side
_SEEDS = 1 << 63  # torch takes seeds below


def batches(
    features: Tensor | Unread,
    labels: Tensor,
    training: Training,
    seed: int,
    device: torch.device,
    order: Sequence[Tensor] | None = None,
) -> Iterator[Batch]:
    """Yield features and labels of every batch of a round, on the device; the same for a seed, however many workers.

    Args:
        features: features of all samples, in the dtype to train in, on any device; or samples to read.
        labels: labels of the same samples; of those to read, they come with the features.
        training: settings `epochs` or `steps`, `batch_size`, `augment` and `workers`.
        seed: seed of the order and of the augmentation.
        device: device to train on.
        order: indices of each batch; None: those of `indices`.

    Raises:
        ConfigError: `augment` for samples that are no images.
        DataError: a sample to read that cannot be read, or `augment` for images whose masks are of another size.
    """
    order = list(indices(len(features), training, seed)) if order is None else order
    change = _change(features, training)
    if isinstance(features, Tensor) and not training.workers and change is None:
        features, labels = features.to(device), labels.to(device)
        for index in order:
            here = index.to(device)
            yield features[here], labels[here]
        return
    held = features.cpu() if isinstance(features, Tensor) else features
    made = _Batches(held, labels.cpu(), order, change, seed)
    # A loader draws a seed for its processes. Where batches are only read or sorted, the model's own draws must not depend on whether there is one.
    generator = torch.Generator() if change is None else None
    yield from loaded(made, len(features), device, training.workers, generator)


def indices(count: int, training: Training, seed: int) -> Iterator[Tensor]:
    """Yield the indices of each batch: epochs in shuffled order, or as many batches as the wanted steps take.

    A last batch of one sample joins the batch before it.
    """
    generator = torch.Generator().manual_seed(seed)
    done, epoch, wanted = 0, 0, training.steps * training.accumulate
    while wanted or epoch < training.epochs:
        parts = list(torch.split(torch.randperm(count, generator=generator), training.batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1 < training.batch_size:
            # BatchNorm cannot take a batch of one, and its gradient is noise.
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield part
            done += 1
            if done == wanted:
                return
        epoch += 1


class _Batches(Dataset[Prepared]):
    """Data set of whole batches by number, so that a batch does not depend on how many workers there are."""

    def __init__(
        self,
        features: Tensor | Unread,
        labels: Tensor,
        order: Sequence[Tensor],
        change: Callable[[Sequence[Tensor], torch.Generator], list[Tensor]] | None,
        seed: int,
    ) -> None:
        self._features, self._labels, self._order, self._change, self._seed = features, labels, order, change, seed

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> Prepared:
        # Each batch has its own seed, so that workers do not change it.
        index, own = self._order[number], (self._seed * 1_000_003 + number + 1) % _SEEDS
        x, y, broken, why = (
            self._features.read(index, own)
            if isinstance(self._features, Unread)
            else (self._features[index], self._labels[index], (), "")
        )
        if self._change is not None and len(x):
            generator, are_masks = torch.Generator().manual_seed(own), y.dim() >= _MASKS
            if are_masks and y.shape[-2:] != x.shape[-2:]:
                images, masks = tuple(x.shape[-2:]), tuple(y.shape[-2:])
                why = f"training.augment: masks of {masks} cannot be moved with images of {images}; leave it empty"
                return x, y, broken, why
            x, y = self._change([x, y], generator) if are_masks else (*self._change([x], generator), y)
        return x, y, broken, why


def _change(
    features: Tensor | Unread, training: Training
) -> Callable[[Sequence[Tensor], torch.Generator], list[Tensor]] | None:
    if not training.augment:
        return None
    if features.dim() != _IMAGES or not features.is_floating_point():
        raise ConfigError(
            f"training.augment changes images (C, H, W); these samples are {tuple(features.shape[1:])}: leave it empty"
        )
    return partial(_augmented, names=tuple(training.augment))


def _augmented(pictures: Sequence[Tensor], generator: torch.Generator, names: Sequence[str]) -> list[Tensor]:
    """Change images, and their masks alike."""
    made, count, (height, width) = list(pictures), len(pictures[0]), pictures[0].shape[-2:]
    if "flip" in names:
        mirrored = torch.rand(count, generator=generator) < 0.5  # noqa: PLR2004 -- a coin
        made = [torch.where(mirrored.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x) for x in made]
    if "shift" in names:
        far_y, far_x = max(1, height // _SHIFT), max(1, width // _SHIFT)
        tops = torch.randint(0, 2 * far_y + 1, (count,), generator=generator).tolist()
        lefts = torch.randint(0, 2 * far_x + 1, (count,), generator=generator).tolist()
        for place, x in enumerate(made):
            padded = F.pad(x, (far_x, far_x, far_y, far_y))
            cut = [p[..., t : t + height, s : s + width] for p, t, s in zip(padded, tops, lefts, strict=True)]
            made[place] = torch.stack(cut)
    return made
