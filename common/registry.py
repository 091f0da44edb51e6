"""Doors: parts of the method that people add, found by name.

A registry holds the parts of one kind (allocators, layers, attacks, ...). A name in a configuration leads to

1. a part of this project: any module in the registry's folder that says `@REGISTRY.register("name")`, so that one new
   file adds one part;
2. a part of an installed package, by a Python entry point in the registry's group;
3. `package.module:name`, anything that can be imported.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from dictpfl.common.errors import ConfigError

Part = TypeVar("Part")
Given = TypeVar("Given")
_OURS = "dictpfl"
_WRITTEN = (bool, int, float, str, list, tuple, dict, date, time, NoneType)
"""Kinds of values that a configuration can hold; objects of other kinds come from Python."""
_LISTS = (list, tuple, set, frozenset, Sequence, MutableSequence, Collection, Iterable)
_TABLES = (dict, Mapping, MutableMapping)
_WORDS: Mapping[Any, tuple[str, str]] = {
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    str: ("a text", "texts"),
}
"""Kinds of single values, one and several of them, for messages."""
CODE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
"""Form of a name that leads to an import, and the only one: so that whoever reads a configuration sees all code that it runs."""
GIVEN = "dictpfl_given"
"""Module that exists only in a process that gave objects in place of names, and names them (`dictpfl.deploy.simulation.given`)."""


@dataclass(frozen=True)
class Listed:
    """One part that a name leads to.

    Attributes:
        name: for the configuration.
        where: `module:attribute`.
        package: distribution that brings it, with its version; empty for this project's own.
        problem: why it cannot be loaded; empty if it can.
    """

    name: str
    where: str
    package: str = ""
    problem: str = ""


class Registry(Generic[Part]):
    """Parts of one kind by name.

    Args:
        kind: the part's noun, for messages.
        key: configuration key that names one.
        group: entry point group of installed packages.
        folder: package whose modules register this project's own; imported when a name is first asked for.
        patterns: forms of names that lead elsewhere, such as `timm:NAME`, for messages.
    """

    def __init__(self, kind: str, *, key: str, group: str, folder: str, patterns: Sequence[str] = ()) -> None:
        self.kind, self.key, self.group, self._patterns = kind, key, group, tuple(patterns)
        self._folder = folder
        self._own: dict[str, Part] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[Given], Given]:
        """Decorate a part of this project, to be found under `name`.

        Raises:
            ValueError: another part has the name.
        """

        def registered(part: Given) -> Given:
            if name in self._own:
                raise ValueError(f"two parts register the {self.kind} {name!r}")
            self._own[name] = part  # type: ignore[assignment]  # a registry of a protocol cannot name it here
            return part

        return registered

    def own(self) -> Mapping[str, Part]:
        """This project's own parts by name, in alphabetical order."""
        if not self._complete:
            package = importlib.import_module(self._folder)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._folder}.{module.name}")
            self._own = dict(sorted(self._own.items()))
            self._complete = True
        return self._own

    def load(self, name: str) -> Part:
        """The part that a name leads to.

        Raises:
            ConfigError: unknown, given by two packages, or it cannot be imported; the message names the configuration key.
        """
        own = self.own()
        if name in own:
            return own[name]
        if ":" in name:
            return self._imported(name)
        points = [point for point in installed(self.group) if point.name == name]
        if len(points) > 1:
            packages = ", ".join(sorted(package_of(point) for point in points))
            raise ConfigError(f"{self.key}: {name!r} comes from several packages: {packages}; uninstall all but one")
        if points:
            part: Part = loaded(points[0], self.key)
            return part
        near = difflib.get_close_matches(name, self.names(), n=1)
        raise ConfigError(
            f"{self.key}: {name!r} is unknown; known: {', '.join((*self.names(), *self._patterns))}, or `package.module:name`"
            + "".join(f"; did you mean {one!r}?" for one in near)
        )

    def names(self) -> list[str]:
        """All names that need no colon: this project's own first."""
        own = self.own()
        return [*own, *sorted({point.name for point in installed(self.group)} - own.keys())]

    def listed(self) -> Iterator[Listed]:
        """Every part that has a name, with where it comes from; parts of installed packages are tried."""
        for name, part in self.own().items():
            yield Listed(name, f"{getattr(part, '__module__', '')}:{getattr(part, '__qualname__', name)}")
        for one in listed_points(self.group, self.key):
            hidden = f"{_OURS} has its own {self.kind} of this name" if one.name in self._own else ""
            yield one if one.problem else replace(one, problem=hidden)

    def _imported(self, name: str) -> Part:
        part: Part = imported(name, self.key)
        if not callable(part):
            raise ConfigError(
                f"{self.key}: {name!r} is a value of type {type(part).__name__}; expected a class or a function, which makes one"
            )
        return part


def installed(group: str) -> list[EntryPoint]:
    """Entry points of a group, by name."""
    return sorted(entry_points(group=group), key=lambda point: point.name)


def loaded(point: EntryPoint, key: str) -> Any:
    """Import the object of an entry point; `key` is the configuration key or the group, for messages.

    Raises:
        ConfigError: it cannot be imported, for whatever reason.
    """
    try:
        return point.load()
    except Exception as error:  # another package's code, which may fail in any way
        raise ConfigError(
            f"{key}: cannot load {point.name!r} of {package_of(point)}: {type(error).__name__}: {error}. Mend or "
            "uninstall that package"
        ) from error


def listed_points(group: str, key: str) -> Iterator[Listed]:
    """Entry points of a group, as `doctor --plugins` lists them; each is loaded, to see that it can be."""
    for point in installed(group):
        try:
            loaded(point, key)
        except ConfigError as error:
            yield Listed(point.name, point.value, package_of(point), str(error))
        else:
            yield Listed(point.name, point.value, package_of(point))


