"""Dictionaries that an authority planted: made again at `join`, and refused; honest ones of another platform are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dictpfl.deploy.agreeing
from dictpfl.common.errors import BundleError, ModelError
from dictpfl.common.genesis import Genesis
from dictpfl.common.law.dictionary import Dictionary
from dictpfl.deploy.ceremony import verifying
from dictpfl.deploy.ceremony.charter import Charter, draw_up
from dictpfl.deploy.ceremony.verifying import require_follows
from tests.support.ceremonies import Ceremony, config

Made = dict[str, Dictionary]
Plant = Callable[[NDArray[np.float32]], None]


def one_entry(d: NDArray[np.float32]) -> None:
    """One entry is off by one percent."""
    row = int(np.abs(d[:, 0]).argmax())
    d[row, 0] *= 1.01


def low_rank(d: NDArray[np.float32]) -> None:
    """A direction that shows one output's gradient alone, small beside the honest one."""
    d[2, :] += np.float32(0.003)


def swapped(d: NDArray[np.float32]) -> None:
    d[:, [0, 1]] = d[:, [1, 0]]


def not_finite(d: NDArray[np.float32]) -> None:
    d[0, -1] = np.nan


def planted(made: Mapping[str, Dictionary], plant: Plant) -> Made:
    name, first = next(iter(made.items()))
    matrix = first.matrix.copy()
    plant(matrix)
    return {**made, name: replace(first, matrix=matrix)}


