"""Layout, dictionaries, ledger, and digests that change with every bit of the state."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.budget import allocator
from common.dictionary import Dictionary, _leading, decompose, draw
from common.errors import ConfigError, LayoutError, RoundError
from common.layout import Kind, Layout
from common.ledger import Ledger, ledger_size
from common.masking import History
from common.schedule import schedule
from common.selection import Best, Course
from common.settings import Pruning
from common.state import Pace, Refresh, SharedState

# -- layout ----------------------------------------------------------------------------------------------

ABC = Layout.of([("a", (2, 3), Kind.TABLE), ("b", (4,), Kind.DENSE), ("c", (1, 1, 2), Kind.STATISTIC)])


def test_offsets_and_kinds() -> None:
    assert [(e.offset, e.size) for e in ABC.entries] == [(0, 6), (6, 4), (10, 2)]
    assert ABC.tensor_of.tolist() == [0] * 6 + [1] * 4 + [2] * 2
    assert np.flatnonzero(ABC.coordinates(Kind.DENSE, Kind.STATISTIC)).tolist() == list(range(6, 12))
    assert not ABC.coordinates().any()


def test_flatten_and_back() -> None:
    vector = np.arange(12.0)
    assert (ABC.flatten(ABC.unflatten(vector)) == vector).all()
    assert ABC.unflatten(vector)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert Layout.from_json(ABC.to_json()) == ABC


def test_what_does_not_fit_is_refused() -> None:
    good = ABC.unflatten(np.zeros(12))
    with pytest.raises(LayoutError, match="missing"):
        ABC.flatten({"a": good["a"]})
    with pytest.raises(LayoutError, match="shape"):
        ABC.flatten({**good, "b": np.zeros(5)})
    with pytest.raises(LayoutError):
        ABC.unflatten(np.zeros(11))
    with pytest.raises(LayoutError, match="positive"):
        Layout.of([("a", (0,), Kind.TABLE)])
    with pytest.raises(LayoutError, match="unique"):
        Layout.of([("a", (1,), Kind.TABLE)] * 2)


def test_digest_covers_names_shapes_kinds_and_order() -> None:
    base = [("a", (2, 3), Kind.TABLE), ("b", (4,), Kind.DENSE)]
    others = [
        [("x", (2, 3), Kind.TABLE), base[1]], [("a", (3, 2), Kind.TABLE), base[1]], [("a", (2, 3), Kind.DENSE), base[1]],
        base[::-1], base[:1],
    ]  # fmt: skip
    assert len({Layout.of(tensors).digest for tensors in [base, *others]}) == 6


def test_an_empty_layout() -> None:
    empty = Layout.of([])
    assert empty.size == 0
    assert empty.coordinates(Kind.TABLE).size == 0
    assert empty.flatten({}).size == 0
    assert empty.tensor_of.size == 0


# -- dictionaries ----------------------------------------------------------------------------------------


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.sampled_from(["paper", "smaller"]), st.integers(0, 99)
)
def test_the_paper_s_dictionary(n: int, m: int, rank: int, orientation: str, seed: int) -> None:
    """D = U_r S_r: its columns are orthogonal, their norms the singular values, and D D^+ W is W's best of rank r."""
    w = np.random.default_rng(seed).normal(size=(n, m))
    d = decompose(w, rank, orientation=orientation, scaling="paper")  # type: ignore[arg-type]
    assert d.transposed == (orientation == "smaller" and n < m)
    a = w.T if d.transposed else w
    r = min(rank, n, m)
    assert d.matrix.shape == (a.shape[0], r)
    assert d.matrix.dtype == np.float32
    s = np.linalg.svd(a, compute_uv=False)
    gram = d.matrix.astype(float).T @ d.matrix.astype(float)
    assert np.allclose(gram, np.diag(s[:r] ** 2), atol=1e-4 * s[0] ** 2)
    projected = d.matrix @ np.linalg.pinv(d.matrix.astype(float)) @ a
    assert np.linalg.norm(a - projected) <= np.linalg.norm(s[r:]) + 1e-3 * s[0]
    table = np.random.default_rng(seed).normal(size=d.table_shape((n, m)))
    change = d.change(table)
    assert change.shape == (n, m)
    for i in range(n):
        for j in range(m):
            row, column = (j, i) if d.transposed else (i, j)
            truth = sum(float(d.matrix[row, k]) * table[k, column] for k in range(r))
            assert change[i, j] == pytest.approx(truth, rel=1e-9, abs=1e-9)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_normalised_to_the_square_root_of_the_rows(n: int, m: int, rank: int, seed: int) -> None:
    d = decompose(np.random.default_rng(seed).normal(size=(n, m)) * 1e-3, rank)
    assert np.linalg.norm(d.matrix) == pytest.approx(np.sqrt(n), rel=1e-5)


