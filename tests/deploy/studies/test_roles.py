"""Who may do what in a study (docs/how-to/studies.md): each "no" of the table below is tried, and refused for the reason given."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dictpfl.common.errors import DictPFLError
from dictpfl.deploy.ceremony.identity import coordinator_signer
from dictpfl.deploy.cli import app
from dictpfl.deploy.studies.papers import Notice
from tests.deploy.studies.conftest import World
from tests.deploy.studies.test_flow import place, run_one
from tests.support.ceremonies import NAMES, PASSPHRASES

__all__ = ["run_one"]
ROLES = """
| | lead | coordinator's operator | institution's operator | reviewer | authority |
| propose, clone | yes | no | yes: it is lead then | no | yes: it is lead then |
| read the text | yes | no: the notice names the study only | yes | no, but the page or the file that it is shown | yes |
| approve, refuse, pause | no, but for its own institution | no | no, but for its own | no | no |
| make the key | no | no | no | no | yes, for those who approved |
| abort | yes, its own studies | no; it stops its processes | no; it refuses at its own | no | yes |
| install the coordinator's half | no | yes | no | no | no |
| run rounds | no | yes | no | no | no |
| train, open sums | yes, as institution that approved | no | yes, if it approved | no | no |
| read in another party's folder | no | no | no | no, but what it is given | no |
"""
PARTIES = {
    "lead": "kyoto",
    "coordinator's operator": "coordinator",
    "institution's operator": "berlin",
    "reviewer": "reviewer",
    "authority": "authority",
}
"""Who plays each role: the study is kyoto's, and a reviewer has an empty folder and a passphrase file that fell into its hands."""
PROPOSE = "study propose c.toml --sample-shape 6 --outputs 3 --name other"
KEY = "study key wide berlin.approved kyoto.approved oslo.approved --out new"


@dataclass(frozen=True)
class Try:
    """What somebody types who may not, in whose folder (its own, if none is named), and what the refusal says."""

    typed: str
    error: str
    folder: str = ""


NO_IDENTITY = "holds no identity"
OF_ANOTHER = "identity.key does not open"
NO_PARTY = "is the folder of no party of a network"
INSTITUTIONS_ONLY = "only institutions approve, refuse or pause"
TRIES = {
    ("propose, clone", "coordinator's operator"): [Try(PROPOSE, NO_IDENTITY), Try("study clone wide wider", NO_IDENTITY)],
    ("propose, clone", "reviewer"): [Try(PROPOSE, NO_IDENTITY), Try("study clone wide wider", NO_IDENTITY)],
    ("approve, refuse, pause", "lead"): [
        Try(f"study {verb} wide", OF_ANOTHER, "oslo") for verb in ("approve", "refuse", "pause")
    ],
    ("approve, refuse, pause", "institution's operator"): [
        Try(f"study {verb} wide", OF_ANOTHER, "oslo") for verb in ("approve", "refuse", "pause")
    ],
    ("approve, refuse, pause", "coordinator's operator"): [
        Try(f"study {verb} wide", NO_IDENTITY) for verb in ("approve", "refuse", "pause")
    ],
    ("approve, refuse, pause", "reviewer"): [
        Try(f"study {verb} wide", NO_IDENTITY) for verb in ("approve", "refuse", "pause")
    ],
    ("approve, refuse, pause", "authority"): [
        Try(f"study {verb} wide", INSTITUTIONS_ONLY) for verb in ("approve", "refuse", "pause")
    ],
    ("make the key", "lead"): [Try(KEY, "for the authority to say")],
    ("make the key", "coordinator's operator"): [Try(KEY, NO_IDENTITY)],
    ("make the key", "institution's operator"): [Try(KEY, "for the authority to say")],
    ("make the key", "reviewer"): [Try(KEY, NO_IDENTITY)],
    ("abort", "coordinator's operator"): [Try("study abort wide", NO_IDENTITY)],
    ("abort", "institution's operator"): [Try("study abort wide", "for the lead or the authority to say")],
    ("abort", "reviewer"): [Try("study abort wide", NO_IDENTITY)],
    ("install the coordinator's half", "lead"): [Try("study install out/coordinator", "expected the coordinator's")],
    ("install the coordinator's half", "institution's operator"): [
        Try("study install out/coordinator", "expected the coordinator's")
    ],
    ("install the coordinator's half", "reviewer"): [Try("study install out/coordinator", NO_PARTY)],
    ("install the coordinator's half", "authority"): [Try("study install out/coordinator", "expected the coordinator's")],
    ("run rounds", "lead"): [Try("run", "is an institution's folder, expected a coordinator's", "kyoto/studies/wide"), Try("coordinator up", "expected a coordinator's")],
    ("run rounds", "institution's operator"): [
        Try("run", "is an institution's folder, expected a coordinator's", "berlin/studies/wide"),
        Try("coordinator up", "expected a coordinator's"),
    ],
    ("run rounds", "reviewer"): [Try("run", "is no party's folder yet"), Try("coordinator up", "is no party's folder yet")],
    ("run rounds", "authority"): [
        Try("run", "is no party's folder yet", "authority/studies/wide"),
        Try("coordinator up", "runs nothing and holds no model"),
    ],
    ("train, open sums", "coordinator's operator"): [
        Try("study up wide", "only institutions run a study"),
        Try("institution up", "expected an institution's", "coordinator/studies/wide"),
        Try("export", "expected an institution's", "coordinator/studies/wide"),
    ],
    ("train, open sums", "reviewer"): [Try("study up wide", NO_PARTY), Try("institution up", "is no party's folder yet")],
    ("train, open sums", "authority"): [
        Try("study up wide", "only institutions run a study"),
        Try("institution up", "runs nothing and holds no model"),
        Try("export", "holds no finished run", "authority/studies/wide"),
    ],
}  # fmt: skip
"""By row and column of the table. Reading is tried below, by another account."""
READING = ("read the text", "read in another party's folder")


