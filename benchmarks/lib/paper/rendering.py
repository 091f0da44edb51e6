"""docs/paper.md, the tables of docs/results.md, and pictures: all from what stands in the store."""

from __future__ import annotations

from pathlib import Path

from lib.machine import ROOT, markdown_table
from lib.paper import tables
from lib.paper.cells import Store
from lib.paper.goals import first_line
from lib.paper.institutions import COUNTS, ROUNDS, SAMPLES, steps
from lib.paper.measured import Measured
from lib.paper.network import COORDINATOR_POLL, TASK_POLL, TRIPS
from lib.paper.pictures import PICTURES, svg
from lib.paper.verdicts import CLAIMS, OPEN, counts, told

PAGE = ROOT / "docs" / "paper.md"
IMAGES = ROOT / "docs" / "images" / "paper"
FIRST, REST = "verdict", "measured"
"""Blocks of docs/paper.md that are written here: what it begins with, and all tables."""
_GOALS = "What this project set itself: test accuracy of dictpfl near that of full fine-tuning in clear, with a small part of its bytes. It is judged, here and under section 5, by all seeds that both have; tables have the first three of every method."


def filled_in(text: str, block: str, content: str) -> str:
    """A page with the content between `<!-- block -->` and `<!-- /block -->`.

    Raises:
        ValueError: the page does not have the two markers, in this order.
    """
    before, start, rest = text.partition(f"<!-- {block} -->")
    _, end, after = rest.partition(f"<!-- /{block} -->")
    if not (start and end):
        raise ValueError(f"the page has no markers <!-- {block} --> and <!-- /{block} -->; put them back")
    return f"{before}{start}\n{content}\n{end}{after}"


def page(store: Store) -> str:
    """docs/paper.md as it should be."""
    found = Measured(store)
    text = filled_in(PAGE.read_text(encoding="utf-8"), FIRST, f"{_GOALS}\n\n{first_line(found)}")
    return filled_in(text, REST, measured(found))


def measured(found: Measured) -> str:
    """Claims, arms, institutions, time, pictures; and, for all of them, where they were measured."""
    numbers = "; ".join(f"{word}: {count}" for word, count in counts(found).items())
    claims = markdown_table(["paper", "it states", "ours"], [[c.source, c.text, told(c.judge(found))] for c in CLAIMS])
    parts = [
        "## Claim by claim", f"{len(CLAIMS)} claims: {numbers}. *Reproduced*: the whole 95 % interval of a difference keeps what was claimed, or a ratio does. "
        "Else *no difference shown*: 0 is in the interval; *not decided*: a difference is shown, and its interval lies on both sides of what was claimed; "
        "*differs*: none of it keeps the claim. How many points count as level stands claim by claim in `benchmarks/lib/paper/verdicts.py`.", claims,
        "The accuracy tables, by method and workload, are in [the results](results.md#the-papers-data).",
        "## Arms", tables.arm_tables(found),
        "## More institutions, the same data",
        f"CIFAR-10 with DINOv2-S; {SAMPLES:,} images are divided among all, whatever their number, for {ROUNDS} rounds of an epoch: each of "
        f"{COUNTS[0]} takes about {ROUNDS * steps(COUNTS[0])} steps in all, each of {COUNTS[-1]} takes {ROUNDS * steps(COUNTS[-1])} (`institutions/*`).",
        tables.institution_table(found),
        "## Time to accuracy",
        "Work and bytes are measured: the median of rounds that had the machine to themselves (`timed/*`), and mean bytes. The network is modelled: its rate, "
        f"{TRIPS} round trips a round, and a deployment's looks for work inside one machine (tasks after {TASK_POLL:g} s at most, the coordinator "
        f"after {COORDINATOR_POLL:g} s). Institutions work and send at the same time, and do not share the coordinator's line.",
        tables.time_table(found),
        "## Pictures",
        "Of what the paper's figures 2, 4, 5, 6 and 8 are about: time by phase, updates that shrink, single coordinates, accuracy against "
        "bytes and time.",
        *_pictures(found),
        tables.where_measured(found.facts),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts))


def _pictures(found: Measured) -> list[str]:
    parts = []
    for name, (caption, draw) in PICTURES.items():
        is_there = draw(found) is not None
        parts.append(f"![{caption}](images/paper/{name}.svg)" if is_there else f"{caption}: {OPEN}.")
    return parts


def accuracy_section(store: Store) -> str:
    """The part of docs/results.md with the accuracy tables."""
    found = Measured(store)
    head = (
        "## The paper's data\n\n(`python benchmarks/paper.py`, one cell a federation; figures of the final model on the test split, mean and "
        "standard deviation of seeds that chose no rate. Cells are small, so that each takes minutes: they compare methods at equal training, and lie far "
        "below what these models reach with all of the data. Rates: the best of a grid by factors of two by validation, on seed 0 (hospitals: the mean of "
        "seeds 0 and 6 to 9), extended until the best is inside; where data differ by Dirichlet's alpha, the rate is that of IID data. Bytes are those of one institution over all rounds, not padded (`encryption.pad_to`: its default adds 0 to 6.25 %). FedML-HE trains what plaintext trains, "
        "though a run of it rounds what it seals, as FedHE-Full does; its encryption and bytes are those of real rounds of one step, put together. Training and encryption (sealing, folding, opening): seconds of "
        "one institution, all rounds, of the quickest seed, on the processor that *timed on* says; two cells were measured side by side, so that they tell an order "
        "of magnitude. Seconds that may be compared were taken alone: [time to accuracy](paper.md#time-to-accuracy). Peak memory is that of the process that plays all institutions and the coordinator. Claim by claim: "
        "[the paper](paper.md).)"
    )
    body = tables.accuracy_tables(found)
    return "\n\n".join(filter(None, [head, body, tables.where_measured(found.facts)]))


def render(store: Store) -> list[Path]:
    """Write docs/paper.md and the pictures; `python benchmarks/render.py` writes docs/results.md."""
    found, written = Measured(store), [PAGE]
    PAGE.write_text(page(store), encoding="utf-8")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, (_, draw) in PICTURES.items():
        path = IMAGES / f"{name}.svg"
        figure = draw(found)
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        path.write_text(svg(figure), encoding="utf-8")
        written.append(path)
    return written
