"""What makes training faster or smaller where the device has it: autocast, checkpointing, compilation (`[training]`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from common.errors import ConfigError, ModelError
from common.settings import Training


def rate(training: Training, update: int, rounds: int) -> float:
    """Factor on the learning rates in an update round, above 0 and at most 1.

    It rises over `warmup_rounds`, then follows `schedule` down to its last value in round `rounds` - 1 and stays there.

    Args:
        training: `schedule`, `warmup_rounds`.
        update: update rounds finished before this one. `rounds`: of the whole federation.
    """
    warm = training.warmup_rounds
    if update < warm:
        return (update + 1) / (warm + 1)
    part = min(update - warm, max(0, rounds - warm - 1)) / max(1, rounds - warm)
    if training.schedule == "linear":
        return 1.0 - part
    return 0.5 * (1.0 + math.cos(math.pi * part)) if training.schedule == "cosine" else 1.0


class Precision:
    """Autocast for one round, with a loss scaler for float16; does nothing for `none`.

    Raises:
        ConfigError: a type that this device does not have.
    """

    def __init__(self, training: Training, device: torch.device) -> None:
        self.dtype = _autocast_type(training.autocast, device)
        self._device = device.type
        is_half = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=True) if is_half else None

    def forward(self) -> AbstractContextManager[object]:
        """The context of the forward pass."""
        return torch.autocast(self._device, self.dtype) if self.dtype is not None else nullcontext()

    def output(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs as the loss takes them: float32 under autocast."""
        return outputs.float() if self.dtype is not None else outputs


def _autocast_type(name: str, device: torch.device) -> torch.dtype | None:
    cuda = device.type == "cuda"
    if name == "none" or (name == "auto" and not cuda):
        return None
    has = {"bfloat16": not cuda or torch.cuda.is_bf16_supported(), "float16": cuda}
    chosen = ("bfloat16" if has["bfloat16"] else "float16") if name == "auto" else name
    if not has[chosen]:
        raise ConfigError(f"training.autocast is {chosen!r}, which {device} does not have; use `auto` or `none`")
    return torch.bfloat16 if chosen == "bfloat16" else torch.float16


@contextmanager
def prepared(module: nn.Module, training: Training) -> Iterator[None]:
    """Gradient checkpointing while inside, and compilation from now on, as wanted.

    Raises:
        ConfigError: checkpointing of a model that does not offer it.
        ModelError: the model cannot be compiled here.
    """
    if training.gradient_checkpointing:
        _checkpointing(module, on=True)
    if training.compile and getattr(module, "_compiled_call_impl", None) is None:
        module.compile()
    try:
        yield
    except RuntimeError as error:
        if not training.compile:
            raise
        raise ModelError(f"the compiled model failed: {error}; set training.compile = false") from error
    finally:
        if training.gradient_checkpointing:
            _checkpointing(module, on=False)


def _checkpointing(module: nn.Module, *, on: bool) -> None:
    # transformers, by its newer name and by that of releases before 5.
    word = next((w for w in ("activation", "gradient") if hasattr(module, f"{w}_checkpointing_enable")), "")
    if word and on:
        getattr(module, f"{word}_checkpointing_enable")({"use_reentrant": False})
    elif word:
        getattr(module, f"{word}_checkpointing_disable")()
    elif hasattr(module, "set_grad_checkpointing"):  # timm
        module.set_grad_checkpointing(on)  # type: ignore[operator]
    else:
        raise ConfigError(
            f"training.gradient_checkpointing: {type(module).__name__} does not offer it; models of transformers and most of "
            "timm do"
        )