def table() -> dict[tuple[str, str], str]:
    """Cells by row and column."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in ROLES.splitlines() if line.startswith("| ")
    ]
    return {(row[0], column): cell for row in rows[1:] for column, cell in zip(rows[0][1:], row[1:], strict=True)}


def forbidden() -> list[tuple[str, str]]:
    return [place for place, cell in table().items() if cell.split(",")[0].split(":")[0].split(";")[0] == "no"]


def test_what_is_forbidden_is_tried() -> None:
    assert {column for _, column in table()} == set(PARTIES)
    tried = [place for place in forbidden() if place[0] not in READING]
    assert set(tried) == set(TRIES)
    assert len(tried) == len(TRIES) == 25
    assert all(cell.startswith(("yes", "no")) for cell in table().values())


@pytest.fixture
def world(run_one: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The network with a study that has run, and a working directory with the papers that anybody may have."""
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "c.toml").write_text('name = "other"\n', encoding="utf-8")
    (desk / "out").symlink_to(run_one.made.root.parent / "out")
    for name in NAMES:
        said = place(run_one, "authority") / "notices" / f"institution-{name}.json"
        (desk / f"{name}.approved").write_bytes(said.read_bytes())
    (run_one.made.root / "reviewer").mkdir(mode=0o700, exist_ok=True)
    monkeypatch.chdir(desk)
    return run_one


def digests(root: Path) -> dict[str, str]:
    """Every file of the network, but for locks."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


@pytest.mark.parametrize(("what", "role"), sorted(TRIES))
def test_a_role_is_refused_what_it_may_not_do(
    world: World, what: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = PARTIES[role]
    holder = party if party in PASSPHRASES else "berlin"
    monkeypatch.setattr("dictpfl.deploy.studies.cli.asked_passphrase", lambda _file: PASSPHRASES[holder])
    own = world.made.root / holder / "passphrase"
    before = digests(world.made.root)
    for attempt in TRIES[what, role]:
        words = attempt.typed.split()
        folder = world.made.root / (attempt.folder or party)
        typed = (
            [*words, str(folder), "-o", "model.safetensors"]
            if words == ["export"]
            else [*words, "--folder", str(folder)]
        )
        if words[0] == "study" and words[1] != "install":
            typed += ["--passphrase-file", str(own)]
        done = CliRunner().invoke(app, typed)
        assert isinstance(done.exception, DictPFLError), (typed, done.output, done.exception)
        assert attempt.error in str(done.exception), (typed, str(done.exception))
    assert digests(world.made.root) == before


def test_what_is_signed_for_another_counts_for_nothing(world: World) -> None:
    """A coordinator's only key signs its own log: a notice under it is nobody's of the network."""
    study = world.studies("kyoto").get("wide")
    forged = Notice.made("aborted", study.wanted, coordinator_signer(world.made.coordinator), 1)
    for name in NAMES:
        with pytest.raises(DictPFLError, match="for the lead or the authority"):
            world.studies(name).receive(forged, "it")


def lax(root: Path) -> set[str]:
    """Names of what another account on the machine could read, could it come as far."""
    return {path.name for path in root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077}


def test_other_accounts_read_nothing_in_a_party_s_folder(world: World) -> None:
    """A reviewer, or another role, with an account on the same machine: modes keep it out, as the page says."""
    assert [row for row, _ in forbidden()].count(READING[1]) == len(PARTIES)
    for party in (*NAMES, "authority", "coordinator"):
        assert world.home(party).stat().st_mode & 0o777 == 0o700, party
        assert lax(world.home(party)) <= {"diary.jsonl"}, "made in this process, whose umask is not that of `up`"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may try it as another account")
def test_another_account_tries_to_read(world: World) -> None:
    nobody = 65534
    with tempfile.TemporaryDirectory() as outside:
        there = Path(outside)
        there.chmod(0o755)
        (there / "anybody").write_text("read")
        for party in (*NAMES, "authority", "coordinator"):
            shutil.copytree(world.home(party), there / party, symlinks=True)
        for path in (
            there / "anybody",
            *(there / party / "custody.jsonl" for party in (*NAMES, "authority", "coordinator")),
        ):
            done = subprocess.run(
                ["cat", str(path)], user=nobody, group=nobody, extra_groups=[], capture_output=True, check=False
            )
            assert (done.stdout == b"read") == (path.name == "anybody")
            assert (b"Permission denied" in done.stderr) == (path.name != "anybody")


def test_the_coordinator_and_a_reviewer_have_no_text(world: World) -> None:
    for party in ("coordinator", "reviewer"):
        assert table()["read the text", {"coordinator": "coordinator's operator"}.get(party, party)].startswith("no")
        texts = [path.read_bytes() for path in (world.made.root / party).rglob("*") if path.is_file()]
        assert not any(b"try a wider model" in text or b'"hidden"' in text for text in texts)
    shown = CliRunner().invoke(app, ["study", "show", "wide", "--folder", str(world.made.coordinator)])
    assert shown.output.strip() == "wide: ended"
