"""Run folders of dictpfl 0.1, which said `sites`: figures are read; whoever would go on is told how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.runs.census import CENSUS, read_census
from dictpfl.deploy.runs.run import first_institution


def test_a_run_of_a_former_release_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "sites" / "institution-000").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"made by dictpfl 0\.1, in protocol 3, .*compatibility\.md#move-from-protocol-3"
    ):
        first_institution(tmp_path)


@pytest.mark.parametrize("key", ["sites", "institutions"])
def test_a_census_of_either_release_is_read(tmp_path: Path, key: str) -> None:
    document = {"classes": ["a", "b"], key: {"north": [3, 1]}, "test": [1, 1]}
    (tmp_path / CENSUS).write_text(json.dumps(document), encoding="utf-8")
    census = read_census(tmp_path)
    assert census is not None
    assert census.institutions == {"north": (3, 1)}
