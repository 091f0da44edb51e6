"""OpenFHE's CKKS through IBM's HElayers (`pyhelayers`), as the paper's authors would call it from Python."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from lib.measured import PARTICIPANTS, Measured, Vectors

LEFT_OUT = (
    "OpenFHE is left out: pyhelayers is not installed here. `pip install pyhelayers` (wheels for Linux and macOS; its licence "
    "allows non-commercial use only)."
)


def is_here() -> bool:
    """Tell whether pyhelayers is installed."""
    return find_spec("pyhelayers") is not None


class OpenFHE:
    """OpenFHE's CKKS at a multiplicative depth, 128-bit security, ciphertext by ciphertext; one ciphertext stands for all.

    Depth 12 is the usual configuration of its tutorials, with 2^15 slots; depth 1 with 2^13 is set up for adding, the smallest that
    HElayers calls feasible at this precision.
    """

    def __init__(self, depth: int = 12, slots: int = 2**15) -> None:
        import pyhelayers

        self.name, self._slots = f"OpenFHE, depth {depth}", slots
        self._layers: Any = pyhelayers
        self._context = pyhelayers.OpenFheCkksContext()
        self._context.init(
            pyhelayers.HeConfigRequirement(
                num_slots=slots, multiplication_depth=depth, fractional_part_precision=40, integer_part_precision=10,
                security_level=128,
            )
        )  # fmt: skip
        self._encoder = pyhelayers.Encoder(self._context)

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        now = Measured()
        for number in range(math.ceil(vectors[0].size / self._slots)):
            self._chunk(now, vectors, slice(number * self._slots, (number + 1) * self._slots))
        return now

    def _chunk(self, now: Measured, vectors: Vectors, part: slice) -> None:
        uploads = []
        for vector in vectors:
            with now.phase("encrypt", 1 / PARTICIPANTS):
                uploads.append(self._encoder.encode_encrypt(vector[part].astype("f8")).save_to_buffer())
        with now.phase("aggregate"):
            total = self._loaded(uploads[0])
            for upload in uploads[1:]:
                total.add(self._loaded(upload))
            aggregate = total.save_to_buffer()
        with now.phase("decrypt"):
            opened = self._encoder.decrypt_decode_double(self._loaded(aggregate))
            mean = opened[: vectors[0][part].size] / PARTICIPANTS
        now.up, now.down = now.up + len(uploads[0]), now.down + len(aggregate)
        now.judge(mean, vectors, part.start)

    def _loaded(self, data: bytes) -> Any:
        tile = self._layers.CTile(self._context)
        tile.load_from_buffer(data)
        return tile
