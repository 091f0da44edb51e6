"""Gradient matching as nonlinear least squares: Levenberg and Marquardt's method, for images small enough.

The published attacks minimise the same distances by L-BFGS or Adam, and stop early or get stuck on transformers. An image
of 64 pixels against thousands of equations can be solved for instead: what is recoverable is then recovered to the last
digit that was sent, and a method is not called private because a search was lazy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacfwd
from torch.nn.attention import SDPBackend, sdpa_kernel

from dictpfl.deploy.attacks.gradient_model import Matcher
from dictpfl.deploy.attacks.inversion import Effort, Reconstruction, Target, one_hot

MOST_UNKNOWNS = 1024
"""Pixels of all samples together up to which a Jacobian is affordable."""
MATCHED = 1e-7
"""Mismatch below which nothing better is looked for: about what rounding of updates leaves."""
_STALLED = 1e-3
_TRIES = 4
_SMALLEST = 1e-12


def solve(
    matcher: Matcher, target: Target, effort: Effort, labels: Tensor | None, public: Tensor, seed: int, *, squared: bool
) -> Reconstruction:
    """Solve for each victim's samples, from several starts until one matches; the best match is taken.

    Args:
        matcher: the model as it was.
        target: what was observed.
        effort: starts and iterations.
        labels: (victims, steps, batch); None: found together with the images, as in DLG.
        public: samples of the same kind of data to start from, (n, ...).
        seed: of the starts.
        squared: match by squared distance (DLG, iDLG); else by cosine distance, which is squared distance after both sides
            are brought to length 1 (Geiping).
    """
    scale = target.scale()
    images, told, losses = [], [], []
    for victim in range(len(target)):
        generator = torch.Generator().manual_seed(7919 * seed + victim)
        given = None if labels is None else one_hot(labels[victim], target.outputs)
        problem = _problem(
            matcher, target, scale[victim], target.observed[victim] * scale[victim], given, squared=squared
        )
        best, loss = None, torch.inf
        for _ in range(effort.restarts):
            unknowns, left = _descend(
                problem, _start(target, public, given is None, generator), effort.iterations, target
            )
            if best is None or left < loss:
                best, loss = unknowns, left
            if loss < MATCHED:
                break
        assert best is not None  # noqa: S101 -- there is at least one start
        x, y = _split(best, target)
        images.append(x.flatten(0, 1))
        told.append((y.argmax(dim=-1) if labels is None else labels[victim]).flatten())
        losses.append(loss)
    return Reconstruction(torch.stack(images), torch.stack(told), torch.tensor(losses, dtype=torch.float64))


def _start(target: Target, public: Tensor, free_labels: bool, generator: torch.Generator) -> Tensor:  # noqa: FBT001 -- internal
    count = target.steps * target.batch
    x = public[torch.randint(0, len(public), (count,), generator=generator)].double().flatten()
    if not free_labels:
        return x
    return torch.cat([x, 0.1 * torch.randn(count * target.outputs, generator=generator, dtype=torch.float64)])


def _split(z: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Split unknowns into images (steps, batch, ...) and label logits (steps, batch, outputs), the latter empty if given."""
    pixels = target.steps * target.batch * torch.Size(target.shape).numel()
    x = z[:pixels].view(target.steps, target.batch, *target.shape)
    return x, z[pixels:].reshape(target.steps, target.batch, -1)


def _problem(
    matcher: Matcher, target: Target, scale: Tensor, wanted: Tensor, labels: Tensor | None, *, squared: bool
) -> Callable[[Tensor], Tensor]:
    """Make one victim's residuals a function of the unknowns; only of coordinates that the attacker has."""
    rows = torch.nonzero(scale).squeeze(1)
    scale, wanted = scale[rows], wanted[rows]
    length = wanted.norm().clamp_min(_SMALLEST)

    def residuals(z: Tensor) -> Tensor:
        x, y = _split(z, target)
        made = matcher.one(x, torch.softmax(y, dim=-1) if labels is None else labels)[rows] * scale
        apart: Tensor = (
            (made - wanted) / length if squared else made / made.norm().clamp_min(_SMALLEST) - wanted / length
        )
        return apart

    return residuals


def _descend(residuals: Callable[[Tensor], Tensor], z: Tensor, iterations: int, target: Target) -> tuple[Tensor, float]:
    pixels = target.steps * target.batch * torch.Size(target.shape).numel()
    damping = 1e-2
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # fused attention has no second derivative
        left = residuals(z)
        loss = float(left.square().sum())
        for _ in range(iterations):
            slope: Tensor = jacfwd(residuals)(z)
            curve, pull = slope.T @ slope, slope.T @ left
            before = loss
            for _ in range(_TRIES):
                lifted = curve + damping * torch.diag(curve.diagonal() + _SMALLEST)
                step = torch.linalg.lstsq(lifted, pull[:, None]).solution[:, 0]
                tried = z - step
                tried[:pixels].clamp_(target.low, target.high)
                new = residuals(tried)
                now = float(new.square().sum())
                if now < loss:
                    z, left, loss, damping = tried, new, now, max(damping / 5, _SMALLEST)
                    break
                damping *= 4
            if loss < MATCHED * MATCHED or loss > before * (1 - _STALLED):
                break
    return z, loss
