"""Records that an authority keeps between epochs, sealed at rest: everything but the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dictpfl.client.folder import GENESIS_WEIGHTS, TEACHER
from dictpfl.client.keys.epochs import EpochTable
from dictpfl.client.keys.vault import read_sealed, seal_at_rest
from dictpfl.common.errors import ConfigError, KeyFileError
from dictpfl.common.files import write_private
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony.departures import study_folders
from dictpfl.deploy.ceremony.envelope import pack, unpack
from dictpfl.deploy.ceremony.identity import PublicIdentity, canonical

FEDERATION, SEALED_FOR = "federation.sealed", "federation of an authority"
_TABLE, _MEMBERS = "epochs.json", "members.json"
Members = Mapping[str, PublicIdentity]


@dataclass(frozen=True)
class Kept:
    """Records of the authority."""

    genesis: Genesis
    weights: bytes
    table: EpochTable
    members: Members
    last: int
    """Number of the last epoch that was ever issued, abandoned ones included."""
    app: str
    """SHA-256 of the app bundle of the last epoch, in hexadecimal."""
    rounds: int
    """Update rounds wanted in all; more than genesis says once a rotation asked for more."""
    teacher: bytes = b""
    """Weights of the teacher, safetensors; empty: there is none."""


def studies_of_departed(home: Path, passphrase: bytes, members: Members) -> dict[str, list[str]]:
    """Name an authority's studies that have their key, and in them the members who are not among these."""
    found = {}
    for study in study_folders(home):
        if (study / FEDERATION).exists():
            of = kept(study, passphrase).members
            if left := sorted(name for name, member in of.items() if members.get(name) != member):
                found[study.name] = left
    return found


def keep(home: Path, passphrase: bytes, federation: Kept) -> None:
    """Replace what the authority keeps."""
    members = {name: member.facts() for name, member in federation.members.items()}
    files = {
        **federation.genesis.files(),
        GENESIS_WEIGHTS: federation.weights,
        _TABLE: federation.table.to_bytes(),
        _MEMBERS: canonical(
            {"last": federation.last, "app": federation.app, "rounds": federation.rounds, "members": members}
        ),
    }
    if federation.teacher:
        files[TEACHER] = federation.teacher
    write_private(home / FEDERATION, seal_at_rest(pack(files), passphrase, SEALED_FOR))


def kept(home: Path, passphrase: bytes) -> Kept:
    """Read what the authority kept.

    Raises:
        ConfigError: nothing. KeyFileError: damaged, or readable by others. PassphraseError: wrong.
    """
    path = home / FEDERATION
    if not path.exists():
        raise ConfigError(f"{home} has no federation; `dictpfl authority genesis` makes one")
    files = unpack(read_sealed(path, passphrase, SEALED_FOR))
    try:
        document = json.loads(files[_MEMBERS])
        members = {name: PublicIdentity.of(facts, str(path)) for name, facts in document["members"].items()}
        table = EpochTable.of_bytes(files[_TABLE])
        genesis, last, rounds = Genesis.of_files(files, path), int(document["last"]), int(document["rounds"])
        return Kept(
            genesis, files[GENESIS_WEIGHTS], table, members, last, str(document["app"]), rounds, files.get(TEACHER, b"")
        )
    except (KeyError, ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is damaged ({type(error).__name__}); restore it from backup") from error
