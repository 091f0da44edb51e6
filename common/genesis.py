"""Genesis: what everyone agreed on before round 1; its SHA-256 is the federation id (DESIGN.md, words)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.config import FederationConfig
from common.dictionary import Dictionary, draw
from common.errors import ConfigError, DictPFLError
from common.files import write_private
from common.layout import Layout
from common.ledger import ledger_size
from common.noise import Noise
from common.packing import Digits
from common.parameters import CKKSParameters
from common.protocol import PROTOCOL
from common.refresh import Refreshing, refreshes, tables
from common.round import Law
from common.sealing import IDENTITY_COMPONENTS
from common.seeded import SEED_LENGTH
from common.seeds import SEED_BYTES
from common.state import Refresh, SharedState
from common.tagging import TAGS
from common.wire import Limits

DOCUMENT, TENSORS = "genesis.json", "genesis.safetensors"
_FORMAT = "dictpfl-genesis-1"


@dataclass(frozen=True)
class Genesis:
    """The agreement. The seed is secret from the coordinator; institutions hold this file with mode 0600.

    Attributes:
        config: the checked configuration.
        layout: of the shared vector. `values`: the shared vector before round 0.
        dictionaries: D of each decomposed weight.
        weights_digest: SHA-256 over W0, 32 bytes.
        seed: 256 bits, for masks and drawn dictionaries.
        sample_cap: samples that carry weight 1.
        parameters: CKKS parameters. `fingerprint`: of the key.
        upload_length, sum_length: bytes of a sealed item and of a summed one, of one upload.
        outputs, sample_shape: what the model is built for.
    """

    config: FederationConfig
    layout: Layout
    values: NDArray[np.float64]
    dictionaries: Mapping[str, Dictionary]
    weights_digest: bytes
    seed: bytes
    sample_cap: int
    parameters: CKKSParameters
    fingerprint: bytes
    upload_length: int
    sum_length: int
    outputs: int
    sample_shape: tuple[int, ...]

    @cached_property
    def federation(self) -> bytes:
        """Federation id, 32 bytes.

        It covers all that training depends on. The key and how uploads are carried are bound by the
        fingerprint instead, which every blob carries too: a key may be rotated within a federation,
        and a run without encryption, or with masks, is the same federation, bit for bit (docs/decisions/0003).
        """
        config = self.config.model_dump(mode="json", exclude={"name", "method", "toy_insecure", "data", "defences"})
        for carried in ("sealer", "profile", "security", "ring_degree", "pad_uploads"):
            del config["encryption"][carried]
        for local in ("threads", "device", "workers"):
            del config["training"][local]
        for kept in ("snapshot_every", "snapshots_kept"):
            del config["federation"][kept]
        if config["privacy"]["mechanism"] == "none":
            del config["privacy"]
        agreed = {
            "protocol": PROTOCOL,
            "config": config,
            "layout": self.layout.digest.hex(),
            "values": hashlib.sha256(self.values.astype("<f8").tobytes()).hexdigest(),
            "dictionaries": _dictionaries_digest(self.dictionaries).hex(),
            "weights": self.weights_digest.hex(),
            "seed": self.seed.hex(),
            "sample_cap": self.sample_cap,
            "payload_bits": self.parameters.payload_bits,
            "capacity": self.parameters.capacity,
            "outputs": self.outputs,
            "sample_shape": list(self.sample_shape),
        }
        return hashlib.sha256(json.dumps(agreed, sort_keys=True, separators=(",", ":")).encode()).digest()

    @cached_property
    def law(self) -> Law:
        """What the round's algebra needs of this."""
        config = self.config
        return Law(
            layout=self.layout,
            pruning=config.pruning,
            grid=config.grid,
            seed=self.seed,
            federation=self.federation,
            capacity=self.parameters.capacity,
            payload_bits=self.parameters.payload_bits,
            sample_cap=self.sample_cap,
            sealed_share=config.encryption.sealed_share,
            sensitivity=config.encryption.sensitivity,
            refresh=Refreshing.of(config.decomposition),
            selection=config.selection,
            noise=Noise.of(config.privacy, config.federation.min_participants),
        )

    def start(self) -> SharedState:
        """Shared state before round 0."""
        return self.law.start(self.values)

    @property
    def uploads(self) -> Limits:
        """What an upload may be."""
        return self._limits(self.upload_length)

    @property
    def aggregates(self) -> Limits:
        """What an aggregate may be."""
        seeded = self.config.encryption.sealer == "ckks" and self.parameters.seeded_sums
        return replace(self._limits(self.sum_length), seed_length=SEED_LENGTH if seeded else 0)

    def _limits(self, item_length: int) -> Limits:
        """Most that a blob may hold: every shared value in the widest digits, behind the ledger."""
        single = Digits.single(self.parameters.capacity, self.parameters.payload_bits)
        most = ledger_size(len(self.layout.entries)) + single.components(self.layout.size) + self.tags
        max_clear = 4 * self.layout.size if self.config.encryption.sealed_share < 1.0 else 0
        return Limits(
            self.federation, self.fingerprint, item_length, self.items(most), max_clear, self.parameters.capacity
        )

    @property
    def tags(self) -> int:
        """Components of an upload that are tags (`common.tagging`)."""
        return TAGS if self.config.defences.integrity else 0

    def items(self, components: int) -> int:
        """Items (ciphertexts, in an encrypted federation) that hold so many components."""
        encrypted = self.config.encryption.sealer == "ckks"
        return -(-components // (self.parameters.components if encrypted else IDENTITY_COMPONENTS))

    def drawn_dictionaries(self, records: Sequence[Refresh]) -> dict[str, Dictionary]:
        """The dictionaries that came in with the last of these refreshes, from the shared stream; at first, genesis's."""
        if not records:
            return dict(self.dictionaries)
        law, drawn = self.law.refresh, {}
        counts = refreshes(self.layout, records).tolist()
        for entry, count, chosen in zip(tables(self.layout), counts, records[-1].chosen.tolist(), strict=True):
            if chosen:
                d, rank = self.dictionaries[entry.name], law.rank(entry.shape[0], count)
                rows, columns = d.matrix.shape[0], entry.shape[1]
                shape = (columns, rows) if d.transposed else (rows, columns)
                orientation = self.config.decomposition.orientation
                made = draw(shape, rank, self.seed, entry.name, len(records), orientation=orientation)
                drawn[entry.name] = made.padded(d.rank)
        return drawn

    def save(self, folder: Path) -> None:
        """Write `genesis.json` and `genesis.safetensors` (values and dictionaries), mode 0600."""
        # The tensors first: a document whose tensors are missing would look like damage.
        for name, data in reversed(self.files().items()):
            write_private(folder / name, data)

    def files(self) -> dict[str, bytes]:
        """The content of both files, by name: for bundles, so that the seed touches no disk in clear."""
        tensors: dict[str, NDArray[Any]] = {"values": self.values}
        tensors |= {f"dictionary/{name}": d.matrix for name, d in self.dictionaries.items()}
        document = {
            "format": _FORMAT,
            "federation": self.federation.hex(),
            "config": self.config.model_dump(mode="json"),
            "layout": self.layout.to_json(),
            "transposed": sorted(name for name, d in self.dictionaries.items() if d.transposed),
            "weights_digest": self.weights_digest.hex(),
            "seed": self.seed.hex(),
            "sample_cap": self.sample_cap,
            "parameters": self.parameters.to_json(),
            "fingerprint": self.fingerprint.hex(),
            "upload_length": self.upload_length,
            "sum_length": self.sum_length,
            "outputs": self.outputs,
            "sample_shape": list(self.sample_shape),
        }
        return {DOCUMENT: json.dumps(document, indent=1).encode(), TENSORS: save(tensors)}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and verify against the recorded federation id.

        Raises:
            ConfigError: missing, damaged, or not what was agreed on.
        """
        try:
            files = {name: (folder / name).read_bytes() for name in (DOCUMENT, TENSORS)}
        except OSError as error:
            raise ConfigError(
                f"{folder} holds no readable genesis ({type(error).__name__}: {error}); join again with the bundle"
            ) from error
        return cls.of_files(files, folder)

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], folder: Path) -> Self:
        """Inverse of `files`; `folder` is for messages.

        Raises:
            ConfigError: damaged, or not what was agreed on.
        """
        try:
            document = json.loads(files[DOCUMENT])
            tensors = {name: np.array(tensor) for name, tensor in load(files[TENSORS]).items()}
            if document["format"] != _FORMAT:
                raise ConfigError(f"{folder}/genesis.json is of format {document['format']!r}, expected {_FORMAT!r}")
            genesis = cls(
                config=FederationConfig.model_validate(document["config"]),
                layout=Layout.from_json(document["layout"]),
                values=tensors["values"].astype(np.float64),
                dictionaries={
                    name: Dictionary(matrix, name in document["transposed"])
                    for key, matrix in tensors.items()
                    if (name := key.removeprefix("dictionary/")) != key
                },
                weights_digest=bytes.fromhex(document["weights_digest"]),
                seed=bytes.fromhex(document["seed"]),
                sample_cap=int(document["sample_cap"]),
                parameters=CKKSParameters.from_json(document["parameters"]),
                fingerprint=bytes.fromhex(document["fingerprint"]),
                upload_length=int(document["upload_length"]),
                sum_length=int(document["sum_length"]),
                outputs=int(document["outputs"]),
                sample_shape=tuple(document["sample_shape"]),
            )
            recorded = bytes.fromhex(document["federation"])
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, DictPFLError):
                raise
            raise ConfigError(
                f"{folder} holds no readable genesis ({type(error).__name__}: {error}); join again with the bundle"
            ) from error
        if genesis.federation != recorded or len(genesis.seed) != SEED_BYTES:
            raise ConfigError(
                f"{folder}/genesis.json does not match its federation id {recorded.hex()[:12]}: it was altered, or "
                "written by another release; restore it from the bundle"
            )
        return genesis


def tensors_digest(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of names; 32 bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return digest.digest()


def _dictionaries_digest(dictionaries: Mapping[str, Dictionary]) -> bytes:
    return tensors_digest({f"{name} {d.transposed}": d.matrix for name, d in dictionaries.items()})
