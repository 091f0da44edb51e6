"""Commands of how-to pages, as they are typed there, one after the other in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.typed import typed

PAGES = {"audit-numbers": 2, "fewer-tokens": 1, "narrow": 5, "sparse-models": 3, "which-layers": 5}
"""How many commands of each page need nothing but the repository and its data."""
OTHERS = re.compile(
    r"\b(RUN|DIR|CONFIG|FILE|FOLDER|INSTITUTION)\b|mine\.|patients|smollm2|newsgroups|vlm|timm:|runs/digits-dictpfl"
)
"""Commands with a name that stands for a reader's own, or that take hours."""


def commands(page: str) -> list[str]:
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    typed = re.findall(r"^    (dictpfl .+)$", text, re.MULTILINE)
    return [line.partition("  #")[0] for line in typed if not OTHERS.search(line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page: str, tmp_path: Path) -> None:
    lines = commands(page)
    assert len(lines) == PAGES[page], "a command of the page is not looked at; or one is gone"
    if "lua_fashion" in " ".join(lines) and not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Fashion-MNIST is not on this machine: apt install dataset-fashion-mnist")
    for name in ("experiments", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    for line in lines:
        typed(line.removeprefix("dictpfl "), tmp_path)
