"""Speed and memory of training, where the device has it: autocast, checkpointing, compilation (`[training]`)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import structlog
import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from dictpfl.client.folder import LOSS_SCALE
from dictpfl.client.training.quantised import Quantised, readers
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.files import write_private
from dictpfl.common.settings import FEW_BITS, Training

_log = structlog.get_logger(__name__)


def rate(training: Training, update: int, rounds: int) -> float:
    """Compute the factor on the learning rates in an update round, above 0 and at most 1.

    It rises over `warmup_rounds`, then follows `schedule` down to its last value in round `rounds` - 1 and stays there.

    Args:
        training: settings `schedule` and `warmup_rounds`.
        update: number of update rounds finished before this one.
        rounds: number of rounds of the whole federation.
    """
    warm = training.warmup_rounds
    if update < warm:
        return (update + 1) / (warm + 1)
    part = min(update - warm, max(0, rounds - warm - 1)) / max(1, rounds - warm)
    if training.schedule == "linear":
        return 1.0 - part
    return 0.5 * (1.0 + math.cos(math.pi * part)) if training.schedule == "cosine" else 1.0


class Precision:
    """Arithmetic of a round on a device: autocast, a loss scale for float16, TF32; does nothing where the settings say nothing.

    Attributes:
        dtype: autocast's type; None: none.
        device: device to work on.
        home: device on which a model waits. The processor where frozen weights are held in fewer bits (`training.frozen`): the GPU then
            holds these alone, and whatever else looks at the model sees W0 as it is.
        scaler: scale of the loss; None: none.

    Raises:
        ConfigError: a type that this device does not have.
    """

    def __init__(self, training: Training, device: torch.device, scale: Path | None = None) -> None:
        """Read the settings.

        Args:
            training: settings `autocast`, `frozen` and `tf32`.
            device: device to work on.
            scale: file in which the loss scale is kept from round to round; None: each begins anew.
        """
        self.dtype = _autocast_type(training.autocast, device)
        self.device = device
        self._is_narrow = training.frozen == "narrow" and self.dtype is not None
        self._bits = FEW_BITS.get(training.frozen)
        self.home = home_of(training, device) if self._is_narrow or self._bits else device
        self._is_tf32 = training.tf32 and device.type == "cuda"
        self._scale = scale
        is_half = self.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=True) if is_half else None
        if self.scaler is not None and scale is not None:
            _take_scale(self.scaler, scale)

    def forward(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype is not None else nullcontext()

    def output(self, outputs: torch.Tensor) -> torch.Tensor:
        """Cast outputs for the loss: to float32 under autocast."""
        return outputs.float() if self.dtype is not None else outputs

    @contextmanager
    def at_work(self, module: nn.Module) -> Iterator[None]:
        """Hold frozen weights in fewer bits, and allow TF32, while inside; afterwards weights are as they were, bit for bit.

        Args:
            module: at `home`.
        """
        with _tf32(on=self._is_tf32), self._quantised(module) if self._bits else self._narrow(module):
            yield

    def keep(self) -> None:
        """Write the loss scale down for the next round: it took steps to find."""
        if self.scaler is not None and self._scale is not None:
            write_private(self._scale, json.dumps(self.scaler.state_dict()).encode())

    @contextmanager
    def _narrow(self, module: nn.Module) -> Iterator[None]:
        if not self._is_narrow or self.dtype is None:
            yield
            return
        layers = dict(narrowable(module))
        with self._away(module, layers) as wide:
            for name, parameter in layers.items():
                parameter.data = _narrowed(parameter, wide[name], self.dtype, self.device)
            yield

    @contextmanager
    def _quantised(self, module: nn.Module) -> Iterator[None]:
        layers = dict(narrowable(module))
        read_by = readers(module, layers.values())
        read = {id(weight) for _, weight in read_by}
        layers = {name: parameter for name, parameter in layers.items() if id(parameter) in read}
        with self._away(module, layers) as wide:
            few = {id(p): _quantised(p, wide[name], self._bits or 0, self.device) for name, p in layers.items()}
            try:
                for layer, weight in read_by:
                    # Not by attribute: torch would want a parameter, whose values could be looked at.
                    layer._parameters["weight"] = few[id(weight)]  # type: ignore[assignment]  # noqa: SLF001
                yield
            finally:
                for layer, weight in read_by:
                    layer._parameters["weight"] = weight  # noqa: SLF001

    @contextmanager
    def _away(self, module: nn.Module, layers: Mapping[str, nn.Parameter]) -> Iterator[Mapping[str, torch.Tensor]]:
        """Work on the device without some weights, whose values wait and are put back."""
        wide = {name: parameter.data for name, parameter in layers.items()}
        try:
            _move(module, layers, self.device)
            yield wide
        finally:
            _move(module, layers, self.home)
            for name, parameter in layers.items():
                parameter.data = wide[name]


def home_of(training: Training, device: torch.device) -> torch.device:
    """Find the device on which a model waits; asks nothing of the device, so that a model can be looked at where it cannot be trained."""
    waits = training.frozen in FEW_BITS or (training.frozen == "narrow" and training.autocast != "none")
    return torch.device("cpu") if waits else device


def narrowable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Find the frozen weights that autocast narrows whenever they are used, so that holding them narrow changes no bit.

    Those of linear layers and convolutions, with a table or without. Biases, norms and embeddings stay: they are small, or are
    used as they are.
    """
    elsewhere = {
        id(parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if not isinstance(part, _NARROWED) or name != "weight"
    }
    for name, parameter in module.named_parameters():
        is_wide = parameter.dtype is torch.float32 and not parameter.requires_grad
        if is_wide and id(parameter) not in elsewhere:
            yield name, parameter


_NARROWED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KEPT: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Copies in fewer bits by parameter: with the place and version of what they were made of."""


def _narrowed(parameter: nn.Parameter, wide: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return _kept(parameter, (wide.data_ptr(), dtype, device), lambda: wide.to(device, dtype))


def _quantised(parameter: nn.Parameter, wide: torch.Tensor, bits: int, device: torch.device) -> torch.Tensor:
    return _kept(parameter, (wide.data_ptr(), bits, device), lambda: Quantised.of(wide.to(device), bits))


def _kept(parameter: nn.Parameter, made_of: tuple[object, ...], make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return the copy of a weight; made once, and again after a refresh of W0 has written into it."""
    # A tensor's version counts writes in place.
    wanted = (*made_of, parameter._version)  # noqa: SLF001 -- torch has no other name for it
    kept = _KEPT.get(parameter)  # type: ignore[no-untyped-call]  # torch says nothing of it
    if kept is None or kept[0] != wanted:
        kept = _KEPT[parameter] = (wanted, make())
    copy: torch.Tensor = kept[1]
    return copy


def _move(module: nn.Module, without: Mapping[str, nn.Parameter], device: torch.device) -> None:
    """Move all but some weights, in whose place nothing is left."""
    for parameter in without.values():
        parameter.data = torch.empty(0)
    module.to(device)


@contextmanager
def _tf32(*, on: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if on:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if on:
            torch.set_float32_matmul_precision(before)


def scale_of_round(folder: Path, number: int) -> Path:
    """Return the file of a round's loss scale, with the scale that an earlier round left: a round that is trained again begins alike.

    Args:
        folder: of the institution.
        number: number of the round.
    """
    kept = {
        int(name): path
        for path in folder.glob("loss_scale-*.json")
        if (name := path.stem.removeprefix("loss_scale-")).isdecimal()
    }
    before = max((one for one in kept if one < number), default=None)
    for one, path in kept.items():
        if one != before:
            path.unlink()
    start, own = folder / LOSS_SCALE if before is None else kept[before], folder / f"loss_scale-{number}.json"
    if start.exists():
        write_private(own, start.read_bytes())
    return own


def _take_scale(scaler: torch.amp.GradScaler, file: Path) -> None:
    try:
        scaler.load_state_dict(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        _log.warning("loss scale begins anew", file=str(file), reason=str(error))


class Losses:
    """Losses of a round's batches, left on the device: a look at one waits for all that was begun there.

    Attributes:
        seen: number of samples.
        total: sum of the loss over them.
    """

    def __init__(self, device: torch.device) -> None:
        """Read losses at once on a processor, and a hundred together elsewhere."""
        self._every = 1 if device.type == "cpu" else _READ_TOGETHER
        self._waiting: list[tuple[torch.Tensor, int]] = []
        self.seen, self.total = 0, 0.0

    def add(self, loss: torch.Tensor, count: int) -> None:
        """Add the mean loss of `count` samples.

        Raises:
            ModelError: a loss that is not finite, here or among those that waited.
        """
        self._waiting.append((loss.detach(), count))
        if len(self._waiting) >= self._every:
            self.read()

    def read(self) -> None:
        """Read what waits.

        Raises:
            ModelError: a loss that is not finite.
        """
        if not self._waiting:
            return
        values: list[float] = torch.stack([loss for loss, _ in self._waiting]).tolist()
        for value, (_, count) in zip(values, self._waiting, strict=True):
            if not math.isfinite(value):
                raise ModelError(
                    f"training diverged: the loss is {value} after {self.seen} samples; "
                    "lower training.learning_rate, or set training.clip_norm"
                )
            self.seen, self.total = self.seen + count, self.total + value * count
        self._waiting.clear()


_READ_TOGETHER = 100


def device_name(training: Training, device: torch.device) -> str:
    """Name a device and the arithmetic of training on it, such as `NVIDIA A100-SXM4-80GB, bfloat16`, or `cpu, float32`."""
    narrow = _autocast_type(training.autocast, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    said = f"{name}, {training.dtype if narrow is None else str(narrow).removeprefix('torch.')}"
    return f"{said}, frozen in {FEW_BITS[training.frozen]} bits" if training.frozen in FEW_BITS else said


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
    """Switch on gradient checkpointing while inside, and compilation from now on, as the settings say.

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
    # transformers 5 calls the method `activation_checkpointing_enable`, earlier releases `gradient_...`.
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
