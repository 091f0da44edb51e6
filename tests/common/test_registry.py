"""Parts by name: this project's own, installed packages' entry points, and `package.module:name`."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

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
    with pytest.raises(ConfigError, match="cannot load ':x'"):
        parts.load(":x")
    assert parts.load("a") == "part a", "an installed package never takes the place of this project's own"
    problems = {(x.name, x.where): x.problem for x in parts.listed()}
    assert "No module named" in problems["gone", "no_such_module:x"]
    assert "its own part of this name" in problems["a", "math:pi"]


def test_options_that_a_function_does_not_take() -> None:
    require_bindable(lambda a, b=1: None, {"a": 1}, "here")
    for options in ({}, {"a": 1, "c": 2}):
        with pytest.raises(ConfigError, match=r"here: .*it takes"):
            require_bindable(lambda a, b=1: None, options, "here")
