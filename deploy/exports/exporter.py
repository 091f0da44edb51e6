"""`dictpfl export`: a federation's model in the form that its ecosystem loads."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import nn

from client import hub
from common.errors import ConfigError
from common.files import write_private
from deploy.exports import adapter as adapters
from deploy.exports.card import write_card
from deploy.exports.finished import Finished
from deploy.exports.folders import BASE, WEIGHTS, published_base, save_model, save_tokenizer

_LOCAL = "Tensors that stay with each institution (`decomposition.local`, FedBN) are {whose}."
_TOLERANCE = (
    "The adapter multiplies by its two factors one after the other; its outputs equal those of the merged model up to "
    "float32 rounding (about 1e-5 of their size)."
)


def export_safetensors(finished: Finished, output: Path) -> int:
    """Write W0 + D T under the original names into one file; returns the update rounds in it.

    Raises:
        ConfigError: the file cannot be written.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in finished.merged().state_dict().items()}
    try:
        write_private(output, save(tensors))
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error
    return finished.state.updates


def export_merged(finished: Finished, folder: Path) -> None:
    """Write a folder with W0 + D T under the original names, and its card.

    Raises:
        ConfigError: the folder holds something, or a library is missing.
    """
    require_empty(folder)
    source, merged = finished.genesis.config.model.source, finished.merged()
    save_model(merged, source, folder)
    note = save_tokenizer(finished.genesis.config, folder)
    library = hub.split(source)[0] or "pytorch"
    write_card(
        finished, folder, kind="The whole model, merged: no part of dictpfl is needed to load it.",
        loading=loading_lines(merged, source, "FOLDER"), notes=[*filter(None, [note]), *_local(finished)], library=library,
        base="",
    )  # fmt: skip


def export_adapter(finished: Finished, folder: Path) -> str:
    """Write a folder that `peft.PeftModel.from_pretrained` loads; returns what it is to be put on.

    Where W0 is not bit for bit a published checkpoint (random or pretrained here, or with other new parts than the
    adapter brings), it is written into `base/`.

    Raises:
        ConfigError: the folder holds something, or the model has no exact adapter.
    """
    require_empty(folder)
    config, bench = finished.genesis.config, finished.bench()
    merged = finished.merged(bench)
    adapter = adapters.make_adapter(finished, merged)
    start = finished.start()
    names = dict(merged.state_dict())
    needed = {k: v for k, v in start.items() if k in names and not adapter.brings(k)}
    base = published_base(finished, needed)
    if not base:
        merged.load_state_dict(start)
        save_model(merged, config.model.source, folder / BASE)
    adapters.write_adapter(adapter, finished, merged, folder, base or BASE)
    note = save_tokenizer(config, folder)
    dense = f"Beside the pairs it carries {len(adapter.whole)} modules whole and {len(adapter.free)} single tensors."
    single = (
        [
            "Single tensors replace those of the base model when the adapter is loaded; `disable_adapter` does not undo them."
        ]
        if adapter.free
        else []
    )
    loading = [
        *loading_lines(merged, config.model.source, base or f"FOLDER/{BASE}", _settings(finished) if base else ""),
        "from peft import PeftModel",
        "model = PeftModel.from_pretrained(model, 'FOLDER').eval()",
    ]
    hub_name = base if base and not Path(base).expanduser().exists() else ""
    write_card(
        finished, folder, kind=f"A LoRA adapter for PEFT, of rank {adapter.rank}.", loading=loading,
        notes=[dense, *single, _TOLERANCE, *filter(None, [note]), *_local(finished)], library="peft", base=hub_name,
    )  # fmt: skip
    return base or str(folder / BASE)


def loading_lines(model: nn.Module, source: str, where: str, arguments: str = "") -> list[str]:
    """Lines of Python that load a folder or a hub's model without dictpfl."""
    library, _ = hub.split(source)
    if library == "transformers":
        kind = type(model).__name__
        return [f"from transformers import {kind}", f"model = {kind}.from_pretrained('{where}'{arguments}).eval()"]
    if library == "timm":
        return ["import timm", f"model = timm.create_model('local-dir:{where}', pretrained=True).eval()"]
    return [
        "from safetensors.torch import load_file",
        f"model = ...  # as {source} makes it",
        f"model.load_state_dict(load_file('{where}/{WEIGHTS}'))",
    ]


def _settings(finished: Finished) -> str:
    """What a checkpoint's own configuration does not say."""
    config = finished.genesis.config.model
    options = {k: v for k, v in config.options.items() if k not in ("head", "pretrained")}
    if config.options.get("head") != "causal-lm":
        options["num_labels"] = finished.genesis.outputs
    if config.architecture.get("pad_token_id") is not None:
        # `client.hub` fills it in where a checkpoint has none, and classifiers of decoder models look for it.
        options["pad_token_id"] = config.architecture["pad_token_id"]
    return "".join(f", {key}={value!r}" for key, value in options.items())


def _local(finished: Finished) -> list[str]:
    roles = {str(role) for role in finished.bench().twin.roles.values()}
    if not roles & {"local", "local-statistic"}:
        return []
    return [
        _LOCAL.format(whose="those of the institution that made this export" if finished.local else "as at genesis")
    ]


def require_empty(folder: Path) -> None:
    """Make the folder.

    Raises:
        ConfigError: it is there and holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and holds something; name a new folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
