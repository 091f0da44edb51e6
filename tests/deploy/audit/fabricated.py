"""A recorded run made by the audit's own implementation, without the product: what an audit must find nothing wrong in.

`Maker` has a method for each thing that a party does; a test that plants a fault overrides one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sqlite3
import struct
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from safetensors.numpy import save, save_file

from dictpfl.common.errors import RoundError
from dictpfl.deploy.audit.checks.opened import item_mark, mark
from dictpfl.deploy.audit.cipher.masks import Circle, Masker, derived, pair_secret, shifted
from dictpfl.deploy.audit.cipher.sealed import Box, Parameters, plain_components
from dictpfl.deploy.audit.cipher.tags import tag_key
from dictpfl.deploy.audit.formats.blobs import AGGREGATE, UPLOAD, Blob, Entry
from dictpfl.deploy.audit.formats.keyfile import fingerprint_of, saved_key
from dictpfl.deploy.audit.replay.agreement import Agreement, Tensor
from dictpfl.deploy.audit.replay.identity import federation_id
from dictpfl.deploy.audit.replay.ledger import code_digits
from dictpfl.deploy.audit.replay.noise import noise_of
from dictpfl.deploy.audit.replay.plan import Plan, padded_components, plan
from dictpfl.deploy.audit.replay.rounds import finished, start
from dictpfl.deploy.audit.replay.state import State
from dictpfl.deploy.audit.replay.tallies import Tally

PARAMETERS = Parameters(256, 60, 11, 48, 54, 3)
LAYOUT = (("a", (4, 60), "table"), ("b", (7, 40), "dense"), ("c", (30,), "statistic"))
CONFIG = {
    "encryption": {"sealer": "ckks", "pad_to": "none", "sealed_share": 1.0, "sensitivity": "gradient"},
    "defences": {"masks": False, "mask_partners": 30},
    "federation": {"min_participants": 3},
    "privacy": {"mechanism": "none"},
    "pruning": {
        "enabled": True, "s": 0.7, "tau": 2, "beta": 0.5, "scope": "global", "kinds": ["table", "dense"],
        "schedule": "constant",
    },
    "grid": {"value_bits": 8, "headroom": 2.0, "first_range": 4.0},
    "selection": {"by": "metric", "patience": 0, "min_delta": 0.0, "higher": True},
    "decomposition": {
        "layers": [],
        "refresh_every": 0, "refresh_when": "fixed", "refresh_stall": 0.5, "refresh_history": "forget",
        "refresh_ranks": [],
    },
    "scores": {"decision": "", "measure": "gradient", "rounds": 1},
    "training": {"metric": "", "threads": 1, "proximal": 0.0},
    "aggregation": {"rule": "average", "rate": 1.0, "momentum": 0.9, "second": 0.99, "floor": 0.001},
}  # fmt: skip


def config(**changes: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return the configuration with some keys of some sections changed."""
    return {section: {**keys, **changes.get(section, {})} for section, keys in CONFIG.items()}


@dataclass
class Member:
    """One institution: number, private key, and the secret of its record, once the federation has an id."""

    number: int
    private: X25519PrivateKey
    secret: bytes = b""
    state: State | None = None

    @property
    def name(self) -> str:
        return f"hospital-{self.number}"

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @property
    def signing(self) -> bytes:
        return hashlib.sha256(b"signing" + self.private.private_bytes_raw()).digest()

    @property
    def signing_public(self) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.signing).public_key().public_bytes_raw()