SPECTRA = {
    "separated": lambda k, rng: 2.0 ** -np.arange(k),
    "repeated": lambda k, rng: np.repeat([3.0, 2.0, 1.0], -(-k // 3))[:k],
    "zero": lambda k, rng: np.where(np.arange(k) < 2, 5.0 - np.arange(k), 0.0),
    "tiny": lambda k, rng: 10.0 ** -(3.0 * np.arange(k)),
    "flat": lambda k, rng: np.ones(k),
    "any": lambda k, rng: np.sort(rng.random(k))[::-1],
}


@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 8),
    st.sampled_from(sorted(SPECTRA)),
    st.sampled_from([1e-160, 1e-3, 1.0, 1e160]),
    st.integers(0, 99),
)
def test_leading_directions_are_those_of_the_full_svd(
    n: int, m: int, rank: int, spectrum: str, scale: float, seed: int
) -> None:
    """Wide, tall, one row, low rank: the same singular values, orthonormal directions, and each its own value's."""
    rng, k = np.random.default_rng(seed), min(n, m)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0][:, :k] for size in (n, m))
    a = (left * SPECTRA[spectrum](k, rng)) @ right.T * scale
    u, s = _leading(a, rank)
    r = min(rank, k)
    full, truth, _ = np.linalg.svd(a, full_matrices=False)
    assert (u.shape, s.shape) == ((n, r), (r,))
    assert np.abs(s - truth[:r]).max() <= 1e-13 * truth[0]
    assert np.abs(u.T @ u - np.eye(r)).max() <= 1e-13
    assert np.abs(np.linalg.norm(u.T @ (a / scale), axis=1) - s / scale).max() <= 1e-12 * truth[0] / scale
    gaps = np.abs(np.subtract.outer(truth[:r], truth)) + np.where(np.eye(r, k) > 0, np.inf, 0.0)
    apart = gaps.min(axis=1) > 1e-3 * truth[0]
    assert np.abs(np.abs((u * full[:, :r]).sum(axis=0)) - 1)[apart].max(initial=0.0) <= 1e-12


