"""An exporter of one's own: the merged model as one .npz file of numpy arrays.

On the command line, beside the entry point `npz` in the group `dictpfl.exporters`:

    dictpfl export runs/mine --format npz -o model.npz
    dictpfl export runs/mine --format dictpfl_plugin.exporter:NpzExporter -o model.npz   # without an entry point
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from dictpfl.deploy.exports.exporter import Exporter
from dictpfl.deploy.exports.finished import Finished


class NpzExporter(Exporter):
    """Arrays under the model's own names."""

    needs: ClassVar[tuple[str, ...]] = ("numpy",)

    def write(self, finished: Finished, output: Path) -> str:
        """Write the file; returns how many arrays are in it."""
        arrays = {name: tensor.numpy() for name, tensor in finished.merged().state_dict().items()}
        with output.open("wb") as file:
            np.savez(file, **arrays)
        return f"{len(arrays)} arrays after {finished.state.updates} updates"
