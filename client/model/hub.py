"""Models of timm and transformers by name (`model.source`): from a hub, a folder, or what genesis recorded.

Neither library is needed but for its own models: `pip install 'dictpfl[transformers]'` or `'dictpfl[timm]'`.
No code that comes with a model is run, and weights are read from safetensors: a folder that has pickled ones alone is refused. Of a name on a
hub without safetensors timm reads others by torch's `weights_only`, which makes tensors and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import nn

from dictpfl.client.model.rows import reading_rows
from dictpfl.common.errors import ConfigError, out_of_reach
from dictpfl.common.files import expanded
from dictpfl.common.settings import Model

_log = structlog.get_logger(__name__)
_SEQUENCES = "sequence-to-sequence"
_IMAGE = 3  # dimensions of a sample: channels, height, width
HEADS = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "causal-lm": "AutoModelForCausalLM",
    _SEQUENCES: "AutoModelForSeq2SeqLM",
}
"""`model.options.head` of a transformers model, and the class that builds it."""
_PATIENCE = 10.0
"""Seconds that a hub has to answer in."""
_PICKLED = (".bin", ".pt", ".pth", ".pth.tar", ".ckpt")
_RECORD = "dictpfl_architecture"
_FRESH = "dictpfl_fresh"
_FLOAT = "__float__"
"""Key of transformers' own form of an infinity or NaN in JSON."""
_OFFLINE = (
    "Without a network: download it where there is one (`hf download NAME --local-dir FOLDER`) and name the folder; or "
    "give weights by model.weights; or set model.options.pretrained = false for random ones"
)


def split(source: str) -> tuple[str, str]:
    """`timm` or `transformers` and what follows the colon; two empty words for any other source."""
    library, colon, name = source.partition(":")
    return (library, name) if colon and library in _BUILDERS else ("", "")


