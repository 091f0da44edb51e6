"""One safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dictpfl.client.folder import FORMER_SETTINGS, SETTINGS
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony.identity import PUBLIC, Role
from dictpfl.deploy.exports.exporter import EXPORTERS, Exporter
from dictpfl.deploy.exports.reduced import reducer_notes
from dictpfl.deploy.operations import begun
from dictpfl.deploy.runs.census import metadata_of
from dictpfl.deploy.runs.run import Run, first_institution, sha256_of

if TYPE_CHECKING:
    from torch import nn

    from dictpfl.deploy.exports.finished import Checkpoint, Finished


@EXPORTERS.register("safetensors")
class SafetensorsExporter(Exporter):
    """W0 + D T under the original names."""

    def write(self, finished: Finished, output: Path) -> str:
        """See `Exporter.write`.

        Raises:
            ConfigError: the file cannot be written.
        """
        from dictpfl.deploy.exports.card import local_notes

        _require_name(output)
        _save(finished.merged(), output, metadata_of(finished.classes))
        said = f"after {finished.state.updates} updates, sha256 {sha256_of(output)}"
        # This form has no card that would say whose they are.
        return "\n".join([said, *(local_notes(finished) if finished.local else [])])

    def export(self, folder: Path, output: Path, checkpoint: Checkpoint = "last") -> str:
        """See `Exporter.export`; the newest model of a run is there already, and copied.

        Raises:
            ConfigError: a file name that belongs to another format.
        """
        _require_name(output)
        if checkpoint == "best" or any((folder / name).exists() for name in (SETTINGS, FORMER_SETTINGS)):
            return super().export(folder, output, checkpoint)
        if (folder / PUBLIC).exists():
            begun.require(folder, Role.INSTITUTION)  # not joined yet, or another party: it says so
        run = Run.load(folder)
        if sha256_of(run.model_path) != run.summary["model_sha256"]:
            raise ConfigError(
                f"{run.model_path} does not match the run's summary; it was altered. Run the simulation again"
            )
        _write(output, run.model_path.read_bytes())
        said = [f"sha256 {run.summary['model_sha256']}"]
        if run.config.tokens.reducer != "none":  # with numbers that were measured at the founding
            said += reducer_notes(Genesis.load(first_institution(folder)).config.tokens)
        return "\n".join(said)


_OTHERS = {".pt": "torch", ".pth": "torch", ".bin": "torch", ".onnx": "ONNX", ".gguf": "GGUF", ".npz": "numpy"}


def _require_name(output: Path) -> None:
    """Refuse a name by which programs would take the file for another format."""
    other = _OTHERS.get(output.suffix.lower())
    if other is not None:
        raise ConfigError(
            f"{output} is named as a file of {other}, and this format writes safetensors; name it {output.with_suffix('.safetensors').name} "
            "(`safetensors.torch.load_file` reads it)"
        )


def _save(model: nn.Module, output: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    _write(output, save(tensors, metadata or None))


def _write(output: Path, data: bytes) -> None:
    try:
        write_private(output, data)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error
