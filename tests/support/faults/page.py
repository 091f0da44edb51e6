"""Seeds and table of docs/explanation/reliability.md, from what `tools/faults.py` wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support import ROOT

PAGE = ROOT / "docs" / "explanation" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "faults"
_PLACE = re.compile(r"(<!-- faults: begin -->\n).*?(<!-- faults: end -->)", re.DOTALL)
NOTHING = "*No seed has been run to its end with all kinds yet. `make nightly` runs three; the two commands above fill this in.*"


def reports() -> list[dict[str, Any]]:
    """What was measured, by seed."""
    return sorted(
        (json.loads(path.read_text()) for path in RESULTS.glob("seed-*.json")), key=lambda one: int(one["seed"])
    )


def rendered(page: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The page with what was measured."""
    if not found:
        return _PLACE.sub(lambda place: f"{place[1]}{NOTHING}\n{place[2]}", page)
    return _PLACE.sub(lambda place: f"{place[1]}{_runs(found)}\n\n{_faults(found)}\n{place[2]}", page)


def _runs(found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for one in found:
        calm, after = one["undisturbed"], one["disturbed"] or {"digests": {}, "updates": 0}
        digests, held = set(calm["digests"].values()), set(after["digests"].values())
        equal = "the same at all" if digests == held and len(held) == 1 else "DIFFER"
        if (until := one.get("replaced")) is not None and equal == "DIFFER" and len(held) == 1:
            equal = f"the same in each of {until} rounds, then one everywhere"
        amiss = ("replayed", "journals", "the sums give")
        read = "equal" if not any(word in wrong for word in amiss for wrong in one["wrong"]) else "DIFFERS"
        lines.append(
            f"- Seed {one['seed']}: {len(one['rows'])} faults, {after['updates']} updates, digest `{min(digests)[:16]}`. Under faults: {equal}; "
            f"read afresh: {read} ({one['seconds'] / 60:.0f} minutes, {one['date']}, {one['processor']}, {one['cores']} cores, {one['commit']})."
        )
    return "\n".join(lines)


def _faults(found: Sequence[Mapping[str, Any]]) -> str:
    """A row a kind of fault; flipped bits by outcome, with the files."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in (row for one in found for row in one["rows"]):
        groups.setdefault((row["kind"], row["outcome"]), []).append(row)
    lines = ["| fault | played | outcome | `status` said so at | mended by |", "|---|---|---|---|---|"]
    for (kind, outcome), rows in sorted(groups.items(), key=lambda group: ("flipped" in group[0][0], group[0])):
        files = ", ".join(sorted({_file(row) for row in rows} - {""}))
        seen = " or ".join(sorted({_whose(row) for row in rows if row["seen_by"]})) or "-"
        mended = " or ".join(sorted({row["repaired_by"] for row in rows}))
        lines.append(f"| {kind}{': ' if files else ''}{files} | {len(rows)} | {outcome} | {seen} | {mended} |")
    return "\n".join(lines)


def _file(row: Mapping[str, Any]) -> str:
    file = str(row["what"]).rpartition(", bit")[0] if row["kind"].startswith("flipped") else ""
    return "`nodes/NAME.pub`" if file.startswith("nodes/") else f"`{file}`" if file else ""


def _whose(row: Mapping[str, Any]) -> str:
    """Roles in place of names."""
    role = "coordinator" if row["where"] == "coordinator" else "institution"
    return str(row["seen_by"]).replace(row["where"], role)


def write() -> None:
    """Write what was measured into the page."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), reports()), encoding="utf-8")
