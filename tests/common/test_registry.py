"""Parts by name: this project's own, installed packages' entry points, and `package.module:name`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from dictpfl.common import registry
from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import Registry, require_bindable


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """A registry whose folder holds two modules with a part each."""
    folder = tmp_path / "ownparts"
    folder.mkdir()
    (folder / "__init__.py").write_text("made = None\n")
    for name in ("b", "a"):
        (folder / f"{name}.py").write_text(f"from ownparts import made\nmade.register('{name}')('part {name}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    made: Registry[object] = Registry("part", key="section.part", group="dictpfl.nothing", folder="ownparts")
    import ownparts

    ownparts.made = made
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownparts"]:
        del sys.modules[name]


def points(monkeypatch: pytest.MonkeyPatch, *values: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, "dictpfl.nothing") for name, value in values]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "dictpfl.nothing" else [])


def test_a_file_in_the_folder_adds_a_part(parts: Registry[object], tmp_path: Path) -> None:
    (tmp_path / "ownparts" / "c.py").write_text("from ownparts import made\nmade.register('new')('part c')\n")
    assert list(parts.own()) == ["a", "b", "new"]
    assert parts.load("new") == "part c"


def test_a_name_is_given_once(parts: Registry[object]) -> None:
    parts.register("x")("one")
    with pytest.raises(ValueError, match="two parts register the part 'x'"):
        parts.register("x")("two")


def test_installed_packages_add_parts(parts: Registry[object], monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, ("pi", "math:pi"))
    assert parts.names() == ["a", "b", "pi"]
    assert parts.load("pi") == pytest.approx(3.14159, abs=1e-5)
    assert [(x.name, x.where, x.problem) for x in parts.listed()][-1] == ("pi", "math:pi", "")


def test_what_is_wrong_is_named(parts: Registry[object], monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, ("pi", "math:pi"), ("pi", "math:tau"), ("gone", "no_such_module:x"), ("a", "math:pi"))
    with pytest.raises(ConfigError, match=r"section.part: 'pi' comes from several packages"):
        parts.load("pi")
    with pytest.raises(ConfigError, match=r"section.part: cannot load 'gone' of .*No module named 'no_such_module'"):
        parts.load("gone")
    with pytest.raises(ConfigError, match=r"section.part: 'nothing' is unknown; known: a, b, gone, pi, or `package"):
        parts.load("nothing")
    with pytest.raises(ConfigError, match="did you mean 'gone'"):
        parts.load("gonne")
    with pytest.raises(ConfigError, match="cannot load 'math:nothing'"):
        parts.load("math:nothing")
    with pytest.raises(
        ConfigError, match=r"section.part: 'math:pi' is a value of type float; expected a class or a function"
    ):
        parts.load("math:pi")
    with pytest.raises(ConfigError, match="cannot load ':x'"):
        parts.load(":x")
    assert parts.load("a") == "part a", "an installed package never takes the place of this project's own"
    problems = {(x.name, x.where): x.problem for x in parts.listed()}
    assert "No module named" in problems["gone", "no_such_module:x"]
    assert "its own part of this name" in problems["a", "math:pi"]


@pytest.mark.parametrize(
    "name", ["odd-module:part", "2odd:part", "oddmodule: part", "oddmodule:part-", "oddmodule:", "odd/module:part"]
)
def test_a_name_of_another_form_imports_nothing(
    parts: Registry[object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads a configuration for the code that it names (`own_code`) looks for one form; nothing else may lead to an import."""
    for module in ("odd-module", "2odd", "oddmodule"):
        (tmp_path / f"{module}.py").write_text(
            "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\npart = 1\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot load .*expected `package\.module:name` of letters"):
        parts.load(name)
    assert not list(tmp_path.glob("*.ran"))


def test_options_that_a_function_does_not_take() -> None:
    require_bindable(lambda a, b=1: None, {"a": 1}, "here")
    for options in ({}, {"a": 1, "c": 2}):
        with pytest.raises(ConfigError, match=r"here: .*it takes"):
            require_bindable(lambda a, b=1: None, options, "here")


