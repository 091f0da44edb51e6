"""Write the figures of README.md and docs/results.md from benchmarks/results/*.json: they cannot drift.

`python benchmarks/render.py` rewrites what stands between the markers; `--check` only says whether it would.
`python benchmarks/render.py --picture DIR` draws docs/images/digits.svg from a folder that `dictpfl compare` (or
`make demo`) left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from lib import headline
from lib.cost_sections import communication, defences, encryption, mechanisms, peers, rounds, scale, time_to_accuracy
from lib.learning_sections import accuracy, bits, hospitals, language, newsgroups, privacy, refresh, tasks
from lib.paper.cells import Store
from lib.paper.rendering import PAGE, accuracy_section, page
from lib.sizes_section import ROWS
from lib.sizes_section import section as real_sizes
from lib.stored import RESULTS

ROOT = Path(__file__).parents[1]
START, END = "<!-- figures -->", "<!-- /figures -->"


def filled_in(path: Path, figures: str) -> str:
    """A page with the figures between its markers."""
    before, start, rest = path.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{path.name} has no markers {START} and {END}; put them back")
    return f"{before}{START}\n{figures}\n{END}{after}"


def pages() -> dict[Path, str]:
    """Every page with figures, as it should be."""
    readme, results = ROOT / "README.md", ROOT / "docs" / "results.md"
    sections = [part() for name, part in _SECTIONS.items() if (RESULTS / f"{name}.json").exists()]
    sections.insert(0, accuracy_section(Store()))
    if ROWS.path.exists():
        sections.append(real_sizes())
    performance = ROOT / "docs" / "performance.md"
    return {
        readme: filled_in(readme, headline.table()),
        results: filled_in(results, "\n\n".join(sections)),
        performance: filled_in(performance, mechanisms()),
        PAGE: page(Store()),
    }


_SECTIONS: dict[str, Callable[[], str]] = {
    "accuracy": accuracy,
    "newsgroups": newsgroups,
    "language": language,
    "clinical": hospitals,
    "tasks": tasks,
    "refresh": refresh,
    "bits": bits,
    "communication": communication,
    "peers": peers,
    "time_to_accuracy": time_to_accuracy,
    "encryption": encryption,
    "mechanisms": mechanisms,
    "round": rounds,
    "scale": scale,
    "defences": defences,
    "dp": privacy,
}
"""By result file; a benchmark without results has no section."""


def picture(folder: Path) -> None:
    """The README's picture, from the runs of a comparison."""
    from dictpfl.deploy.runs import plots
    from dictpfl.deploy.runs.run import Run

    runs = [Run.load(path.parent) for path in sorted(folder.glob("*/summary.json"), reverse=True)]
    histories = {run.config.method: [run.records] for run in runs}
    drawn = plots.svg(plots.figure_against_bytes(histories, str(runs[0].summary["metric"])))
    (ROOT / "docs" / "images" / "digits.svg").write_text(drawn + "\n", encoding="utf-8")


def main() -> None:
    """Rewrite, check, or draw."""
    if "--picture" in sys.argv:
        picture(Path(sys.argv[sys.argv.index("--picture") + 1]))
        return
    for path, made in pages().items():
        if "--check" not in sys.argv:
            path.write_text(made, encoding="utf-8")
        elif made != path.read_text(encoding="utf-8"):
            sys.exit(f"{path.name} does not show benchmarks/results: run python benchmarks/render.py")


if __name__ == "__main__":
    main()
