"""The manuals of a deployment, read without starting anything: each is short, whole, and led to in the order of the parties."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.support import ROOT
from tests.support.manuals import (
    AUTHORITY,
    COORDINATOR,
    FOUNDERS,
    MANUALS,
    NEWCOMER,
    ORDER,
    SKIPPED,
    Block,
    Row,
    Send,
    UnreadableError,
    order,
    pages,
    plan,
    text_of,
)
from tests.support.shown import not_shown

LONGEST = {ORDER: 40, "deploy/lead.md": 154, "deploy/coordinator.md": 224, "deploy/institution.md": 182}
"""Lines of each page, code and output included."""
OWN = {"deploy/lead.md": {AUTHORITY}, "deploy/coordinator.md": {COORDINATOR}}


def blocks() -> list[Block]:
    return [piece for piece in plan(pages()) if isinstance(piece, Block)]


def test_the_manuals_are_short() -> None:
    assert {page: lines for page, lines in LONGEST.items() if len(text_of(page).splitlines()) > lines} == {}


@pytest.mark.parametrize("page", MANUALS)
def test_every_block_of_a_manual_is_typed_somewhere(page: str) -> None:
    """A fenced block that the walk would leave out fails here, without starting anything."""
    text = text_of(page)
    fences = re.findall(r"^```\S.*$", text, re.MULTILINE)
    typed = {block.place: block for block in blocks() if block.page == page}
    outputs = sum(bool(block.shows) for block in typed.values())
    assert len(typed) + outputs + len(SKIPPED) == len(fences)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(fences), "indented, or without a language"
    assert not re.search(r"^    (dictpfl|nginx|\$) ", text, re.MULTILINE), "a command in an indented block"


def test_much_of_what_is_typed_shows_what_it_prints() -> None:
    assert sum(bool(block.shows) for block in {block.place: block for block in blocks()}.values()) >= 17
    assert "```" not in text_of(ORDER), "a command that nobody types"
    assert all(SKIPPED.values()), "a block is left out without a reason"


@pytest.mark.parametrize("page", MANUALS)
def test_a_manual_is_for_one_party(page: str) -> None:
    """Whoever reads it types all of it, and nothing of another's."""
    for block in (block for block in blocks() if block.page == page):
        assert set(block.machines) <= OWN.get(page, {*FOUNDERS, NEWCOMER}), block


def test_the_order_names_what_is_sent_in_each_step() -> None:
    for row in order(pages()):
        sent = {
            piece.source if piece.source.count("/") == 0 else piece.source.removesuffix("/").rpartition("/")[2]
            for piece in row.pieces()
            if isinstance(piece, Send)
        }
        named = {name.removesuffix("/") for name in re.findall(r"`([^`]+)`", row.sends)}
        assert sent == named, f"step {row.step}"


def test_a_call_is_in_the_manual_of_who_makes_it() -> None:
    """Each row with calls leads to a section that says **Call**, and so does the other side's manual."""
    for row in order(pages()):
        if row.calls and row.who != "newcomer":
            assert any("**Call** with" in section.text for section in row.sections), row.step
    assert text_of("deploy/institution.md").count("**Call** with") == 1, "one call at a site"
    assert text_of("deploy/coordinator.md").count("**Call** with") == 1


# what the walk cannot follow


def small(table: str, manual: str) -> Mapping[str, str]:
    return {
        ORDER: f"## The order\n| step | who | does | then sends | calls |\n|---|---|---|---|---|\n{table}",
        "m.md": manual,
    }


ROW = "| 0 | lead | [it](m.md#0-a) | | |\n"


@pytest.mark.parametrize(
    ("table", "manual", "why"),
    [
        (ROW, "### 0. A\n```bash\nls\n```\n", "names no machine"),
        (ROW, "### 0. A\n```bash nobody\nls\n```\n", "names no machine"),
        (ROW, "### 0. A\n```sh authority\nls\n```\n", "names no machine"),
        (ROW, "### 0. A\n```console\nls\n```\n", "names no machine"),
        (ROW, "### 0. A\n```text output\nls\n```\n", "belongs to no command"),
        (ROW.replace(" 0 ", " 1 ", 1), "### 1. A\n```bash authority\nls\n```\n", "0-a is not there"),
        (ROW.replace(" 0 ", " 1 ", 1).replace("0-a", "1-a"), "### 1. A\n", "expected 0, 1, 2"),
        (ROW.replace("0-a", "4-a"), "### 4. A\n```bash authority\nls\n```\n", "have another number"),
        (ROW, "### 0. A\n```bash authority\nls\n```\n## B\n```bash authority\nls\n```\n", "no row of the order leads there"),
        (ROW, "```bash authority\nls\n```\n### 0. A\n", "before the first heading"),
        (ROW, "### 0. A\n```bash authority\nls\n```\n- **Send** `x` to somebody, who keeps it as `y`.\n", "to whom"),
        (ROW, "### 0. A\n```bash authority\nls\n```\n**Send** `x` to the authority.\n", "not of the form"),
    ],
)  # fmt: skip
def test_what_the_walk_cannot_follow_is_said(table: str, manual: str, why: str) -> None:
    with pytest.raises(UnreadableError, match=why):
        plan(small(table, manual))


