"""Sparse folders: packed masks and the values that stay, from which the dense model comes back bit for bit.

weights.safetensors   of each weight with zeros its bits (`NAME:mask`) and what stays (`NAME:values`), and all else; deflated (planes.py)
sparsity.json         what was done, figures, and what it takes to build the model
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dictpfl.client.model import hub
from dictpfl.client.model.build import build_model, take_weights
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.weights import Weight, covered
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Model
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.planes import LEVEL, PLANES, pack, unpack
from dictpfl.deploy.runs.census import metadata_of
from dictpfl.deploy.runs.run import write_json
from dictpfl.deploy.tensors import write_tensors

DOCUMENT, WEIGHTS, MASKS = "sparsity.json", "weights.safetensors", "masks.safetensors"
_MASK, _VALUES = ":mask", ":values"
_FORM = 2
_READ = (1, _FORM)
"""Forms that are read; 1 deflated nothing."""


@dataclass(frozen=True)
class Form:
    """Form of a model: what it takes to build it without its weights.

    Attributes:
        model: section `[model]` of the configuration; of a path in it only the last part is kept.
        sample_shape: of one sample.
        outputs: classes, targets or tokens.
    """

    model: Model
    sample_shape: tuple[int, ...]
    outputs: int

    def of(self, module: nn.Module) -> dict[str, Any]:
        """JSON values."""
        library, name = hub.split(self.model.source)
        parameter = next(module.parameters())
        return {
            "source": f"{library}:{Path(name).name}" if library else self.model.source,
            "options": self.model.options,
            "architecture": hub.architecture_of(module, self.model.source),
            "sample_shape": list(self.sample_shape),
            "outputs": self.outputs,
            "dtype": str(parameter.dtype).removeprefix("torch."),
        }


def write_document(folder: Path, masks: Masks, form: Form, module: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write sparsity.json.

    Args:
        folder: to write into.
        masks: of the covered weights.
        form: of the model.
        module: the model itself.
        facts: what else people or programs may ask: method, figures, seed.
    """
    kept = masks.kept_by_name()
    write_json(
        folder / DOCUMENT,
        {
            "form": _FORM, **facts, "entries": masks.total, "kept": masks.kept, "masks_sha256": masks.digest,
            "weights": {n: {"shape": list(m.shape), "kept": kept[n]} for n, m in masks.by_name.items()},
            "model": form.of(module),
        },
    )  # fmt: skip


def write_masks(folder: Path, masks: Masks) -> None:
    """Write masks.safetensors: the packed bits of each weight under its name."""
    write_tensors(folder / MASKS, {name: torch.from_numpy(bits) for name, bits in masks.packed().items()})


def write_learnt(finished: Finished, bench: Workbench, module: nn.Module, folder: Path) -> str:
    """Write sparsity.json and masks.safetensors where the federation learnt thresholds; returns a note for the card, else nothing.

    Args:
        finished: the federation.
        bench: of it.
        module: its merged model.
        folder: to write into.
    """
    masks = bench.masks_at(finished.state)
    if masks is None:
        return ""
    write_document(folder, masks, form_of(finished), module, {"method": finished.genesis.config.sparsity.method})
    write_masks(folder, masks)
    return (
        f"{masks.kept:,} of {masks.total:,} covered entries stay, as all institutions decided together; {DOCUMENT} counts them, {MASKS} "
        f"holds their bits (SHA-256 `{masks.digest}`)."
    )


def form_of(finished: Finished) -> Form:
    """Form of a federation's model."""
    genesis = finished.genesis
    return Form(genesis.config.model, tuple(genesis.sample_shape), genesis.outputs)


