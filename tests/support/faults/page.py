"""Tables of docs/explanation/reliability.md, from what `tools/faults.py` wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support import ROOT

PAGE = ROOT / "docs" / "explanation" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "faults"
_PLACE = re.compile(r"(<!-- faults: begin -->\n).*?(<!-- faults: end -->)", re.DOTALL)
_MOST = 220
NOTHING = "*No seed has been run to its end with all kinds yet. `make nightly` runs three; the two commands above make the tables.*"


def reports() -> list[dict[str, Any]]:
    """What was measured, by seed."""
    return sorted(
        (json.loads(path.read_text()) for path in RESULTS.glob("seed-*.json")), key=lambda one: int(one["seed"])
    )


def rendered(page: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The page with its tables made anew."""
    if not found:
        return _PLACE.sub(lambda place: f"{place[1]}{NOTHING}\n{place[2]}", page)
    return _PLACE.sub(lambda place: f"{place[1]}{_runs(found)}\n\n{_faults(found)}\n{place[2]}", page)


def _runs(found: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| seed | faults | institutions, updates | digest, undisturbed | digests under faults | replayed by a fresh reader | minutes | measured |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in found:
        calm, after = one["undisturbed"], one["disturbed"] or {"digests": {}, "updates": 0}
        digests, held = set(calm["digests"].values()), set(after["digests"].values())
        equal = "the same at all" if digests == held and len(held) == 1 else "DIFFER"
        if (until := one.get("replaced")) is not None and equal == "DIFFER" and len(held) == 1:
            equal = f"the same in each of {until} rounds; then the same one everywhere"
        amiss = ("replayed", "journals", "the sums give")
        read = "equal" if not any(word in wrong for word in amiss for wrong in one["wrong"]) else "DIFFERS"
        lines.append(
            f"| {one['seed']} | {len(one['rows'])} | {one['institutions']}, {after['updates']} | `{min(digests)[:16]}` | {equal} | {read} | "
            f"{one['seconds'] / 60:.0f} | {one['date']}, {one['processor']}, {one['cores']} cores, commit {one['commit']} |"
        )
    return "\n".join(lines)


def _faults(found: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[tuple[str, str], list[tuple[int, Mapping[str, Any]]]] = {}
    for one in found:
        for row in one["rows"]:
            groups.setdefault((row["kind"], _file(row)), []).append((one["seed"], row))
    lines = [
        "| fault | of | struck (seed: where, after round) | seen by | what it said, once | mended by | outcome |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, file), rows in sorted(groups.items(), key=lambda group: ("flipped" in group[0][0], group[0])):
        struck = "; ".join(f"{seed}: {row['where']}, {row['round']}" for seed, row in rows)
        said = max((row["said"] for _, row in rows), key=len)
        seen = " or ".join(sorted({_whose(row) for _, row in rows if row["seen_by"]})) or "-"
        mended = " or ".join(sorted({row["repaired_by"] for _, row in rows}))
        outcomes = " or ".join(sorted({row["outcome"] for _, row in rows}))
        lines.append(f"| {kind} | {file or '-'} | {struck} | {seen} | {_cell(said)} | {mended} | {outcomes} |")
    return "\n".join(lines)


def _file(row: Mapping[str, Any]) -> str:
    file = str(row["what"]).rpartition(", bit")[0] if row["kind"].startswith("flipped") else ""
    return "`nodes/NAME.pub`" if file.startswith("nodes/") else f"`{file}`" if file else ""


def _whose(row: Mapping[str, Any]) -> str:
    """Roles in place of names."""
    role = "coordinator" if row["where"] == "coordinator" else "institution"
    return str(row["seen_by"]).replace(row["where"], role)


def _cell(text: str) -> str:
    text = re.sub(r"(?<![\w.-])/\S*/(?=[a-z]+/|[\w.-]+\.\w+)", "", text)
    text = text if len(text) <= _MOST else f"{text[:_MOST].rpartition(' ')[0]} …"
    return text.replace("|", "\\|").replace("<", "&lt;") or "-"


def write() -> None:
    """Make the page's tables anew."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), reports()), encoding="utf-8")
