"""Pages on narrow models say what their cells say: who reached what."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_skills_rest_on_is_said_in_the_figures_of_the_result() -> None:
    cells = json.loads((ROOT / "benchmarks" / "results" / "hierarchy.json").read_bytes())["cells"]
    reached: dict[str, list[bool]] = {}
    for name, cell in cells.items():
        reached.setdefault(name.rpartition(", seed")[0], []).append(cell["reached"] is not None)
    share = {arm: f"{sum(each)} of {len(each)}" for arm, each in reached.items()}
    page = " ".join((ROOT / "docs" / "explanation" / "how-it-works.md").read_text(encoding="utf-8").split())
    assert (
        f"was learnt by {share['with atoms']} networks that saw its four parts too, by {share['alone']} that saw it alone, by "
        f"{share['federated, all codes each']} federations in which each institution saw all parts, and by "
        f"{share['federated, one code each']} in which each saw one"
    ) in page
