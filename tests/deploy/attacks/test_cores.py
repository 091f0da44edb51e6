"""What a core's gradient shows of a layer's inputs."""

from __future__ import annotations

import numpy as np
import pytest

from dictpfl.common.law.dictionary import decompose
from dictpfl.common.law.layout import Kind, Layout
from dictpfl.deploy.attacks import cores


@pytest.mark.parametrize("form", ["table", "core"])
@pytest.mark.parametrize("orientation", ["paper", "smaller"])
def test_rows_of_a_gradient_are_made_of_inputs(orientation: str, form: str) -> None:
    """Of two samples: rows in the span of both, as far as they are seen; a table on the smaller side shows gradients instead."""
    random = np.random.default_rng(0)
    errors, inputs = random.normal(size=(2, 8)), random.normal(size=(2, 12))
    made = decompose(random.normal(size=(8, 12)), 4, orientation=orientation, form=form)  # type: ignore[arg-type]
    gradient = errors.T @ inputs
    d = made.matrix.astype(float)
    shared = d.T @ (gradient.T if made.transposed else gradient)
    shared = shared if made.right is None else shared @ made.right.astype(float).T
    layout = Layout.of([("b", (8,), Kind.DENSE), ("w", shared.shape, Kind.TABLE)])
    (_, entry), dictionaries = layout.entries, {"w": made}
    rows = cores.rows(dictionaries, entry, np.concatenate([np.zeros(8), shared.reshape(-1)]))
    shown = cores.seen(dictionaries, "w", inputs)
    assert np.linalg.matrix_rank(rows, tol=1e-6) == 2
    assert rows.shape[1] == (4 if form == "core" else shared.shape[1])
    if form == "core" or not made.transposed:
        assert np.linalg.matrix_rank(np.concatenate([rows, shown]), tol=1e-6) == 2
        assert cores.width(dictionaries, entry) == 12
    else:
        assert rows.shape == (4, 8)


def test_what_is_no_core_sees_inputs_whole() -> None:
    layout = Layout.of([("w", (3, 5), Kind.DENSE)])
    (entry,), inputs = layout.entries, np.arange(10.0).reshape(2, 5)
    assert cores.window({}, "w") is None
    assert cores.seen({}, "w", inputs) is inputs
    assert cores.width({}, entry) == 5
