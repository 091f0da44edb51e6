"""`dictpfl run --from-institutions ROUND --digest WORDS`, typed after a journal was lost; the refusal that prints who holds what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from dictpfl.common.errors import DictPFLError
from dictpfl.deploy.cli import app
from dictpfl.deploy.operations import running
from dictpfl.deploy.operations.control import RunState
from dictpfl.server.agreement import Agreement
from dictpfl.server.coordinator import AGREEMENT, JOURNAL
from tests.support.ceremonies import Ceremony
from tests.support.harness import World

pytestmark = pytest.mark.usefixtures("quiet")
FOUR = ("berlin", "kyoto", "oslo", "quito")


class Superlink:
    """Starts a run as the SuperLink does, in this process; names of nodes are those that were admitted."""

    def __init__(self, world: World) -> None:
        self._world, self._runs = world, list[RunState]()

    def start(self, _: bytes) -> int:
        number, world = len(self._runs) + 1, self._world
        world.coordinator._journal.name_nodes(dict(enumerate(FOUR)))
        try:
            world.run()
            self._runs.append(RunState(number, "finished", "completed", ""))
        except DictPFLError as error:
            self._runs.append(RunState(number, "finished", "failed", error.code))
        finally:
            world.close()
        return number

    def runs(self) -> list[RunState]:
        return self._runs

    def nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name, status="online") for name in FOUR]


@pytest.fixture
def parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The coordinator died while the sum of round 1 went out: two have it, two have not; then its disk was lost."""
    made = Ceremony.found(tmp_path, FOUR, federation__participants=4, defences__masks=True, defences__integrity=True)
    for name in FOUR:
        made.join(name)
        made.give_data(name)
    made.hand_over()
    (made.root / "institutions").mkdir()
    for index, name in enumerate(FOUR):
        (made.root / "institutions" / f"institution-{index:03d}").symlink_to(made.home(name))
    world = World(made.root, len(FOUR))
    while world.coordinator._journal.next_round < 2:
        world.exchange()
    world.exchange(offline=[2, 3])
    world.close()
    for path in made.coordinator.glob(f"{JOURNAL}*"):
        path.unlink()
    link = Superlink(world)

    @contextmanager
    def connected(*_: object) -> Iterator[Superlink]:
        yield link

    monkeypatch.setattr(running, "connected", connected)
    monkeypatch.setattr(running, "installed", lambda *_: b"")
    monkeypatch.setattr(running, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.0)
    return world


def typed(*words: object, fails: bool = False) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "1000"})
    assert (done.exit_code != 0) == fails, done.output
    return f"{done.output}{done.exception or ''}"


def read_at_home(world: World) -> dict[str, tuple[str, ...]]:
    """Round and words that each institution's own `status` shows, by name."""
    shown = {}
    for name in FOUR:
        status = typed("status", "--folder", world.folder / name)
        said = re.search(r"by phone, should the coordinator's journal be lost: round (\d+), (\S+)", status)
        assert said
        shown[name] = said.groups()
    return shown


def test_the_operator_reads_who_holds_what_and_types_what_was_said_by_phone(parted: World) -> None:
    folder = parted.coordinator_folder
    run = ("run", "--folder", folder)
    at_home = read_at_home(parted)
    assert [number for number, _ in at_home.values()] == ["2", "2", "1", "1"]
    for options in ((), ("--from-institutions", 2), ("--from-institutions", 7)):
        refused = typed(*run, *options, fails=True)
        for name, (number, words) in at_home.items():
            assert f"{name}: round {number}, {words}" in refused
        assert "type `dictpfl run --from-institutions ROUND --digest WORDS`" in refused
        assert "berlin has the sum that leads from " in refused
        assert "STOPPED: the journal ends before round 0" in typed("status", "--folder", folder)
    number, words = at_home["berlin"]
    wrong = typed(*run, "--from-institutions", number, "--digest", at_home["oslo"][1], fails=True)
    assert f"berlin: round {number}, {words}" in wrong
    assert Agreement.load(folder / AGREEMENT).restart_digest == at_home["oslo"][1]
    done = typed(*run, "--from-institutions", number, "--digest", words.replace("-", " "))
    assert "round 1 (update): 4 institutions" in done, "the sum that was lost is in the journal again"
    assert "all institutions told" in done
    assert len(set(read_at_home(parted).values())) == 1
    typed(*run)
    agreement = Agreement.load(folder / AGREEMENT)
    assert (agreement.restart_from, agreement.restart_digest) == (0, ""), "it was said of that journal alone"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--digest", "lusab-babad"), "give --from-institutions ROUND, too"),
        (("--from-institutions", 2, "--digest", "lusab-babad"), "expected eight words of five letters"),
    ],
)
def test_half_of_what_is_needed_is_refused_before_anything_changes(
    options: tuple[object, ...], reason: str, parted: World
) -> None:
    path = parted.coordinator_folder / AGREEMENT
    before = path.read_bytes()
    assert reason in typed("run", "--folder", path.parent, *options, fails=True)
    assert path.read_bytes() == before


def test_a_choice_of_before_is_not_one_of_now(parted: World) -> None:
    """Whoever typed it for an earlier journal has said nothing of this one."""
    path = parted.coordinator_folder / AGREEMENT
    replace(Agreement.load(path), restart_from=2, restart_digest="").save(path)
    typed("run", "--folder", path.parent, fails=True)
    assert Agreement.load(path).restart_from == 0
