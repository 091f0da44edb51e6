"""JSON that every reader takes, and documents that name their format: `{"format": "dictpfl-peers-1", ...}`."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from dictpfl.common.errors import DictPFLError

OTHER_RELEASE = "another release wrote it. Nothing was changed; install the release that did (docs/reference/compatibility.md says which)"
"""The one thing to do about a file of another format: no release reads two."""


def json_text(value: Any, indent: int | None = None) -> str:
    """Write a value as JSON; a figure that is no finite number is null: Python's own `NaN` is no JSON, and other programs refuse the file.

    Args:
        value: of mappings, sequences, texts, numbers, truth values and None.
        indent: spaces for each level; None: all on one line.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Return a value with None in place of every number in it that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def parse_document(data: bytes, form: str, origin: object, error: Callable[[str], DictPFLError]) -> dict[str, Any]:
    """Parse JSON of a stated format.

    Args:
        data: the document.
        form: the only format that is read.
        origin: where the document is from, for messages.
        error: class of what is raised where the format is another one.

    Returns:
        The document's fields, the format among them.

    Raises:
        DictPFLError: the document is of another format.
        ValueError, KeyError, TypeError: the data are no such document. Readers catch these together with what a missing or
            damaged field raises, and say what to do.
    """
    try:
        document: dict[str, Any] = json.loads(data)
    except RecursionError as deep:
        raise ValueError("nested too deeply") from deep
    require_format(document["format"], form, origin, error)
    return document


def require_format(found: object, form: str, origin: object, error: Callable[[str], DictPFLError]) -> None:
    """Refuse what another release wrote, or is another kind of file, before anything else of it is looked at.

    Args:
        found: the format that it says it has.
        form: the only format that is read.
        origin: where it is from, for messages.
        error: class of what is raised.

    Raises:
        DictPFLError: of another format, with the one thing to do.
    """
    if isinstance(found, str) and found.startswith("dictpfl-") and _kind(found) != _kind(form):
        raise error(f"{origin} is of format {found!r}, expected {form!r}: another kind of file; name the right one")
    if found != form:
        raise error(f"{origin} is of format {found!r}, this release reads {form!r}: {OTHER_RELEASE}")


def _kind(form: str) -> str:
    """Format without its number, which is all that differs between releases."""
    return form.rpartition("-")[0]


def explained(error: Exception, known: Iterable[str] = ()) -> str:
    """Say in one line what is wrong with a document: field by field where its schema found it, or as the error says.

    Args:
        error: pydantic's, whose own text has several lines and an address, or any other.
        known: names of the fields that there are; the nearest one is said beside an unknown one.
    """
    return "; ".join(_issues(error, list(known))) if isinstance(error, ValidationError) else str(error)


def _issues(error: ValidationError, known: list[str]) -> Iterator[str]:
    for issue in error.errors():
        key = ".".join(str(part) for part in issue["loc"]) if issue["loc"] else "document"
        if issue["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            here = key in near and len(issue["loc"]) == 1  # "training.epochs" = 2, one word in quotes
            told = "; write it without quotes" if here else f"; the nearest known key is {near[0]!r}" if near else ""
            yield f"unknown key {key!r}{told}"
        elif issue["type"] == "value_error":  # a rule of our own, which says what was found
            yield f"{key}: {issue['msg'].removeprefix('Value error, ')}"
        elif issue["type"] in ("missing", "json_invalid"):  # the input is the whole document
            yield f"{key}: {issue['msg']}"
        else:
            yield f"{key}: {issue['msg']}, found {_shown(issue['input'])}"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number of more digits than can be written"
