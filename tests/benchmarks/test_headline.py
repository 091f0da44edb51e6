"""README's rows of accuracy: only what both methods were measured on, each figure beside its own set's name."""

from __future__ import annotations

from typing import cast

from lib import headline
from lib.paper.measured import Measured, Row
from lib.paper.methods import FULL, OURS


class _Found:
    """Cells of two sets; of the third, plaintext's are not there yet."""

    def row(self, workload: str, partition: str, method: str) -> Row | None:
        assert partition == "iid"
        if (workload, method) == ("ag_news", FULL):
            return None
        accuracy = {"cifar10": 60.0, "gtsrb": 70.0, "ag_news": 80.0}[workload] + (method == OURS)
        size = 1 if method == OURS else 200
        return Row({seed: {"accuracy": accuracy, "bytes": {"up": size, "down": size}} for seed in (1, 2)})


def test_a_set_without_cells_of_both_methods_is_named_nowhere() -> None:
    row = headline._real(cast("Measured", _Found()), "iid", "data alike")
    title, ours, full = (cell.strip() for cell in row.split("|")[1:4])
    assert title == "Accuracy: CIFAR-10 / GTSRB, data alike"
    assert ours == "61.0 / 71.0 %"
    assert full == "60.0 / 70.0 % in plaintext, all weights trained; dictpfl sends 0.50 / 0.50 % of its bytes"
