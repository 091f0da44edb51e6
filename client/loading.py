"""Batches for local training: their order, changes made to images on the way, and worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import ConfigError
from common.settings import Training

_IMAGES = 4  # dimensions of a batch of images
_SHIFT = 8  # a picture moves by up to this part of its side
Batch = tuple[Tensor, Tensor]


def batches(
    features: Tensor,
    labels: Tensor,
    training: Training,
    seed: int,
    device: torch.device,
    order: Sequence[Tensor] | None = None,
) -> Iterator[Batch]:
    """Features and labels of every batch of a round, on the device; the same for the same seed, however many workers.

    Args:
        features, labels: of all samples, of the dtype to train in; anywhere.
        training: epochs or steps, batch size, `augment`, `workers`.
        seed: of the order and of what is changed.
        device: to train on.
        order: indices of each batch; None: `indices`.

    Raises:
        ConfigError: `augment` for samples that are no images.
    """
    order = list(indices(len(features), training, seed)) if order is None else order
    change = _change(features, training)
    if not training.workers and change is None:
        features, labels = features.to(device), labels.to(device)
        for index in order:
            here = index.to(device)
            yield features[here], labels[here]
        return
    made = _Batches(features.cpu(), labels.cpu(), order, change, seed)
    loader: DataLoader[Batch] = DataLoader(
        made, batch_size=None, num_workers=training.workers, pin_memory=device.type == "cuda"
    )
    for x, y in loader:
        yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def indices(count: int, training: Training, seed: int) -> Iterator[Tensor]:
    """Indices of each batch: epochs in shuffled order, or as many steps as wanted.

    A last batch of one sample joins the batch before it.
    """
    generator = torch.Generator().manual_seed(seed)
    done, epoch = 0, 0
    while training.steps or epoch < training.epochs:
        parts = list(torch.split(torch.randperm(count, generator=generator), training.batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1 < training.batch_size:
            # BatchNorm cannot take a batch of one, and its gradient is noise.
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield part
            done += 1
            if done == training.steps:
                return
        epoch += 1


class _Batches(Dataset[Batch]):
    """Whole batches by number, so that a worker's share does not depend on how many workers there are."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        order: Sequence[Tensor],
        change: Callable[[Tensor, torch.Generator], Tensor] | None,
        seed: int,
    ) -> None:
        self._features, self._labels, self._order, self._change, self._seed = features, labels, order, change, seed

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, number: int) -> Batch:
        index = self._order[number]
        x = self._features[index]
        if self._change is not None:
            # A seed of its own for each batch; 2^63 is the most that torch takes.
            x = self._change(x, torch.Generator().manual_seed((self._seed * 1_000_003 + number + 1) % (1 << 63)))
        return x, self._labels[index]


def _change(features: Tensor, training: Training) -> Callable[[Tensor, torch.Generator], Tensor] | None:
    if not training.augment:
        return None
    if features.dim() != _IMAGES or not features.is_floating_point():
        raise ConfigError(
            f"training.augment changes images (C, H, W); these samples are {tuple(features.shape[1:])}: leave it empty"
        )
    return partial(_augmented, names=tuple(training.augment))


def _augmented(x: Tensor, generator: torch.Generator, names: Sequence[str]) -> Tensor:
    if "flip" in names:
        mirrored = torch.rand(len(x), generator=generator) < 0.5  # noqa: PLR2004 -- a coin
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
    if "shift" in names:
        height, width = x.shape[-2:]
        far_y, far_x = max(1, height // _SHIFT), max(1, width // _SHIFT)
        padded = F.pad(x, (far_x, far_x, far_y, far_y))
        tops = torch.randint(0, 2 * far_y + 1, (len(x),), generator=generator).tolist()
        lefts = torch.randint(0, 2 * far_x + 1, (len(x),), generator=generator).tolist()
        cut = [p[:, t : t + height, s : s + width] for p, t, s in zip(padded, tops, lefts, strict=True)]
        x = torch.stack(cut)
    return x
