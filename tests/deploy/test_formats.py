"""What another release wrote is told so, with the one thing to do, and stays as it is; and the page that lists all formats."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.client.defences.evidence import Evidence
from dictpfl.client.defences.pairs import OwnKeys
from dictpfl.client.folder import KEY
from dictpfl.client.keys.epochs import EpochTable
from dictpfl.client.keys.vault import open_at_rest, seal_at_rest
from dictpfl.client.memory.record import Memory, Record
from dictpfl.client.privacy.accounting import Spending
from dictpfl.common.ckks.keys import load_key
from dictpfl.common.documents import OTHER_RELEASE
from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.common.genesis import DOCUMENT, Genesis
from dictpfl.common.law.members import Roster
from dictpfl.common.law.state import Residual
from dictpfl.common.law.stored import of_bytes, to_bytes
from dictpfl.common.messages import snapshots
from dictpfl.common.messages.protocol import PROTOCOL
from dictpfl.deploy.ceremony import envelope
from dictpfl.deploy.ceremony.identity import PublicIdentity
from dictpfl.deploy.ceremony.terms import Terms
from dictpfl.deploy.simulation.founding import Founded, found
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL, open_journal
from dictpfl.server.tables import APPLICATION
from tests.support import ROOT
from tests.support.federations import encrypted

PAGE = ROOT / "docs" / "reference" / "compatibility.md"
NAME = re.compile(rb"(dictpfl-[a-z-]+-)(\d)")


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    """A federation with a memory and a journal, as a release leaves it."""
    made = found(encrypted(), tmp_path_factory.mktemp("formats") / "federation")
    genesis, home = made.genesis, made.home(0)
    shared = genesis.start()
    Memory(home / "memory", genesis.federation).store(
        Record(shared, Residual(np.zeros(genesis.layout.size)), bytes(32))
    )
    open_journal(made.coordinator, Agreement.load(made.coordinator / AGREEMENT)).close()
    return made


def memory_of(founded: Founded, folder: Path) -> Path:
    return Memory(folder / "memory", founded.genesis.federation).path


def renumbered(path: Path) -> bytes:
    """The file with the number of its format one higher, as the next release would write it."""
    content = path.read_bytes()
    assert NAME.search(content), path
    path.write_bytes(NAME.sub(lambda found: found[1] + str(int(found[2]) + 1).encode(), content, count=1))
    return path.read_bytes()


Read = Callable[[Founded, Path], Any]
FILES: dict[str, tuple[str, Callable[[Founded, Path], Path], Read]] = {
    "genesis": ("institution", lambda _, f: f / DOCUMENT, lambda _, f: Genesis.load(f)),
    "memory": ("institution", memory_of, lambda made, f: Memory(f / "memory", made.genesis.federation).recall()),
    "key": ("institution", lambda _, f: f / KEY, lambda _, f: load_key(f / KEY)),
    "agreement": ("coordinator", lambda _, f: f / AGREEMENT, lambda _, f: Agreement.load(f / AGREEMENT)),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_of_the_next_release_is_told_and_left_alone(what: str, founded: Founded, tmp_path: Path) -> None:
    party, place, read = FILES[what]
    folder = Path(shutil.copytree(founded.home(0) if party == "institution" else founded.coordinator, tmp_path / party))
    read(founded, folder)  # as it is, it opens
    path = place(founded, folder)
    written = renumbered(path)
    with pytest.raises(DictPFLError) as refused:
        read(founded, folder)
    assert OTHER_RELEASE in str(refused.value)
    assert path.name in str(refused.value)
    assert path.read_bytes() == written


def test_a_journal_of_the_next_release_is_told_and_left_alone(founded: Founded, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(founded.coordinator, tmp_path / "coordinator"))
    database = sqlite3.connect(folder / JOURNAL)
    database.execute(f"PRAGMA application_id = {APPLICATION + 1}")
    database.commit()
    database.close()
    written = (folder / JOURNAL).read_bytes()
    with pytest.raises(DictPFLError, match=r"dictpfl-journal-5.*dictpfl-journal-4") as refused:
        open_journal(folder, Agreement.load(folder / AGREEMENT))
    assert OTHER_RELEASE in str(refused.value)
    assert "move it away" not in str(refused.value)  # what is said of a damaged one would lose it
    assert (folder / JOURNAL).read_bytes() == written


def test_settings_of_a_newer_release_in_a_genesis_are_named(founded: Founded, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(founded.home(0), tmp_path / "institution"))
    document = json.loads((folder / DOCUMENT).read_text())
    document["config"]["training"]["foresight"] = 3
    (folder / DOCUMENT).write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"training\.foresight") as refused:
        Genesis.load(folder)
    assert OTHER_RELEASE in str(refused.value)


def sealed(path: Path) -> bytes:
    path.write_bytes(seal_at_rest(b"secret", b"six random words", "a purpose"))
    return renumbered(path)


def numbered(data: bytes, place: int) -> bytes:
    """Bytes with a version, two bytes little-endian at a place, one higher."""
    return (
        data[:place] + (int.from_bytes(data[place : place + 2], "little") + 1).to_bytes(2, "little") + data[place + 2 :]
    )


def document(form: str) -> bytes:
    return json.dumps({"format": form, "signature": "00", "name": "berlin"}).encode()


DOCUMENTS: dict[str, Callable[[Founded, Path], Any]] = {
    "epochs": lambda *_: EpochTable.of_bytes(document("dictpfl-epochs-2")),
    "peers": lambda *_: Roster.of_bytes(document("dictpfl-peers-2"), "peers.json"),
    "peer keys": lambda *_: OwnKeys.of_bytes(document("dictpfl-peer-keys-2"), "peers.key"),
    "terms": lambda *_: Terms.of_bytes(document("dictpfl-terms-2"), "terms.json"),
    "evidence": lambda *_: Evidence.of_bytes(document("dictpfl-evidence-3"), "evidence.json"),
    "identity": lambda *_: PublicIdentity.of(json.loads(document("dictpfl-identity-2")), "identity.pub"),
    "what is sealed under a passphrase": lambda _, f: open_at_rest(
        sealed(f / "x"), b"six random words", "a purpose", f / "x"
    ),
    "state of all": lambda made, _: of_bytes(
        to_bytes(made.genesis.start(), made.genesis.federation).replace(b"dictpfl-state-1", b"dictpfl-state-2"),
        made.genesis.federation,
        made.genesis.layout,
    ),
    "bundle": lambda *_: envelope._parts(numbered(envelope._HEAD.pack(envelope._MAGIC, 1, 0, 0), 8)),
    "snapshot": lambda *_: snapshots.SnapshotHeader.read(
        numbered(snapshots.SnapshotHeader(1, 1, 1, bytes(32), bytes(32), bytes(32)).to_bytes(), 8)
    ),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_of_the_next_release_is_told(what: str, founded: Founded, tmp_path: Path) -> None:
    with pytest.raises(DictPFLError) as refused:
        DOCUMENTS[what](founded, tmp_path)
    assert OTHER_RELEASE in str(refused.value)


def test_an_account_of_privacy_of_the_next_release_is_told(tmp_path: Path) -> None:
    path = tmp_path / "memory.privacy.json"
    Spending().store(path)
    renumbered(path)
    with pytest.raises(DictPFLError) as refused:
        Spending.load(path)
    assert OTHER_RELEASE in str(refused.value)


def formats() -> set[tuple[str, int]]:
    """Every format that the code writes into a file or a message, with its number."""
    found = set()
    for room in ("client", "common", "server", "deploy"):
        for path in (ROOT / room).rglob("*.py"):
            stated = re.findall(r'"(dictpfl-[a-z-]+)-(\d+)"', path.read_text())
            found |= {(name, int(number)) for name, number in stated}
    return found | {
        ("dictpfl-journal", int(chr(APPLICATION & 0xFF))),
        ("dictpfl-bundle", envelope._VERSION),
        ("dictpfl-snapshot", snapshots.VERSION),
    }


def test_the_page_lists_every_format_with_its_number() -> None:
    listed = re.findall(r"`(dictpfl-[a-z-]+)`\s+(\d+)", PAGE.read_text())
    assert {(name, int(number)) for name, number in listed} == formats()
    assert len(listed) == len(formats())


def test_the_page_lists_this_release_first_with_its_protocol_and_flower() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    flower = next(need for need in project["dependencies"] if need.startswith("flwr>")).removeprefix("flwr")
    first = re.search(r"^\| (\d+\.\d+\.\d+) \| (\d+) \| `([^`]+)` \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert first is not None
    assert first.groups() == (project["version"], str(PROTOCOL), flower, project["requires-python"])
