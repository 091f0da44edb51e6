"""The commands, as an operator gives them; the documentation's are typed by tests/processes/test_docs_deploy.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dictpfl.deploy.ceremony.asking
from dictpfl.client.folder import InstitutionSettings
from dictpfl.common.errors import BundleError, CeremonyError, ConfigError, CustodyError, IdentityError, PassphraseError
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity
from dictpfl.deploy.cli import app
from tests.support import ROOT
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony

PAGE = (ROOT / "docs/deploy/reference.md").read_text(encoding="utf-8")


def test_errors_that_the_page_names_exist() -> None:
    import dictpfl.common.errors

    kinds = [kind for kind in vars(dictpfl.common.errors).values() if hasattr(kind, "codes")]
    codes = {code for kind in kinds for code in (kind.code, *kind.codes)}
    table = PAGE[PAGE.index("| message has") : PAGE.index("## Papers of the ceremony")]
    named = set(re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:] if "|" in row)))
    assert len(named) == 9
    assert named <= codes


# one by one


def typed(
    *arguments: object,
    error: type[Exception] | tuple[type[Exception], str] | None = None,
    said: str = "",
    answers: str = "",
) -> str:
    """Run a command; `said` must be in what it prints, or in its error."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=answers)
    if error is None:
        assert done.exit_code == 0, (done.output, done.exception)
        assert said in done.output
        return done.output
    kind, code = error if isinstance(error, tuple) else (error, "")
    assert type(done.exception) is kind, (done.output, done.exception)
    assert code in ("", getattr(done.exception, "code", "")), done.exception
    assert said in str(done.exception)
    return str(done.exception)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictpfl.deploy.ceremony.asking, "at_terminal", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_a_passphrase_is_asked_for_twice_when_it_is_new(tmp_path: Path) -> None:
    long = "a long passphrase\n"
    typed("institution", "identity", "--name", "berlin", "--folder", tmp_path / "a", answers=long * 2, said="phone")
    shown = typed("audit", "fingerprint", tmp_path / "a" / PUBLIC, said="institution berlin")
    assert "a long passphrase" not in shown
    typed(
        "authority", "identity", "--name", "m", "--folder", tmp_path / "b",
        answers="short\n" * 2, error=PassphraseError, said="fewer than 12",
    )  # fmt: skip
    assert not (tmp_path / "b").exists()


def test_without_a_terminal_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    command = ("institution", "identity", "--name", "berlin", "--folder", tmp_path / "a")
    typed(*command, error=PassphraseError, said="no terminal")


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
    named = [x for name in NAMES for x in ("--institution", f"{name}={ceremony.home(name) / PUBLIC}")]
    return typed(
        "authority", "genesis", config, *named, "--outputs", 3, "--folder", ceremony.authority,
        "--passphrase-file", ceremony.root / "pass", "--out", ceremony.root / "out", *more, **how,
    )  # fmt: skip


def test_identities_are_compared_by_people(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ("--sample-shape", "6")
    genesis_of(ceremony, *shape, error=CeremonyError, said="was not confirmed")
    monkeypatch.setattr(dictpfl.deploy.ceremony.asking, "at_terminal", lambda: True)
    genesis_of(ceremony, *shape, answers="y\nn\n", error=CeremonyError, said="kyoto was not confirmed")
    assert not (ceremony.root / "out").exists()
    words = spoken(PublicIdentity.load(ceremony.home("oslo") / PUBLIC).fingerprint)
    assert words in genesis_of(ceremony, *shape, answers="y\ny\ny\n")


@pytest.mark.parametrize("shape", ["", "x", "6x", "0", "-3", "6,6"])
def test_shapes_that_are_none(ceremony: Ceremony, shape: str) -> None:
    genesis_of(ceremony, f"--sample-shape={shape}", "--checked", error=ConfigError, said="joined by x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--sample-shape", "99999999999999x99999999"),
            "--sample-shape 99999999999999x99999999: 9,999,999,899,999,900,000,001 values",
        ),
        (("--sample-shape", "6", "--outputs", "99999999999999"), "--outputs 99999999999999"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_allocated(
    ceremony: Ceremony, options: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr("dictpfl.deploy.ceremony.charter.build_model", built)
    genesis_of(ceremony, *options, "--checked", error=ConfigError, said=said)


@pytest.mark.parametrize("pair", ["oslo", "=x", "oslo=", "berlin=x"])
def test_pairs_that_are_none(ceremony: Ceremony, pair: str) -> None:
    genesis_of(ceremony, "--sample-shape", "6", "--institution", pair, error=ConfigError, said="each name once")


@pytest.mark.usefixtures("terminal")
def test_the_authoritys_words_are_typed_not_nodded_at(ceremony: Ceremony) -> None:
    """Who only says yes has not compared."""
    institution = ceremony.home("berlin")
    command = (
        "institution",
        "join",
        ceremony.bundle("berlin"),
        "--folder",
        institution,
        "--passphrase-file",
        institution / "passphrase",
    )
    typed(*command, answers="yes\n", error=IdentityError, said="in full")
    typed(*command, answers=ceremony.fingerprint + "\n", said="joined epoch 1, from round 0 on")
    assert InstitutionSettings.load(institution).passphrase_file == "passphrase"  # noqa: S105 -- a file name


def test_what_goes_wrong_has_a_name(ceremony: Ceremony) -> None:
    institution, bundle = ceremony.home("berlin"), ceremony.bundle("berlin")
    bundle.write_bytes(bundle.read_bytes()[:-1])
    options = ("--folder", institution, "--passphrase-file", institution / "passphrase")
    typed("institution", "join", bundle, *options, error=(BundleError, "truncated-bundle"), said="cut off")
    typed("institution", "export-state", ceremony.root / "s", *options, error=CeremonyError, said="join")
    typed("audit", "verify", institution, error=CustodyError, said="holds no custody.jsonl")
    typed("audit", "verify", ceremony.authority, said="whole: 1 entries of authority ministry")
