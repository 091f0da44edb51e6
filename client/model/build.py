"""Small models for data that fits an institution's own machine, and users' models by name (`model.source`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from dictpfl.client.model import hub
from dictpfl.common.errors import ConfigError, ModelError
from dictpfl.common.files import tensors_digest
from dictpfl.common.registry import Registry, require_bindable
from dictpfl.common.settings import Model

MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    key="model.source",
    group="dictpfl.models",
    folder="dictpfl.client.model.networks",
    patterns=("timm:NAME", "transformers:NAME"),
)
"""Functions of (sample_shape, outputs, **model.options) that return a module."""


def build_model(model: Model, sample_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The model that the configuration names, with W0 drawn by `seed` or read from `model.weights`.

    Args:
        model: the section `[model]`.
        sample_shape: of one sample, (C, H, W) or (F,).
        outputs: classes, or regression outputs.
        seed: of the random initialisation; the caller's random state is left as it was.

    Raises:
        ConfigError: unknown source or option, or a shape that the model cannot take.
        ModelError: a user's function that returns no module, or weights that do not fit or are not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hub.split(model.source)[0]:
            built = hub.build(model, sample_shape, outputs)
        else:
            built = _build_known(model, sample_shape, outputs)
        _initialise(built, sample_shape, model.source)
    widen(built)
    if model.weights:
        load_weights(built, model.weights)
    _require_finite(built.state_dict(), model.source)
    return built


def _build_known(model: Model, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    builder = MODELS.load(model.source)
    arguments = {"sample_shape": sample_shape, "outputs": outputs, **model.options}
    facts = {"sample_shape", "outputs"} - model.options.keys()
    require_bindable(builder, arguments, f"model.options of {model.source!r}", facts=facts)
    try:
        built = builder(**arguments)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"model.options {model.options} of {model.source!r}: {error}") from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"model.source {model.source!r} returned {type(built).__name__}; expected a torch.nn.Module")
    return built


def _initialise(module: nn.Module, sample_shape: tuple[int, ...], source: str) -> None:
    """Give lazy layers their shapes, by a sample of zeros.

    Raises:
        ModelError: the model does not take one, so that its parameters have no shape.
    """
    if not any(isinstance(part, LazyModuleMixin) for part in module.modules()):
        return
    was, reason = module.training, ""
    module.eval()
    for kind in (torch.float32, torch.int64):
        try:
            with torch.no_grad():
                module(torch.zeros((1, *sample_shape), dtype=kind))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = reason or str(error)
        else:
            module.train(was)
            return
    raise ModelError(
        f"model.source {source!r} has lazy layers, whose shapes a sample of shape {sample_shape} does not give: {reason}; give the layers their sizes"
    )


def widen(module: nn.Module) -> None:
    """Turn floats of 16 bits into float32, which holds each of them: a federation trains and adds in that or wider (`training.dtype`)."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor.data = tensor.data.float()


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Read W0 from a safetensors file whose names and shapes are the module's own.

    A tied weight may stand under either of its names; counts of batches may be missing.

    Raises:
        ModelError: unreadable, names missing or unexpected, other shapes, or values that are not finite.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights from {path}: {error}; expected a safetensors file") from error
    take_weights(module, tensors, path)


def take_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Put tensors into a module as `load_weights` does, with its errors; `path` is for messages."""
    own = module.state_dict(keep_vars=True)
    held = {id(own[name]) for name in tensors.keys() & own.keys()}
    missing = sorted(n for n in own.keys() - tensors.keys() if id(own[n]) not in held and not n.endswith("_tracked"))
    unexpected = sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(
            f"weights in {path} do not fit the model: missing {missing}, unexpected {unexpected}; "
            "rename or drop tensors in the file, or change model.options"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"weights in {path}: {name!r} has shape {tuple(tensor.shape)}, the model {tuple(own[name].shape)}; "
                "change model.options, or give the file a head for these classes"
            )
    _require_finite(tensors, str(path))
    module.load_state_dict(tensors, strict=False)


def weights_digest(weights: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of a module's tensors by their names, shapes, types and values, 32 bytes, as genesis has it of W0."""
    return tensors_digest({name: tensor.detach().numpy() for name, tensor in weights.items()})


def _require_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise ModelError(f"weights of {origin} are not finite in {', '.join(bad)}; use another file or initialisation")
