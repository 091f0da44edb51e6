"""At the end of a run each institution has a state ready for the authority, without a command."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.ceremony import authority, custody
from dictpfl.deploy.operations import watching
from dictpfl.deploy.operations.handover import HANDOVER, Handover, settled
from dictpfl.deploy.operations.watching import watched
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

pytestmark = pytest.mark.usefixtures("quiet")


def exports(institution: Path) -> int:
    (log,) = custody.verify(institution)
    return [entry["event"] for entry in log.entries].count("state exported")


def test_a_rotation_from_what_the_end_of_a_run_left(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name in NAMES:
        ceremony.join(name)
        ceremony.give_data(name)
    ceremony.hand_over()
    handovers = {name: Handover(ceremony.home(name)) for name in NAMES}
    assert not any(handover.look() for handover in handovers.values()), "no run has ended"
    ceremony.run(NAMES)
    # Oslo's passphrase is stored nowhere: it exports by hand.
    text = (ceremony.home("oslo") / "institution.toml").read_text()
    (ceremony.home("oslo") / "institution.toml").write_text(text.replace("passphrase_file", "# passphrase_file"))
    assert [handovers[name].look() for name in NAMES] == [True, True, False]
    assert not any(handover.look() for handover in handovers.values())
    assert not Handover(ceremony.home("berlin")).look(), "another process sees that it was done"
    assert exports(ceremony.home("berlin")) == 1
    states = [ceremony.home(name) / HANDOVER for name in ("berlin", "kyoto")]
    issued = authority.rotate(
        ceremony.authority, PASSPHRASES["authority"], states, ceremony.handout(2), remove=[], rounds=4
    )
    assert issued.table.last.first_round == ceremony.state("berlin").round

    # After the next run, in the new epoch, there is a new one.
    for name in NAMES:
        ceremony.join(name, 2)
    (ceremony.home("oslo") / "institution.toml").write_text(text)
    ceremony.hand_over(2)
    ceremony.run(NAMES)
    assert all(handover.look() for handover in handovers.values())
    again = authority.rotate(ceremony.authority, PASSPHRASES["authority"], states, ceremony.handout(3))
    assert again.table.last.first_round == ceremony.state("kyoto").round > issued.table.last.first_round


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None), ("\n", None), ("{", None), ("[]\n", None), ('{"event": "settled"}\n', None),
        ('{"event": "settled", "round": 7}\n', 7), ('{"event": "settled", "round": 7}\n{"event": "applied", "round": 7}\n', None),
        ("x" * 5000 + '\n{"event": "settled", "round": 7}\n', 7),
    ],
)  # fmt: skip
def test_the_last_line_of_a_diary(tmp_path: Path, text: str, found: int | None) -> None:
    (tmp_path / "diary").write_text(text)
    ended = settled(tmp_path / "diary")
    assert (ended and ended.round) == found
    assert settled(tmp_path / "none") is None


def test_what_is_watched_is_looked_at_until_the_end_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        raise ConfigError("as always")

    with watched(look, "test"):
        until = time.monotonic() + 10
        while looks < 3 and time.monotonic() < until:
            time.sleep(0.01)
        seen = looks
    assert seen >= 3
    assert looks > seen, "once more at the end"
