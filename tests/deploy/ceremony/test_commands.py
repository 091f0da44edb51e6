"""The commands, as an operator gives them; the documentation's are typed by tests/system/test_docs_deploy.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ceremonies import NAMES, PASSPHRASES, Ceremony
from typer.testing import CliRunner

import deploy.ceremony.cli
from client.site import SiteSettings
from common.errors import (
    CeremonyError,
    ConfigError,
    CustodyError,
    IdentityError,
    PassphraseError,
    TruncatedBundleError,
)
from deploy.ceremony.fingerprint import spoken
from deploy.ceremony.identity import PUBLIC, PublicIdentity
from deploy.cli import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/deploy-ceremony.md").read_text(encoding="utf-8")


def test_errors_that_the_page_names_exist() -> None:
    import common.errors

    codes = {error.code for error in vars(common.errors).values() if isinstance(error, type)}
    table = PAGE[PAGE.index("| message has") : PAGE.index("## Genesis")]
    named = set(re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:] if "|" in row)))
    assert len(named) == 8
    assert named <= codes


# one by one


def dictpfl(*arguments: object, error: type[Exception] | None = None, said: str = "", answers: str = "") -> str:
    """Run a command; `said` must be in what it prints, or in its error."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=answers)
    if error is None:
        assert done.exit_code == 0, (done.output, done.exception)
        assert said in done.output
        return done.output
    assert type(done.exception) is error, (done.output, done.exception)
    assert said in str(done.exception)
    return str(done.exception)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.ceremony.cli, "_at_terminal", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_a_passphrase_is_asked_for_twice_when_it_is_new(tmp_path: Path) -> None:
    long = "a long passphrase\n"
    dictpfl("institution", "identity", "--name", "berlin", "--folder", tmp_path / "a", answers=long * 2, said="phone")
    shown = dictpfl("audit", "fingerprint", tmp_path / "a" / PUBLIC, said="institution berlin")
    assert "a long passphrase" not in shown
    dictpfl(
        "authority", "identity", "--name", "m", "--folder", tmp_path / "b",
        answers="short\n" * 2, error=PassphraseError, said="fewer than 12",
    )  # fmt: skip
    assert not (tmp_path / "b").exists()


def test_without_a_terminal_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    command = ("institution", "identity", "--name", "berlin", "--folder", tmp_path / "a")
    dictpfl(*command, error=PassphraseError, said="no terminal")


def test_no_option_takes_a_passphrase_itself() -> None:
    for command in (
        ("institution", "join"),
        ("institution", "identity"),
        ("authority", "genesis"),
        ("authority", "rotate"),
    ):
        done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        options = set(re.findall(r"--[a-z-]+", done.output))
        assert {option for option in options if "pass" in option} == {"--passphrase-file"}


def genesis_of(ceremony: Ceremony, *more: object, **how: object) -> str:
    (ceremony.authority / "federation.sealed").unlink(missing_ok=True)
    (ceremony.root / "pass").write_bytes(PASSPHRASES["authority"])
    (ceremony.root / "pass").chmod(0o600)
    config = ceremony.root / "c.toml"
    config.write_text("[federation]\nsample_cap = 64\n[model]\nsource = 'mlp'\n", encoding="utf-8")
    named = [x for name in NAMES for x in ("--institution", f"{name}={ceremony.site(name) / PUBLIC}")]
    return dictpfl(
        "authority", "genesis", config, *named, "--outputs", 3, "--folder", ceremony.authority,
        "--passphrase-file", ceremony.root / "pass", "--out", ceremony.root / "out", *more, **how,
    )  # fmt: skip


def test_identities_are_compared_by_people(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ("--sample-shape", "6")
    genesis_of(ceremony, *shape, error=CeremonyError, said="was not confirmed")
    monkeypatch.setattr(deploy.ceremony.cli, "_at_terminal", lambda: True)
    genesis_of(ceremony, *shape, answers="y\nn\n", error=CeremonyError, said="kyoto was not confirmed")
    assert not (ceremony.root / "out").exists()
    words = spoken(PublicIdentity.load(ceremony.site("oslo") / PUBLIC).fingerprint)
    assert words in genesis_of(ceremony, *shape, answers="y\ny\ny\n")


@pytest.mark.parametrize("shape", ["", "x", "6x", "0", "-3", "6,6"])
def test_shapes_that_are_none(ceremony: Ceremony, shape: str) -> None:
    genesis_of(ceremony, f"--sample-shape={shape}", "--checked", error=ConfigError, said="joined by x")


@pytest.mark.parametrize("pair", ["oslo", "=x", "oslo=", "berlin=x"])
def test_pairs_that_are_none(ceremony: Ceremony, pair: str) -> None:
    genesis_of(ceremony, "--sample-shape", "6", "--institution", pair, error=ConfigError, said="each name once")


@pytest.mark.usefixtures("terminal")
def test_the_authoritys_words_are_typed_not_nodded_at(ceremony: Ceremony) -> None:
    """Who only says yes has not compared."""
    site = ceremony.site("berlin")
    command = (
        "institution",
        "join",
        ceremony.bundle("berlin"),
        "--folder",
        site,
        "--passphrase-file",
        site / "passphrase",
    )
    dictpfl(*command, answers="yes\n", error=IdentityError, said="in full")
    dictpfl(*command, answers=ceremony.fingerprint + "\n", said="joined epoch 1, from round 0 on")
    assert SiteSettings.load(site).passphrase_file == "passphrase"  # noqa: S105 -- a file name


def test_what_goes_wrong_has_a_name(ceremony: Ceremony) -> None:
    site, bundle = ceremony.site("berlin"), ceremony.bundle("berlin")
    bundle.write_bytes(bundle.read_bytes()[:-1])
    options = ("--folder", site, "--passphrase-file", site / "passphrase")
    dictpfl("institution", "join", bundle, *options, error=TruncatedBundleError, said="cut off")
    dictpfl("institution", "export-state", ceremony.root / "s", *options, error=CeremonyError, said="join")
    dictpfl("audit", "verify", site, error=CustodyError, said="holds no custody.jsonl")
    dictpfl("audit", "verify", ceremony.authority, said="whole: 1 entries of authority ministry")
