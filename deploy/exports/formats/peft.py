"""A LoRA adapter that `peft.PeftModel.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dictpfl.common.files import expanded
from dictpfl.deploy.exports.exporter import EXPORTERS, Exporter

if TYPE_CHECKING:
    from dictpfl.deploy.exports.finished import Finished

_TOLERANCE = (
    "The adapter multiplies by its two factors one after the other; its outputs equal those of the merged model up to "
    "float32 rounding (about 1e-5 of their size)."
)


@EXPORTERS.register("peft")
class AdapterExporter(Exporter):
    """A pair of factors for each table, and the dense parameters; `peft` itself is not needed to write it."""

    makes_folder: ClassVar[bool] = True

    def write(self, finished: Finished, output: Path) -> str:
        """See `Exporter.write`, `export_adapter`."""
        return f"adapter for {_write(finished, output)}"


def export_adapter(finished: Finished, folder: Path) -> str:
    """Write a folder that `peft.PeftModel.from_pretrained` loads; returns what it is to be put on.

    Where W0 is not bit for bit a published checkpoint (random or pretrained here, or with other new parts than the
    adapter brings), it is written into `base/`.

    Raises:
        ConfigError: the folder holds something, or the model has no exact adapter.
    """
    with AdapterExporter().prepared(folder):
        return _write(finished, folder)


def _write(finished: Finished, folder: Path) -> str:
    from dictpfl.client.data.images import normalisation_of
    from dictpfl.deploy.exports.adapter import make_adapter, write_adapter
    from dictpfl.deploy.exports.card import local_notes, write_card
    from dictpfl.deploy.exports.folders import BASE, loading_lines, published_base, save_model, save_tokenizer

    config, bench = finished.genesis.config, finished.bench()
    merged = finished.merged(bench)
    adapter = make_adapter(finished, merged)
    start = finished.start()
    names = dict(merged.state_dict())
    needed = {k: v for k, v in start.items() if k in names and not adapter.brings(k)}
    base = published_base(finished, needed)
    if not base:
        merged.load_state_dict(start)
        pixels = normalisation_of(config.data)
        save_model(merged, config.model.source, folder / BASE, classes=finished.classes, pixels=pixels)
    write_adapter(adapter, finished, merged, folder, base or BASE)
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
    hub_name = base if base and not expanded(base).exists() else ""
    write_card(
        finished, folder, kind=f"A LoRA adapter for PEFT, of rank {adapter.rank}.", loading=loading,
        notes=[dense, *single, _TOLERANCE, *filter(None, [note]), *local_notes(finished)], library="peft", base=hub_name,
    )  # fmt: skip
    return base or str(folder / BASE)


def _settings(finished: Finished) -> str:
    """Arguments that a checkpoint's own configuration does not give."""
    config = finished.genesis.config.model
    options = {k: v for k, v in config.options.items() if k not in ("head", "pretrained")}
    if config.options.get("head") not in ("causal-lm", "sequence-to-sequence"):
        options["num_labels"] = finished.genesis.outputs
    if config.architecture.get("pad_token_id") is not None:
        # `dictpfl.client.model.hub` fills it in where a checkpoint has none, and classifiers of decoder models look for it.
        options["pad_token_id"] = config.architecture["pad_token_id"]
    return "".join(f", {key}={value!r}" for key, value in options.items())
