"""Genesis: the agreement of all institutions before round 1; its SHA-256 is the federation id (docs/decisions/0003)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.config import FederationConfig
from dictpfl.common.config.agreed import agreed_settings
from dictpfl.common.documents import OTHER_RELEASE, explained, parse_document
from dictpfl.common.errors import ConfigError, DictPFLError, IntegrityError
from dictpfl.common.files import tensors_digest, write_private
from dictpfl.common.law.dictionary import Dictionary, draw
from dictpfl.common.law.layout import Layout
from dictpfl.common.law.measure import Measure
from dictpfl.common.law.noise import Noise
from dictpfl.common.law.packing import Digits
from dictpfl.common.law.refresh import Refreshing, refreshes, tables
from dictpfl.common.law.round import Plan
from dictpfl.common.law.seeds import SEED_BYTES
from dictpfl.common.law.state import Refresh, SharedState
from dictpfl.common.law.tags import TAGS, RoundTags
from dictpfl.common.law.tally import Tally
from dictpfl.common.law.terms import Law
from dictpfl.common.messages.protocol import PROTOCOL, RoundKind
from dictpfl.common.messages.wire import Blob, Header, Limits
from dictpfl.common.settings import MADE_BY
from dictpfl.common.words import Words

DOCUMENT, TENSORS = "genesis.json", "genesis.safetensors"
_FORMAT = "dictpfl-genesis-1"
_STEP_BITS = 5
"""Sizes between two powers of two are padded to one of 16 steps: 2^(5 - 1)."""


@dataclass(frozen=True)
class Genesis:
    """Agreement of a federation. The coordinator must not learn the seeds; institutions hold the files with mode 0600.

    Attributes:
        config: checked configuration.
        layout: layout of the shared vector.
        values: shared vector before round 0, float64, shape (size,).
        dictionaries: dictionary D of each decomposed weight, by name, with E where there is one.
        weights_digest: SHA-256 over W0, 32 bytes.
        seed: 32 bytes, for drawn dictionaries; in a simulation for all that `secret_seed` is for, too. It lies in clear at rest.
        sample_cap: number of samples that carries weight 1.
        parameters: CKKS parameters.
        fingerprint: fingerprint of the key, 32 bytes.
        outputs: number of the model's outputs.
        sample_shape: shape of one sample.
        epoch_seed: seed of the epoch in force, 32 bytes; empty in a simulation, where `seed` serves. It comes with the key of
            the epoch (`dictpfl.client.keys.epochs`), is sealed at rest as that is, and is part of no file of genesis.
        tallies: agreed tallies, opening ones first.
        gates: norm of each gated unit's outgoing weights in W0, float32, by name of the outgoing weight (`[narrow]`).
        measures: agreed measures (`training.metrics`), in their order.
        features: names of the features, where the federation agreed on them; institutions find their columns by these.
        classes: names of the classes, in their order, where it agreed on features, too.
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
    outputs: int
    sample_shape: tuple[int, ...]
    epoch_seed: bytes = field(default=b"", repr=False)
    tallies: tuple[Tally, ...] = ()
    gates: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    measures: tuple[Measure, ...] = ()
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def secret_seed(self) -> bytes:
        """Seed of tags and of all else that neither the coordinator nor former members may compute, 32 bytes."""
        return self.epoch_seed or self.seed

    @cached_property
    def federation(self) -> bytes:
        """Federation id: SHA-256 over the agreement, 32 bytes.

        It covers all that training depends on. The key and how uploads are carried are bound by the
        fingerprint instead, which every blob carries too: a key may be rotated within a federation,
        and a run without encryption, or with masks, is the same federation, bit for bit (docs/decisions/0003).
        """
        gates = {"gates": tensors_digest(self.gates).hex()} if self.gates else {}
        agreed = {
            "protocol": PROTOCOL,
            "config": agreed_settings(self.config),
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
            **self._tallies_said,
            **self._measures_said,
            **self._names_said,
            **self._preparation_said,
            **self._encoder_said,
            **gates,
        }
        return hashlib.sha256(json.dumps(agreed, sort_keys=True, separators=(",", ":")).encode()).digest()

    @property
    def _tallies_said(self) -> dict[str, Any]:
        """Tallies as JSON values, in a mapping that is empty without any: so older federations keep their id."""
        return {"tallies": [tally.to_json() for tally in self.tallies]} if self.tallies else {}

    @property
    def _measures_said(self) -> dict[str, Any]:
        """Measures as JSON values, in a mapping that is empty without any, as tallies are."""
        return {"measures": [measure.to_json() for measure in self.measures]} if self.measures else {}

    @property
    def _names_said(self) -> dict[str, Any]:
        """Names of features and classes as JSON values; nothing where nobody agreed on any, so that older federations keep their id."""
        said = {"features": list(self.features), "classes": list(self.classes)}
        return {key: names for key, names in said.items() if names}

    @property
    def _preparation_said(self) -> dict[str, Any]:
        """Preparation of columns as JSON values; nothing where there is none."""
        said = self.config.data.preprocessing
        return {"preprocessing": said.model_dump(mode="json")} if said.on else {}

    @property
    def _encoder_said(self) -> dict[str, Any]:
        """Digest of the encoder of clips as a JSON value; nothing where samples are no features of an agreed one."""
        made_by = self.config.data.made_by
        return {MADE_BY: made_by} if made_by else {}

    @cached_property
    def law(self) -> Law:
        """Part of the agreement that the algebra of rounds needs."""
        config = self.config
        return Law(
            layout=self.layout,
            pruning=config.pruning,
            grid=config.grid,
            seed=self.secret_seed,
            federation=self.federation,
            capacity=self.parameters.capacity,
            payload_bits=self.parameters.payload_bits,
            sample_cap=self.sample_cap,
            sealed_share=config.encryption.sealed_share,
            decision=config.decision,
            score_rounds=config.score_rounds,
            rescore_every=config.encryption.rescore_every,
            refresh=Refreshing.of(config.decomposition),
            selection=config.selection,
            aggregation=config.aggregation,
            noise=Noise.of(config.privacy, config.federation.min_participants),
            tallies=self.tallies,
            rounds=config.federation.rounds,
            measures=self.measures,
        )

    def start(self) -> SharedState:
        """Make shared state before round 0."""
        return self.law.start(self.values)

    @property
    def encrypted(self) -> bool:
        """False where the very same integers cross in clear, for comparison."""
        return self.config.encryption.sealer == "ckks"

    @property
    def limits(self) -> Limits:
        """Limits of blobs: at most every shared value in the widest digits, or the largest tally, behind the ledger."""
        held = (self.parameters.capacity, self.parameters.payload_bits)
        sizes = [tally.digits(*held).components(tally.layout.size) for tally in self.tallies]
        largest = max(Digits.single(*held).components(self.layout.size), *sizes, 0)
        most = pad(self.config.encryption.pad_to, self.law.ledger.size + largest)
        max_clear = 4 * self.layout.size if self.config.encryption.sealed_share < 1.0 else 0
        parameters = self.parameters
        return Limits(
            self.federation, self.fingerprint, parameters.word_bits, self.words(most), max_clear, parameters.capacity
        )

    def words(self, components: int) -> int:
        """Number of words of an upload of so many components, tags included."""
        return (self.parameters.words(components) if self.encrypted else components) + TAGS

    def tags(self, header: Header) -> RoundTags:
        """Tags of the attempt at a round that a header names."""
        return RoundTags.of(self.secret_seed, header, self.parameters.word_prime)

    def drawn_dictionaries(self, records: Sequence[Refresh]) -> dict[str, Dictionary]:
        """Draw the dictionaries that came in with the last of these refreshes; without any, return genesis's."""
        if not records:
            return dict(self.dictionaries)
        law, drawn = self.law.refresh, {}
        counts = refreshes(self.layout, records).tolist()
        for entry, count, chosen in zip(tables(self.layout), counts, records[-1].chosen.tolist(), strict=True):
            if chosen:
                d, rank = self.dictionaries[entry.name], law.rank(entry.shape[0], count)
                shape = d.weight_shape(entry.shape)
                orientation = self.config.decomposition.orientation
                # Not the epoch's seed: who joins later rebuilds W0 from all refreshes, and has no seed of earlier epochs.
                made = draw(shape, rank, self.seed, entry.name, len(records), orientation=orientation, form=d.form)
                drawn[entry.name] = made.padded(d.rank)
        return drawn

    def save(self, folder: Path) -> None:
        """Write `genesis.json` and `genesis.safetensors` (values and dictionaries), mode 0600."""
        # Tensors are written first: after a crash, a document without its tensors would look like damage.
        for name, data in reversed(self.files().items()):
            write_private(folder / name, data)

    def files(self) -> dict[str, bytes]:
        """Encode both files, by name, for bundles."""
        tensors: dict[str, NDArray[Any]] = {"values": self.values}
        tensors |= {f"dictionary/{name}": d.matrix for name, d in self.dictionaries.items()}
        tensors |= {f"right/{name}": d.right for name, d in self.dictionaries.items() if d.right is not None}
        tensors |= {f"gate/{name}": norms for name, norms in self.gates.items()}
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
            "outputs": self.outputs,
            "sample_shape": list(self.sample_shape),
            **self._tallies_said,
            **self._measures_said,
            **self._names_said,
        }
        return {DOCUMENT: json.dumps(document, indent=1).encode(), TENSORS: save(tensors)}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read both files and verify them against the recorded federation id.

        Raises:
            ConfigError: missing, damaged, or not what was agreed on.
        """
        try:
            files = {name: (folder / name).read_bytes() for name in (DOCUMENT, TENSORS)}
        except OSError as error:
            raise ConfigError(
                f"{folder} holds no readable genesis ({type(error).__name__}: {explained(error)}); join again with the bundle"
            ) from error
        return cls.of_files(files, folder)

    @classmethod
    def of_files(cls, files: Mapping[str, bytes], folder: Path) -> Self:
        """Decode what `files` made; `folder` is for messages.

        Raises:
            ConfigError: damaged, or not what was agreed on.
        """
        try:
            document = parse_document(files[DOCUMENT], _FORMAT, f"{folder}/{DOCUMENT}", ConfigError)
            tensors = {name: np.array(tensor) for name, tensor in load(files[TENSORS]).items()}
            parameters = CKKSParameters.from_json(document["parameters"])  # first: one of another protocol is told so
            genesis = cls(
                config=FederationConfig.model_validate(document["config"]),
                layout=Layout.from_json(document["layout"]),
                values=tensors["values"].astype(np.float64, copy=False),
                dictionaries={
                    name: Dictionary(matrix, name in document["transposed"], tensors.get(f"right/{name}"))
                    for key, matrix in tensors.items()
                    if (name := key.removeprefix("dictionary/")) != key
                },
                weights_digest=bytes.fromhex(document["weights_digest"]),
                seed=bytes.fromhex(document["seed"]),
                sample_cap=int(document["sample_cap"]),
                parameters=parameters,
                fingerprint=bytes.fromhex(document["fingerprint"]),
                outputs=int(document["outputs"]),
                sample_shape=tuple(document["sample_shape"]),
                tallies=tuple(map(Tally.from_json, document.get("tallies", []))),
                measures=tuple(map(Measure.from_json, document.get("measures", []))),
                features=tuple(map(str, document.get("features", []))),
                classes=tuple(map(str, document.get("classes", []))),
                gates={
                    name: norms.astype(np.float32)
                    for key, norms in tensors.items()
                    if (name := key.removeprefix("gate/")) != key
                },
            )
            recorded = bytes.fromhex(document["federation"])
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, DictPFLError):
                raise
            if isinstance(error, ValidationError) and (unknown := _unknown(error)):
                raise ConfigError(
                    f"{folder}/{DOCUMENT} names settings that this release does not have ({unknown}): {OTHER_RELEASE}"
                ) from error
            raise ConfigError(
                f"{folder} holds no readable genesis ({type(error).__name__}: {explained(error)}); join again with the bundle"
            ) from error
        if genesis.federation != recorded or len(genesis.seed) != SEED_BYTES:
            raise ConfigError(
                f"{folder}/genesis.json does not match its federation id {recorded.hex()[:12]}: it was altered, or "
                "written by another release; restore it from the bundle"
            )
        return genesis


def _unknown(error: ValidationError) -> str:
    """Names of the settings that are refused for being unknown; empty where something else is wrong, too."""
    found = error.errors(include_url=False, include_input=False)
    if any(one["type"] != "extra_forbidden" for one in found):
        return ""
    return ", ".join(".".join(map(str, one["loc"])) for one in found)


def _dictionaries_digest(dictionaries: Mapping[str, Dictionary]) -> bytes:
    left = {f"{name} {d.transposed}": d.matrix for name, d in dictionaries.items()}
    right = {f"{name} right": d.right for name, d in dictionaries.items() if d.right is not None}
    return tensors_digest(left | right)


def components(genesis: Genesis, plan: Plan) -> int:
    """Count the components of an upload: the ledger, the sealed stream, and padding where there is any."""
    padding = genesis.config.encryption.pad_to if plan.kind is RoundKind.UPDATE else "none"
    sealed = genesis.layout.size - plan.wide.size if padding == "full" else None
    return pad(padding, genesis.law.ledger.size + plan.components(sealed))


def pad(padding: str, components: int) -> int:
    """Round a number of components up to the next of the 16 steps between two powers of two, where `padding` says so."""
    if padding != "steps":
        return components
    step = 1 << max(0, (components - 1).bit_length() - _STEP_BITS)
    return -(-components // step) * step


def padded(genesis: Genesis, plan: Plan, packed: Ints) -> Ints:
    """Append zeros to an upload's components, up to the length that `components` says."""
    missing = components(genesis, plan) - packed.size
    return np.pad(packed, (0, missing)) if missing else packed


def require_tagged(genesis: Genesis, blob: Blob, words: Words | None = None) -> Words:
    """Return the words of a sum, or of an upload, without its tags, once these fit the uploads that are named.

    `words` are those of the blob, where they are unpacked already.

    Raises:
        IntegrityError (tag): it was not made of exactly these, or a word is not below the prime, which tags alone do not show.
    """
    words = blob.words() if words is None else words
    body, tags = words[:-TAGS], words[-TAGS:]
    is_reduced = words.size > TAGS and words.max() < genesis.parameters.word_prime
    if not is_reduced or not genesis.tags(blob.header).fit(body, blob.clear, tags, blob.entries):
        raise IntegrityError(
            "tag",
            "the sum's tags do not fit: it holds something other than the uploads that are named, as they were sent. Nothing "
            "was decrypted",
        )
    return body