def test_a_wide_matrix_takes_the_fast_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the few rows that are wanted are given to the SVD; near the end of what squares resolve, the whole matrix is."""
    seen: list[tuple[int, ...]] = []
    svd = np.linalg.svd

    def watched(a: np.ndarray, **options: bool) -> tuple[np.ndarray, ...]:
        seen.append(a.shape)
        return svd(a, **options)

    monkeypatch.setattr(np.linalg, "svd", watched)
    a = np.random.default_rng(0).normal(size=(30, 40))
    _leading(a, 4)
    assert seen == [(4, 40)]
    _leading(np.outer(a[:, 0], a[0]) + 1e-9 * a, 4)
    assert seen == [(4, 40), (4, 40), (30, 40)]


def test_signs_are_fixed() -> None:
    w = np.random.default_rng(0).normal(size=(7, 5))
    d = decompose(w, 3, scaling="paper").matrix
    assert (d[np.abs(d).argmax(axis=0), range(3)] > 0).all()
    assert np.allclose(d, decompose(-w, 3, scaling="paper").matrix, atol=1e-5)


def test_rank_is_at_most_the_matrix_s_own() -> None:
    w = np.outer(np.arange(1.0, 7), np.arange(1.0, 5))
    assert decompose(w, 4).rank == 1


def test_a_zero_matrix_gets_a_drawn_dictionary() -> None:
    d = decompose(np.zeros((6, 4)), 3, seed=b"s", name="w")
    assert (d.matrix == draw((6, 4), 3, b"s", "w", 0).matrix).all()
    assert np.allclose(np.linalg.norm(d.matrix, axis=1), 1)


def test_draws_differ_by_name_seed_and_refresh() -> None:
    draws = [draw((40, 9), 4, *args) for args in ((b"s", "w", 0), (b"s", "w", 1), (b"s", "v", 0), (b"t", "w", 0))]
    assert len({d.matrix.tobytes() for d in draws}) == 4
    assert draw((3, 40), 4, b"s", "w", 0, orientation="smaller").table_shape((3, 40)) == (3, 3)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 2)), np.full((2, 2), np.nan), np.full((2, 2), np.inf)])
def test_no_matrix(bad: np.ndarray) -> None:
    with pytest.raises(LayoutError, match="finite matrix"):
        decompose(bad, 2)
    with pytest.raises(LayoutError, match="at least 1"):
        decompose(np.eye(2), 0)


def test_table_shapes() -> None:
    d = Dictionary(np.zeros((7, 2), np.float32), transposed=False)
    assert (d.rank, d.table_shape((7, 5))) == (2, (2, 5))
    assert Dictionary(np.zeros((5, 2), np.float32), transposed=True).table_shape((7, 5)) == (2, 7)


def test_seams_by_name() -> None:
    assert allocator("uniform").ranks({"a": (3, 4), "b": (5, 6)}, 2) == {"a": 2, "b": 2}
    assert allocator("common.budget:UniformAllocator").ranks({"a": (1, 1)}, 7) == {"a": 7}
    assert schedule("constant").at(9, Pruning()) == Pruning()
    for name, words in (
        ("unknown", "known: uniform"),
        ("no.such:thing", "cannot load"),
        ("common.budget:none", "cannot load"),
    ):
        with pytest.raises(ConfigError, match=words):
            allocator(name)


# -- ledger ----------------------------------------------------------------------------------------------

COUNT = st.integers(0, 2**20)
AMOUNT = st.floats(-(2.0**20), 2.0**20)


@given(st.lists(st.tuples(COUNT, AMOUNT, COUNT, AMOUNT, AMOUNT), min_size=1, max_size=5))
def test_sums_of_ledgers(rows: list[tuple[int, float, int, float, float]]) -> None:
    codes = np.array([3, 0, 2**30])
    ledgers = [Ledger(1, n, train, m, loss, metric, codes) for n, train, m, loss, metric in rows]
    bound = (2**43 - 1) // 5
    found = Ledger.read(sum((one.components(bound) for one in ledgers), np.zeros(9, np.int64)))
    assert (found.participants, found.samples, found.measured) == (
        len(rows),
        sum(r[0] for r in rows),
        sum(r[2] for r in rows),
    )
    for value, column in ((found.train_loss, 1), (found.loss, 3), (found.metric, 4)):
        assert value == float(Fraction(sum(round(row[column] * 1024) for row in rows), 1024))
    assert found.codes.tolist() == (codes * len(rows)).tolist()
    assert ledger_size(3) == 9


@pytest.mark.parametrize("amount", [1e300, np.inf, -np.inf, np.nan, -1e300, 1e308])
def test_amounts_out_of_all_bounds_are_clipped(amount: float) -> None:
    bound = 1000
    found = Ledger(1, 10**9, amount, 1, amount, amount, np.zeros(0, np.int64)).components(bound)
    assert np.abs(found).max() <= bound


@pytest.mark.parametrize(("field", "value"), [(0, 0), (0, -1), (1, -1), (2, -5)])
def test_counts_that_cannot_be(field: int, value: int) -> None:
    components = np.array([1, 1, 1, 0, 0, 0])
    components[field] = value
    with pytest.raises(RoundError, match="does not follow"):
        Ledger.read(components)


# -- digests ---------------------------------------------------------------------------------------------


def state() -> SharedState:
    rng = np.random.default_rng(0)
    history = History(rng.integers(0, 4, 11).astype(np.uint8), rng.integers(0, 9, 11).astype(np.uint8))
    refresh = Refresh(np.array([True, False]), rng.normal(size=6))
    return SharedState(
        5,
        4,
        rng.normal(size=11),
        history,
        rng.random(3),
        rng.random(11) < 0.5,
        (refresh,) * 2,
        pace=Pace(rng.random(2), np.arange(2, dtype=np.uint32)),
    )


def flip(array: np.ndarray, bit: int) -> np.ndarray:
    raw = bytearray(array.tobytes())
    raw[bit // 8] ^= 1 << (bit % 8)
    return np.frombuffer(bytes(raw), dtype=array.dtype)


def test_every_bit_of_the_state_is_in_the_digest() -> None:
    base = state()
    seen = {base.digest}
    changed = [replace(base, values=flip(base.values, b)) for b in range(11 * 64)]
    changed += [replace(base, ranges=flip(base.ranges, b)) for b in range(3 * 64)]
    changed += [replace(base, history=History(flip(base.history.idle, b), base.history.exponent)) for b in range(88)]
    changed += [replace(base, history=History(base.history.idle, flip(base.history.exponent, b))) for b in range(88)]
    one, two = base.records
    for b in range(6 * 64):
        changed.append(replace(base, records=(replace(one, values=flip(one.values, b)), two)))
        changed.append(replace(base, records=(one, replace(two, values=flip(two.values, b)))))
    changed.append(replace(base, records=(replace(one, chosen=~one.chosen), two)))
    assert base.pace is not None
    changed += [replace(base, pace=replace(base.pace, largest=flip(base.pace.largest, b))) for b in range(2 * 64)]
    changed += [replace(base, pace=replace(base.pace, age=flip(base.pace.age, b))) for b in range(2 * 32)]
    changed.append(replace(base, pace=None))
    assert base.clear is not None
    for i in range(11):
        clear = base.clear.copy()
        clear[i] ^= True
        changed.append(replace(base, clear=clear))
    changed += [
        replace(base, round=6),
        replace(base, updates=3),
        replace(base, records=base.records[:1]),
        replace(base, clear=None),
    ]
    changed.append(replace(base, values=base.values[:-1]))
    best = Best(0.5, 2, 1, base.values[::-1].copy())
    course = Course(best, 0.25, 1)
    changed += [
        replace(base, course=replace(course, best=replace(best, values=flip(best.values, b)))) for b in range(704)
    ]
    changed += [replace(base, course=replace(course, best=replace(best, **other)))
                for other in ({"score": 0.75}, {"updates": 3}, {"refreshes": 2})]  # fmt: skip
    changed += [replace(base, course=other)
                for other in (course, replace(course, mark=0.5), replace(course, waited=2))]  # fmt: skip
    for other in changed:
        assert other.digest not in seen
        seen.add(other.digest)
    assert state().digest == base.digest


def test_the_tag_is_keyed() -> None:
    a, b = bytes(32), b"\x01" * 32
    assert state().tag(a) == state().tag(a) != state().tag(b)
    assert state().tag(a) != state().digest
    assert replace(state(), round=9).tag(a) != state().tag(a)


def test_big_endian_state_has_the_same_digest() -> None:
    base = state()
    assert replace(base, values=base.values.astype(">f8")).digest == base.digest
