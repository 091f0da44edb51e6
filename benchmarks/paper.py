"""The paper's data, tables and arms: every federation is a cell with a name, which runs alone and is kept.

    python benchmarks/paper.py --list                                # every cell, and whether it is there
    python benchmarks/paper.py --only 'cifar10/iid/*' --seeds 1      # these, and the tuning of rates that they wait for
    python benchmarks/paper.py --only 'arms/theta/*' --jobs 2
    python benchmarks/paper.py --subset                              # what `make bench` measures anew (lib/paper/subset.py)
    python benchmarks/paper.py                                       # all that is missing: days on two cores
    python benchmarks/paper.py --render                              # docs/paper.md, tables and pictures from what is there

Names: WORKLOAD/PARTITION/METHOD/seed-N for the accuracy tables, tune/WORKLOAD/METHOD/rate-R for their learning rates (validation
data, IID, seed 0), bytes/WORKLOAD/METHOD, timed/WORKLOAD/METHOD (seconds that are compared: nothing else may run on the machine),
arms/ARM/POINT/seed-N, institutions/N/ARM/seed-K. A finished cell is a JSON line in benchmarks/results/paper/WORD.jsonl, with its
settings, machine, commit and date; one whose settings are other ones now is measured anew, and one that is the same computation as
another is measured once (lib/paper/twins.py).
Whatever is interrupted loses the cells that were running and no other. Data come from `python experiments/fetch.py`; cells without
theirs are left out, and said. Exit status 1 if a cell failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dictpfl.common.errors import DictPFLError
from lib.machine import count_of, ended, seed_list
from lib.paper.catalogue import every
from lib.paper.cells import STORE, Cell, Store
from lib.paper.scheduling import matching, rate_of, state, work


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, and do what it says."""
    given = _given(arguments)
    try:
        return _done(given, Store(given.into.resolve()))
    except DictPFLError as error:
        print(error, file=sys.stderr)
        return 2


def _done(given: argparse.Namespace, store: Store) -> int:
    if given.cell:
        return _one(given.cell, given.rate, store)
    if given.render:
        from lib.paper.rendering import render

        render(store)
        return 0
    if given.subset:
        from lib.paper.subset import rerun

        return rerun(store, given.jobs)
    cells = matching(every(), given.only, given.seeds)
    if not cells:
        seeds = f" with seed {', '.join(map(str, given.seeds))}" if given.seeds else ""
        print(f"no cell fits {' '.join(given.only) or '*'}{seeds}; --list names them", file=sys.stderr)
        return 2
    if given.list:
        _list(cells, store)
        return 0
    with tempfile.TemporaryDirectory(prefix="cells-") as logs:
        progress = work(cells, store, given.jobs, Path(logs))
    print(f"{len(progress.done)} measured, {len(progress.failed)} failed or left out", file=sys.stderr)
    return int(bool(progress.failed))


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="name every cell and its state; measure nothing")
    parser.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="cells of these names; may be repeated"
    )
    parser.add_argument("--seeds", type=seed_list, default="", help="separated by commas; none: all")
    parser.add_argument("--jobs", type=count_of, default=2, help="cells at a time; each trains on one thread")
    mode.add_argument("--subset", action="store_true", help="measure the stated subset anew, and compare its digests")
    mode.add_argument("--render", action="store_true", help="write pages, tables and pictures; measure nothing")
    parser.add_argument(
        "--into", type=Path, default=STORE, metavar="FOLDER", help="keep results there; to try something"
    )
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)  # one cell, in this process
    parser.add_argument("--rate", type=float, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if (given.render or given.subset) and (given.only or given.seeds):
        parser.error("--only and --seeds choose cells to list or to measure; leave them out with --render and --subset")
    if given.render and given.into.resolve() != STORE:
        parser.error(f"--render writes the project's own pages, from {STORE}; leave --into out")
    if given.into.exists() and not given.into.is_dir():
        parser.error(f"--into {given.into} is a file; expected a folder, or the name of one to make")
    return given


def _list(cells: Sequence[Cell], store: Store) -> None:
    counts: dict[str, int] = {}
    for cell in cells:
        try:
            found = state(cell, store)
        except DictPFLError as error:
            found = f"cannot: {error}"
        kind = found.partition(" as ")[0]
        counts[kind] = counts.get(kind, 0) + 1
        rate, _ = (None, ()) if found.startswith("cannot") else rate_of(cell, store)
        print(f"{cell.name:60} {found}{f' (rate {rate:g})' if rate else ''}")
    print(", ".join(f"{count} {found}" for found, count in sorted(counts.items())) + f"; {len(cells)} cells")
    print(
        "language models by loss and exact match: python benchmarks/language.py --list; FLamby's two data sets: python benchmarks/clinical.py"
    )


def _one(name: str, rate: float | None, store: Store) -> int:
    from lib.paper.catalogue import named
    from lib.paper.running import run

    try:
        run(named(name), rate, store)
    except (DictPFLError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    ended(main)
