"""Pages on narrow models say what their cells say: who reached what, whose steps were more, and how far relearning went."""

from __future__ import annotations

import json
from pathlib import Path

import narrow_newsgroups
from lib.arms import Cells, Study

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


def made_up(before: int, after: int) -> Cells:
    study = Study("made-up", lambda _arm, _seed: {}, {arm: {} for arm in narrow_newsgroups.WAYS}, (1,))
    steps = {narrow_newsgroups.GATES: after, narrow_newsgroups.CEILING: 0}
    return Cells(study, {(arm, 1): {"steps": steps.get(arm, before + after)} for arm in study.arms})


def test_unequal_steps_are_said() -> None:
    said = narrow_newsgroups.unequal_steps(made_up(20, 7))
    assert said.startswith("**The arms are not equal in steps.**")
    assert "took 27 on pooled samples, 20 before the cut and 7 after it" in said
    assert (
        "at 3 institutions, each of which took 20 before the cut on its own samples, averaged every 30: 60 in all; then 7 on"
        in said
    )
    page = (ROOT / "benchmarks" / "results" / "narrow_newsgroups.md").read_text(encoding="utf-8")
    assert narrow_newsgroups.unequal_steps(made_up(150, 150)) in page


def test_how_far_relearning_went_is_said() -> None:
    assert narrow_newsgroups.relearning_steps((30, 100)) == (
        "Dropped topics were relearnt for 30 and 100 steps; not for 300, as in the other studies of narrow models."
    )
    assert "not for" not in narrow_newsgroups.relearning_steps((30, 300))
    page = (ROOT / "benchmarks" / "results" / "narrow_newsgroups.md").read_text(encoding="utf-8")
    assert narrow_newsgroups.relearning_steps(narrow_newsgroups.COUNTS) in page
