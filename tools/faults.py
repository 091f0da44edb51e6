"""Run a deployment under faults drawn from a seed, and compare it with an undisturbed one.

`python tools/faults.py --seed 1 --rounds 12 --institutions 4 [--only KIND,KIND] [--into FOLDER] [--out FILE.json]`: real processes over
TLS on this machine. It ends with 1 if the two runs differ, or if `dictpfl status` did not explain a stop. What it plays lies in
tests/support/faults, because it needs the deployments that tests start. Full disks need `mount`: as root, or in a namespace of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.faults import page, whole

_ALONE = "FAULTS_NAMESPACE"
"""Set once this process has mounts of its own, which end with it."""


def main() -> int:
    """Play, print, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule")
    parser.add_argument("--rounds", type=int, default=24, help="update rounds; fewer than kinds leave some out")
    parser.add_argument("--institutions", type=int, default=4, choices=range(3, 7))
    parser.add_argument("--only", default="", metavar="KIND,KIND", help=f"of {', '.join(whole.KINDS)}")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="keep everything there; it must not exist")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON for the page")
    parser.add_argument(
        "--render", action="store_true", help="only write the results into docs/explanation/reliability.md"
    )
    given = parser.parse_args()
    if given.render:
        page.write()
        return 0
    _with_own_mounts()
    kinds = [kind.strip() for kind in given.only.split(",") if kind.strip()] or None
    folder = (given.into or Path(tempfile.mkdtemp(prefix="dictpfl-faults-"))).resolve()
    try:
        report = whole.play(given.seed, given.rounds, given.institutions, folder, kinds, _tell)
    finally:
        if given.into is None:
            shutil.rmtree(folder, ignore_errors=True)
    if given.out:
        whole.write(report, given.out)
    _tell(whole.table(report.rows))
    for wrong in report.wrong:
        _tell(f"WRONG: {wrong}")
    _tell(
        f"seed {given.seed}: {len(report.rows)} faults, {'equal' if not report.wrong else f'{len(report.wrong)} wrong'}"
    )
    return 1 if report.wrong else 0


def _tell(line: str) -> None:
    print(line, flush=True)


def _with_own_mounts() -> None:
    """Begin again in a mount namespace, so that no small disk outlives this process; where none is to be had, go on without."""
    unshare = shutil.which("unshare")
    if _ALONE in os.environ or unshare is None:
        return
    how = [unshare, "--mount"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--mount"]
    if subprocess.run([*how, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[_ALONE] = "1"
        os.execv(unshare, [*how, sys.executable, *sys.argv])  # noqa: S606  ourselves


if __name__ == "__main__":
    sys.exit(main())
