"""Institutions that this process keeps open: loading a model and data takes a while, and rounds are many."""

from __future__ import annotations

from pathlib import Path

from dictpfl.client.folder import SETTINGS, TRAIN, VALIDATION
from dictpfl.client.institution import Institution
from dictpfl.client.keys.epochs import home
from dictpfl.common.genesis import DOCUMENT

_OPEN: dict[Path, tuple[tuple[int, ...], Institution]] = {}


def open_institution(folder: Path) -> Institution:
    """Open the institution of a folder, and keep it for the life of the process, or until its settings, genesis or samples change.

    Raises:
        DictPFLError: settings, genesis, key or data cannot be used.
    """
    folder = folder.resolve()
    written = tuple(
        _changed(path) for path in (home(folder) / DOCUMENT, folder / SETTINGS, folder / TRAIN, folder / VALIDATION)
    )
    if folder not in _OPEN or _OPEN[folder][0] != written:
        _OPEN[folder] = (written, Institution(folder))
    return _OPEN[folder][1]


def forget_institutions() -> None:
    """Drop every institution that this process keeps open; a process may play many federations in turn."""
    _OPEN.clear()


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
