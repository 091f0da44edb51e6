"""Federation id, state digest and model digest of every experiment: `python tools/digests.py record FILE.json`.

Run it before and after a change that must not change what a federation computes, then
`python tools/digests.py compare BEFORE.json AFTER.json`: each difference is printed, and the exit status is 1.

An experiment whose data is not on this machine is recorded as "no data". `--command` names the program
(default `dictpfl`), so that an older checkout can be measured: `--command "python -m deploy.cli"`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parents[1] / "experiments"
DEMO = ("plaintext", "fedhe-full", "dictpfl")


def figures(folder: Path) -> dict[str, str]:
    """What has to stay the same of a finished run."""
    summary = json.loads((folder / "summary.json").read_bytes())
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "federation": str(summary.get("federation", "")),
        "state": str(summary["state_digest"]),
        "model": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "accuracy": repr(summary.get("test", summary.get("accuracy"))),
        "rounds": str(len(history)),
    }


def recorded(command: list[str], experiments: Path, rounds: int) -> dict[str, dict[str, str]]:
    """Run everything, and say what came out."""
    found: dict[str, dict[str, str]] = {}
    jobs = [(path.stem, path, ["--engine", "local"]) for path in sorted(experiments.glob("*.toml"))]
    jobs += [(f"demo {method}", experiments / "digits.toml", ["--method", method]) for method in DEMO]
    for name, path, extra in jobs:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
        data = config.get("data", {}).get("path", "")
        if data and not Path(data).exists():
            found[name] = {"no data": data}
            continue
        limit = ["--set", f"federation.rounds={rounds}"] if rounds and not name.startswith("demo") else []
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [*command, "simulate", str(path), "--out", f"{folder}/run", *extra, *limit],
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            found[name] = figures(Path(folder, "run")) if done.returncode == 0 else {"failed": done.stderr[-400:]}
        print(name, found[name], flush=True)
    return found


def main() -> int:
    """Record, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    record = what.add_parser("record")
    record.add_argument("file", type=Path)
    record.add_argument("--command", default="dictpfl")
    record.add_argument("--experiments", type=Path, default=HERE)
    record.add_argument("--rounds", type=int, default=0, help="fewer rounds for all but the demo; 0: as configured")
    compare = what.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.what == "record":
        found = recorded(shlex.split(given.command), given.experiments, given.rounds)
        given.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return int(any("failed" in figures for figures in found.values()))
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (given.before, given.after))
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in differing:
        print(f"{name}\n  before {before.get(name)}\n  after  {after.get(name)}")
    print(f"{len(before.keys() | after.keys()) - len(differing)} equal, {len(differing)} differ")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
