"""docs/how-to/studies.md, read: which commands each party types at which step, what they print, and what it then sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support import ROOT

PAGE = (ROOT / "docs/how-to/studies.md").read_text(encoding="utf-8")
_PIECE = re.compile(
    r"^### (?P<step>\d+)\. [^\n]*$"
    r"|^```(?P<language>\w+) (?P<label>[^\n]*)\n(?P<code>.*?)^```$"
    r"|^- \*\*Send\*\* `(?P<source>[^`]+)` to (?P<reader>[^.]+?)(?:, who keeps it as `(?P<target>[^`]+)`)?\.$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    """What a role types at a step, and lines that this must print, in order; a `…` in them stands for anything."""

    step: int
    role: str
    code: str
    settings: bool = False
    file: str = ""
    shows: tuple[str, ...] = ()

    @property
    def commands(self) -> list[str]:
        """The lines that begin with `dictpfl`, continued ones joined."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in lines if re.match(r"(nohup )?dictpfl ", line)]


@dataclass
class Send:
    """A file that travels after a step."""

    step: int
    source: str
    reader: str
    target: str


def pieces() -> Iterator[Block | Send]:
    """All blocks of the steps and what is sent, in order."""
    step, last = 0, None
    for found in _PIECE.finditer(PAGE):
        if found["step"]:
            step = int(found["step"])
        elif found["source"]:
            yield Send(step, found["source"], found["reader"], found["target"] or found["source"])
        elif (found["language"], found["label"]) == ("text", "output"):
            assert last is not None
            last.shows = tuple(found["code"].splitlines())
        elif step and found["language"] in ("bash", "toml") and found["label"] != "policy":
            role, _, more = found["label"].partition(" ")
            last = Block(step, role, found["code"], more == "settings", more if found["language"] == "toml" else "")
            yield last
