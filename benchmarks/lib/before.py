"""A measurement of a row of `benchmarks/real_sizes.py` in a process of its own: as the code is, and as it was."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.machine import ROOT

COMMIT = "d87d107"
"""The last commit before real sizes were worked on."""


def now(file: str, **arguments: Any) -> Mapping[str, Any]:
    """Call `after(**arguments)` of a row.

    Raises:
        RuntimeError: it failed, and has said why.
    """
    if (found := _called(ROOT, file, arguments)) is None:
        raise RuntimeError(f"{Path(file).name} failed with {arguments}")
    return found


def before(file: str, **arguments: Any) -> Mapping[str, Any] | None:
    """Call it with the package of `COMMIT`; None where this checkout lacks that commit, or where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        git = shutil.which("git")
        kept = (
            subprocess.run([git, "-C", str(ROOT), "archive", COMMIT], capture_output=True, check=False) if git else None
        )
        if kept is None or kept.returncode:
            return None
        with tarfile.open(fileobj=io.BytesIO(kept.stdout)) as tree:
            tree.extractall(folder, filter="tar")
        return _called(Path(folder), file, arguments)


def _called(tree: Path, file: str, arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    row = Path(file).resolve()
    code = f"import json; from {row.stem} import after; print(json.dumps(after(**{dict(arguments)!r})))"
    path = os.pathsep.join(map(str, (tree, row.parent, ROOT / "benchmarks")))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, cwd=tree, stdout=subprocess.PIPE, text=True, check=False
    )  # fmt: skip
    found: Mapping[str, Any] | None = None if done.returncode else json.loads(done.stdout.splitlines()[-1])
    return found
