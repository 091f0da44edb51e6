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

COMMIT = "0182c0f"
"""The last commit before real sizes were worked on, at which their figures were first read."""


def now(file: str, **arguments: Any) -> Mapping[str, Any]:
    """Call `after(**arguments)` of a row.

    Raises:
        RuntimeError: it failed, and has said why.
    """
    row = Path(file).resolve()
    if (found := _called(ROOT, row.stem, "after", arguments, row.parent)) is None:
        raise RuntimeError(f"{row.name} failed with {arguments}")
    return found


def before(function: str, **arguments: Any) -> Mapping[str, Any] | None:
    """Call a function of `lib.earlier` with the package of `COMMIT`; None where this checkout lacks that commit, or where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        git = shutil.which("git")
        kept = (
            subprocess.run([git, "-C", str(ROOT), "archive", COMMIT], capture_output=True, check=False) if git else None
        )
        if kept is None or kept.returncode:
            return None
        with tarfile.open(fileobj=io.BytesIO(kept.stdout)) as tree:
            tree.extractall(folder, filter="tar")
        return _called(Path(folder), "lib.earlier", function, arguments)


def _called(
    tree: Path, module: str, function: str, arguments: Mapping[str, Any], *more: Path
) -> Mapping[str, Any] | None:
    code = f"import json; from {module} import {function}; print(json.dumps({function}(**{dict(arguments)!r})))"
    path = os.pathsep.join(map(str, (tree, *more, ROOT / "benchmarks")))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, cwd=tree, stdout=subprocess.PIPE, text=True, check=False
    )  # fmt: skip
    found: Mapping[str, Any] | None = None if done.returncode else json.loads(done.stdout.splitlines()[-1])
    return found