def build(model: Model, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The model that `model.source` names, float32, with a head for `outputs`.

    With `model.architecture` (which genesis records) neither folder nor hub is asked, and weights are random until
    W0 is loaded.

    Raises:
        ConfigError: library not installed, name unknown or out of reach, or options that the architecture lacks.
    """
    library, name = split(model.source)
    if not name:
        raise ConfigError(f"model.source {model.source!r}: expected a name or folder after the colon")
    return _BUILDERS[library](model, name, sample_shape, outputs)


def architecture_of(module: nn.Module, source: str) -> dict[str, Any]:
    """Architecture from which `build` makes the same model on another machine, JSON values; empty for other sources."""
    library, _ = split(source)
    if library == "transformers":
        values: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=True))  # type: ignore[operator, union-attr]
        # A path of the authority's machine, and a version that says nothing about the architecture.
        return {k: v for k, v in values.items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    if library == "timm":
        return dict(getattr(module, _RECORD))
    return {}


def classes_of(source: str) -> int:
    """Number of classes that the configuration of a model's folder names; 0 where it names none, and of a hub's name."""
    library, name = split(source)
    folder = folder_of(name, "model.source") if name else None
    try:
        values = json.loads((Path(folder) / "config.json").read_bytes()) if folder else {}
    except (OSError, ValueError):
        return 0  # building it says what is wrong
    said = values.get("id2label") if library == "transformers" else values.get("num_classes")
    return said if isinstance(said, int) else len(said or ())


def fresh_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the weights that a checkpoint did not hold, or held for other classes, so that they are random; empty for none."""
    return tuple(getattr(module, _FRESH, ()))


def _say_fresh(module: nn.Module, source: str, fresh: list[str]) -> None:
    if fresh:
        _log.warning("new weights, not in the checkpoint", model=source, weights=fresh)
    object.__setattr__(module, _FRESH, tuple(fresh))


def record(module: nn.Module, **arguments: Any) -> None:
    """Note with which other arguments timm would make a model that was changed; nothing to do for one of another library."""
    made = module.__dict__.get(_RECORD)
    if made is None:
        return
    object.__setattr__(module, _RECORD, {**made, "arguments": {**made["arguments"], **arguments}})
    if "num_classes" in arguments:
        module.num_classes = arguments["num_classes"]


def _transformers(model: Model, name: str, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    transformers = library("transformers")
    options = dict(model.options)
    image = len(sample_shape) == _IMAGE
    head = options.pop("head", "image-classification" if image else "sequence-classification")
    pretrained, revision = options.pop("pretrained", True), options.pop("revision", None)
    if head not in HEADS:
        raise ConfigError(f"model.options.head is {head!r}; expected one of {', '.join(HEADS)}")
    auto = getattr(transformers, HEADS[head])
    with _quiet(transformers), _explained(model.source), asked_once("" if model.architecture else name):
        if model.architecture:
            recorded = _read(model.architecture)
            config = transformers.AutoConfig.for_model(recorded.pop("model_type"), **recorded)
            weights = None
        else:
            origin = folder_of(name, "model.source") or name
            config = transformers.AutoConfig.from_pretrained(origin, revision=revision)
            weights = origin if pretrained and not model.weights and _has_weights(origin) else None
        _adjust(config, options, head, outputs, model.source)
        if weights is None:
            built: nn.Module = auto.from_config(config, dtype=torch.float32)
            return reading_rows(built) if head == _SEQUENCES else built
        built, loading = auto.from_pretrained(
            weights, config=config, revision=revision, dtype=torch.float32, use_safetensors=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    fresh = sorted({*loading["missing_keys"], *(key[0] for key in loading.get("mismatched_keys", ()))})
    if len(fresh) == len(built.state_dict()):
        raise ConfigError(f"{weights} holds no weight of a {type(built).__name__}; check model.options.head")
    _say_fresh(built, model.source, fresh)
    return reading_rows(built) if head == _SEQUENCES else built


def _read(recorded: Any) -> Any:
    """Values as transformers' configurations take them: an infinity, which JSON has no word for, was written as an object."""
    if isinstance(recorded, Mapping):
        if recorded.keys() == {_FLOAT}:
            return float(recorded[_FLOAT])
        return {key: _read(value) for key, value in recorded.items()}
    return [_read(value) for value in recorded] if isinstance(recorded, list) else recorded


def _adjust(config: Any, options: Mapping[str, Any], head: str, outputs: int, source: str) -> None:
    """Put head and options into a transformers configuration."""
    unknown = [key for key in options if not hasattr(config, key)]
    if unknown:
        raise ConfigError(
            f"model.options of {source!r}: {', '.join(unknown)} is no setting of a {type(config).__name__}; beside those, "
            "`head`, `pretrained` and `revision` are known"
        )
    for key, value in options.items():
        setattr(config, key, value)
    if head in ("causal-lm", _SEQUENCES):
        if outputs > config.vocab_size:
            raise ConfigError(
                f"the data hold tokens up to {outputs - 1}, {source!r} knows {config.vocab_size}; use its own tokenizer"
            )
    elif config.num_labels != outputs:
        config.num_labels = outputs
    if getattr(config, "use_cache", False):
        config.use_cache = False  # of generation; training would fill it for nothing
    if getattr(config, "pad_token_id", None) is None:
        # Classifiers of decoder models look for the last token that is no padding.
        end = getattr(config, "eos_token_id", None)
        end = end[0] if isinstance(end, list) else end
        # Of a language model padding is masked; an embedding never learns the row of its padding, and 0 may be a word.
        config.pad_token_id = None if end is None and head == "causal-lm" else end or 0


def _has_weights(origin: str) -> bool:
    folder = Path(origin)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return True
    pickled = sorted(path.name for ending in _PICKLED for path in folder.glob(f"*{ending}"))
    if pickled:
        raise ConfigError(
            f"{folder} holds pickled weights ({', '.join(pickled)}), which can run code when read; write them as "
            "safetensors (`save_pretrained`), or set model.options.pretrained = false"
        )
    return False


def _timm(model: Model, name: str, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    timm = library("timm")
    if len(sample_shape) != _IMAGE:
        raise ConfigError(f"{model.source} needs images (C, H, W); these samples are {sample_shape}")
    options = dict(model.options)
    pretrained = options.pop("pretrained", True) and not model.weights and not model.architecture
    architecture, arguments = name.removeprefix("hf-hub:"), {}
    if model.architecture:
        name, arguments = model.architecture["architecture"], model.architecture["arguments"]
    elif folder := folder_of(name, "model.source"):
        architecture, arguments = _timm_folder(Path(folder))
        name, pretrained = f"local-dir:{folder}", pretrained and _has_weights(folder)
    arguments = arguments | options | {"num_classes": outputs, "in_chans": sample_shape[0]}
    asks = pretrained and not name.startswith("local-dir:")
    with _explained(model.source), asked_once(architecture if asks else ""):
        built: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
        architecture = built.pretrained_cfg.get("architecture") or architecture  # type: ignore[union-attr, operator]
    # timm keeps the name, but not what it was called with.
    object.__setattr__(built, _RECORD, {"architecture": architecture, "arguments": arguments})
    known: Any = built.pretrained_cfg
    if pretrained and known.get("num_classes") != outputs:
        # timm leaves a head of other classes out without a word.
        heads = known.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        _say_fresh(built, model.source, sorted(n for n, _ in built.named_parameters() if n.rpartition(".")[0] in heads))
    return built.float()


def _timm_folder(folder: Path) -> tuple[str, dict[str, Any]]:
    """Architecture and arguments of a folder that timm saved."""
    try:
        values = json.loads((folder / "config.json").read_bytes())
        return str(values["architecture"]), dict(values.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder} is no folder that timm saved: config.json with `architecture` expected") from error


def folder_of(name: Any, key: str) -> str | None:
    """The folder of that name; None for a hub's name.

    Raises:
        ConfigError: no text, or what can only be meant as a folder, and is none; the message names the configuration key.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{key} is {name!r}; expected a text: a folder, or a hub's name")
    path = expanded(name)
    if path.is_dir():
        return str(path)
    # A hub's name has at most one slash, and rarely begins with a folder that is here: no hub is asked for a slip of the pen.
    if (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or ("/" in name and Path(name.partition("/")[0]).is_dir())
    ):
        raise ConfigError(f"{key}: no folder {name!r} seen from {Path.cwd()}")
    return None


@contextmanager
def asked_once(name: str) -> Iterator[None]:
    """Let a library ask a hub only if that answers; else it reads what was downloaded before, or fails at once.

    Libraries ask a hub that is out of reach again and again, for half a minute, with a warning each time.

    Args:
        name: of a model on the hub; empty, or a folder's: nobody is asked.
    """
    if not name or expanded(name).is_dir() or _answers(name):
        yield
        return
    from huggingface_hub import constants

    was, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


def _answers(name: str) -> bool:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return True  # it knows no such model, which the library says better
    except out_of_reach():
        return False
    return True


def library(name: str) -> Any:
    """An optional library.

    Raises:
        ConfigError: not installed; says what to install.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed ({error}); run `pip install 'dictpfl[{name}]'`") from error


@contextmanager
def _explained(source: str) -> Iterator[None]:
    others = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError)
    try:
        yield
    except out_of_reach() + others as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"model.source {source!r} cannot be built: {reason} {_OFFLINE}") from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars, and no advice on the terminal; what matters is logged here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


_BUILDERS: dict[str, Callable[[Model, str, tuple[int, ...], int], nn.Module]] = {
    "timm": _timm,
    "transformers": _transformers,
}
