"""Folder of a recorded run, read as plain files: genesis, keys, memories, journal, recorded uploads (section 13)."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from dictpfl.common.errors import ConfigError, JournalError, KeyFileError, MemoryFileError
from dictpfl.common.files import read_toml
from dictpfl.deploy.audit.cipher.masks import Circle, Masker, derived, pair_secret
from dictpfl.deploy.audit.formats.keyfile import Key, read_key
from dictpfl.deploy.audit.replay.agreement import Agreement
from dictpfl.deploy.audit.replay.state import State, remembered

_REFERENCE = struct.Struct("<QQ32s")
_KEY = 32
INSTITUTIONS, COORDINATOR, RECORDING = "institutions", "coordinator", "recording"


@dataclass(frozen=True)
class Party:
    """Institution of the run.

    Attributes:
        folder: its folder.
        name: its name.
        number: number of its membership.
        secret: secret that marks its uploads, 32 bytes, from its private key.
        kept: secret that its memory names.
        state: shared state in its memory.
        receiving: private X25519 key; empty: there is none.
        signing: private Ed25519 key.
        peers: list of members as its file has it: name, public X25519 and Ed25519 key, hexadecimal.
        said: SHA-256 that the file names of that list, hexadecimal.
    """

    folder: Path
    name: str
    number: int
    secret: bytes = field(repr=False)
    kept: bytes = field(repr=False)
    state: State = field(repr=False)
    receiving: bytes = field(repr=False)
    signing: bytes = field(repr=False)
    peers: Sequence[Sequence[str]]
    said: str

    def masker(self, agreement: Agreement) -> Masker:
        """Derive all that its masks derive from."""
        most = int(agreement.config["defences"]["mask_partners"])
        circle = Circle(len(self.peers), most, agreement.seed, agreement.context)
        pairs = {
            other: pair_secret(
                self.receiving, bytes.fromhex(self.peers[other][1]), (self.number, other), agreement.context
            )
            for other in circle.partners(self.number)
        }
        return Masker(self.number, agreement.context, self.secret, pairs)


@dataclass(frozen=True)
class Closed:
    """Round of the journal: its number, and its sum as it went out; no bytes for a round that was void."""

    round: int
    aggregate: bytes
    void: bool = False


@dataclass(frozen=True)
class RunFolder:
    """Folder that `dictpfl simulate --record` left."""

    path: Path

    @cached_property
    def homes(self) -> list[Path]:
        """Folders of the institutions.

        Raises:
            ConfigError: there are none.
        """
        homes = sorted(home for home in (self.path / INSTITUTIONS).glob("*") if home.is_dir())
        if not homes:
            raise ConfigError(
                f"{self.path} is no run folder: expected {INSTITUTIONS}/ with a folder for each institution"
            )
        return homes

    @cached_property
    def agreement(self) -> Agreement:
        """Agreement as the first institution holds it, with the seed of the epoch."""
        agreement = Agreement.read(self.homes[0])
        seed = read_key(self.homes[0] / "federation.key").seed if agreement.parameters.encrypted else b""
        return replace(agreement, seed=seed or agreement.seed)

    @cached_property
    def keys(self) -> list[Key]:
        """Key of each institution; empty where nothing is encrypted."""
        return [read_key(home / "federation.key") for home in self.homes] if self.agreement.parameters.encrypted else []

    @cached_property
    def parties(self) -> list[Party]:
        """Institutions of the run, in order of their folders."""
        return [_party(home, self.agreement) for home in self.homes]

    @cached_property
    def uploads(self) -> list[tuple[str, bytes]]:
        """Recorded uploads as they came, by file name.

        Raises:
            ConfigError: the run was not recorded.
        """
        paths = sorted((self.path / COORDINATOR / RECORDING).glob("*.upload"))
        if not paths:
            raise ConfigError(
                f"{self.path} holds no recorded uploads, so that there is nothing to check; run `dictpfl simulate --record`"
            )
        try:
            return [(path.name, path.read_bytes()) for path in paths]
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}; expected a recorded upload") from error

    @cached_property
    def rounds(self) -> list[Closed]:
        """Closed rounds of the coordinator's journal, in order.

        Raises:
            JournalError: missing or damaged.
        """
        path = self.path / COORDINATOR / "journal.sqlite"
        # Of a journal that was closed, SQLite would make files beside it even to read, and fail where none can be made.
        closed = int(not path.with_name(f"{path.name}-wal").exists())
        try:
            with closing(
                sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable={closed}", uri=True)
            ) as database:
                return list(_closed_rounds(database))
        except (sqlite3.Error, struct.error, ValueError, TypeError) as error:
            raise JournalError(f"cannot read {path}: {error}; expected the journal of a run of protocol 4") from error


def _closed_rounds(database: sqlite3.Connection) -> Iterator[Closed]:
    """Read sums, which lie apart from the rows of their rounds, and which rounds were noted as void, though there be no such row."""
    void = {int(number) for (number,) in database.execute("SELECT round FROM voids")}
    closed = database.execute("SELECT round, aggregate FROM rounds ORDER BY round").fetchall()
    for number, reference in closed:
        yield Closed(int(number), _blob(database, reference), number in void)
    for number in sorted(void.difference(number for number, _ in closed)):
        yield Closed(number, b"", void=True)


def _blob(database: sqlite3.Connection, reference: bytes) -> bytes:
    """Read what a row refers to by number, length and digest; empty where it was dropped. A ValueError: of another length."""
    if not reference:
        return b""
    number, length, _ = _REFERENCE.unpack(reference)
    rows = database.execute("SELECT data FROM blobs WHERE id = ?", (number,)).fetchall()
    if rows and len(rows[0][0]) != length:
        raise ValueError(f"blob {number} has {len(rows[0][0])} bytes, expected {length}")
    return bytes(rows[0][0]) if rows else b""


def _party(home: Path, agreement: Agreement) -> Party:
    try:
        name = str(read_toml(home / "institution.toml")["name"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{home}/institution.toml names no institution ({type(error).__name__}: {error})") from error
    number, peers, said = _membership(home, name)
    (receiving, signing), (kept, state) = _private(home), _memory(home, agreement)
    secret = derived(receiving, b"dictpfl record 1", agreement.federation)
    return Party(home, name, number, secret, kept, state, receiving, signing, peers, said)


def _membership(home: Path, name: str) -> tuple[int, list[list[str]], str]:
    try:
        document = json.loads((home / "peers.json").read_bytes())
        peers = [[str(member), _hex32(receiving), _hex32(signing)] for member, receiving, signing in document["peers"]]
        return [peer[0] for peer in peers].index(name), peers, str(document["sha256"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{home}/peers.json lists no member {name} ({type(error).__name__}: {error})") from error


def _private(home: Path) -> tuple[bytes, bytes]:
    try:
        document = json.loads((home / "peers.key").read_bytes())
        return bytes.fromhex(_hex32(document["receiving"])), bytes.fromhex(_hex32(document["signing"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{home}/peers.key holds no private keys ({type(error).__name__})") from error


def _hex32(text: str) -> str:
    """Return the text of a key if it is 32 bytes in hexadecimal; a ValueError otherwise."""
    if len(bytes.fromhex(text)) != _KEY:
        raise ValueError(f"{text!r} is no key of {_KEY} bytes")
    return text


def _memory(home: Path, agreement: Agreement) -> tuple[bytes, State]:
    path = home / "memory" / f"{agreement.federation.hex()[:32]}.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 -- not a mapping
        return bytes.fromhex(facts["secret"]), remembered(facts, arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise MemoryFileError(f"{path} is no memory of protocol 4 ({type(error).__name__}: {error})") from error
