"""README's table: at most seven rows, and of accuracy only what both methods were measured on."""

from __future__ import annotations

from typing import cast

from lib import headline
from lib.paper.measured import Measured, Row
from lib.paper.methods import FULL, OURS


class _Found:
    """Cells of two sets; of the third, plaintext's are not there yet."""

    def row(self, workload: str, partition: str, method: str) -> Row | None:
        if (workload, method) == ("ag_news", FULL):
            return None
        if (workload, method) == ("gtsrb", "lora-frozen-a") and partition != "iid":
            return None
        accuracy = {"cifar10": 60.0, "gtsrb": 70.0, "ag_news": 80.0}[workload] + (method == OURS) - (partition != "iid")
        size = {OURS: 1, FULL: 200}.get(method, 2)
        return Row(
            {
                seed: {"accuracy": accuracy + by, "bytes": {"up": size, "down": size}}
                for seed, by in ((1, -1), (2, 0), (3, 1))
            }
        )


def test_a_set_without_cells_of_both_methods_has_no_row() -> None:
    cifar, gtsrb = headline._accuracy(cast("Measured", _Found()))
    title, ours, lora, full = (cell.strip() for cell in cifar.split("|")[1:5])
    assert title.startswith("CIFAR-10")
    assert ours == "61.0 ± 2.5 / 60.0 ± 2.5; 0.50 %", "4.303 / sqrt(3) of a deviation of 1"
    assert lora == "60.0 ± 2.5 / 59.0 ± 2.5; 1.00 %"
    assert full == "60.0 ± 2.5 / 59.0 ± 2.5"
    assert gtsrb.split("|")[3].strip() == "-", "it lacks a division"


def test_the_table_has_at_most_seven_rows() -> None:
    head, _, *rows = [line for line in headline.table().splitlines() if line.startswith("|")]
    assert "dictpfl" in head
    assert 3 <= len(rows) <= 7
