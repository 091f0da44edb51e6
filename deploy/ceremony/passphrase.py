"""A new passphrase for a party: everything sealed under the old one is sealed anew, all of it or nothing.

The new files are made in a folder beside, which takes its final name once they are all durable; from then on each is moved
over the old one. A crash in between leaves that folder, and whoever opens the party's folder next moves the rest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from dictpfl.client.defences.pairs import PEER_PURPOSE
from dictpfl.client.folder import SEALED_KEY, SEALED_PEER_KEY, SETTINGS, InstitutionSettings
from dictpfl.client.keys.epochs import KEY_PURPOSE, epoch_folder, installed
from dictpfl.client.keys.vault import open_at_rest, require_strong, seal_at_rest
from dictpfl.common.errors import CeremonyError, PassphraseError
from dictpfl.common.files import locked, read_private, sync_folder, write_private
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.changing import CHANGE, finish_change
from dictpfl.deploy.ceremony.departures import study_folders
from dictpfl.deploy.ceremony.identity import PRIVATE, SEALED_FOR, open_identity
from dictpfl.deploy.ceremony.keeping import FEDERATION
from dictpfl.deploy.ceremony.keeping import SEALED_FOR as FEDERATION_SEALED_FOR


def change_passphrase(folder: Path, old: bytes, new: bytes, *, new_file: Path | None = None) -> list[str]:
    """Seal a party's secrets under another passphrase; returns the names of the files.

    Args:
        folder: of an institution or an authority, not being used meanwhile by a process that seals.
        new_file: where the new one lies; `institution.toml` names it from now on, if it named a file before.

    Raises:
        PassphraseError: the old one is wrong, the new one too short or the same, or the process that trains would not
            find the new one. CeremonyError: the disk refuses. Nothing was changed.
    """
    require_strong(new)
    if new == old:
        raise PassphraseError("the new passphrase is the old one; nothing was changed")
    with locked(folder, "join"):
        identity = open_identity(folder, old)
        sealed = {name: _sealed_anew(folder / name, old, new, purpose) for name, purpose in _sealed(folder).items()}
        institution = _institution(folder, new_file)
        # Said first: an entry without a change is a question, a change without an entry would be a lie.
        custody.record(folder, identity, "passphrase changed", files=sorted(sealed))
        _commit(folder, sealed | institution)
        finish_change(folder)
    return sorted(sealed)


def _sealed(folder: Path) -> dict[str, str]:
    """List what lies sealed in a party's folder, with what it is sealed for."""
    found = {PRIVATE: SEALED_FOR}
    for home in (folder, *study_folders(folder)):
        if (home / FEDERATION).exists():
            found[str((home / FEDERATION).relative_to(folder))] = FEDERATION_SEALED_FOR
        for number in installed(home):
            for name, purpose in ((SEALED_KEY, KEY_PURPOSE), (SEALED_PEER_KEY, PEER_PURPOSE)):
                path = epoch_folder(home, number) / name
                if path.exists():
                    found[str(path.relative_to(folder))] = purpose
    return found


def _sealed_anew(path: Path, old: bytes, new: bytes, purpose: str) -> bytes:
    return seal_at_rest(open_at_rest(read_private(path), old, purpose, path), new, purpose)


def _institution(folder: Path, new_file: Path | None) -> dict[str, bytes]:
    """Each `institution.toml` that names a passphrase file: it must go on naming the one that opens the key."""
    written = {}
    for home in (folder, *study_folders(folder)):
        if not (home / SETTINGS).exists() or not (settings := InstitutionSettings.load(home)).passphrase_file:
            continue
        if new_file is None:
            raise PassphraseError(
                f"{home / SETTINGS} names {settings.passphrase_file} for the process that trains, which would go on reading the old "
                "passphrase; give the new one by --new-passphrase-file"
            )
        named = settings.model_copy(update={"passphrase_file": relative(new_file, home)})
        written[str((home / SETTINGS).relative_to(folder))] = named.to_bytes()
    return written


def relative(file: Path, folder: Path) -> str:
    """Return a file as `institution.toml` names it: relative to the institution's folder."""
    return os.path.relpath(file.resolve(), folder.resolve())


def _commit(folder: Path, files: dict[str, bytes]) -> None:
    draft = Path(tempfile.mkdtemp(dir=folder, prefix=f"{CHANGE}-"))
    try:
        for name, data in files.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(target, data)
        for part in [path for path in draft.rglob("*") if path.is_dir()]:
            sync_folder(part)
        draft.rename(folder / CHANGE)
        sync_folder(folder)
    except OSError as error:
        raise CeremonyError(f"cannot write into {folder}: {error.strerror}; the old passphrase holds") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
