"""JSON documents that name their format: `{"format": "dictpfl-peers-1", ...}`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dictpfl.common.errors import DictPFLError

OTHER_RELEASE = "another release wrote it. Nothing was changed; install the release that did (docs/reference/compatibility.md says which)"
"""The one thing to do about a file of another format: no release reads two."""


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
    document: dict[str, Any] = json.loads(data)
    require_format(document["format"], form, origin, error)
    return document


def require_format(found: object, form: str, origin: object, error: Callable[[str], DictPFLError]) -> None:
    """Refuse what another release wrote, before anything else of it is looked at.

    Args:
        found: the format that it says it has.
        form: the only format that is read.
        origin: where it is from, for messages.
        error: class of what is raised.

    Raises:
        DictPFLError: of another format, with the one thing to do.
    """
    if found != form:
        raise error(f"{origin} is of format {found!r}, this release reads {form!r}: {OTHER_RELEASE}")
