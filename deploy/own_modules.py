"""Modules of a user's own in the working directory, for settings that say `package.module:name`."""

from __future__ import annotations

import sys
from pathlib import Path


def use_working_directory() -> None:
    """Let modules in the working directory be imported, after all others: they hide none of ours or Python's.

    A console script finds what is installed and nothing else; so commands that load a user's model or data ask for this.

    Raises:
        ConfigError: it was removed meanwhile.
    """
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        # Not above: tasks ask for this before the agreed files are checked.
        from dictpfl.common.errors import ConfigError

        raise ConfigError(
            "the working directory is not there any more; change to a folder that is, and repeat the command"
        ) from error
    if here not in sys.path:
        sys.path.append(here)
