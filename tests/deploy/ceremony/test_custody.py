"""The custody log: whatever is done to it shows."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import CustodyError, DictPFLError
from dictpfl.deploy.ceremony.custody import HEAD, LOG, record, verify
from dictpfl.deploy.ceremony.identity import Identity, Role, canonical, make_identity

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture(scope="module")
def party(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Identity]:
    folder = tmp_path_factory.mktemp("custody") / "berlin"
    identity = make_identity(folder, "berlin", Role.INSTITUTION, PASSPHRASE)
    for number in range(5):
        record(folder, identity, f"event {number}", epoch=number)
    return folder, identity


@pytest.fixture
def log(party: tuple[Path, Identity], tmp_path: Path) -> Path:
    for name in (LOG, HEAD, "identity.pub"):
        (tmp_path / name).write_bytes((party[0] / name).read_bytes())
    return tmp_path


def lines(folder: Path) -> list[bytes]:
    return (folder / LOG).read_bytes().splitlines(keepends=True)


def test_a_whole_log(log: Path) -> None:
    (checked,) = verify(log)
    assert [entry["event"] for entry in checked.entries] == [f"event {n}" for n in range(5)]
    assert checked.party.name == "berlin"
    (alone,) = verify(log / LOG)
    assert alone == checked


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    "change", [{"event": "nothing"}, {"at": "2020-01-01T00:00:00+00:00"}, {"facts": {}}, {"number": 9}]
)
def test_an_edited_entry(log: Path, number: int, change: dict[str, object]) -> None:
    found = lines(log)
    found[number] = canonical({**json.loads(found[number]), **change}) + b"\n"
    (log / LOG).write_bytes(b"".join(found))
    with pytest.raises(CustodyError, match=f"line {number + 1}"):
        verify(log)


@pytest.mark.parametrize("without", ["event", "at", "facts"])
@pytest.mark.parametrize("value", [None, 7, ["x"]])
def test_an_entry_that_its_own_party_signed_with_another_form(
    party: tuple[Path, Identity], log: Path, without: str, value: object
) -> None:
    """A party that lies can sign anything; whoever reads its log is told, and not by a traceback."""
    found = lines(log)
    entry = {name: part for name, part in json.loads(found[4]).items() if name not in {"signature", without}}
    if value is not None:
        entry[without] = value
    entry["signature"] = party[1].sign(b"dictpfl custody entry 1\n" + canonical(entry)).hex()
    found[4] = canonical(entry) + b"\n"
    head: dict[str, object] = {"entries": 5, "head": sha256(canonical(entry)).hexdigest()}
    head["signature"] = party[1].sign(b"dictpfl custody head 1\n" + canonical(head)).hex()
    (log / LOG).write_bytes(b"".join(found))
    (log / HEAD).write_bytes(canonical(head) + b"\n")
    with pytest.raises(CustodyError, match=r"line 5: .* form"):
        verify(log)


@pytest.mark.parametrize("number", range(5))
def test_a_removed_entry(log: Path, number: int) -> None:
    found = lines(log)
    del found[number]
    (log / LOG).write_bytes(b"".join(found))
    with pytest.raises(CustodyError):
        verify(log)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (3, 4), (1, 4)])
def test_moved_entries(log: Path, one: int, other: int) -> None:
    found = lines(log)
    found[one], found[other] = found[other], found[one]
    (log / LOG).write_bytes(b"".join(found))
    with pytest.raises(CustodyError):
        verify(log)


@pytest.mark.parametrize("kept", range(1, 5))
def test_a_cut_off_end(log: Path, kept: int) -> None:
    (log / LOG).write_bytes(b"".join(lines(log)[:kept]))
    with pytest.raises(CustodyError, match="counts 5", check=lambda e: e.code == "custody-cut"):
        verify(log)
    # A head kept elsewhere shows it, too, when the one beside the log was taken away.
    head = (log / HEAD).rename(log / "elsewhere")
    for place in (log, log / LOG):
        with pytest.raises(CustodyError, match="missing", check=lambda e: e.code == "custody-cut"):
            verify(place)
    with pytest.raises(CustodyError, match="counts 5", check=lambda e: e.code == "custody-cut"):
        verify(log, head=head)


def test_an_older_head_from_elsewhere_does_not_hide_a_cut(
    log: Path, party: tuple[Path, Identity], tmp_path: Path
) -> None:
    older = tmp_path / "older"
    older.write_bytes((log / HEAD).read_bytes())
    record(log, party[1], "event 5")
    assert len(verify(log, head=older)[0].entries) == 6
    (log / LOG).write_bytes(b"".join(lines(log)[:5]))
    with pytest.raises(CustodyError, match="counts 6", check=lambda e: e.code == "custody-cut"):
        verify(log, head=older)


def test_a_log_that_is_gone_is_not_begun_anew(log: Path, party: tuple[Path, Identity]) -> None:
    (log / LOG).unlink()
    head = (log / HEAD).read_bytes()
    with pytest.raises(CustodyError, match="is missing", check=lambda e: e.code == "custody-cut"):
        record(log, party[1], "one more")
    assert (log / HEAD).read_bytes() == head
    assert not (log / LOG).exists()


def test_a_log_cut_within_an_entry(log: Path) -> None:
    (log / LOG).write_bytes((log / LOG).read_bytes()[:-7])
    with pytest.raises(CustodyError, match="middle of an entry", check=lambda e: e.code == "custody-cut"):
        verify(log)


def test_an_empty_or_missing_log(log: Path, tmp_path: Path) -> None:
    (log / LOG).write_bytes(b"")
    with pytest.raises(CustodyError):
        verify(log)
    (log / LOG).unlink()
    with pytest.raises(CustodyError, match="holds no"):
        verify(log)
    with pytest.raises(CustodyError, match="cannot read"):
        verify(log / LOG)


def test_a_log_written_anew_by_somebody_else(log: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("forger") / "berlin"
    forger = make_identity(folder, "berlin", Role.INSTITUTION, PASSPHRASE)
    for number in range(5):
        record(folder, forger, f"event {number}")
    (log / LOG).write_bytes((folder / LOG).read_bytes())
    with pytest.raises(CustodyError, match="expected that of berlin"):
        verify(log)
    (log / HEAD).write_bytes((folder / HEAD).read_bytes())
    with pytest.raises(CustodyError, match="expected that of berlin"):
        verify(log)
    with pytest.raises(CustodyError, match="expected that of"):
        verify(folder, identity=log / "identity.pub")


def test_a_log_rewritten_by_the_party_itself_does_not_fit_an_older_head(
    party: tuple[Path, Identity], log: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rewritten")
    for number in range(6):
        record(folder, party[1], f"event {number}", epoch=number, other=True)
    assert verify(folder)
    with pytest.raises(CustodyError, match="written anew"):
        verify(folder, head=log / HEAD)


def test_an_altered_log_takes_no_more_entries(log: Path, party: tuple[Path, Identity]) -> None:
    found = lines(log)
    (log / LOG).write_bytes(b"".join(found[:-1]))
    with pytest.raises(CustodyError, check=lambda e: e.code == "custody-cut"):
        record(log, party[1], "one more")
    assert lines(log) == found[:-1]
    (log / HEAD).unlink()
    with pytest.raises(CustodyError, match="missing", check=lambda e: e.code == "custody-cut"):
        record(log, party[1], "one more")


def test_a_process_that_died_while_it_wrote(log: Path, party: tuple[Path, Identity]) -> None:
    """Half a line was never acknowledged, a line without its head was: both logs go on."""
    with (log / LOG).open("ab") as file:
        file.write(b'{"at":"2026')
    head = (log / HEAD).read_bytes()
    record(log, party[1], "after the crash")
    assert len(verify(log)[0].entries) == 6
    (log / HEAD).write_bytes(head)
    record(log, party[1], "after another crash")
    assert len(verify(log)[0].entries) == 7


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_altered_byte_shows(log: Path, party: tuple[Path, Identity], draw: st.DataObject) -> None:
    whole = (party[0] / LOG).read_bytes()
    at, flip = draw.draw(st.integers(0, len(whole) - 1)), draw.draw(st.integers(1, 255))
    altered = bytearray(whole)
    altered[at] ^= flip
    (log / LOG).write_bytes(altered)
    with pytest.raises(DictPFLError):
        verify(log)
