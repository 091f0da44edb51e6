"""Gradient inversion: search for the batch that would have caused the observed update.

- DLG: squared distance, images and labels found together (Zhu, Liu, Han 2019).
- iDLG: the same with the label read off the head's gradient first (Zhao, Mopuri, Bilen 2020).
- cosine: cosine distance and total variation, steps by the gradient's sign (Geiping et al. 2020).
All look at known coordinates only, and all get what made the later ones strong: several starts, the range of pixels, and
every tensor counted alike. `search` is for large images; small ones are solved for (`dictpfl.deploy.attacks.solving`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dictpfl.deploy.attacks.gradient_model import Matcher


@dataclass(frozen=True)
class Target:
    """Updates under attack, of several victims of the same kind.

    Attributes:
        observed: summed gradients, (victims, parameters).
        known: coordinates that the attacker has, (victims, parameters).
        tensors: number of each parameter's tensor, ascending, (parameters,).
        steps: number of batches.
        batch: samples of a batch.
        shape: of a sample.
        low: smallest value of a feature.
        high: largest value of a feature.
        outputs: number of classes.
    """

    observed: Tensor
    known: Tensor
    tensors: Tensor
    steps: int
    batch: int
    shape: tuple[int, ...]
    low: float
    high: float
    outputs: int

    def __len__(self) -> int:
        """Number of victims."""
        return len(self.observed)

    def one(self, victim: int) -> Target:
        """Take one victim alone."""
        part = slice(victim, victim + 1)
        return Target(
            self.observed[part], self.known[part], self.tensors, self.steps, self.batch, self.shape, self.low, self.high,
            self.outputs,
        )  # fmt: skip

    def scale(self) -> Tensor:
        """Compute factors that make all tensors count alike, 0 where nothing is known; (victims, parameters).

        Most of a gradient's length is in the head, and most of what it says of the image elsewhere.
        """
        squares = (self.observed * self.known).square()
        sums = torch.zeros(len(self), int(self.tensors[-1]) + 1, dtype=squares.dtype)
        sums.index_add_(1, self.tensors, squares)
        sums = sums.clamp_min(float(sums.max()) * 1e-8 + 1e-30)
        return self.known / sums.sqrt()[:, self.tensors]


@dataclass(frozen=True)
class Effort:
    """Effort of the attacker.

    Attributes:
        restarts: starts of each attack.
        iterations: of solving, from each start.
        search_factor: a search takes so many times as many iterations.
        variation: weight of the total variation in a search.
        rate: of a search, for features that span 4.
    """

    restarts: int = 4
    iterations: int = 25
    search_factor: int = 24
    variation: float = 1e-5
    rate: float = 0.1


@dataclass(frozen=True)
class Reconstruction:
    """Samples as an attack rebuilt them.

    Attributes:
        images: (victims, steps * batch, ...).
        labels: (victims, steps * batch).
        loss: final mismatch of each victim, (victims,).
    """

    images: Tensor
    labels: Tensor
    loss: Tensor


def one_hot(labels: Tensor, outputs: int) -> Tensor:
    """Turn labels into probabilities, float64."""
    return torch.nn.functional.one_hot(labels, outputs).double()


def search(
    matcher: Matcher, target: Target, effort: Effort, labels: Tensor | None, seed: int, *, squared: bool
) -> Reconstruction:
    """Search by Adam from several starts, all victims at once; of the starts, the one that matches best is taken.

    Args:
        matcher: the model as it was.
        target: what was observed.
        effort: starts, iterations, total variation, rate.
        labels: (victims, steps, batch); None: found together with the images, as in DLG.
        seed: of the starts.
        squared: match by squared distance (DLG, iDLG) rather than by cosine distance on the gradient's sign (Geiping).
    """
    starts, victims = effort.restarts, len(target)
    iterations = effort.iterations * effort.search_factor
    drawn = [_dummies(target, 1000 * seed + start) for start in range(starts)]
    x = torch.cat([images for images, _ in drawn]).clamp(target.low, target.high).requires_grad_(True)
    dummy = torch.cat([guess for _, guess in drawn]).requires_grad_(labels is None)
    fixed = None if labels is None else one_hot(labels, target.outputs).repeat(starts, 1, 1, 1)
    scale = target.scale().repeat(starts, 1)
    wanted = target.observed.repeat(starts, 1) * scale
    size = wanted.square().sum(dim=1).clamp_min(1e-30)
    groups = [{"params": [x], "lr": effort.rate * (target.high - target.low) / 4}]
    if labels is None:
        groups.append({"params": [dummy], "lr": effort.rate})
    optimizer = torch.optim.Adam(groups)
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, [iterations * n // 8 for n in (4, 6, 7)], gamma=0.2)
    best = torch.full((starts * victims,), torch.inf, dtype=torch.float64)
    kept, guessed = x.detach().clone(), dummy.detach().clone()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for _ in range(iterations):
            optimizer.zero_grad()
            made = matcher.updates(x, torch.softmax(dummy, dim=-1) if fixed is None else fixed) * scale
            if squared:
                apart = (made - wanted).square().sum(dim=1) / size
            else:
                apart = 1 - torch.cosine_similarity(made, wanted, dim=1)
            (apart + effort.variation * _variation(x)).sum().backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                better = apart < best
                best[better], kept[better], guessed[better] = apart[better], x[better], dummy[better]
                if not squared and x.grad is not None:
                    x.grad.sign_()
            optimizer.step()
            decay.step()
            with torch.no_grad():
                x.clamp_(target.low, target.high)
    index = best.view(starts, victims).argmin(dim=0) * victims + torch.arange(victims)
    told = guessed[index].argmax(dim=-1) if labels is None else labels
    return Reconstruction(kept[index].flatten(1, 2), told.flatten(1), best[index])


def _dummies(target: Target, seed: int) -> tuple[Tensor, Tensor]:
    """Draw noise to start from: images around the middle of the range, and labels as logits."""
    generator = torch.Generator().manual_seed(seed)
    lead = (len(target), target.steps, target.batch)
    middle, spread = (target.low + target.high) / 2, (target.high - target.low) / 4
    x = middle + spread * torch.randn(*lead, *target.shape, generator=generator, dtype=torch.float64)
    return x, torch.randn(*lead, target.outputs, generator=generator, dtype=torch.float64)


def _variation(x: Tensor) -> Tensor:
    """Compute the total variation of each victim's images, (victims,); zero for what is no image."""
    if x.dim() != 6:  # noqa: PLR2004 -- victims, steps, batch, C, H, W
        return x.new_zeros(len(x))
    across = (x[..., 1:] - x[..., :-1]).abs().flatten(1).mean(dim=1)
    down = (x[..., 1:, :] - x[..., :-1, :]).abs().flatten(1).mean(dim=1)
    return across + down
