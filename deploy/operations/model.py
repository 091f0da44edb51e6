"""The model that an institution has reached, out of its own folder."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from client.epochs import home
from client.site import GENESIS_WEIGHTS
from client.workbench import Workbench
from common.errors import ConfigError
from common.files import write_private
from deploy.exports.finished import Checkpoint, Finished, recalled
from deploy.run import sha256_of


def write_model(folder: Path, output: Path, checkpoint: Checkpoint = "last") -> str:
    """Write the merged model of an institution's shared state, safetensors with the original names; no key is needed.

    Returns after how many rounds, and the file's SHA-256, in words.

    Raises:
        DictPFLError: no round was applied yet, or the folder or the output cannot be used.
    """
    genesis, record = recalled(folder)
    if record is None:
        raise ConfigError(f"{folder} has applied no round yet; there is no model but W0 in {home(folder)}")
    state = record.shared if checkpoint == "last" else Finished.load(folder, checkpoint).state
    model = Workbench(genesis, home(folder) / GENESIS_WEIGHTS).merged(state)
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    try:
        write_private(output, save(tensors))
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error
    return f"after {state.updates} updates, sha256 {sha256_of(output)}"
