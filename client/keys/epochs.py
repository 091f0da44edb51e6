"""Epochs: the rounds that each key is for, and the folders in which an institution keeps the files of each epoch.

A simulation has one epoch, in the institution's folder itself. A deployment has `epochs/0001`, `epochs/0002` and so on,
each put there in one piece by `dictpfl institution join`; the highest number is in force.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from dictpfl.client.folder import KEY, PEERS, SEALED_KEY, InstitutionSettings
from dictpfl.client.keys.once import one_genesis
from dictpfl.client.keys.vault import open_at_rest, stored_passphrase
from dictpfl.common.ckks.keys import FederationKey, parse_key
from dictpfl.common.ckks.opening import Opener, opener_for
from dictpfl.common.documents import parse_document
from dictpfl.common.errors import ConfigError, KeyFileError, PassphraseError, RoundError, WireError
from dictpfl.common.files import owner_only, read_private
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.members import Roster
from dictpfl.common.law.state import SharedState
from dictpfl.common.law.stored import of_bytes

EPOCHS, TABLE, START = "epochs", "epochs.json", "start.safetensors"
KEY_PURPOSE = "federation key"
_FORMAT = "dictpfl-epochs-1"
_FOLDER = re.compile(r"^[0-9]{4,}$")
_FINGERPRINT = 32


@dataclass(frozen=True)
class Epoch:
    """Span of rounds under one key.

    Attributes:
        number: number of the epoch, from 1 on.
        first_round: first round that is sealed under the key.
        fingerprint: fingerprint of the key, 32 bytes.
    """

    number: int
    first_round: int
    fingerprint: bytes


@dataclass(frozen=True)
class EpochTable:
    """Table of a federation's epochs, as signed by the authority.

    Attributes:
        epochs: all epochs, oldest first.
        start: digest of shared state before the last epoch's first round, 32 bytes; None in the first epoch, which
            starts from genesis.
    """

    epochs: tuple[Epoch, ...]
    start: bytes | None = None

    def __post_init__(self) -> None:
        """Check that numbers rise and first rounds do not fall.

        Raises:
            ConfigError: they do not, or they do.
        """
        numbers = [epoch.number for epoch in self.epochs]
        rounds = [epoch.first_round for epoch in self.epochs]
        good = bool(numbers) and numbers == sorted(set(numbers)) and numbers[0] >= 1
        good = good and rounds == sorted(rounds) and rounds[0] == 0
        good = good and {len(epoch.fingerprint) for epoch in self.epochs} == {_FINGERPRINT}
        if not good or (self.start is None) != (len(self.epochs) == 1):
            raise ConfigError(f"epochs {numbers} from rounds {rounds} on do not follow each other; join again")

    @property
    def last(self) -> Epoch:
        """Epoch in force."""
        return self.epochs[-1]

    def at(self, number: int) -> Epoch:
        """Find the epoch that a round belongs to: by this table, never by what a message says of itself."""
        return next(epoch for epoch in reversed(self.epochs) if epoch.first_round <= number)

    def to_bytes(self) -> bytes:
        """Encode as JSON."""
        epochs = [[e.number, e.first_round, e.fingerprint.hex()] for e in self.epochs]
        document = {"format": _FORMAT, "epochs": epochs, "start": self.start.hex() if self.start else None}
        return json.dumps(document, sort_keys=True).encode()

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` made.

        Raises:
            ConfigError: damaged.
        """
        try:
            document = parse_document(data, _FORMAT, "a table of epochs", ConfigError)
            epochs = tuple(Epoch(int(n), int(first), bytes.fromhex(key)) for n, first, key in document["epochs"])
            return cls(epochs, bytes.fromhex(document["start"]) if document["start"] else None)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"a table of epochs is damaged ({type(error).__name__}); join again") from error


def installed(folder: Path) -> list[int]:
    """List the numbers of the epochs that were joined, rising."""
    if not (folder / EPOCHS).is_dir():
        return []
    return sorted(int(path.name) for path in (folder / EPOCHS).iterdir() if _FOLDER.match(path.name))


def epoch_folder(folder: Path, number: int) -> Path:
    """Folder of an epoch's files."""
    return folder / EPOCHS / f"{number:04d}"


def home(folder: Path) -> Path:
    """Folder of genesis, W0 and the key in force: the newest epoch's, or the institution's own in a simulation."""
    numbers = installed(folder)
    return epoch_folder(folder, numbers[-1]) if numbers else folder


def read_roster(path: Path) -> Roster:
    """Read the members of an epoch.

    Raises:
        ConfigError: missing or damaged.
    """
    try:
        return Roster.of_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; this federation defends itself among its members: join again with the bundle"
        ) from error


def _seeded(genesis: Genesis, key: FederationKey | None) -> Genesis:
    return replace(genesis, epoch_seed=key.seed if key else b"")