@dataclass
class Maker:
    """Everything that happens in a run."""

    said: dict[str, dict[str, object]] = field(default_factory=config)
    parameters: Parameters = PARAMETERS
    rounds: int = 4
    members: int = 3
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    missing: tuple[tuple[int, int], ...] = ()  # (round, member) whose upload is recorded, and not in the sum
    void: tuple[int, ...] = ()  # rounds in which the first member's ledger holds nonsense
    scores: tuple[int, ...] = ()  # rounds of scores
    tallies: tuple[dict[str, object], ...] = ()  # as genesis.json says them

    # What a test may plant a fault in

    def key(self) -> np.ndarray:
        return self.random.integers(-1, 2, self.parameters.degree)

    def seed(self, member: Member, state: State) -> bytes:
        return secrets.token_bytes(32)

    def errors(self, count: int) -> list[int]:
        fair = self.random.integers(0, 2, (2, count, 21))
        return (fair[0].sum(1) - fair[1].sum(1)).tolist()

    def sealed(self, box: Box, member: Member, state: State, components: np.ndarray) -> tuple[bytes, np.ndarray]:
        seed = self.seed(member, state)
        return seed, box.sealed(components, seed, self.errors(box.parameters.words(components.size)))

    def upload_id(self, member: Member, blob: Blob, bare: np.ndarray, components: np.ndarray) -> bytes:
        first = mark(member.secret, blob.round)
        return first + item_mark(member.secret, blob, bare, self.parameters.word_bits)

    def tags(self, agreement: Agreement, blob: Blob, bare: np.ndarray) -> list[int]:
        key = tag_key(agreement.seed, blob, self.parameters.p)
        return key.tags(bare, blob.clear.tolist(), blob.entries)

    def pair_secret(self, one: Member, two: Member, context: bytes) -> bytes:
        return pair_secret(one.private.private_bytes_raw(), two.public, (one.number, two.number), context)

    def mask_seeds(self, masker: Masker, blob: Blob) -> tuple[list[bytes], list[bytes]]:
        return masker.seeds(blob)

    def tallied(self, member: Member, values: np.ndarray) -> np.ndarray:
        return values

    def noise(self, member: Member, agreement: Agreement, count: int) -> np.ndarray:
        variance = noise_of(agreement).variance
        return self.random.poisson(variance / 2, count) - self.random.poisson(variance / 2, count)

    def aggregate(self, blob: Blob) -> Blob:
        return blob

    def remembered(self, member: Member, state: State) -> State:
        return state

    # The run

    def make(self, folder: Path) -> Path:
        everybody = [Member(n, X25519PrivateKey.generate()) for n in range(self.members)]
        p = self.parameters
        key = p.ring.transformed(p.ring.residues(self.key().astype(np.int64)))
        agreement = self._agreement(key)
        self._write_genesis(folder, agreement, key, everybody)
        agreement = replace(agreement, federation=federation_id(folder / "institutions" / "institution-000"))
        self._write_genesis(folder, agreement, key, everybody)
        for member in everybody:
            private = member.private.private_bytes_raw()
            member.secret = derived(private, b"dictpfl record 1", agreement.federation)
        (folder / "coordinator" / "recording").mkdir(parents=True)
        box, state, sums, count = Box(p, key), start(agreement), [], 0
        maskers = [self._masker(agreement, member, everybody) for member in everybody]
        for number in range(self.rounds):
            kind = "score" if number in self.scores else "update"
            made, uploads = plan(agreement, state, kind), []
            for member, masker in zip(everybody, maskers, strict=True):
                blob, bare = self._upload(agreement, box, member, state, made)
                sent = replace(blob, words=bare)
                if agreement.masked:
                    plus, minus = self.mask_seeds(masker, blob)
                    sent = replace(blob, words=shifted(bare, p.p, plus=plus, minus=minus))
                name = folder / "coordinator" / "recording" / f"{count:06d}.upload"
                name.write_bytes(sent.to_bytes(p.word_bits))
                count += 1
                if (number, member.number) not in self.missing:
                    uploads.append(replace(blob, words=bare))
            total = self._sum(uploads)
            sums.append((number, self.aggregate(total).to_bytes(p.word_bits)))
            opened = self._opened(box, total)
            if number in self.void:
                state = state.void(kind)
                continue
            try:
                state = finished(agreement, state, made, opened, total.clear, [e.upload_id for e in total.entries])
            except RoundError:  # a round that nobody agreed on: institutions pass over it
                state = state.void(kind)
        self._journal(folder / "coordinator" / "journal.sqlite", sums)
        for member in everybody:
            self._remember(folder, agreement, member, self.remembered(member, state))
        return folder

    def _journal(self, path: Path, sums: list[tuple[int, bytes]]) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE rounds (round INTEGER, aggregate BLOB)")
            database.execute("CREATE TABLE blobs (id INTEGER, data BLOB)")
            database.execute("CREATE TABLE voids (round INTEGER)")
            for number, data in sums:
                reference = struct.pack("<QQ32s", number + 1, len(data), bytes(32))
                database.execute("INSERT INTO rounds VALUES (?, ?)", (number, reference))
                database.execute("INSERT INTO blobs VALUES (?, ?)", (number + 1, data))
            database.executemany("INSERT INTO voids VALUES (?)", [(number,) for number in self.void])

    def _opened(self, box: Box, total: Blob) -> np.ndarray:
        if not self.parameters.encrypted:
            return plain_components(self.parameters, total.words[:-2])
        return box.opened(total.words[:-2], [entry.seed for entry in total.entries]).components

    def _agreement(self, key: np.ndarray) -> Agreement:
        p, tensors, at = self.parameters, [], 0
        for name, shape, kind in LAYOUT:
            size = int(np.prod(shape))
            tensors.append(Tensor(name, shape, kind, slice(at, at + size)))
            at += size
        fingerprint = fingerprint_of(saved_key(key), bytes(16), self._said_parameters())
        p = replace(p, encrypted=self.said["encryption"]["sealer"] == "ckks")
        self.parameters = p
        values = self.random.normal(size=at)
        return Agreement(
            bytes(range(32)),
            fingerprint,
            bytes(range(32, 64)),
            64,
            p,
            tensors,
            values,
            self.said,
            tuple(map(Tally.read, self.tallies)),
        )

    def _said_parameters(self) -> dict[str, object]:
        p = self.parameters
        return {
            "ring_degree": p.degree, "primes": [p.prime_bits], "scale_bits": p.scale_bits,
            "payload_bits": p.payload_bits, "word_bits": p.word_bits, "capacity": p.capacity, "security": 192,
        }  # fmt: skip

    def _write_genesis(self, folder: Path, agreement: Agreement, key: np.ndarray, everybody: list[Member]) -> None:
        document: dict[str, object] = {
            "federation": agreement.federation.hex(), "fingerprint": agreement.fingerprint.hex(),
            "seed": agreement.seed.hex(), "sample_cap": agreement.sample_cap, "parameters": self._said_parameters(),
            "layout": [[name, list(shape), kind] for name, shape, kind in LAYOUT], "config": self.said,
            "weights_digest": bytes(32).hex(), "transposed": [], "outputs": 10, "sample_shape": [64],
        }  # fmt: skip
        if self.tallies:
            document["tallies"] = list(self.tallies)
        key_file = {
            "parameters": self._said_parameters(), "key_id": bytes(16).hex(),
            "fingerprint": agreement.fingerprint.hex(), "secret": base64.b64encode(saved_key(key)).decode(), "seed": "",
        }  # fmt: skip
        peers = [[member.name, member.public.hex(), member.signing_public.hex()] for member in everybody]
        digest = hashlib.sha256(json.dumps(peers, separators=(",", ":")).encode()).hexdigest()
        for member in everybody:
            home = folder / "institutions" / f"institution-{member.number:03d}"
            home.mkdir(parents=True, exist_ok=True)
            (home / "institution.toml").write_text(f'name = "{member.name}"\n')
            (home / "genesis.json").write_text(json.dumps(document))
            (home / "genesis.safetensors").write_bytes(save({"values": agreement.values}))
            (home / "federation.key").write_text(json.dumps(key_file))
            (home / "peers.json").write_text(json.dumps({"peers": peers, "sha256": digest}))
            own = {"receiving": member.private.private_bytes_raw().hex(), "signing": member.signing.hex()}
            (home / "peers.key").write_text(json.dumps(own))

    def _masker(self, agreement: Agreement, member: Member, everybody: list[Member]) -> Masker:
        circle = Circle(len(everybody), 30, agreement.seed, agreement.context)
        pairs = {n: self.pair_secret(member, everybody[n], agreement.context) for n in circle.partners(member.number)}
        return Masker(member.number, agreement.context, member.secret, pairs)

    def _upload(
        self, agreement: Agreement, box: Box, member: Member, state: State, made: Plan
    ) -> tuple[Blob, np.ndarray]:
        components = self._components(agreement, member, made, state.round)
        if agreement.parameters.encrypted:
            seed, bare = self.sealed(box, member, state, components)
        else:
            seed, bare = bytes(32), np.mod(components, agreement.parameters.p).astype(np.uint64)
        blob = Blob(
            UPLOAD, made.kind, state.round, 0, agreement.federation, agreement.fingerprint, state.tag(agreement.seed),
            [Entry(member.number, bytes(16), seed)], bare, self._in_clear(made),
        )  # fmt: skip
        blob = replace(blob, entries=[Entry(member.number, self.upload_id(member, blob, bare, components), seed)])
        tags = np.array(self.tags(agreement, blob, bare), dtype=np.uint64)
        words = np.concatenate([bare, tags])
        return replace(blob, words=words), words

    def _components(self, agreement: Agreement, member: Member, made: Plan, number: int) -> np.ndarray:
        largest, count = made.tally.most if made.tally else made.sealed.digits.largest, made.sealed.index.size
        values = self.random.normal(scale=largest / 6, size=count).round().clip(-largest, largest).astype(np.int64)
        codes = self.random.integers(1, 2000, len(LAYOUT))
        if made.tally is not None:
            codes, values = np.zeros(len(LAYOUT), np.int64), self.tallied(member, values)
        if (noise := noise_of(agreement)) is not None:
            length = noise.length / max(1.0, float(np.linalg.norm(values)))
            values = np.trunc(values * length).astype(np.int64) + self.noise(member, agreement, count)
            codes = np.zeros(len(LAYOUT), np.int64)
        samples = -100_000 if number in self.void and not member.number else 50 + member.number
        head = [1, samples, 20, 51_200, 20_480, 1024 * int(self.random.integers(5, 20))]
        wide = self.random.integers(-2000, 2001, made.wide.index.size).tolist()
        parts = [head, code_digits(agreement).packed(codes.tolist()), made.wide.digits.packed(wide)]
        parts.append(made.sealed.digits.packed(values.tolist()))
        flat = np.concatenate(parts).astype(np.int64)
        return np.pad(flat, (0, padded_components(agreement, made) - flat.size))

    def _in_clear(self, made: Plan) -> np.ndarray:
        most = made.clear.digits.largest
        return made.clear.digits.packed(self.random.integers(-most, most + 1, made.clear.index.size).tolist())

    def _sum(self, uploads: list[Blob]) -> Blob:
        total = np.zeros_like(uploads[0].words)
        for upload in uploads:
            total = (total + upload.words) % np.uint64(self.parameters.p)
        entries = [upload.entries[0] for upload in uploads]
        clear = np.sum([upload.clear for upload in uploads], axis=0)
        return replace(uploads[0], direction=AGGREGATE, entries=entries, words=total, clear=clear)

    def _remember(self, folder: Path, agreement: Agreement, member: Member, state: State) -> None:
        arrays = {"values": state.values, "idle": state.idle, "exponent": state.exponent, "ranges": state.ranges}
        facts: dict[str, object] = {
            "round": state.round, "updates": state.updates, "secret": member.secret.hex(),
            "acknowledged": state.acknowledged.hex(),
        }  # fmt: skip
        if state.clear is not None:
            arrays["clear"] = state.clear
        facts |= {name: getattr(state, name) for name in ("void_scores", "rescored") if getattr(state, name)}
        for i, one in enumerate(state.taken):
            arrays |= {f"record/{i:06d}": one.values, f"chosen/{i:06d}": one.chosen}
        if state.tallies:
            arrays |= {f"tally/{i:03d}": one.sums for i, one in enumerate(state.tallies)}
            facts["tallies"] = [one.said for one in state.tallies]
        if state.pace is not None:
            arrays |= {"pace/largest": state.pace[0], "pace/age": state.pace[1]}
        arrays |= {f"moment/{i}": moment for i, moment in enumerate(state.moments)}
        if (best := state.best) is not None:
            arrays["best"] = best.values
            names = ("score", "updates", "refreshes", "mark", "waited")
            facts["course"] = {name: getattr(best, name) for name in names}
        home = folder / "institutions" / f"institution-{member.number:03d}" / "memory"
        home.mkdir()
        path = home / f"{agreement.federation.hex()[:32]}.safetensors"
        save_file(arrays, path, metadata={"facts": json.dumps(facts)})
