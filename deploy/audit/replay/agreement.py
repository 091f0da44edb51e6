"""Agreement of a federation as its genesis files say it, read as plain JSON (section 3)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.audit.cipher.sealed import Parameters
from dictpfl.deploy.audit.replay.tallies import Tally

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tensor:
    """Tensor of the shared vector: name, shape, kind (table, dense, statistic) and its place."""

    name: str
    shape: tuple[int, ...]
    kind: str
    place: slice


@dataclass(frozen=True)
class Agreement:
    """Agreement of a federation.

    Attributes:
        federation: federation id, 32 bytes.
        fingerprint: fingerprint of the key, 32 bytes.
        seed: seed of the epoch, 32 bytes.
        sample_cap: number of samples of weight 1.
        parameters: parameters of encryption.
        tensors: tensors of the shared vector in their order.
        values: shared vector before round 0, float64.
        config: configuration, as JSON values.
        tallies: agreed tallies, opening ones first.
        measures: size and bits of each agreed measure, in their order.
    """

    federation: bytes
    fingerprint: bytes
    seed: bytes = field(repr=False)
    sample_cap: int
    parameters: Parameters
    tensors: Sequence[Tensor]
    values: Floats
    config: Mapping[str, Any]
    tallies: Sequence[Tally] = ()
    measures: Sequence[tuple[int, int]] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `genesis.json` and `genesis.safetensors`.

        Raises:
            ConfigError: missing, or not as specified.
        """
        try:
            document = json.loads((folder / "genesis.json").read_bytes())
            values = load((folder / "genesis.safetensors").read_bytes())["values"].astype(np.float64)
            return cls(
                bytes.fromhex(document["federation"]),
                bytes.fromhex(document["fingerprint"]),
                bytes.fromhex(document["seed"]),
                int(document["sample_cap"]),
                _parameters(document),
                _tensors(document["layout"]),
                values,
                document["config"],
                tuple(map(Tally.read, document.get("tallies", []))),
                tuple((int(said["size"]), int(said["bits"])) for said in document.get("measures", [])),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigError(
                f"{folder} holds no genesis of protocol 4 ({type(error).__name__}: {error}); `dictpfl simulate --record` makes a "
                "run that can be audited"
            ) from error

    @property
    def context(self) -> bytes:
        """Federation id and fingerprint, 64 bytes."""
        return self.federation + self.fingerprint

    @property
    def size(self) -> int:
        """Number of shared values."""
        return self.tensors[-1].place.stop if self.tensors else 0

    @cached_property
    def tensor_of(self) -> Ints:
        """Number of each shared value's tensor, int64, shape (size,)."""
        counts = [t.place.stop - t.place.start for t in self.tensors]
        return np.repeat(np.arange(len(self.tensors), dtype=np.int64), counts)

    @cached_property
    def tables(self) -> list[Tensor]:
        """Lookup tables, in order."""
        return [tensor for tensor in self.tensors if tensor.kind == "table"]

    def of_kinds(self, kinds: Sequence[str]) -> Bools:
        """Mask of the values of tensors of these kinds."""
        mask = np.zeros(self.size, dtype=bool)
        for tensor in self.tensors:
            mask[tensor.place] = tensor.kind in kinds
        return mask

    @property
    def masked(self) -> bool:
        """Tell whether uploads carry masks."""
        return bool(self.config["defences"]["masks"])


def _parameters(document: Mapping[str, Any]) -> Parameters:
    said = document["parameters"]
    (prime_bits,) = said["primes"]
    return Parameters(
        int(said["ring_degree"]),
        int(prime_bits),
        int(said["scale_bits"]),
        int(said["payload_bits"]),
        int(said["word_bits"]),
        int(said["capacity"]),
        document["config"]["encryption"]["sealer"] == "ckks",
    )


def _tensors(layout: Sequence[tuple[str, Sequence[int], str]]) -> list[Tensor]:
    tensors, start = [], 0
    for name, shape, kind in layout:
        size = math.prod(shape)
        tensors.append(Tensor(name, tuple(shape), kind, slice(start, start + size)))
        start += size
    return tensors
