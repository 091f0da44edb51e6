"""Epochs: which key holds from which round on, and where an institution keeps what each epoch brought.

A simulation has one epoch, in the institution's folder itself. A deployment has `epochs/0001`, `epochs/0002` and so on,
each put there in one piece by `dictpfl institution join`; the highest number is in force.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from client.replay import opener_for
from client.site import KEY, PEERS, SEALED_KEY, SiteSettings
from client.snapshot import of_bytes
from client.vault import open_at_rest, stored_passphrase
from common.circle import Roster
from common.errors import ConfigError, DriftError, KeyFileError, PassphraseError, WrongKeyError
from common.files import read_private
from common.genesis import Genesis
from common.keys import FederationKey, owner_only, parse_key
from common.opening import Opener
from common.state import SharedState

EPOCHS, TABLE, START = "epochs", "epochs.json", "start.safetensors"
KEY_PURPOSE = "federation key"
_FORMAT = "dictpfl-epochs-1"
_FOLDER = re.compile(r"^[0-9]{4,}$")
_FINGERPRINT = 32


@dataclass(frozen=True)
class Epoch:
    """A key's reign: `number` from 1 on, the first round that is sealed under it, and its fingerprint (32 bytes)."""

    number: int
    first_round: int
    fingerprint: bytes


@dataclass(frozen=True)
class EpochTable:
    """All epochs of a federation, oldest first, as signed by the authority.

    `start` is the digest of shared state before the last one's first round; None in the first epoch, which starts from
    genesis.
    """

    epochs: tuple[Epoch, ...]
    start: bytes | None = None

    def __post_init__(self) -> None:
        """Numbers rise, first rounds do not fall.

        Raises:
            ConfigError: not so.
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
        """The one in force."""
        return self.epochs[-1]

    def at(self, number: int) -> Epoch:
        """The epoch that a round belongs to: by this table, never by what a message says of itself."""
        return next(epoch for epoch in reversed(self.epochs) if epoch.first_round <= number)

    def to_bytes(self) -> bytes:
        """As JSON."""
        epochs = [[e.number, e.first_round, e.fingerprint.hex()] for e in self.epochs]
        document = {"format": _FORMAT, "epochs": epochs, "start": self.start.hex() if self.start else None}
        return json.dumps(document, sort_keys=True).encode()

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Inverse of `to_bytes`.

        Raises:
            ConfigError: damaged.
        """
        try:
            document: Any = json.loads(data)
            if document["format"] != _FORMAT:
                raise ConfigError(f"a table of epochs of format {document['format']!r}, expected {_FORMAT!r}")
            epochs = tuple(Epoch(int(n), int(first), bytes.fromhex(key)) for n, first, key in document["epochs"])
            return cls(epochs, bytes.fromhex(document["start"]) if document["start"] else None)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"a table of epochs is damaged ({type(error).__name__}); join again") from error


def installed(folder: Path) -> list[int]:
    """Numbers of the epochs that were joined, in order."""
    if not (folder / EPOCHS).is_dir():
        return []
    return sorted(int(path.name) for path in (folder / EPOCHS).iterdir() if _FOLDER.match(path.name))


def epoch_folder(folder: Path, number: int) -> Path:
    """Where an epoch's files lie."""
    return folder / EPOCHS / f"{number:04d}"


def home(folder: Path) -> Path:
    """Where genesis, W0 and the key in force lie: the newest epoch, or the folder itself in a simulation."""
    numbers = installed(folder)
    return epoch_folder(folder, numbers[-1]) if numbers else folder


def read_roster(path: Path) -> Roster:
    """The members of an epoch.

    Raises:
        ConfigError: missing or damaged.
    """
    try:
        return Roster.of_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; this federation defends itself among its members: join again with the bundle"
        ) from error


