"""`dictpfl new`: a project folder that runs, to be changed into one's own."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import taken_back

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def write_project(folder: Path) -> list[str]:
    """Write model, data, task, configuration, README and a test into a new folder, and return the names of the files.

    Raises:
        ConfigError: the folder exists, or its name cannot be a federation's.
    """
    if not _NAME.fullmatch(folder.name):
        raise ConfigError(
            f"{folder.name!r} cannot name a project; expected a letter, then letters, digits, - and _, as in my-federation"
        )
    if folder.exists():
        raise ConfigError(f"{folder} exists and is not overwritten; name another folder")
    folder.mkdir()
    written = []
    with taken_back(folder):
        for template in (files("dictpfl.deploy") / "templates" / "new").iterdir():
            name = template.name.removesuffix(".in")
            (folder / name).write_text(
                template.read_text(encoding="utf-8").replace("@NAME@", folder.name), encoding="utf-8"
            )
            written.append(name)
    return sorted(written)
