"""Accuracy tables: beside the values of every method stand its bytes."""

from __future__ import annotations

from lib.accuracy_page import rows
from lib.workloads import BOTH, FROZEN_A, FULL, HEAD, METHODS, OURS, TOPK


def row(up: int, down: int, share: float) -> dict[str, object]:
    run = {"accuracy": 90.0, "bytes": {"up": up, "down": down}, "history": [80.0, 85.0, 90.0, 90.0]}
    return {
        "accuracy": 90.0,
        "spread": 0.5,
        "share": share,
        "bytes": float(up + down),
        "rate": 0.01,
        "seeds": {"1": run},
    }


def test_every_method_has_bytes_beside_values() -> None:
    methods = {FULL: row(400_000, 400_000, 100.0), HEAD: row(8_000, 16_000, 5.0), TOPK: row(200_000, 200_000, 70.0),
               BOTH: row(40_000, 40_000, 17.0), FROZEN_A: row(20_000, 20_000, 12.0), OURS: row(6_000, 10_000, 4.0)}  # fmt: skip
    head, _, *body = rows(methods).splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    table = {line.strip("|").split("|")[0].strip(): [c.strip() for c in line.strip("|").split("|")] for line in body}
    assert set(table) == {METHODS[name] for name in methods}
    ours = dict(zip(names, table[METHODS[OURS]], strict=True))
    assert ours["values, % of full"] == "4.00"
    assert ours["bytes, % of full"] == "2.00"
    assert (ours["kB up, a round"], ours["kB down, a round"]) == ("1.5", "2.5")
    assert dict(zip(names, table[METHODS[HEAD]], strict=True))["bytes, % of full"] == "3.00"
    assert "| - |" in rows({OURS: methods[OURS]})
