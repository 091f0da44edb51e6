"""A study from its text to its last round: what each party types, what lies where, and what stops it."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import save_file
from structlog.testing import capture_logs
from typer.testing import CliRunner

import dictpfl.deploy.studies.cli
import dictpfl.deploy.studies.taking_part
from dictpfl.client.folder import DIARY, InstitutionSettings
from dictpfl.client.institution import Institution, forget_institutions
from dictpfl.client.keys.epochs import home
from dictpfl.client.memory.record import Memory
from dictpfl.client.model.build import build_model
from dictpfl.common.errors import (
    AppBundleError,
    BundleError,
    CeremonyError,
    ConfigError,
    DictPFLError,
    ModelError,
    StudyError,
)
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony.changing import CHANGE
from dictpfl.deploy.ceremony.custody import verify
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.passphrase import change_passphrase
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations import watching
from dictpfl.deploy.operations.agreed import held_to_agreed
from dictpfl.deploy.operations.handover import Handover
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.deploy.simulation.local import run_local
from dictpfl.deploy.studies.coordinating import install_half
from dictpfl.deploy.studies.deciding import abort, approve, pause, refuse
from dictpfl.deploy.studies.keying import make_key
from dictpfl.deploy.studies.limits import Limits, one_of
from dictpfl.deploy.studies.network import Network
from dictpfl.deploy.studies.papers import Proposal
from dictpfl.deploy.studies.policy import Policy
from dictpfl.deploy.studies.proposing import propose
from dictpfl.deploy.studies.store import Study
from dictpfl.deploy.studies.taking_part import make_ready, take_key
from dictpfl.deploy.studies.taking_part import run as taking_part_run
from dictpfl.server.agreement import Agreement
from tests.deploy.studies.conftest import APP, ASKED, World
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony, config
from tests.support.federations import as_toml
from tests.support.shown import not_shown
from tests.support.study_page import Send, pieces

NETWORK = {"coordinator": "federation.example.org:9443", "ca": "ca.pem"}


# as the page says


def machines(world: World) -> dict[str, Path]:
    """For each party a folder as the page has it: its own folder below, its passphrase beside."""
    found = {}
    for party in ("authority", "coordinator", *NAMES):
        place = world.made.root.parent / "machines" / party
        place.mkdir(parents=True)
        (place / (party if party in ("authority", "coordinator") else "institution")).symlink_to(world.home(party))
        if party != "coordinator":
            shutil.copy(world.home(party) / "passphrase", place / "passphrase")
        if party in NAMES:
            NodeSettings.updated(world.home(party), **NETWORK)
        found[party] = place
    return found


def roles(role: str) -> tuple[str, ...]:
    return {"institution": NAMES, "lead": ("kyoto",)}.get(role, (role,))


def test_the_page_up_to_the_sealed_key_in_three_commands_a_site(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed as they stand, but for what runs processes: tests/processes/test_studies.py types it all in shells."""
    places = machines(world)
    monkeypatch.setattr(dictpfl.deploy.studies.cli, "app_here", lambda: APP)  # a build for each command takes long
    ran: list[tuple[str, int]] = []
    monkeypatch.setattr(
        dictpfl.deploy.studies.taking_part,
        "run",
        lambda _studies, _study, told, **_: ran.append((told["coordinator"], told["port"])),
    )
    before = {name: set(world.home(name).glob("*.key")) for name in NAMES}
    counted = dict.fromkeys(NAMES, 0)
    for piece in pieces():
        if isinstance(piece, Send):
            send(piece, places)
            continue
        for party in roles(piece.role):
            monkeypatch.chdir(places[party])
            if piece.file:
                (places[party] / piece.file).write_text(piece.code)
                continue
            printed = "".join(typed(line) for line in piece.commands if line.startswith("dictpfl study "))
            assert not_shown(piece.shows, printed) is None, printed
            counted[party] = counted.get(party, 0) + len(piece.commands) * (piece.role == "institution")
    assert counted == {**dict.fromkeys(NAMES, 3), "authority": 0, "coordinator": 0}
    assert ran == [(NETWORK["coordinator"], 9095)] * 3, "the network's address, and the port after the network's own"
    assert {name: set(world.home(name).glob("*.key")) for name in NAMES} == before, "no new identity"
    for name in NAMES:
        place = world.home(name) / "studies" / "wide"
        assert (place / "node.key").read_bytes() == (world.home(name) / "node.key").read_bytes()
        assert not (place / "identity.key").exists()
        assert (place / "train.npz").resolve() == world.home(name) / "train.npz"
        assert InstitutionSettings.load(place).allowed_code == ()


