"""Void rounds, refused sums, locks and devices of a simulated run, gathered from its institutions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dictpfl.client.defences.openings import openings_at
from dictpfl.client.folder import DIARY, InstitutionSettings
from dictpfl.client.memory.diary import read_diary, troubles
from dictpfl.client.memory.record import Memory
from dictpfl.common.genesis import Genesis


def troubles_of(genesis: Genesis, institutions: Sequence[Path]) -> dict[str, Any]:
    """Gather what went wrong with sums.

    Args:
        genesis: agreement of the federation.
        institutions: folders of all institutions.

    Returns:
        `void`: rounds that were void, rising; `refused`: round, reason and the institutions' folder names for each refusal, in
        the order of rounds; `locked`: folder names of institutions that opened nothing more at the end.
    """
    void: set[int] = set()
    refused: dict[tuple[int, str], set[str]] = {}
    for folder in institutions:
        gathered = troubles(read_diary(folder / DIARY))
        void |= {line["round"] for line in gathered["void"]}
        for line in gathered["refused"]:
            refused.setdefault((line["round"], str(line.get("reason", "not known"))), set()).add(folder.name)
    sums = [
        {"round": number, "reason": reason, "institutions": sorted(refused[number, reason])}
        for number, reason in sorted(refused)
    ]
    return {"void": sorted(void), "refused": sums, "locked": [f.name for f in institutions if _locked(genesis, f)]}


def failures_of(institutions: Sequence[Path]) -> list[str]:
    """Say why institutions could not answer at last, each reason once with who gave it; whoever simulates is all of them."""
    gave: dict[str, list[str]] = {}
    for folder in institutions:
        last: dict[str, Any] = next(reversed(read_diary(folder / DIARY)), {})
        if last.get("event") == "failed":
            gave.setdefault(str(last.get("reason")), []).append(folder.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in gave.items()]


def devices_of(institutions: Sequence[Path]) -> dict[str, dict[str, int]]:
    """Count what was trained where, from the institutions' diaries.

    Returns:
        For each device, as institutions named it, `rounds` that were trained there and `institutions` that trained any there.
    """
    found: dict[str, dict[str, int]] = {}
    for folder in institutions:
        named = [str(line["device"]) for line in read_diary(folder / DIARY) if line.get("device")]
        for name in sorted(set(named)):
            counts = found.setdefault(name, {"institutions": 0, "rounds": 0})
            counts["institutions"] += 1
            counts["rounds"] += named.count(name)
    return found


def _locked(genesis: Genesis, folder: Path) -> bool:
    memory = Memory(folder / "memory", genesis.federation).path
    return openings_at(memory, genesis.fingerprint, InstitutionSettings.load(folder).most_refused).locked
