"""A language model learns to write answers (GSM8K, SmolLM2-135M): dictpfl encrypted, and LoRA in clear, with the same steps.

    python benchmarks/language.py --list                        # every cell, and whether it is there
    python benchmarks/language.py                               # all that is missing: hours of two cores; goes on where it was stopped
    python benchmarks/language.py --only 'test/*/seed-1'        # these, and the tuning of rates that they wait for
    python benchmarks/language.py --methods dictpfl             # without LoRA
    python benchmarks/language.py --quick                       # one step of each: does it run? keeps nothing
    python benchmarks/language.py --equal                       # ckks against no encryption: the same model, of gsm8k and ag_news?
    python benchmarks/language.py --render                      # results/language.{json,md,svg} from the cells that are there

The federation of experiments/gsm8k.toml: the same problems, batches, steps and optimiser for all; the rate of each by the loss on the
institutions' validation problems (seed 0). Then, on 200 held-out problems: the loss of an answer's tokens, and of 100 of them whether
the model's own answer (the likeliest token every time) ends in the right number. dictpfl's model is exported as an adapter and
loaded by PEFT where dictpfl cannot be imported. A finished cell is a file in benchmarks/results/language. Needs data/ (python
experiments/fetch.py) and `pip install -e '.[dev]'`. Exits with 1 if a requirement is not met, or a cell failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lib.language.catalogue import METHODS, NEEDS, QUICK, START, STORE, every, method_of, start, tested, tuned, tuning
from lib.machine import ROOT, count_of, ended
from lib.paper.cells import Cell
from lib.paper.scheduling import Ready, logged, work


def main() -> int:
    """Measure what is missing; see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="name every cell and its state; measure nothing")
    parser.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="cells of these names; may be repeated"
    )
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--jobs", type=count_of, default=1, help="cells at a time; each takes one thread")
    mode.add_argument("--quick", action="store_true", help="one step of each method; keeps nothing")
    mode.add_argument("--equal", action="store_true", help="compare a short run under ckks with one without encryption")
    mode.add_argument("--render", action="store_true", help="write the page from the cells that are there")
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)  # one cell, in this process
    parser.add_argument("--rate", type=float, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := sorted(set(given.methods.split(",")) - set(METHODS)):
        parser.error(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")
    wanted = [cell for cell in every() if method_of(cell) in (cell.name, *given.methods.split(","))]
    wanted = [cell for cell in wanted if not given.only or any(fnmatchcase(cell.name, glob) for glob in given.only)]
    if not wanted:
        parser.error(f"no cell fits {' '.join(given.only)}; --list names them")
    if given.list:
        return _list(wanted)
    if given.render:
        from lib.language.rendering import render

        return render(STORE)
    if not (ROOT / NEEDS).exists():
        print(f"{NEEDS} is missing: run python experiments/fetch.py", file=sys.stderr)
        return 2
    return _measure(given, wanted)


def _measure(given: argparse.Namespace, wanted: Sequence[Cell]) -> int:
    if given.equal:
        from lib.language.equal import compare

        return compare()
    if given.cell:
        return _one(given.cell, given.rate, quick=given.quick)
    if given.quick:
        cells = [start(), *(tested(method, 1) for method in METHODS if method in given.methods.split(","))]
        return max(_tried(cell, None if cell.name == START else 1e-3) for cell in cells)
    return _all(wanted, given.jobs)


def _one(name: str, rate: float | None, *, quick: bool) -> int:
    from lib.language.running import run

    known = {cell.name: cell for cell in every()}
    if name not in known:
        _, method, said = name.split("/")
        known[name] = tuning(method, float(said.removeprefix("rate-")))
    figures = run(known[name], rate, STORE, QUICK if quick else {})
    print(
        f"{name}: loss {figures['loss']:.4f}"
        + (f", {figures['exact']}/{figures['asked']} exact" if "exact" in figures else "")
    )
    print(f"{name}: {figures['wall_seconds']:.0f} s, peak memory {figures['peak_bytes'] / 2**30:.1f} GiB")
    if "adapter" in figures:
        print(f"{name}: adapter differs by {figures['adapter']['difference']:.2g}")
    return 0


def _all(cells: Sequence[Cell], jobs: int) -> int:
    from lib.language.rendering import render

    with tempfile.TemporaryDirectory(prefix="language-logs-") as logs:
        progress = work(cells, STORE, jobs, Path(logs), rates=_rates, start=_started)
    return max(render(STORE), int(bool(progress.failed)))


def _rates(cell: Cell) -> tuple[float | None, tuple[Cell, ...]]:
    """The rate that a cell takes, and the tuning cells that are missing to know it."""
    if cell.name == START or cell.tunes:
        return None, ()
    rate, missing, _ = tuned(method_of(cell), STORE)
    return rate, tuple(missing)


def _started(ready: Ready, log: Path, _: Path) -> subprocess.Popen[bytes]:
    """A process of its own, so that its peak memory is that of this cell alone."""
    return logged(_command(ready.cell, ready.rate), log)


def _tried(cell: Cell, rate: float | None) -> int:
    return subprocess.run([*_command(cell, rate), "--quick"], cwd=ROOT, check=False).returncode


def _command(cell: Cell, rate: float | None) -> list[str]:
    rated = [] if rate is None else ["--rate", repr(rate)]
    return [sys.executable, __file__, "--cell", cell.name, *rated]


def _list(cells: Sequence[Cell]) -> int:
    for cell in cells:
        rate, missing, tried = (None, [], {}) if cell.name == START else tuned(method_of(cell), STORE)
        done = "tune first" if missing else "done" if STORE.result(cell, rate) is not None else "measure"
        chosen = f" (rate {rate:g})" if rate else f" ({len(tried)} rates tried)" if missing else ""
        print(f"{cell.name:40} {done}{chosen}")
    return 0


if __name__ == "__main__":
    ended(main)
