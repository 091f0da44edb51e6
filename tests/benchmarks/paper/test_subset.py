"""What `make bench` measures anew is compared with what stood there."""

from __future__ import annotations

from typing import Any

import pytest

from lib.paper.catalogue import named
from lib.paper.subset import SUBSET, compared


def result(digest: str = "aa", test: float = 90.0, settings: str = "s", processor: str = "p") -> dict[str, Any]:
    return {
        "settings_digest": settings,
        "measured": {"processor": processor},
        "figures": {"state_digest": digest, "accuracy": test, "loss": 1 - test},
    }


@pytest.mark.parametrize(
    ("earlier", "now", "said", "right"),
    [
        (None, result(), "first time", True),
        (result(), result(), "bit for bit", True),
        (result(settings="t"), result("bb", 10.0), "settings have changed", True),
        (result(), result("bb", 90.3), "same processor, test +0.30", True),
        (result(processor="q"), result("bb", 88.0), "another processor, test -2.00", False),
    ],
)
def test_a_cell_that_comes_out_otherwise_is_said(earlier: Any, now: Any, said: str, right: bool) -> None:
    verdict, is_right = compared(earlier, now)
    assert said in verdict
    assert is_right is right


def test_the_subset_names_cells() -> None:
    assert [named(name).name for name in SUBSET] == list(SUBSET)
