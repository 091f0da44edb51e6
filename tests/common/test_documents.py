"""Documents that name their format."""

from __future__ import annotations

import json

import pytest

from dictpfl.common.documents import parse_document
from dictpfl.common.errors import ConfigError


def test_a_document_is_of_the_format_that_its_reader_knows() -> None:
    data = json.dumps({"format": "dictpfl-x-1", "value": 3}).encode()
    assert parse_document(data, "dictpfl-x-1", "x.json", ConfigError)["value"] == 3
    with pytest.raises(ConfigError, match=r"x\.json is of format 'dictpfl-x-1', this release reads 'dictpfl-x-2'"):
        parse_document(data, "dictpfl-x-2", "x.json", ConfigError)
    for damaged in (b"{", b"[]", b"{}", b"3", b"\xff"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_document(damaged, "dictpfl-x-1", "x.json", ConfigError)
