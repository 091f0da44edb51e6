"""Documents that name their format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dictpfl.client.folder import SETTINGS, InstitutionSettings
from dictpfl.common.documents import OTHER_RELEASE, explained, parse_document
from dictpfl.common.errors import ConfigError
from dictpfl.deploy.studies.policy import POLICY, Policy


def test_a_document_is_of_the_format_that_its_reader_knows() -> None:
    data = json.dumps({"format": "dictpfl-x-1", "value": 3}).encode()
    assert parse_document(data, "dictpfl-x-1", "x.json", ConfigError)["value"] == 3
    with pytest.raises(ConfigError, match=r"x\.json is of format 'dictpfl-x-1', this release reads 'dictpfl-x-2'"):
        parse_document(data, "dictpfl-x-2", "x.json", ConfigError)
    for damaged in (b"{", b"[]", b"{}", b"3", b"\xff", b"[" * 65_536):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_document(damaged, "dictpfl-x-1", "x.json", ConfigError)


def test_a_document_of_another_kind_is_not_blamed_on_a_release() -> None:
    data = json.dumps({"format": "dictpfl-invitation-1"}).encode()
    with pytest.raises(
        ConfigError, match="is of format 'dictpfl-invitation-1', expected 'dictpfl-x-1': another kind of file"
    ) as told:
        parse_document(data, "dictpfl-x-1", "x.json", ConfigError)
    assert OTHER_RELEASE not in str(told.value)


class Sized(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: Annotated[int, Field(ge=1)]
    name: str = ""


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ('{"size": 0}', "size: Input should be greater than or equal to 1, found 0"),
        ('{"size": 1, "nane": "x"}', "unknown key 'nane'; the nearest known key is 'name'"),
        ("{}", "size: Field required"),
        ('{"size": ', "document: Invalid JSON"),
    ],
)
def test_what_is_wrong_is_one_line_without_an_address(document: str, said: str) -> None:
    with pytest.raises(ValidationError) as found:
        Sized.model_validate_json(document)
    words = explained(found.value, Sized.model_fields)
    assert words.startswith(said)
    assert "\n" not in words
    assert "http" not in words
    assert explained(OSError("no space")) == "no space"


@pytest.mark.parametrize("kind", [InstitutionSettings, Policy])
def test_settings_with_a_mistake_name_the_field(kind: type[InstitutionSettings | Policy], tmp_path: Path) -> None:
    file = tmp_path / (SETTINGS if kind is InstitutionSettings else POLICY)
    file.write_text('nane = "x"\n')
    with pytest.raises(ConfigError, match=r"cannot use .*: unknown key 'nane'; the nearest known key is '\w+'$"):
        kind.load(tmp_path)
