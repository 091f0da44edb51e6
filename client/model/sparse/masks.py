"""Masks: which entries of each covered weight stay, as bits, counts and one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from dictpfl.client.model.sparse.weights import Weight
from dictpfl.common.errors import DataError, ModelError
from dictpfl.common.law.sparsity import Bools


@dataclass(frozen=True, eq=False)
class Masks:
    """A mask for each covered weight.

    Attributes:
        by_name: bool (n, m) of each weight's matrix, True where the entry stays; in the order of the model's parameters.
    """

    by_name: Mapping[str, Bools]

    @classmethod
    def of_zeros(cls, weights: Mapping[str, Weight]) -> Self:
        """Masks of a model as it is: an entry stays unless all of its bits are zero (so -0 stays)."""
        return cls({name: _bits(weight) for name, weight in weights.items()})

    @property
    def kept(self) -> int:
        """Number of entries that stay, over all weights."""
        return sum(int(np.count_nonzero(mask)) for mask in self.by_name.values())

    @property
    def total(self) -> int:
        """Number of entries, over all weights."""
        return sum(mask.size for mask in self.by_name.values())

    def kept_by_name(self) -> dict[str, int]:
        """Entries that stay in each weight."""
        return {name: int(np.count_nonzero(mask)) for name, mask in self.by_name.items()}

    def facts(self, blocks: Mapping[str, str]) -> dict[str, Any]:
        """Say what stays, as JSON values: counts, digest, and by block the count and the quartiles of its rows' shares.

        Args:
            blocks: part of the model that each weight belongs to.
        """
        found: dict[str, Any] = {}
        for block in dict.fromkeys(blocks[name] for name in self.by_name):
            masks = [mask for name, mask in self.by_name.items() if blocks[name] == block]
            rows = np.concatenate([mask.mean(axis=1) for mask in masks])
            found[block] = {
                "kept": sum(int(np.count_nonzero(mask)) for mask in masks),
                "entries": sum(mask.size for mask in masks),
                "rows": [float(q) for q in np.quantile(rows, (0.0, 0.25, 0.5, 0.75, 1.0))],
            }
        return {"kept": self.kept, "entries": self.total, "masks_sha256": self.digest, "blocks": found}

    def packed(self) -> dict[str, NDArray[np.uint8]]:
        """Eight entries a byte, row after row, the first in the highest bit; the last byte is filled with zeros."""
        return {name: self.packed_of(name) for name in self.by_name}

    def packed_of(self, name: str) -> NDArray[np.uint8]:
        """Bits of one weight; see `packed`."""
        return np.packbits(self.by_name[name].reshape(-1))

    @classmethod
    def unpacked(cls, packed: Mapping[str, NDArray[np.uint8]], shapes: Mapping[str, tuple[int, int]]) -> Self:
        """Inverse of `packed`.

        Args:
            packed: bytes of each weight.
            shapes: (n, m) of each weight, in the order of the model's parameters.

        Raises:
            DataError: other names, too few bytes or too many, or bits behind the last entry.
        """
        if packed.keys() != shapes.keys():
            raise DataError(
                f"masks of {sorted(packed.keys() ^ shapes.keys())[:5]} are missing or belong to no weight; the folder is damaged"
            )
        masks = {}
        for name, (n, m) in shapes.items():
            bits = np.unpackbits(packed[name])
            if packed[name].dtype != np.uint8 or len(bits) != -(-n * m // 8) * 8 or bits[n * m :].any():
                raise DataError(f"the mask of {name} is no mask of {n} x {m} entries; the folder is damaged")
            masks[name] = bits[: n * m].astype(bool).reshape(n, m)
        return cls(masks)

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and packed bits of all weights, hexadecimal."""
        digest = hashlib.sha256()
        for name, bits in self.packed().items():
            n, m = self.by_name[name].shape
            digest.update(f"{name}\0{n}\0{m}\0".encode())
            digest.update(bits.tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def put_on(self, weights: Mapping[str, Weight]) -> None:
        """Set the entries that go to zero, in place; the others keep their bits.

        Raises:
            ModelError: other weights than these masks are of.
        """
        if self.by_name.keys() != weights.keys() or any(
            self.by_name[name].shape != weight.shape for name, weight in weights.items()
        ):
            raise ModelError("these masks are of another model, or of other covered weights")
        for name, weight in weights.items():
            gone = torch.from_numpy(~self.by_name[name]).to(weight.parameter.device)
            weight.parameter.masked_fill_(weight.as_stored(gone), 0.0)


def _bits(weight: Weight) -> Bools:
    matrix = weight.matrix.cpu().contiguous()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[matrix.element_size()]
    mask: Bools = (matrix.view(integers) != 0).numpy()
    return mask