def test_output_is_compared_in_order() -> None:
    assert not_shown(["a …", "c"], "x\na 1\nb\n  c\n") is None
    assert not_shown(["c", "a …"], "a 1\nc\n") == "a …"
    assert not_shown(["a …"], "ab\n") == "a …"


def test_commands_are_counted_as_they_are_typed() -> None:
    code = "umask 077\ndictpfl a \\\n    --b\nfor part in x y; do\n    cp $part z\ndone\n(a; b)\n"
    assert len(Block("", 0, code, ("authority",)).commands) == 4
    assert Block("", 0, code, ("authority",), settings=True).commands == []


# what the table beside others says


ONE_LEAVES = 7
"""Step with which a rotation begins."""
LOOKED = re.compile(r"ls |dictpfl (\w+ )?(status|health|audit verify) |dictpfl doctor --folder")
INSTALLATION = {"umask 077", "dictpfl doctor", "dictpfl bundle"}
STARTING = re.compile(r"nohup |echo \$!|timeout |dictpfl coordinator proxy |nginx ")


def lines(rows: list[Row]) -> dict[str, list[str]]:
    """What each machine types in these rows, without installing and looking, and without what is there to try out."""
    found: dict[str, list[str]] = {}
    for piece in (piece for row in rows for piece in row.pieces()):
        if isinstance(piece, Block) and piece.page in MANUALS and piece.code.splitlines()[0] not in SKIPPED:
            for machine in piece.machines:
                found.setdefault(machine, []).extend(line for line in piece.commands if not LOOKED.match(line))
    return found


def beside() -> dict[str, list[str]]:
    """The table's rows by their first cell."""
    _, _, text = text_of("explanation/beside-others.md").partition("## Beside FLARE, Flower, OpenFL")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.partition("\n(1) ")[0].splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in rows}


def test_the_table_beside_others_has_what_the_manuals_have() -> None:
    rows, table = order(pages()), {name: cells[0] for name, cells in beside().items()}
    to_the_first_round = [row for row in rows if row.step.isdigit() and int(row.step) <= 5]
    typed = lines(to_the_first_round)
    assert table["lines typed: lead"] == str(len(typed[AUTHORITY]))
    assert table["lines typed: coordinator"] == str(len(typed[COORDINATOR]))
    assert {table["lines typed: each site"]} == {str(len(typed[name])) for name in FOUNDERS}
    assert table["lines typed, all"] == str(sum(map(len, typed.values())))
    written = {
        piece.file
        for row in to_the_first_round
        for piece in row.pieces()
        if isinstance(piece, Block) and piece.file and piece.page in MANUALS
    }
    assert table["files written by hand"] == str(len(written))
    carried = [
        (name, reader)
        for row in to_the_first_round
        for piece in row.pieces()
        if isinstance(piece, Send)
        for name in piece.senders
        for reader in piece.readers
        if reader != NEWCOMER
    ]
    assert table["files that change hands"] == str(len(carried))
    calls = [part for row in to_the_first_round for part in row.calls.split("; ") if part]
    assert table["calls in which people compare something"] == str(
        sum(3 if call.startswith("each institution:") else 1 for call in calls)
    )

    rotation = lines([row for row in rows if row.step.isdigit() and int(row.step) >= ONE_LEAVES])
    joins = "a site is added while the network stands, lines: lead and coordinator"
    assert table[joins] == str(len(rotation[AUTHORITY]) + len(rotation[COORDINATOR]))
    assert table["the same, lines: the new site"] == str(len(rotation[NEWCOMER]))
    assert table["the same, lines: each other site"] == " or ".join(
        sorted({str(len(rotation[name])) for name in ("berlin", "kyoto")})
    )

    text = text_of("explanation/beside-others.md")
    every = [line for part in typed.values() for line in part]
    looks, starts = sum(line in INSTALLATION for line in every), sum(bool(STARTING.match(line)) for line in every)
    assert f"{looks} of our {len(every)} look at the installation, and {starts} start a program" in text


def test_sums_of_the_table_beside_others_add_up() -> None:
    table = beside()
    for column in range(5):
        lead, coordinator, site, everything = (
            int(table[name][column].split()[0].replace("-", "0"))
            for name in ("lines typed: lead", "lines typed: coordinator", "lines typed: each site", "lines typed, all")
        )
        assert lead + coordinator + 3 * site == everything


# what product messages name


def test_pages_and_sections_that_messages_name_exist() -> None:
    """Alarms, `status` and reports send people to pages of docs/; an anchor in them is a heading."""
    named: list[tuple[str, str]] = []
    for room in ("client", "common", "deploy", "server"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix in {".py", ".yml", ".yaml", ".j2", ".service"}:
                named += re.findall(r"(docs/[\w/-]+\.md)(?:#([\w-]+))?", path.read_text(encoding="utf-8"))
    assert len(named) > 10
    for page, anchor in named:
        text = (ROOT / page).read_text(encoding="utf-8")
        heads = {
            re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
            for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        assert not anchor or anchor in heads, f"{page}#{anchor}"