@pytest.mark.parametrize("plant", [one_entry, low_rank, swapped])
def test_a_planted_dictionary_is_refused_at_join(tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole ceremony is consistent and signed: only who makes the dictionaries again can see it."""
    honest = dictpfl.deploy.agreeing.make_dictionaries

    def made(*args: Any, **kwargs: Any) -> Made:
        return planted(honest(*args, **kwargs), plant)

    with monkeypatch.context() as patched:
        patched.setattr(dictpfl.deploy.agreeing, "make_dictionaries", made)
        ceremony = Ceremony.found(tmp_path)
    before = ceremony.files("berlin")
    with pytest.raises(BundleError, match=r"expected .* found .* Call the other members") as refused:
        ceremony.join("berlin")
    assert refused.value.code == "imprint"
    after = {path: data for path, data in ceremony.files("berlin").items() if not path.endswith(".lock")}
    assert after == before
    with monkeypatch.context() as patched:  # what protocol 3 did: nobody looked
        patched.setattr("dictpfl.deploy.ceremony.joining.require_follows", lambda *_: None)
        assert ceremony.join("berlin").epoch == 1


@pytest.fixture(scope="module")
def charter() -> Charter:
    return draw_up(config(), (6,), 3)


@pytest.fixture(scope="module")
def cores() -> Charter:
    return draw_up(config(decomposition__form="core"), (6,), 3)


@pytest.mark.parametrize("plant", [one_entry, low_rank, swapped, not_finite])
def test_a_planted_right_dictionary(cores: Charter, plant: Plant) -> None:
    """E shows inputs as D shows gradients: it is made again, too."""
    require_follows(cores.genesis, cores.weights)
    name, first = next(iter(cores.genesis.dictionaries.items()))
    assert first.right is not None
    across = np.ascontiguousarray(first.right.T)
    plant(across)
    dictionaries = {**cores.genesis.dictionaries, name: replace(first, right=np.ascontiguousarray(across.T))}
    with pytest.raises((BundleError, ModelError), check=lambda e: e.code in ("imprint", "model")):
        require_follows(replace(cores.genesis, dictionaries=dictionaries), cores.weights)


def test_another_platform_s_right_dictionary_is_no_imprint(cores: Charter) -> None:
    rng, made = np.random.default_rng(0), {}
    for name, d in cores.genesis.dictionaries.items():
        assert d.right is not None
        noise = rng.choice([-1.0, 1.0], size=d.right.shape) * 2.0**-23
        turned = rng.choice([-1.0, 1.0], size=(d.rank, 1))
        made[name] = replace(d, right=(d.right * (1.0 + noise) * turned).astype(np.float32))
    require_follows(replace(cores.genesis, dictionaries=made), cores.weights)


def test_a_right_dictionary_that_nobody_agreed_on(charter: Charter, cores: Charter) -> None:
    name, d = next(iter(cores.genesis.dictionaries.items()))
    left = {**charter.genesis.dictionaries, name: d}
    with pytest.raises(BundleError, check=lambda e: e.code == "imprint"):
        require_follows(replace(charter.genesis, dictionaries=left), charter.weights)


@pytest.mark.parametrize("plant", [one_entry, low_rank, swapped, not_finite])
def test_a_planted_dictionary(charter: Charter, plant: Plant) -> None:
    require_follows(charter.genesis, charter.weights)
    dictionaries = planted(charter.genesis.dictionaries, plant)
    with pytest.raises((BundleError, ModelError), check=lambda e: e.code in ("imprint", "model")):
        require_follows(replace(charter.genesis, dictionaries=dictionaries), charter.weights)


def test_what_else_follows_from_w0(charter: Charter) -> None:
    values = charter.genesis.values.copy()
    values[-1] = np.nextafter(values[-1], 1.0)
    with pytest.raises(BundleError, match=r"shared values .* 1 others"):
        require_follows(replace(charter.genesis, values=values), charter.weights)
    (name, d), *_ = charter.genesis.dictionaries.items()
    narrower = {**charter.genesis.dictionaries, name: replace(d, matrix=d.matrix[:, :-1])}
    with pytest.raises(BundleError, check=lambda e: e.code == "imprint"):
        require_follows(replace(charter.genesis, dictionaries=narrower), charter.weights)


def test_another_platform_s_last_bits_are_no_imprint(charter: Charter) -> None:
    """Each value one float32 step off, and signs of columns turned: accepted. Sixteen times as much: refused."""
    rng = np.random.default_rng(0)

    def off(steps: float) -> Genesis:
        made = {}
        for name, d in charter.genesis.dictionaries.items():
            noise = rng.choice([-1.0, 1.0], size=d.matrix.shape) * steps * 2.0**-24
            turned = rng.choice([-1.0, 1.0], size=d.matrix.shape[1])
            made[name] = replace(d, matrix=(d.matrix * (1.0 + noise) * turned).astype(np.float32))
        return replace(charter.genesis, dictionaries=made)

    require_follows(off(2.0), charter.weights)
    with pytest.raises(BundleError, match=r"within .* of what W0 gives"):
        require_follows(off(32.0), charter.weights)


def compared(gap: float, turn: float, *, cut: bool = False, lean: float = 0.0) -> None:
    """Compare two columns of singular values `gap` apart, turned in their plane; `cut`: the second lies beyond the rank."""
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.normal(size=(24, 24)))[0] for _ in range(2))
    values = np.array([2.0, 2.0 - gap, *np.linspace(1.0, 0.5, 22)])
    own = (u[:, :2] * values[:2]).astype(np.float32)
    plane = np.array([[np.cos(turn), -np.sin(turn + lean)], [np.sin(turn), np.cos(turn + lean)]])
    given = (u[:, :2] @ plane * values[:2]).astype(np.float32)
    weight = (u * values) @ v.T
    kept = 1 if cut else 2
    verifying._require_same("fc.weight", Dictionary(given[:, :kept], False), Dictionary(own[:, :kept], False), weight)


def test_singular_values_that_lie_close() -> None:
    """Vectors turn as far as the gap lets them; those of equal values in their own space, never out of it."""
    compared(1e-8, 1e-6)
    for turn in (1e-4, 0.7, 3.0):
        compared(0.0, turn)
    for gap, turn in ((1e-3, 1e-6), (1e-8, 1e-4)):
        with pytest.raises(BundleError, match=r"column 0 within .* of what W0 gives"):
            compared(gap, turn)
    with pytest.raises(BundleError, match=r"columns 0 to 1 within .* of the space of what W0 gives"):
        compared(0.0, 0.7, lean=1e-4)
    compared(0.0, 1e-6, cut=True)
    with pytest.raises(BundleError, match=r"lie so close .* beyond the rank"):
        compared(0.0, 1e-4, cut=True)


def test_a_planted_column_among_equal_singular_values_is_refused() -> None:
    """The identity has one singular value: every upright basis of all of its space is honest, a part of one is not."""
    own = np.eye(24, dtype=np.float32)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
    verifying._require_same("fc.weight", Dictionary(turned, False), Dictionary(own, False), np.eye(24))
    planted = own.copy()
    planted[:, 3] = planted[:, 2]
    for given, rank in ((planted, 24), (turned, 8), (np.full_like(own, np.nan), 24)):
        with pytest.raises(BundleError, check=lambda e: e.code == "imprint"):
            verifying._require_same(
                "fc.weight", Dictionary(given[:, :rank], False), Dictionary(own[:, :rank], False), np.eye(24)
            )


def test_drawn_dictionaries_are_equal_bit_for_bit() -> None:
    zero = np.zeros((8, 8))
    drawn = Dictionary(np.full((8, 2), 0.5, np.float32), False)
    verifying._require_same("fc.weight", drawn, drawn, zero)
    across = np.full((2, 8), 0.5, np.float32)
    verifying._require_same("fc.weight", replace(drawn, right=across), replace(drawn, right=across), zero)
    with pytest.raises(BundleError, match=r"right dictionary .* drawn from the seed"):
        verifying._require_same("fc.weight", replace(drawn, right=-across), replace(drawn, right=across), zero)
    other = Dictionary(drawn.matrix * np.float32(-1.0), False)
    with pytest.raises(BundleError, match="drawn from the seed"):
        verifying._require_same("fc.weight", other, drawn, zero)
