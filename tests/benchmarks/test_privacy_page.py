"""The page of the attacks says what its parts found, and which attacks are broken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lib import headline, privacy_page
from lib.lines import Lines
from tests.support import ROOT

PARTS = Lines(ROOT / "benchmarks" / "results" / "privacy.jsonl")


def page(parts: Lines, monkeypatch: pytest.MonkeyPatch) -> str:
    written: list[str] = []

    def keep(_name: str, _figures: Mapping[str, Any], text: str, _figure: object) -> None:
        written.append(text)

    monkeypatch.setattr(privacy_page, "write_results", keep)
    privacy_page.write_page(parts, [])
    return written[0]


def test_page_is_what_its_parts_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = PARTS.path.with_suffix(".md").read_text(encoding="utf-8")
    assert page(PARTS, monkeypatch).rstrip() + "\n" == stored
    assert "Parts by the release that they were measured with: dictpfl 0." in stored
    assert "pad_uploads" not in stored, "a setting that is gone"


@pytest.mark.parametrize("part", ["tokens", "property"])
def test_attack_that_fails_on_plaintext_is_broken_in_every_table(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of images and labels alone it was said; a broken search for words stood as `no better than blind`."""
    found = PARTS.get(part)
    assert found is not None
    for finding in found["findings"]:
        for name in ("found", "gain"):
            finding[name] = {"value": 0.0, "low": -0.1, "high": 0.1}
    Lines(tmp_path / "privacy.jsonl").put(part, found)
    text = page(Lines(tmp_path / "privacy.jsonl"), monkeypatch)
    assert "broken at this setting" in text
    assert "no better than blind" not in text


def test_headline_counts_the_images_behind_its_percentages() -> None:
    row = headline._attack()
    assert "100 % of 7" in row
    assert "100 % of 8" in row
