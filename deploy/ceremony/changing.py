"""The second half of a change of passphrase: files that are ready take the place of the old ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from dictpfl.common.errors import CeremonyError
from dictpfl.common.files import sync_folder

CHANGE = ".passphrase-change"
"""Folder of the files that are ready, below the party's; leftovers with a suffix were never finished, and mean nothing."""


def finish_change(folder: Path) -> None:
    """Move what a change of passphrase made ready; does nothing if there is nothing. Needs no passphrase.

    Raises:
        CeremonyError: the disk refuses; it can be repeated.
    """
    ready = folder / CHANGE
    try:
        for path in sorted(path for path in ready.rglob("*") if path.is_file()) if ready.is_dir() else ():
            target = folder / path.relative_to(ready)
            path.replace(target)
            sync_folder(target.parent)
        if ready.is_dir():
            shutil.rmtree(ready)
            sync_folder(folder)
        for leftover in folder.glob(f"{CHANGE}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise CeremonyError(
            f"cannot finish the change of passphrase in {folder}: {error}; any command of this party repeats it"
        ) from error
