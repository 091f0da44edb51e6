"""What `make bench` measures anew is compared with what stood there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib.paper import subset
from lib.paper.catalogue import named
from lib.paper.cells import Store
from lib.paper.scheduling import Progress
from lib.paper.subset import SUBSET, compared


def result(digest: str = "aa", test: float = 90.0, processor: str = "p") -> dict[str, Any]:
    return {
        "measured": {"processor": processor},
        "figures": {"state_digest": digest, "accuracy": test, "loss": 1 - test},
    }


@pytest.mark.parametrize(
    ("earlier", "now", "stands", "said", "right"),
    [
        (None, result(), False, "first time", True),
        (result(), result(), True, "bit for bit", True),
        (result(), result("bb", 10.0), False, "settings have changed", True),
        (result(), result("bb", 90.3), True, "same processor, test +0.30", True),
        (result(processor="q"), result("bb", 88.0), True, "another processor, test -2.00", False),
    ],
)
def test_a_cell_that_comes_out_otherwise_is_said(earlier: Any, now: Any, stands: Any, said: str, right: bool) -> None:
    verdict, is_right = compared(earlier, now, stands=stands)
    assert said in verdict
    assert is_right is right


def test_the_subset_names_cells() -> None:
    assert [named(name).name for name in SUBSET] == list(SUBSET)


def test_a_setting_that_is_new_does_not_end_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result from before a key was there stands, as `--list` says, and is compared: `make bench` compared nothing of such cells."""
    cell = named("digits/iid/dictpfl/seed-1")
    store, figures = Store(tmp_path / "s"), {"state_digest": "aa", "accuracy": 90.0, "loss": 1.0}
    store.write(cell, figures, 0.004, {"processor": "p"})
    lines = store.lines(cell.name)
    lines.put(cell.name, lines.get(cell.name) | {"settings_digest": "of fewer settings"})

    def anew(cells: Any, into: Store, *_: Any, **__: Any) -> Progress:
        for one in cells:
            into.write(one, figures | {"state_digest": "bb", "accuracy": 10.0}, 0.004, {"processor": "p"})
        return Progress(done=[one.name for one in cells])

    monkeypatch.setattr(subset, "SUBSET", (cell.name,))
    monkeypatch.setattr(subset, "rate_of", lambda *_: (0.004, ()))
    monkeypatch.setattr(subset, "work", anew)
    assert subset.rerun(store, 1) == 1
    assert "test -80.00 points" in capsys.readouterr().err
