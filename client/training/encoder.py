"""Features of a frozen encoder, computed once: where only the head is trained, a round has no need of what lies before it.

Found by what a module says of itself (`requires_grad`), so that a head of one's own, a preset and a pattern of `decomposition.frozen`
are served alike. Everything is checked by trying it, and whatever does not fit is computed anew, as if this module were not there.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dictpfl.client.training.calling import forward
from dictpfl.client.training.unread import Unread, in_order

MOST_BYTES = 256 << 20
"""Features that are kept of one module; larger ones are computed anew each time. Twice a float32 feature of 384 values of 80,000 samples."""
_TRIED = 16  # samples with which a module is tried
_ALIKE = 1e-3  # of the largest feature: another order of the same sums moves less, dropout far more


def head_after(module: nn.Module) -> nn.Module | None:
    """Find the part of a module that holds all that is trained, if it is a part and not the whole.

    Returns:
        The smallest such part; None if nothing is trained, the smallest is the module itself or a list of modules that nobody calls, or
        the rest has running statistics that move.
    """
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    if not trained:
        return None
    head = module
    while len(inside := [m for m in head.children() if trained <= {id(p) for p in m.parameters()}]) == 1:
        head = inside[0]
    learnt = {id(p) for p in head.parameters()}
    if head is module or isinstance(head, nn.ModuleList | nn.ModuleDict):
        return None
    if all(id(p) in learnt for p in module.parameters()):
        return None
    own = set(head.modules())
    rest = (m for m in module.modules() if m not in own and isinstance(m, _NormBase) and m.track_running_stats)
    return None if any(m.training for m in rest) else head


def features_of(module: nn.Module, samples: Tensor | Unread, batch_size: int) -> tuple[nn.Module, Tensor] | None:
    """Return the head and its inputs for all samples, from memory where they are known.

    In the module's mode: with dropout before the head there is nothing to keep while it trains. Inside `torch.autocast` features are
    those of its dtype.

    Args:
        module: on its device, in its mode.
        samples: inputs (n, ...) as `forward` takes them, on any device; or samples to read.
        batch_size: samples at a time.

    Returns:
        Inputs (n, ...) on the module's device; None: this module's features cannot be kept, or are larger than `MOST_BYTES`.
    """
    head = head_after(module)
    if head is None or not len(samples):
        return None
    if isinstance(samples, Unread) and (samples.digest is None or len(samples.labels) != len(samples)):
        return None
    kept = _KEPT.setdefault(module, _Kept())
    key = _name(module, head, samples, batch_size)
    known = kept.take(key)
    if known is None and key not in kept.refused:
        known = _computed(module, head, samples, batch_size)
        kept.put(key, known)
    return None if known is None else (head, known)


@dataclass
class _Kept:
    """Features by name, the last used last; and names of those that cannot be kept."""

    features: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict)
    refused: set[bytes] = field(default_factory=set)

    def take(self, key: bytes) -> Tensor | None:
        if key in self.features:
            self.features.move_to_end(key)
        return self.features.get(key)

    def put(self, key: bytes, features: Tensor | None) -> None:
        if features is None:
            if len(self.refused) > 1000:  # noqa: PLR2004 -- a bound on names, not on features
                self.refused.clear()
            self.refused.add(key)
            return
        self.features[key] = features
        while sum(kept.nbytes for kept in self.features.values()) > MOST_BYTES:
            self.features.popitem(last=False)


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def _name(module: nn.Module, head: nn.Module, samples: Tensor | Unread, batch_size: int) -> bytes:
    """Digest of all that features depend on: samples, mode, precision, and whether a tensor of the encoder was written since."""
    name = hashlib.sha256(
        samples.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        if isinstance(samples, Tensor)
        else samples.digest or b""
    )
    own = set(map(id, head.parameters()))
    # A tensor's version counts writes in place, so that a refresh of W0, or other weights, are seen without reading them.
    frozen = [
        (id(p), p._version, p.data_ptr(), p.dtype, str(p.device))  # noqa: SLF001 -- torch has no other name for it
        for p in module.parameters()
        if id(p) not in own
    ]
    kind = samples.device.type if (device := _device(module)) is None else device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    name.update(repr((tuple(samples.shape), samples.dtype, batch_size, module.training, cast, frozen)).encode())
    for buffer in module.buffers():
        name.update(buffer.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return name.digest()


@torch.no_grad()
def _computed(module: nn.Module, head: nn.Module, samples: Tensor | Unread, batch_size: int) -> Tensor | None:
    device = _device(module) or samples.device
    if module.training:
        few = samples[:_TRIED] if isinstance(samples, Tensor) else next(in_order(samples, _TRIED, device))[0]
        # Two samples first: sixteen and eight again through a language model cost as much as several steps.
        if _inputs(module, head, few[:2].to(device)) is None or not _is_steady(module, head, few.to(device)):
            return None
    parts: list[Tensor] = []
    size = 0
    split = (
        torch.split(samples, batch_size)
        if isinstance(samples, Tensor)
        else (x for x, _ in in_order(samples, batch_size, device))
    )
    for part in split:
        inputs = _inputs(module, head, part.to(device))
        if inputs is None or len(inputs) != len(part) or (parts and inputs.shape[1:] != parts[0].shape[1:]):
            return None
        size += inputs.nbytes
        if size > MOST_BYTES or size / (len(parts) * batch_size + len(part)) * len(samples) > MOST_BYTES:
            return None
        parts.append(inputs.clone())
    return torch.cat(parts)


def _is_steady(module: nn.Module, head: nn.Module, few: Tensor) -> bool:
    """Tell whether a sample's features are the same with other random numbers and other samples beside it."""
    with torch.random.fork_rng(devices=[few.device] if few.device.type == "cuda" else []):
        found = []
        for seed, inputs in ((1, few), (2, few.flip(0)[: max(1, len(few) // 2)])):
            torch.manual_seed(seed)
            found.append(_inputs(module, head, inputs))
    first, second = found
    if first is None or second is None:
        return False
    again = first.flip(0)[: len(second)]
    if again.shape != second.shape:
        return False
    return bool(((again - second).abs() <= _ALIKE * first.abs().max()).all())


def _inputs(module: nn.Module, head: nn.Module, samples: Tensor) -> Tensor | None:
    """What the head is given for these samples; None: it is not called once with one tensor, or its output is not the module's."""
    given: list[Tensor | None] = []
    made: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[object, ...], named: dict[str, object], output: object) -> None:
        first = arguments[0] if len(arguments) == 1 and not named else None
        given.append(first if isinstance(first, Tensor) else None)
        made.append(output if isinstance(output, Tensor) else torch.empty(0))

    hook = head.register_forward_hook(note, with_kwargs=True)
    try:
        outputs = forward(module, samples)
    finally:
        hook.remove()
    return given[0] if len(given) == 1 and outputs is made[0] else None


def _device(module: nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)