def _kinds(
    count: int = 1,
    share: float = 0.5,
    on: bool = True,
    word: str = "",
    widths: Sequence[int] = (),
    pair: tuple[float, float] = (0.0, 1.0),
    costs: Mapping[str, float] | None = None,
    gamma: float | str = 0.2,
    split: Literal["training", "validation"] = "training",
    held: Annotated[int, "of rounds"] = 1,
    path: Path | str = "",
    plain=None,
    implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013 -- as people wrote
    **more: int,
) -> None:
    """Takes values of each kind."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"count": "x"}, "count = 'x'; expected a whole number"),
        ({"count": 2.5}, "count = 2.5; expected a whole number"),
        ({"count": 10.0}, "count = 10.0; expected a whole number"),
        ({"count": True}, "count = True; expected a whole number"),
        ({"count": None}, "count = None; expected a whole number"),
        ({"count": date(2026, 1, 1)}, "expected a whole number"),
        ({"share": "steep"}, "share = 'steep'; expected a finite number"),
        ({"share": float("nan")}, "share = nan; expected a finite number"),
        ({"share": float("inf")}, "share = inf; expected a finite number"),
        ({"share": 10**400}, "expected a finite number"),
        ({"share": False}, "share = False; expected a finite number"),
        ({"share": [0.5]}, "expected a finite number"),
        ({"on": "no"}, "on = 'no'; expected true or false"),
        ({"on": 1}, "on = 1; expected true or false"),
        ({"word": 3}, "word = 3; expected a text"),
        ({"widths": 16}, "widths = 16; expected a list of whole numbers"),
        ({"widths": "16"}, "widths = '16'; expected a list of whole numbers"),
        ({"widths": [16, 2.5]}, "expected a list of whole numbers"),
        ({"pair": [0.0, 1.0, 2.0]}, "expected a list of 2 finite numbers"),
        ({"costs": {"a": "x"}}, "expected a table of finite numbers"),
        ({"costs": [1.0]}, "expected a table of finite numbers"),
        ({"gamma": True}, "gamma = True; expected a finite number or a text"),
        ({"split": 1}, "split = 1; expected one of 'training', 'validation'"),
        ({"held": 1.5}, "held = 1.5; expected a whole number"),
        ({"other": "x"}, "other = 'x'; expected a whole number"),
    ],
)
def test_values_of_another_kind_than_annotated(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_bindable(_kinds, options, "here")
    assert str(caught.value).startswith("here: ")
    assert expected in str(caught.value)
    require_bindable(_kinds, options, "here", facts=options)


@pytest.mark.parametrize(
    "options",
    [
        {"count": 3, "share": 1, "on": False, "word": "", "widths": [1, 2], "pair": [0, 1.5], "costs": {"a": 1}},
        {
            "costs": None,
            "gamma": "measured",
            "split": "test",
            "held": 2,
            "path": 5,
            "plain": [object()],
            "implicit": None,
        },
        {"widths": (1, 2), "gamma": 1, "other": 3, "implicit": 4},
        {"word": Path("of Python"), "widths": range(3), "count": Path},
    ],
)
def test_values_that_fit_or_that_nobody_can_write(options: dict[str, Any]) -> None:
    require_bindable(_kinds, options, "here")


def _unannotated(a, b=1):
    return a, b


def _unresolved(a: NoSuchName, b: int = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Has an annotation that names nothing."""


class _Made:
    def __init__(self, a: int, b: str = "") -> None:
        """Takes a number and a text."""


@pytest.mark.parametrize("function", [_unannotated, _unresolved, lambda a, b=1: None])
def test_functions_without_annotations_take_what_they_are_given(function: Callable[..., Any]) -> None:
    for value in ("x", 2.5, None, float("nan"), [1], {"a": 1}):
        require_bindable(function, {"a": value, "b": value}, "here")


def test_classes_are_held_to_their_constructors() -> None:
    require_bindable(_Made, {"a": 1, "b": "x"}, "here")
    with pytest.raises(ConfigError, match="here: a = 'x'; expected a whole number"):
        require_bindable(_Made, {"a": "x"}, "here")