def package_of(point: EntryPoint) -> str:
    """Distribution that brings an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unnamed package"


def imported(name: str, key: str) -> Any:
    """Import what `package.module:name` names; `key` is the configuration key that says so, for messages.

    Raises:
        ConfigError: it is of another form, or it cannot be imported.
    """
    if not CODE.fullmatch(name):
        raise ConfigError(
            f"{key}: cannot load {name!r}: expected `package.module:name` of letters, digits, '_' and '.'; rename the module or its part"
        )
    module, _, attribute = name.partition(":")
    if module == GIVEN and not hasattr(sys.modules.get(GIVEN), attribute):
        raise ConfigError(
            f"{key}: this run was given its {attribute} as an object of Python, which the folder does not hold. In Python, "
            f'`dictpfl.simulate(config, folder, engine="local", {attribute}=..., resume=True)` gives it again, also to a run that is finished; or '
            "name it as `package.module:name` from the start"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}: cannot load {name!r}: {error}. The module must be importable from the current folder or installed"
        ) from error


def require_bindable(
    function: Callable[..., Any], options: Mapping[str, Any], what: str, *, facts: Collection[str] = ()
) -> None:
    """Refuse options that a function does not take, before it runs and fails in words of its own.

    Values are held against annotations of numbers, texts, truth values, and lists and tables of them. Parameters with other annotations or
    without any take what they are given.

    Args:
        function: that will be called.
        options: its arguments by name.
        what: configuration key, for the message.
        facts: names of arguments that nobody wrote, which are not held against annotations.

    Raises:
        ConfigError: an option unknown or missing, or a value of another kind.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}; it takes {signature}") from error
    parameters = _annotated(function)
    every = next((p for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    for key, value in options.items():
        parameter = parameters.get(key, every)
        if key in facts or parameter is None or value is parameter.default:
            continue
        if not _fits(value, parameter.annotation):
            raise ConfigError(f"{what}: {key} = {value!r}; expected {_words(parameter.annotation)}")


def _annotated(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters with their annotations as objects; none where one of them names what is not there."""
    try:
        return inspect.signature(function, eval_str=True).parameters
    except Exception:  # noqa: BLE001 -- an annotation is any expression
        return {}


def _fits(value: Any, wanted: Any) -> bool:
    """Tell whether a value is of an annotation's kind; everything is of a kind that is not known here."""
    if not isinstance(value, _WRITTEN):
        return True
    origin, inner = get_origin(wanted), get_args(wanted)
    kind = origin or wanted
    if kind is Annotated:
        return _fits(value, inner[0])
    if kind is Literal:  # which of the words, the part says itself
        inner = tuple(type(one) for one in inner)
    if kind in (Union, UnionType, Literal):
        return any(_fits(value, one) for one in inner)
    if any(kind is one for one in _LISTS):
        return isinstance(value, (list, tuple)) and _each_fits(value, kind, inner)
    if any(kind is one for one in _TABLES):
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values() if inner)
    return _is_single(value, kind)


def _each_fits(values: Sequence[Any], kind: Any, inner: tuple[Any, ...]) -> bool:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(values) == len(inner) and all(map(_fits, values, inner))
    return not inner or all(_fits(value, inner[0]) for value in values)


def _is_single(value: Any, kind: Any) -> bool:
    if kind is NoneType or kind is bool or kind is str:
        return isinstance(value, kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is not float or (isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value))


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def _words(wanted: Any) -> str:
    """Name the kind of an annotation, for messages."""
    origin, inner = get_origin(wanted), get_args(wanted)
    kind = origin or wanted
    if kind is Annotated:
        return _words(inner[0])
    if kind in (Union, UnionType):
        return " or ".join(_words(one) for one in inner if one is not NoneType)
    if kind is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if any(kind is one for one in _TABLES):
        return "a table" + _several(inner[1:])
    if any(kind is one for one in _LISTS):
        return "a list" + _several(
            inner, str(len(inner)) if kind is tuple and inner and inner[-1] is not Ellipsis else ""
        )
    return next((words[0] for one, words in _WORDS.items() if kind is one), str(wanted))


def _several(inner: Sequence[Any], count: str = "") -> str:
    """Words behind a list or table for what is in it; empty where that is not known."""
    found = next((words[1] for one, words in _WORDS.items() if inner and inner[0] is one), "")
    return f" of {count} {found}".replace("  ", " ") if found else ""


def require_part(part: Any, what: str, methods: Mapping[str, int], attributes: Sequence[str] = ()) -> None:
    """Refuse a part that lacks a method or an attribute, or whose method takes another number of arguments than it will be given.

    Args:
        part: to look at.
        what: configuration key and name, for the message.
        methods: number of arguments of each, without `self`.
        attributes: names of what else it must have.

    Raises:
        ConfigError: it does; the message names each.
    """
    missing = [name for name in (*methods, *attributes) if not hasattr(part, name)]
    if missing:
        raise ConfigError(
            f"{what}: {type(part).__name__} has no {', '.join(missing)}; docs/how-to/extend.md shows what it must have"
        )
    for name, count in methods.items():
        try:
            inspect.signature(getattr(part, name)).bind(*[None] * count)
        except TypeError as error:
            raise ConfigError(
                f"{what}: {type(part).__name__}.{name}{inspect.signature(getattr(part, name))} is called with {count} arguments beside "
                f"self ({error}); docs/how-to/extend.md shows its signature"
            ) from error
        except ValueError:
            continue  # written in C, without a signature