def typed(line: str) -> str:
    words = [word.replace("$LOCAL", "9092") for word in shlex.split(line)[1:]]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (line, done.output, done.exception)
    return done.output


def send(piece: Send, places: dict[str, Path]) -> None:
    """A file from whoever has it to whom the page says."""
    readers = [n for n in NAMES if "each institution" in piece.reader]
    readers += [one for one in ("authority", "coordinator") if f"the {one}" in piece.reader]
    assert readers, piece
    for sender, place_of in places.items():
        for reader in readers:
            name = reader if sender == "authority" else sender
            source = place_of / piece.source.replace("$NAME", reader)
            if not source.exists():
                continue
            target = places[reader] / piece.target.replace("wide.approved", f"{name}.approved")
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source != target:
                shutil.copy(source, target)


# one study, run


@pytest.fixture(scope="module")
def run_one(standing: Ceremony, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A study with its key at all parties, and its three rounds run; not to be changed."""
    world = World(standing.copy(tmp_path_factory.mktemp("run") / "network"))
    ready(world, world.proposed(), world.made.root.parent / "out")
    play(world, 3)
    return world


def ready(world: World, study: Study, out: Path, *names: str, weights: Path | None = None) -> None:
    """Approved by these, keyed, installed everywhere."""
    names = names or NAMES
    world.handed(study, "authority", *names)
    for name in names:
        notice = approve(world.studies(name), world.studies(name).get(study.name), world.identity(name), APP)
        world.studies("authority").receive(notice, "a notice")
    studies = world.studies("authority")
    authority = world.identity("authority"), PASSPHRASES["authority"]
    issued = make_key(studies, studies.get(study.name), *authority, out, weights)
    install_half(world.studies("coordinator"), issued.coordinator)
    for name in names:
        made, _ = take_key(
            world.studies(name), issued.bundle(name), PASSPHRASES[name], world.home(name) / "passphrase", APP
        )
        make_ready(world.studies(name), made, None, APP, **NETWORK)


def play(world: World, parties: int, name: str = "wide") -> None:
    """All rounds, in this process."""
    institutions = world.made.root / f"institutions-{name}"
    shutil.rmtree(institutions, ignore_errors=True)
    institutions.mkdir()
    for index, party in enumerate(NAMES[:parties]):
        (institutions / f"institution-{index:03d}").symlink_to(place(world, party, name))
    forget_institutions()
    run_local(place(world, "coordinator", name), institutions, parties)
    forget_institutions()


def place(world: World, party: str, name: str = "wide") -> Path:
    return world.home(party) / "studies" / name


def test_a_study_that_stopped_early_has_ended(tmp_path: Path) -> None:
    """It stood as `keyed` at institutions for good, as if it waited for its start."""
    proposal = cast("Proposal", SimpleNamespace(config=SimpleNamespace(federation=SimpleNamespace(rounds=9))))
    study = Study(tmp_path, proposal, ())
    for said, ended in (("", False), (', "stopped": false', False), (', "stopped": true', True)):
        (tmp_path / DIARY).write_text(f'{{"event": "settled", "round": 6{said}}}\n')
        assert study.ended is ended
    for updates, ended in ((7, False), (9, True)):
        line = f'{{"event": "settled", "round": 12, "stopped": false, "updates": {updates}}}\n'
        (tmp_path / DIARY).write_text(line)
        assert study.ended is ended, "tallies and void rounds are no updates"
    (tmp_path / DIARY).write_text('{"event": "settled", "round": 9}\n')
    assert study.ended


def test_it_runs_as_any_federation_below_the_network(run_one: World) -> None:
    records = []
    for name in NAMES:
        folder = place(run_one, name)
        genesis = Genesis.load(home(folder))
        record = Memory(folder / "memory", genesis.federation).recall()
        assert record is not None
        records.append((genesis.federation, record.shared.updates, record.shared.digest))
        assert run_one.studies(name).get("wide").state(run_one.identity(name).public) == "ended"
        assert not (run_one.home(name) / "memory").exists(), "the network's own federation is untouched"
    assert len(set(records)) == 1
    assert records[0][1] == 3
    assert records[0][0] != run_one.studies("berlin").network.id
    assert run_one.studies("coordinator").get("wide").state(run_one.studies("coordinator").network.own) == "ended"
    settings = CoordinatorSettings.load(place(run_one, "coordinator"))
    assert (
        place(run_one, "coordinator") / settings.certificate
    ).resolve() == run_one.made.coordinator / "tls" / "server.pem"


def test_everything_is_in_the_custody_logs(run_one: World) -> None:
    events = {
        party: [entry["event"] for entry in run_one.logged(party)] for party in ("authority", "coordinator", *NAMES)
    }
    assert events["kyoto"][-4:] == ["study proposed", "study approved", "bundle opened", "epoch joined"]
    assert events["berlin"][-3:] == ["study approved", "bundle opened", "epoch joined"]
    assert events["authority"][-1] == "genesis"
    assert events["coordinator"][-1] == "study installed"
    digest = run_one.studies("berlin").get("wide").wanted.digest.hex()
    named = [entry for entry in run_one.logged("authority") if entry.get("study") == "wide"]
    assert [entry["proposal"] for entry in named] == [digest]
    (said,) = [entry for entry in run_one.logged("berlin") if entry["event"] == "study approved"]
    assert (said["proposal"], said["policy"]) == (digest, "default")
    for party in ("authority", "coordinator", *NAMES):
        assert verify(run_one.home(party))


def test_the_coordinator_gets_no_text(run_one: World) -> None:
    files = [path for path in place(run_one, "coordinator").rglob("*") if path.is_file()]
    assert not any(b"try a wider model" in path.read_bytes() or b'"hidden"' in path.read_bytes() for path in files)


def test_the_coordinators_part_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import dictpfl.deploy.studies.coordinating, dictpfl.deploy.studies.deciding"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_more_rounds_than_were_approved_are_refused(run_one: World, tmp_path: Path) -> None:
    """Whoever runs the coordinator writes another number into its half: institutions send nothing more."""
    world = World(run_one.made.copy(tmp_path / "network"))
    path = place(world, "coordinator") / "federation.json"
    replace(Agreement.load(path), rounds=9).save(path)
    with pytest.raises(DictPFLError):
        play(world, 3)
    diaries = [(place(world, name) / "diary.jsonl").read_text() for name in NAMES]
    assert all("makes 3 at most" in diary for diary in diaries)
    record = Memory(place(world, "oslo") / "memory", Genesis.load(home(place(world, "oslo"))).federation).recall()
    assert record is not None
    assert record.shared.updates == 3


def test_a_new_passphrase_opens_the_studies_too(run_one: World, tmp_path: Path) -> None:
    world = World(run_one.made.copy(tmp_path / "network"))
    new = tmp_path / "passphrase"
    new.write_bytes(b"other six random words\n")
    new.chmod(0o600)
    assert "studies/wide/epochs/0001/federation.key.sealed" in change_passphrase(
        world.home("berlin"), PASSPHRASES["berlin"], b"other six random words", new_file=new
    )
    forget_institutions()
    Institution(place(world, "berlin"))
    change_passphrase(world.made.authority, PASSPHRASES["authority"], b"other six random words")


def test_a_study_finishes_a_change_of_passphrase_that_died(
    run_one: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the network's own settings name the new file, and before the study's key is sealed under it."""
    world = World(run_one.made.copy(tmp_path / "network"))
    new, real = tmp_path / "passphrase", Path.replace
    new.write_bytes(b"other six random words\n")
    new.chmod(0o600)

    def dying(path: Path, target: Path) -> Path:
        if "studies" in path.parts and CHANGE in path.parts:
            raise InterruptedError
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        with pytest.raises(CeremonyError, match="any command of this party repeats it"):
            change_passphrase(world.home("berlin"), PASSPHRASES["berlin"], b"other six random words", new_file=new)
    forget_institutions()
    make_ready(world.studies("berlin"), world.studies("berlin").get("wide"), None, APP, **NETWORK)
    Institution(place(world, "berlin"))


# who may do what: test_roles.py tries each "no" of the page's table


def test_an_institution_makes_no_key(run_one: World, tmp_path: Path) -> None:
    studies = run_one.studies("kyoto")
    with pytest.raises(BundleError, match="for the authority to say"):
        make_key(studies, studies.get("wide"), run_one.identity("kyoto"), PASSPHRASES["kyoto"], tmp_path / "out")


# what stops it, and what it waits for


def test_pause_refuse_and_abort_hold(run_one: World, tmp_path: Path) -> None:
    world = World(run_one.made.copy(tmp_path / "network"))
    berlin = world.identity("berlin")
    own = lambda: world.studies("berlin").get("wide")
    (place(world, "berlin") / "diary.jsonl").unlink()
    pause(world.studies("berlin"), own(), berlin, "new scanner")
    assert own().state(berlin.public) == "paused"
    with pytest.raises(StudyError, match="is paused here"):
        make_ready(world.studies("berlin"), own(), None, APP, **NETWORK)
    approve(world.studies("berlin"), own(), berlin, APP)
    make_ready(world.studies("berlin"), own(), None, APP, **NETWORK)
    (world.home("berlin") / "policy.toml").write_text("rounds = 2\n")
    with pytest.raises(StudyError, match="2 are allowed here"):
        make_ready(world.studies("berlin"), own(), None, APP, **NETWORK)
    (world.home("berlin") / "policy.toml").unlink()
    refuse(world.studies("berlin"), own(), berlin, "")
    with pytest.raises(StudyError, match="nothing to pause"):
        pause(world.studies("berlin"), own(), berlin, "")
    with pytest.raises(BundleError, match="for the lead or the authority"):
        abort(world.studies("berlin"), own(), berlin, "")
    notice = abort(world.studies("kyoto"), world.studies("kyoto").get("wide"), world.identity("kyoto"), "wrong labels")
    for party in ("berlin", "coordinator", "authority"):
        study = world.studies(party).receive(notice, "it")
        assert study.state(world.studies(party).network.own) == "aborted"
    with pytest.raises(StudyError, match="aborted by kyoto: wrong labels"):
        approve(world.studies("berlin"), own(), berlin, APP)
    assert [entry["event"] for entry in world.logged("berlin")][-3:] == [
        "study paused",
        "study approved",
        "study refused",
    ]


def test_a_further_study_is_refused_until_there_is_a_place_and_time_runs_out(run_one: World, tmp_path: Path) -> None:
    """It waited for one that had ended, whose `up` holds its place as long as it runs: that is, for good."""
    world = World(run_one.made.copy(tmp_path / "network"))
    study, further = world.studies("berlin").get("wide"), world.proposed("berlin", "further")
    root = world.home("berlin") / "studies"
    with one_of(root, study, 1):
        with pytest.raises(StudyError, match=r"further is not started.*wide has a place until its `up` is stopped"):
            one_of(root, further, 1).__enter__()
        with one_of(root, further, 2), pytest.raises(StudyError, match=r"further, wide has a place"):
            one_of(root, study, 2).__enter__()
    with one_of(root, further, 1):
        assert study.running == 0
    (study.folder / "diary.jsonl").unlink()
    (study.folder / "run").mkdir(exist_ok=True)
    (study.folder / "run" / "processes.json").write_text('{"supervisor": 1, "programs": {}}')
    assert study.running == 0, "that number is another's by now"
    limits = Limits.of(study, Policy(hours=1.0, memory_gib=2.0))
    assert limits.ends == pytest.approx(time.time() + 3600, abs=60)
    assert limits.memory == 2 << 30
    (study.folder / "began").write_text("0")
    with pytest.raises(StudyError, match="has had its hours"):
        Limits.of(study, Policy()).require_time(study.wanted)


# what ends it: a member who left, another release


def rotated(world: World, *more: str) -> str:
    """Oslo leaves the network and quito comes; returns what the authority's command printed."""
    state = world.made.root / "berlin.state"
    state.unlink(missing_ok=True)
    export_state(world.home("berlin"), PASSPHRASES["berlin"], state)
    world.made.identity("quito")
    done = CliRunner().invoke(
        app,
        [
            "authority", "rotate", "--state", str(state), "--one-state", "--out", str(world.made.handout(2)), "--remove", "oslo",
            "--add", f"quito={world.home('quito') / 'identity.pub'}", "--checked", "--folder", str(world.home("authority")),
            "--passphrase-file", str(world.home("authority") / "passphrase"), *more,
        ],
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.output.split())


def test_a_member_who_left_opens_no_further_sum_of_a_study(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the study's key, and got each sum until the study's last round: a rotation was of the network alone."""
    ready(world, world.proposed(), tmp_path / "out")
    berlin, kyoto = (world.studies(name).get("wide") for name in ("berlin", "kyoto"))
    told = "study wide ends, since oslo left"
    assert told in rotated(world)

    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(Limits, "impose", lambda _limits: {})
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    joined: list[str] = []

    def up(_folder: Path, **_told: object) -> None:
        assert not stopped.wait(0.5), "nobody has left yet"
        typed = ["institution", "join", str(world.made.bundle("berlin", 2)), "--folder", str(world.home("berlin"))]
        typed += ["--passphrase-file", str(world.home("berlin") / "passphrase")]
        joined.append(" ".join(CliRunner().invoke(app, typed).output.split()))
        assert stopped.wait(20), "it sends on, and oslo opens the sums"

    monkeypatch.setattr(dictpfl.deploy.studies.taking_part, "up", up)
    try:
        taking_part_run(world.studies("berlin"), berlin, {}, log_json=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told in joined[0]
    with pytest.raises(StudyError, match=r"wide has ended: oslo left the network, and has its key"):
        make_ready(world.studies("berlin"), berlin, None, APP, **NETWORK)
    make_ready(
        world.studies("kyoto"), kyoto, None, APP, **NETWORK
    )  # whoever has not joined the epoch is in the one before
    install = ["coordinator", "install", str(world.made.handout(2) / "coordinator"), "--folder"]
    done = CliRunner().invoke(app, [*install, str(world.home("coordinator"))])
    assert f"{told}: stop `coordinator up`" in " ".join(done.output.split())
    for party in ("berlin", "coordinator"):
        listed = CliRunner().invoke(app, ["study", "list", "--folder", str(world.home(party))]).output
        assert listed.split()[:2] == ["wide", "ended"]


def test_no_key_is_made_with_a_member_who_approved_and_left(world: World, tmp_path: Path) -> None:
    """It ended in a traceback."""
    study = world.proposed()
    world.handed(study, "authority", *NAMES)
    for name in NAMES:
        notice = approve(world.studies(name), world.studies(name).get("wide"), world.identity(name), APP)
        world.studies("authority").receive(notice, "a notice")
    assert "ends" not in rotated(world), "a study without a key has nothing to end"
    studies = world.studies("authority")
    with pytest.raises(BundleError, match="the approval by oslo"):
        make_key(studies, studies.get("wide"), world.identity("authority"), PASSPHRASES["authority"], tmp_path / "out")


def test_after_an_upgrade_it_is_told_what_can_be_done(run_one: World, tmp_path: Path) -> None:
    """It said: ask for another version of a text that stands, or join an epoch that a study has not."""
    world = World(run_one.made.copy(tmp_path / "network"))
    with pytest.raises(
        StudyError, match=r"wide has its key for the release .*Ask kyoto to propose it under another name"
    ):
        make_ready(world.studies("berlin"), world.studies("berlin").get("wide"), None, "ef" * 32, **NETWORK)
    folder = place(world, "coordinator")
    with pytest.raises(AppBundleError, match="this study is over: it runs on one release") as told:
        held_to_agreed(folder, folder, CoordinatorSettings.load(folder))
    assert "dictpfl coordinator install" not in str(told.value)


def test_its_end_is_no_error(run_one: World, tmp_path: Path) -> None:
    """Each logged that no identity is in the study's folder, which exports no state: it has no rotation."""
    world = World(run_one.made.copy(tmp_path / "network"))
    with capture_logs() as logs:
        assert not Handover(place(world, "berlin")).look()
    assert logs == []


def test_a_clone_is_a_text_of_its_own(run_one: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(run_one.made.copy(tmp_path / "network"))
    monkeypatch.chdir(tmp_path)
    printed = world.typed("oslo", "clone", "wide", "wider", "--set", "federation.rounds=5", "--institution", "oslo",
                          "--institution", "kyoto", "--institution", "berlin")  # fmt: skip
    assert "wider, version 1" in printed
    made, of = world.studies("oslo").get("wider").wanted, world.studies("oslo").get("wide").wanted
    assert (made.parent, made.lead.name, made.config.federation.rounds) == (of.digest.hex(), "oslo", 5)
    assert made.config.model == of.config.model
    done = CliRunner().invoke(app, ["study", "list", "--folder", str(world.home("oslo"))])
    lines = [line.split() for line in done.output.splitlines()]
    assert [(line[0], line[1]) for line in lines] == [("wide", "ended"), ("wider", "proposed")]
    with pytest.raises(StudyError, match=r"kyoto.*another name|of kyoto"):
        world.studies("kyoto").receive(replace(made, name="wide", version=7).signed(world.identity("oslo")), "it")


def test_a_clone_asks_more_than_the_study_that_it_is_of(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is how somebody joins; the room of three that the proposal had filled in refused the fourth."""
    monkeypatch.setattr(dictpfl.deploy.studies.cli, "app_here", lambda: APP)
    world.proposed()
    world.proposed(name="roomy", federation__max_participants=5)
    of = Network.of

    def joined(folder: Path, passphrase: bytes | None = None) -> Network:
        network = of(folder, passphrase)
        return replace(network, members={**network.members, "quito": bytes(32)})

    monkeypatch.setattr(Network, "of", joined)
    everybody = [word for name in (*NAMES, "quito") for word in ("--institution", name)]
    for name, room in (("wide", 4), ("roomy", 5)):
        assert "version 1" in world.typed("kyoto", "clone", name, f"{name}-4", *everybody)
        federation = world.studies("kyoto").get(f"{name}-4").wanted.config.federation
        assert (federation.participants, federation.max_participants) == (4, room)


def test_nothing_is_signed_that_cannot_be_handed_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dictpfl.deploy.studies.cli, "app_here", lambda: APP)
    (Path.cwd() / "wide.toml").write_text(as_toml(name="wide", defences__masks=True, federation__sample_cap=64))
    told = ["--sample-shape", "64", "--outputs", "10"]

    def refused(party: str, command: str, *words: str) -> None:
        keys = ["--folder", str(world.home(party)), "--passphrase-file", str(world.home(party) / "passphrase")]
        done = CliRunner().invoke(app, ["study", command, *words, *keys])
        assert isinstance(done.exception, ConfigError) or done.exit_code == 2, (done.output, done.exception)

    refused("kyoto", "propose", "wide.toml", *told, "--days", "3000000")
    refused("kyoto", "propose", "wide.toml", *told, "-o", "missing/wide.proposal")
    assert world.studies("kyoto").all() == []
    world.typed("kyoto", "propose", "wide.toml", *told)
    world.typed("berlin", "show", "wide.proposal")
    for command in ("approve", "refuse"):
        refused("berlin", command, "wide", "-o", f"missing/wide.{command}")
    refused("kyoto", "clone", "wide", "wider", "-o", "missing/wider.proposal")
    refused("kyoto", "abort", "wide", "-o", "missing/wide.aborted")
    assert [study.name for study in world.studies("kyoto").all()] == ["wide"]
    assert world.studies("kyoto").get("wide").notices == ()
    assert world.studies("berlin").get("wide").notices == ()
    assert not [entry for entry in world.logged("berlin") if str(entry["event"]).startswith("study")]


def test_nothing_is_signed_where_a_folder_has_the_papers_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dictpfl.deploy.studies.cli, "app_here", lambda: APP)
    (Path.cwd() / "wide.toml").write_text(as_toml(name="wide", defences__masks=True, federation__sample_cap=64))
    told = ["wide.toml", "--sample-shape", "64", "--outputs", "10"]

    def refused(*words: str) -> None:
        keys = ["--folder", str(world.home("kyoto")), "--passphrase-file", str(world.home("kyoto") / "passphrase")]
        done = CliRunner().invoke(app, ["study", *words, *keys])
        assert "is a folder" in str(done.exception), (words, done.output, done.exception)

    for name in ("wide.proposal", "wider.proposal", "wide.aborted"):
        Path(name).mkdir()
    refused("propose", *told)
    refused("propose", *told, "-o", ".")
    assert world.studies("kyoto").all() == []
    world.typed("kyoto", "propose", *told, "-o", "wide.paper")
    refused("clone", "wide", "wider")
    refused("abort", "wide")
    assert [study.name for study in world.studies("kyoto").all()] == ["wide"]
    assert world.studies("kyoto").get("wide").notices == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_w0_of_a_file_with_another_type_of_numbers_is_that_which_was_approved(
    world: World, tmp_path: Path, dtype: torch.dtype
) -> None:
    agreed = config(model__options={"hidden": [16]}, defences__masks=True)
    weights = {
        name: tensor.to(dtype) for name, tensor in build_model(agreed.model, (6,), 3, agreed.seed).state_dict().items()
    }
    save_file(weights, tmp_path / "w0.safetensors")
    of = world.studies("kyoto"), world.identity("kyoto"), agreed, ASKED
    study = propose(*of, app=APP, name="wide", weights=tmp_path / "w0.safetensors")
    ready(world, study, tmp_path / "out", weights=tmp_path / "w0.safetensors")
    assert world.studies("berlin").get("wide").keyed
    save_file({"other": weights.popitem()[1]}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit the model"):
        propose(*of, app=APP, name="wider", weights=tmp_path / "other.safetensors")


def test_those_who_approve_run_it_without_the_rest(world: World, tmp_path: Path) -> None:
    """Two of three, where two are enough: the third one gets no bundle."""
    study = world.proposed(federation__min_participants=2, toy_insecure=True, defences__masks=False)
    world.handed(study, "berlin")
    with pytest.raises(StudyError, match="protects nobody"):
        approve(world.studies("berlin"), world.studies("berlin").get("wide"), world.identity("berlin"), APP)


def test_data_come_from_where_they_are_said_to_be(run_one: World, tmp_path: Path) -> None:
    world = World(run_one.made.copy(tmp_path / "network"))
    berlin, folder = world.studies("berlin"), place(world, "berlin")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train.npz", "validation.npz"):
        (folder / name).unlink()  # links, which a copy of the network made into files
    with pytest.raises(ConfigError, match="--data"):
        make_ready(berlin, berlin.get("wide"), other, APP, **NETWORK)
    for name in ("train.npz", "validation.npz"):
        shutil.copy(world.home("berlin") / name, other / name)
    make_ready(berlin, berlin.get("wide"), other, APP, **NETWORK)
    assert (folder / "train.npz").resolve() == other / "train.npz"
    assert (folder / "train.npz").readlink().parts[0] == ".."
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(world.home("berlin") / "train.npz", half / "train.npz")
    for wrong in (tmp_path / "typo", half):
        with pytest.raises(ConfigError, match="--data"):
            make_ready(berlin, berlin.get("wide"), wrong, APP, **NETWORK)
        make_ready(berlin, berlin.get("wide"), None, APP, **NETWORK)
        for name in ("train.npz", "validation.npz"):
            assert (folder / name).resolve() == other / name, "those that were named last, not the network's"
    assert json.loads((folder / "authority.json").read_text())["name"] == "ministry"


def test_a_clone_of_a_study_with_a_given_w0_does_not_begin_from_a_drawn_one(world: World) -> None:
    """Its file is not here, and only its hash is in the text: without one, the clone began somewhere else, in silence."""
    of = world.proposed(name="wide").wanted
    world.studies("kyoto").receive(replace(of, name="given", weights="ab" * 32).signed(world.identity("kyoto")), "it")
    keys = ["--folder", str(world.home("kyoto")), "--passphrase-file", str(world.home("kyoto") / "passphrase")]
    done = CliRunner().invoke(app, ["study", "clone", "given", "other", *keys])
    assert isinstance(done.exception, ConfigError), (done.output, done.exception)
    assert "given begins from a W0 of its own" in str(done.exception)
    assert "--weights" in str(done.exception)
    assert [study.name for study in world.studies("kyoto").all()] == ["given", "wide"]


def test_a_damaged_study_is_listed_as_such_and_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictpfl.deploy.studies.cli, "app_here", lambda: APP)
    for name in ("bad", "wide"):
        world.proposed(name=name)
    damaged = world.home("kyoto") / "studies" / "bad" / "proposal.json"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    done = CliRunner().invoke(app, ["study", "list", "--folder", str(world.home("kyoto"))])
    assert done.exit_code == 0, done.exception
    lines = [line.split() for line in done.output.splitlines()]
    assert [line[:2] for line in lines] == [["bad", "damaged:"], ["wide", "proposed"]]
    assert str(damaged) in done.output
    assert "wider, version 1" in world.typed("kyoto", "clone", "wide", "wider")
    with pytest.raises(StudyError, match="there are: bad, wide, wider"):
        world.studies("kyoto").get("none")
    taken = CliRunner().invoke(app, ["study", "clone", "wide", "bad", "--folder", str(world.home("kyoto")),
                                     "--passphrase-file", str(world.home("kyoto") / "passphrase")])  # fmt: skip
    assert "is a study already" in str(taken.exception)


def test_a_key_that_was_refused_leaves_no_word_of_one(world: World, tmp_path: Path) -> None:
    study = world.proposed()
    world.handed(study, "authority", *NAMES)
    for name in NAMES:
        notice = approve(world.studies(name), world.studies(name).get("wide"), world.identity(name), APP)
        world.studies("authority").receive(notice, "a notice")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    studies = world.studies("authority")
    with pytest.raises(DictPFLError, match="full"):
        make_key(studies, studies.get("wide"), world.identity("authority"), PASSPHRASES["authority"], tmp_path / "full")
    assert [notice.kind for notice in studies.get("wide").notices] == ["approved"] * 3


def test_a_half_that_was_refused_is_no_study_and_keeps_no_port(run_one: World, tmp_path: Path) -> None:
    world = World(run_one.made.copy(tmp_path / "copy"))
    study = world.proposed(name="next")
    world.handed(study, "authority", *NAMES)
    for name in NAMES:
        notice = approve(world.studies(name), world.studies(name).get("next"), world.identity(name), APP)
        world.studies("authority").receive(notice, "a notice")
    studies = world.studies("authority")
    made = make_key(studies, studies.get("next"), world.identity("authority"), PASSPHRASES["authority"], tmp_path / "k")
    torn = shutil.copytree(made.coordinator, tmp_path / "torn")
    (torn / "federation.json").write_bytes(b"{}")
    for _ in range(2):
        with pytest.raises(DictPFLError):
            install_half(world.studies("coordinator"), torn)
        assert world.studies("coordinator").names() == ["wide"]
    again, _ = install_half(world.studies("coordinator"), made.coordinator)
    assert (again.name, CoordinatorSettings.load(again.folder).port) == ("next", 9093), "9092 is that of `wide`"
    with pytest.raises(DictPFLError):
        install_half(world.studies("coordinator"), torn)
    assert world.studies("coordinator").names() == ["next", "wide"], "what was there before stays"


@pytest.mark.parametrize("written", ["", "nan", "soon"])
def test_hours_whose_beginning_is_damaged_are_not_begun_anew(world: World, written: str) -> None:
    """An empty file ended in a traceback, and of "nan" no hour ever passed."""
    study = world.proposed()
    (study.folder / "began").write_text(written)
    with pytest.raises(StudyError, match=r"began is damaged"):
        Limits.of(study, Policy())
