"""docs/deploy.md and the manuals that it sends people to, read: what is typed by whom, in the order in which the parties work.

The order is the table of docs/deploy.md: row by row, link by link. A link leads to a section of a manual, whose blocks are
typed then; "newcomer" in a row says that a later institution types what the founders typed before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from tests.support import ROOT

FOUNDERS, NEWCOMER = ("berlin", "kyoto", "oslo"), "quito"
INSTITUTIONS = (*FOUNDERS, NEWCOMER)
AUTHORITY, COORDINATOR = "authority", "coordinator"
ROLES = {"institution": FOUNDERS} | {name: (name,) for name in (AUTHORITY, COORDINATOR, *INSTITUTIONS)}
ORDER = "deploy.md"
MANUALS = ("deploy/lead.md", "deploy/coordinator.md", "deploy/institution.md")
BESIDE = ("how-to/your-data.md",)
"""Pages that a row may lead to as well: what somebody types there who only tries."""
SKIPPED = {
    "python3 -m venv environment": "gigabytes from the index: tests/processes/test_install.py types it by itself"
}
"""Blocks that the walk leaves out, by their first line, with the reason. There is one in each manual."""
READERS = {
    "the authority": (AUTHORITY,),
    "the coordinator": (COORDINATOR,),
    "each institution": INSTITUTIONS,
    "the newcomer": (NEWCOMER,),
}

_HEADING = re.compile(r"^(#{2,}) (?:(?P<number>\d+)\. )?[^\n]*$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PIECE = re.compile(
    r"^```(?P<language>\w*) *(?P<label>[^\n]*)\n(?P<code>.*?)^```$"
    r"|^- \*\*Send\*\* `(?P<source>[^`]+)` to (?P<reader>[\w ]+), who keeps it as `(?P<target>[^`]+)`\.$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\(([\w/-]+\.md)#([\w-]+)\)")


class UnreadableError(Exception):
    """A page has something that the walk cannot follow."""


@dataclass(frozen=True)
class Block:
    """A fenced block, what it must print, and on which machines it is typed."""

    page: str
    line: int
    code: str
    machines: tuple[str, ...]
    settings: bool = False
    file: str = ""
    shows: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, int]:
        """Page and line, which name a block."""
        return self.page, self.line

    @property
    def commands(self) -> list[str]:
        """What is typed, line by line; continued lines joined, a loop counts once. Settings and files are none."""
        if self.settings or self.file:
            return []
        found: list[str] = []
        inside = False
        for line in self.code.replace("\\\n", " ").splitlines():
            if inside:
                inside = line != "done"
            elif line.strip():
                found.append(line)
                inside = line.endswith("; do")
        return found


@dataclass(frozen=True)
class Send:
    """A file, or a folder, that travels."""

    source: str
    target: str
    senders: tuple[str, ...]
    readers: tuple[str, ...]


Piece = Block | Send


@dataclass(frozen=True)
class Section:
    """A heading of a page, its number, and what stands below it up to the next heading."""

    page: str
    anchor: str
    number: int | None
    line: int
    text: str

    def pieces(self) -> list[Piece]:
        """Blocks and what is sent, in order."""
        here: list[Piece] = []
        for found in _PIECE.finditer(self.text):
            line = self.line + self.text.count("\n", 0, found.start())
            if found["source"]:
                here.append(self._send(here, line, found))
            elif (found["language"], found["label"]) == ("text", "output"):
                before = here[-1] if here else None
                if not isinstance(before, Block) or before.shows or before.settings or before.file:
                    raise UnreadableError(f"{self.page}, line {line}: output that belongs to no command")
                here[-1] = replace(before, shows=tuple(found["code"].splitlines()))
            else:
                here.append(self._block(line, found))
        if self.text.count("**Send** `") != sum(isinstance(piece, Send) for piece in here):
            raise UnreadableError(
                f"{self.page}, #{self.anchor}: a **Send** line is not of the form that the walk reads"
            )
        return here

    def _block(self, line: int, found: re.Match[str]) -> Block:
        language, label = found["language"], found["label"].split()
        settings = label[-1:] == ["settings"]
        file = label.pop() if language in {"toml", "python"} and len(label) > 1 else ""
        roles = label[:-1] if settings else label
        known = language in {"bash", "toml", "python"} and bool(roles) and set(roles) <= set(ROLES)
        if not known or (language != "bash") != bool(file):
            raise UnreadableError(
                f"{self.page}, line {line}: ```{language} {found['label']} names no machine that would run it"
            )
        machines = tuple(machine for role in roles for machine in ROLES[role])
        return Block(self.page, line, found["code"], machines, settings, file)

    def _send(self, here: Sequence[Piece], line: int, found: re.Match[str]) -> Send:
        senders = next((piece.machines for piece in reversed(here) if isinstance(piece, Block)), None)
        if senders is None or found["reader"] not in READERS:
            raise UnreadableError(f"{self.page}, line {line}: from whom, or to whom?")
        return Send(found["source"], found["target"], senders, READERS[found["reader"]])


@dataclass(frozen=True)
class Row:
    """A row of the order: its step, who is at work, the sections to type, the files and the calls that it names."""

    step: str
    who: str
    sections: tuple[Section, ...]
    sends: str
    calls: str

    def pieces(self) -> Iterator[Piece]:
        """What is done in this row; a newcomer does what founders did."""
        for piece in (piece for section in self.sections for piece in section.pieces()):
            if self.who != "newcomer":
                yield piece
            elif isinstance(piece, Block):
                yield replace(piece, machines=(NEWCOMER,))
            else:
                yield replace(piece, senders=(NEWCOMER,))


def anchor_of(heading: str) -> str:
    """Anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def sections(page: str, text: str) -> dict[str, Section]:
    """A page's sections by anchor; what looks like a heading within a fence is none."""
    blind = _FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    heads = list(_HEADING.finditer(blind))
    if _FENCED.search(text[: heads[0].start()] if heads else text):
        raise UnreadableError(f"{page}: a block before the first heading")
    found: dict[str, Section] = {}
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        anchor = anchor_of(head[0].lstrip("#").strip())
        if anchor in found:
            raise UnreadableError(f"{page}: #{anchor} is there twice")
        number = int(head["number"]) if head["number"] else None
        body = text[head.end() : after.start() if after else len(text)]
        found[anchor] = Section(page, anchor, number, text.count("\n", 0, head.end()) + 1, body)
    return found