class Keyring:
    """Keyring: an institution's keys by epoch, its genesis, and the state that it starts from without a memory."""

    def __init__(self, folder: Path, settings: InstitutionSettings, passphrase: bytes | None = None) -> None:
        """Load the epoch in force; the passphrase comes from where the settings say, unless it is given.

        Raises:
            DictPFLError: damaged, unprotected, of a wrong passphrase, or a key that is not the one of genesis.
        """
        self._folder, self._settings, self._passphrase = folder, settings, passphrase
        self.home = home(folder)
        self.genesis = Genesis.load(self.home)
        self.table = self._table()
        self.key = self._key(self.home) if self.genesis.config.encryption.sealer == "ckks" else None
        self.genesis = one_genesis(_seeded(self.genesis, self.key))
        self._openers: dict[int, Opener] = {}
        self._geneses = {self.table.last.number: self.genesis}

    def _table(self) -> EpochTable:
        if self.home == self._folder:
            return EpochTable((Epoch(1, 0, self.genesis.fingerprint),))
        for folder in (self._folder, self.home):
            owner_only(folder)
        try:
            table = EpochTable.of_bytes((self.home / TABLE).read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read {self.home / TABLE}: {error.strerror}; restore it from backup") from error
        if table.last.fingerprint != self.genesis.fingerprint or table.last.number != int(self.home.name):
            raise ConfigError(f"{self.home / TABLE} is not of this epoch; restore {self.home} from backup")
        return table

    def _key(self, home: Path) -> FederationKey:
        key = parse_key(*self.private(home, KEY, SEALED_KEY, KEY_PURPOSE))
        if home != self._folder and not key.seed:
            raise KeyFileError(
                f"the key in {home} brings no seed of its epoch, expected 32 bytes: it is of an earlier release, and anyone who has a copy "
                "of this folder can make tags. The authority founds the federation again (`dictpfl authority genesis`); join that one in a new folder"
            )
        return key

    def private(self, home: Path, clear: str, sealed: str, purpose: str) -> tuple[bytes, Path]:
        """Read a file that lies in clear (in a simulation) or sealed for `purpose`; returns content and path.

        Raises:
            KeyFileError: missing, damaged, or readable by others.
            PassphraseError: wrong, or none at hand.
        """
        if (home / clear).exists() or not (home / sealed).exists():
            return read_private(home / clear), home / clear
        path = self._folder / self._settings.passphrase_file if self._settings.passphrase_file else None
        passphrase = self._passphrase or stored_passphrase(path)
        if passphrase is None:
            raise PassphraseError(
                f"{home / sealed} is sealed and no passphrase is at hand: name a file as passphrase_file in "
                f"{self._folder / 'institution.toml'}, or give the service the credential dictpfl-passphrase"
            )
        return open_at_rest(read_private(home / sealed), passphrase, purpose, home / sealed), home / sealed

    def start(self) -> SharedState:
        """Make shared state before the first round that this epoch's key opens.

        Raises:
            ConfigError: another state than the authority signed.
        """
        if self.table.start is None:
            return self.genesis.start()
        try:
            data = (self.home / START).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {self.home / START}: {error.strerror}; restore it from backup") from error
        state = of_bytes(data, self.genesis.federation, self.genesis.layout, self.genesis.tallies)
        if state.digest != self.table.start or state.round != self.table.last.first_round:
            raise ConfigError(
                f"{self.home / START} is not the state that this epoch starts from; restore it from backup"
            )
        return state

    def require_agreed(self, state: SharedState) -> None:
        """Refuse a state before the epoch's first round that is not the one that the authority signed.

        Raises:
            RoundError (drift): another state.
        """
        first, start = self.table.last.first_round, self.table.start
        if start is not None and state.round == first and state.digest != start:
            raise RoundError(
                f"replay up to round {first} gives another shared state than the one that epoch {self.table.last.number} "
                "starts from; nothing was applied. Tell the authority: this institution or the exporting one has drifted",
                code="drift",
            )

    def at(self, number: int) -> tuple[Genesis, Opener]:
        """Return genesis and opener for a round's aggregate: after a rotation, older rounds have older keys and seeds.

        Raises:
            KeyFileError: this institution was not in that epoch.
        """
        epoch = self.table.at(number)
        if epoch.number not in self._openers:
            self._openers[epoch.number] = opener_for(self.genesis.parameters, self._key_of(epoch))
        return self.genesis_of(epoch), self._openers[epoch.number]

    def roster_at(self, number: int) -> Roster:
        """Read the members of the epoch that a round was in.

        Raises:
            ConfigError: the list of members is missing or damaged.
        """
        epoch = self.table.at(number)
        path = (self.home if epoch == self.table.last else epoch_folder(self._folder, epoch.number)) / PEERS
        return read_roster(path)

    def secret_of(self, epoch: Epoch) -> bytes:
        """Return a secret that the coordinator lacks: the epoch's key, or the seed where nothing is encrypted.

        Raises:
            KeyFileError: this institution was not in that epoch.
        """
        key = self._key_of(epoch)
        return key.secret if key else self.genesis.seed

    def genesis_of(self, epoch: Epoch) -> Genesis:
        """Return genesis as it was in an epoch, with that one's fingerprint and seed.

        Raises:
            KeyFileError: this institution was not in that epoch.
        """
        if epoch.number not in self._geneses:
            made = replace(self.genesis, fingerprint=epoch.fingerprint)
            self._geneses[epoch.number] = _seeded(made, self._key_of(epoch))
        return self._geneses[epoch.number]

    def _key_of(self, epoch: Epoch) -> FederationKey | None:
        if epoch == self.table.last:
            return self.key
        older = epoch_folder(self._folder, epoch.number)
        if not older.is_dir():
            raise KeyFileError(
                f"rounds {epoch.first_round} and on were summed under the key of epoch {epoch.number}, which is not here: "
                f"this institution cannot replay them. Move {self._folder / 'memory'} away to start from the state that "
                f"epoch {self.table.last.number} brought; what was trained but not delivered is given up"
            )
        key = self._key(older)
        if key.fingerprint != epoch.fingerprint:
            raise WireError(
                f"the key in {older} is not that of epoch {epoch.number}; restore it from backup", code="wrong-key"
            )
        return key
