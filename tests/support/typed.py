"""Commands as they are typed in a folder."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path


def typed(command: str, cwd: Path, timeout: float = 600) -> str:
    """Run `dictpfl` with these words, and return what it prints.

    Args:
        command: what stands behind `dictpfl`.
        cwd: the folder.
        timeout: seconds.

    Raises:
        AssertionError: it failed, or ended in a traceback.
    """
    program = str(Path(sys.executable).with_name("dictpfl"))
    ran = subprocess.run(
        [program, *shlex.split(command)], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert ran.returncode == 0, f"dictpfl {command}: {ran.stderr[-2000:]}"
    assert "Traceback" not in ran.stderr, command
    return ran.stdout