def write_weights(
    folder: Path, module: nn.Module, weights: Mapping[str, Weight], masks: Masks, classes: Sequence[str] = ()
) -> None:
    """Write weights.safetensors; a tied tensor once, and the names of the outputs where they are known.

    Raises:
        DataError: a value that is not zero where the mask says that it is.
    """
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in written:
            continue
        written.add(id(tensor))
        if name not in weights:
            tensors[name] = tensor.detach().cpu().contiguous().clone()
            continue
        mask = torch.from_numpy(masks.by_name[name])
        matrix = weights[name].matrix.cpu().contiguous()
        if matrix[~mask].any():
            raise DataError(f"{name} has values where its mask has none; put the masks on the model first")
        tensors[name + _MASK] = torch.from_numpy(masks.packed_of(name))
        tensors[name + _VALUES] = matrix[mask]
    out, listed = pack(tensors)
    write_tensors(folder / WEIGHTS, out, {"format": "pt", PLANES: listed, **metadata_of(classes)})


def load_sparse(folder: Path | str) -> nn.Module:
    """Load the dense model of a folder that `dictpfl prune --format sparse` or `dictpfl export --format sparse` wrote.

    Args:
        folder: of that form.

    Returns:
        A plain model of its library's class, in evaluation mode, with the same bits as the one that was written.

    Raises:
        ConfigError: no such folder, or a library is missing.
        DataError: a damaged folder.
    """
    folder = Path(folder)
    try:
        document = json.loads((folder / DOCUMENT).read_bytes())
        with safe_open(folder / WEIGHTS, "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            tensors = unpack(stored, (file.metadata() or {}).get(PLANES, ""))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} is no sparse folder ({Path(str(error.filename or WEIGHTS)).name} is missing); `dictpfl export --format sparse` "
            "writes one. A folder of --format merged is loaded by its library"
        ) from error
    except (OSError, ValueError, SafetensorError, DataError) as error:
        raise DataError(f"{folder} is damaged: {error}") from error
    try:
        if document["form"] not in _READ:
            raise DataError(f"{folder} is of form {document['form']}, this release reads up to {_FORM}; update dictpfl")
        made = document["model"]
        section = Model(source=made["source"], options=made["options"], architecture=made["architecture"])
        module = build_model(section, tuple(made["sample_shape"]), made["outputs"], seed=0)
        module = module.to(getattr(torch, made["dtype"])).eval()
        shapes = {name: (weight["shape"][0], weight["shape"][1]) for name, weight in document["weights"].items()}
        packed = {name: tensors.pop(name + _MASK).numpy() for name in shapes}
        masks = Masks.unpacked(packed, shapes)
        if masks.digest != document["masks_sha256"]:
            raise DataError(f"{folder}: the masks are not those of {DOCUMENT}; it was altered")
        dense = {name: _dense(name, masks, tensors.pop(name + _VALUES)) for name in shapes}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{folder} is damaged: {error!r} is missing or of another kind") from error
    own = module.state_dict()
    weights = covered(module, cover=list(dense))
    tensors |= {n: weights[n].as_stored(matrix).reshape(own[n].shape) for n, matrix in dense.items()}
    take_weights(module, tensors, folder / WEIGHTS)
    return module


def sizes(folder: Path, module: nn.Module) -> dict[str, int]:
    """Bytes of the model dense, deflated, and packed as `folder` has it (0: it has no packed weights)."""
    dense, zipped, deflate = 0, 0, zlib.compressobj(LEVEL)
    seen: set[int] = set()
    for tensor in module.state_dict(keep_vars=True).values():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        dense, zipped = dense + len(raw), zipped + len(deflate.compress(raw))
    packed = folder / WEIGHTS
    return {
        "dense": dense,
        "zipped": zipped + len(deflate.flush()),
        "packed": packed.stat().st_size if packed.exists() else 0,
    }


def _dense(name: str, masks: Masks, values: Tensor) -> Tensor:
    mask = torch.from_numpy(masks.by_name[name])
    if values.shape != (int(mask.sum()),):
        raise DataError(f"{name}: {tuple(values.shape)} values for {int(mask.sum())} entries; the folder is damaged")
    dense = values.new_zeros(mask.shape)
    dense[mask] = values
    return dense