def order(pages: Mapping[str, str]) -> list[Row]:
    """The rows of the table "The order", each with the sections that it leads to.

    Raises:
        UnreadableError: steps are not 0, 1, 2 and so on; a row leads nowhere; a section has another number than its
            row; a section of a manual has blocks and no row leads there.
    """
    known = {page: sections(page, text) for page, text in pages.items() if page != ORDER}
    rows = list(_rows(pages[ORDER], known))
    steps = [int(row.step) for row in rows if row.step.isdigit()]
    if steps != list(range(len(steps))):
        raise UnreadableError(f"steps {steps}, expected 0, 1, 2 and so on")
    reached = {(section.page, section.anchor) for row in rows for section in row.sections}
    for page in set(known) - set(BESIDE):
        for section in known[page].values():
            if section.pieces() and (page, section.anchor) not in reached:
                raise UnreadableError(f"{page}, #{section.anchor}: no row of the order leads there")
    return rows


def _rows(text: str, known: Mapping[str, Mapping[str, Section]]) -> Iterator[Row]:
    _, _, table = text.partition("## The order\n")
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "step" or set(line) <= set("|-: "):
            continue
        step, who, does, sends, calls = cells
        led = []
        for page, anchor in _LINK.findall(does):
            if anchor not in known.get(page, {}):
                raise UnreadableError(f"{ORDER}, step {step}: {page}#{anchor} is not there")
            led.append(known[page][anchor])
        wrong = [s.anchor for s in led if s.number is not None and who != "newcomer" and str(s.number) != step]
        if wrong:
            raise UnreadableError(f"{ORDER}, step {step}: {wrong} have another number")
        yield Row(step, who, tuple(led), sends, calls)


@cache
def text_of(page: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def pages() -> dict[str, str]:
    """The order, the manuals, and what they lead to."""
    return {page: text_of(page) for page in (ORDER, *MANUALS, *BESIDE)}


def plan(found: Mapping[str, str]) -> list[Piece]:
    """What is done, in the order of the parties."""
    return [
        piece
        for row in order(found)
        for piece in row.pieces()
        if not (isinstance(piece, Block) and piece.code.splitlines()[0] in SKIPPED)
    ]