class Keyring:
    """An institution's keys by epoch, its genesis, and the state that it starts from without a memory."""

    def __init__(self, folder: Path, settings: SiteSettings, passphrase: bytes | None = None) -> None:
        """Load what is in force; the passphrase comes from where the settings say, unless it is given.

        Raises:
            DictPFLError: damaged, unprotected, of a wrong passphrase, or a key that is not the one of genesis.
        """
        self._folder, self._settings, self._passphrase = folder, settings, passphrase
        self.home = home(folder)
        self.genesis = Genesis.load(self.home)
        self.table = self._table()
        self.key = self._key(self.home) if self.genesis.config.encryption.sealer == "ckks" else None
        self._openers: dict[int, Opener] = {}

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
        return parse_key(*self.private(home, KEY, SEALED_KEY, KEY_PURPOSE))

    def private(self, home: Path, clear: str, sealed: str, purpose: str) -> tuple[bytes, Path]:
        """The content of a file that is there in clear (a simulation's) or sealed for `purpose`, and where it lies.

        Raises:
            KeyFileError: missing, damaged, or readable by others. PassphraseError: wrong, or none at hand.
        """
        if (home / clear).exists() or not (home / sealed).exists():
            return read_private(home / clear), home / clear
        path = self._folder / self._settings.passphrase_file if self._settings.passphrase_file else None
        passphrase = self._passphrase or stored_passphrase(path)
        if passphrase is None:
            raise PassphraseError(
                f"{home / sealed} is sealed and no passphrase is at hand: name a file as passphrase_file in "
                f"{self._folder / 'site.toml'}, or give the service the credential dictpfl-passphrase"
            )
        return open_at_rest(read_private(home / sealed), passphrase, purpose, home / sealed), home / sealed

    def start(self) -> SharedState:
        """Shared state before the first round that this epoch lets one open.

        Raises:
            ConfigError: not the state that the authority signed.
        """
        if self.table.start is None:
            return self.genesis.start()
        try:
            data = (self.home / START).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {self.home / START}: {error.strerror}; restore it from backup") from error
        state = of_bytes(data, self.genesis.federation, self.genesis.layout)
        if state.digest != self.table.start or state.round != self.table.last.first_round:
            raise ConfigError(
                f"{self.home / START} is not the state that this epoch starts from; restore it from backup"
            )
        return state

    def require_agreed(self, state: SharedState) -> None:
        """Where replay reaches the epoch's first round, it must have come to the state that the authority signed.

        Raises:
            DriftError: it has not.
        """
        first, start = self.table.last.first_round, self.table.start
        if start is not None and state.round == first and state.digest != start:
            raise DriftError(
                f"replay up to round {first} gives another shared state than the one that epoch {self.table.last.number} "
                "starts from; nothing was applied. Tell the authority: this institution or the exporting one has drifted"
            )

    def at(self, number: int) -> tuple[Genesis, Opener]:
        """Genesis and opener for a round's aggregate: after a rotation, older rounds open under older keys.

        Raises:
            KeyFileError: this institution was not in that epoch.
        """
        epoch = self.table.at(number)
        if epoch.number not in self._openers:
            self._openers[epoch.number] = opener_for(self.genesis, self._key_of(epoch))
        return self._genesis_of(epoch), self._openers[epoch.number]

    def roster_at(self, number: int) -> Roster | None:
        """Members of the epoch that a round was in, where sums are checked against what they signed.

        Raises:
            ConfigError: they are not here.
        """
        if not self.genesis.config.defences.integrity:
            return None
        epoch = self.table.at(number)
        path = (self.home if epoch == self.table.last else epoch_folder(self._folder, epoch.number)) / PEERS
        return read_roster(path)

    def secret_of(self, epoch: Epoch) -> bytes:
        """What institutions of an epoch hold and the coordinator does not: the key, or the seed where nothing is encrypted.

        Raises:
            KeyFileError: this institution was not in that epoch.
        """
        key = self._key_of(epoch)
        return key.secret if key else self.genesis.seed

    def _genesis_of(self, epoch: Epoch) -> Genesis:
        if epoch == self.table.last:
            return self.genesis
        return replace(self.genesis, fingerprint=epoch.fingerprint)

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
            raise WrongKeyError(f"the key in {older} is not that of epoch {epoch.number}; restore it from backup")
        return key
