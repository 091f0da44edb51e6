"""Commands as they are typed in a folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.support.forking import ran


def typed(command: str, cwd: Path, timeout: float = 600) -> str:
    """Run `dictpfl` with these words, and return what it prints.

    Args:
        command: what stands behind `dictpfl`.
        cwd: the folder.
        timeout: seconds.

    Raises:
        AssertionError: it failed, or ended in a traceback.
    """
    done = ran(shlex.split(command), cwd, timeout=timeout)
    assert done.returncode == 0, f"dictpfl {command}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, command
    return done.stdout
