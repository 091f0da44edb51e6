"""The signed terms: which app everybody runs, and that nobody runs another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.client.keys.epochs import home
from dictpfl.common.errors import AppBundleError, BundleError, CeremonyError, ConfigError
from dictpfl.deploy.app import pinned
from dictpfl.deploy.app.bundle import build
from dictpfl.deploy.ceremony import authority
from dictpfl.deploy.ceremony.bundle import read_contents, write_bundle
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity, Role, canonical, make_identity, open_identity
from dictpfl.deploy.ceremony.joining import read_envelope
from dictpfl.deploy.ceremony.terms import TERMS, Member, Terms, in_force, read_terms
from dictpfl.deploy.operations import agreed as apps
from dictpfl.deploy.operations.settings import CoordinatorSettings, NodeSettings
from dictpfl.deploy.operations.task import Pin
from tests.support.ceremonies import APP, NAMES, PASSPHRASES, Ceremony

OTHER = "cd" * 32


def terms_of(ceremony: Ceremony, epoch: int = 1) -> Terms:
    return read_terms(ceremony.handout(epoch) / "coordinator" / TERMS)


def test_every_party_gets_the_same_page(ceremony: Ceremony) -> None:
    ceremony.hand_over()
    pages = {(ceremony.coordinator / TERMS).read_bytes()}
    for name in NAMES:
        assert ceremony.join(name).terms.app == APP
        pages.add((home(ceremony.home(name)) / TERMS).read_bytes())
    assert len(pages) == 1
    members = terms_of(ceremony).members
    for name in NAMES:
        identity = PublicIdentity.load(ceremony.home(name) / PUBLIC)
        assert members[name] == Member(identity.fingerprint, identity.node)


def test_every_altered_byte_is_noticed(ceremony: Ceremony) -> None:
    whole = (ceremony.handout() / "coordinator" / TERMS).read_bytes()
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1
        with pytest.raises(
            BundleError,
            match=r"signature does not fit|another release|another kind of file",
            check=lambda e: e.code == "tampered-bundle",
        ):
            Terms.of_bytes(bytes(altered), "the page")
    for text in (b"", b"[]", b"{}", b"null", whole[:-1], whole + b" "):
        with pytest.raises(BundleError, check=lambda e: e.code == "tampered-bundle"):
            Terms.of_bytes(text, "the page")


@pytest.mark.parametrize("app", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 32 + "\n"])
def test_hashes_that_are_none(ceremony: Ceremony, app: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        replace(terms_of(ceremony), app=app)


def test_a_members_name_is_a_file_name(ceremony: Ceremony) -> None:
    ministry = open_identity(ceremony.authority, PASSPHRASES["authority"])
    page = terms_of(ceremony).to_bytes().replace(b'"oslo":', b'"../oslo":')
    unsigned = json.loads(page)
    del unsigned["signature"]
    signature = ministry.sign(b"dictpfl terms 1\n" + canonical(unsigned)).hex()
    with pytest.raises(BundleError, check=lambda e: e.code == "tampered-bundle"):
        Terms.of_bytes(canonical({**unsigned, "signature": signature}) + b"\n", "the page")


CHANGES: dict[str, tuple[Callable[[Terms], Terms], str]] = {
    "another epoch": (lambda terms: replace(terms, epoch=2), "another federation or epoch"),
    "another key": (lambda terms: replace(terms, key=bytes(32)), "another federation or epoch"),
    "another federation": (lambda terms: replace(terms, federation=bytes(32)), "another federation or epoch"),
    "without the recipient": (lambda terms: replace(terms, members={}), "do not name berlin"),
    "another node": (
        lambda terms: replace(terms, members={"berlin": replace(terms.members["berlin"], node="")}),
        "do not name berlin",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bundle_whose_terms_contradict_it(ceremony: Ceremony, name: str) -> None:
    """Signed by the authority itself: a mistake, or a lie, that no outsider could make."""
    change, said = CHANGES[name]
    ministry = open_identity(ceremony.authority, PASSPHRASES["authority"])
    berlin = open_identity(ceremony.home("berlin"), PASSPHRASES["berlin"])
    contents = read_contents(read_envelope(ceremony.bundle("berlin")), berlin)
    wrong = replace(contents, terms=change(contents.terms).signed(ministry))
    bundle = ceremony.root / "wrong.bundle"
    bundle.write_bytes(write_bundle(wrong, ministry, berlin.public))
    with pytest.raises(BundleError, match=said, check=lambda e: e.code == "wrong-bundle"):
        ceremony.join("berlin", bundle=bundle)


def test_a_bundle_with_another_authoritys_terms(ceremony: Ceremony) -> None:
    other = make_identity(ceremony.root / "other", "ministry", Role.AUTHORITY, PASSPHRASES["authority"])
    ministry = open_identity(ceremony.authority, PASSPHRASES["authority"])
    berlin = open_identity(ceremony.home("berlin"), PASSPHRASES["berlin"])
    contents = read_contents(read_envelope(ceremony.bundle("berlin")), berlin)
    wrong = replace(contents, terms=replace(contents.terms, authority=other.public).signed(other))
    bundle = ceremony.root / "wrong.bundle"
    bundle.write_bytes(write_bundle(wrong, ministry, berlin.public))
    with pytest.raises(BundleError, match="another authority", check=lambda e: e.code == "wrong-bundle"):
        ceremony.join("berlin", bundle=bundle)


def test_what_is_in_force(ceremony: Ceremony) -> None:
    institution = ceremony.home("berlin")
    assert in_force(institution, home(institution)) is None
    ceremony.join("berlin")
    found = in_force(institution, home(institution))
    assert found == terms_of(ceremony)
    page = home(institution) / TERMS
    other = make_identity(ceremony.root / "other", "ministry", Role.AUTHORITY, PASSPHRASES["authority"])
    page.write_bytes(replace(terms_of(ceremony), app=OTHER, authority=other.public).signed(other).to_bytes())
    with pytest.raises(BundleError, match="not the authority", check=lambda e: e.code == "unknown-sender"):
        in_force(institution, home(institution))
    page.write_bytes(page.read_bytes().replace(OTHER.encode(), APP.encode()))
    with pytest.raises(BundleError, check=lambda e: e.code == "tampered-bundle"):
        in_force(institution, home(institution))
    page.unlink()
    with pytest.raises(CeremonyError, match="cannot read"):
        in_force(institution, home(institution))
    (institution / "authority.json").unlink()
    with pytest.raises(CeremonyError, match="cannot read"):
        in_force(institution, home(institution))


# the app


@pytest.fixture(scope="module")
def here() -> str:
    return pinned.sha256_of(build())


def agreed_on(ceremony: Ceremony, app: str) -> None:
    """The same epoch, as if the authority had named this app."""
    ministry = open_identity(ceremony.authority, PASSPHRASES["authority"])
    signed = replace(terms_of(ceremony), app=app).signed(ministry)
    for folder in (ceremony.coordinator, home(ceremony.home("berlin"))):
        (folder / TERMS).write_bytes(signed.to_bytes())


@pytest.fixture
def joined(ceremony: Ceremony) -> Ceremony:
    ceremony.hand_over()
    ceremony.join("berlin")
    return ceremony


@pytest.mark.parametrize("party", ["coordinator", "berlin"])
def test_up_refuses_another_app_than_the_signed_one(joined: Ceremony, party: str) -> None:
    folder = joined.root / party
    with pytest.raises(AppBundleError, match=f"installed here is .*agreed on was {APP[:16]}"):
        apps.held_to_agreed(folder, home(folder), _settings(party))
    assert not (folder / "flower" / "agreed.fab").exists()


def _settings(party: str, **more: str) -> CoordinatorSettings | NodeSettings:
    return CoordinatorSettings(**more) if party == "coordinator" else NodeSettings(coordinator="x:1", **more)


@pytest.mark.parametrize("party", ["coordinator", "berlin"])
def test_the_signed_app_is_installed_and_every_task_held_to_it(joined: Ceremony, party: str, here: str) -> None:
    agreed_on(joined, here)
    folder = joined.root / party
    settings = apps.held_to_agreed(folder, home(folder), _settings(party))
    assert settings.bundle == here
    # The pin is the signed page, not a setting that would go stale at the next epoch.
    assert not list(folder.glob("*node.toml")) + list(folder.glob("coordinator.toml"))
    with pytest.raises(AppBundleError, match=f"name {OTHER[:16]}, the terms of epoch 1"):
        apps.held_to_agreed(folder, home(folder), _settings(party, bundle=OTHER))

    pin = Pin(folder / "flower", settings.bundle)
    content = build()
    pin.check(content)
    with pytest.raises(pinned.Mismatch, match="the one that the coordinator sends"):
        pin.check(content + b" ")
    # An epoch with another app was joined while `up` runs: no task until the release and `up` follow.
    agreed_on(joined, OTHER)
    with pytest.raises(pinned.Mismatch, match=f"in force name {OTHER[:16]}, `up` was started with {here[:16]}"):
        pin.check(content)
    for damaged in (b"", b"[]", b"{}"):
        (home(folder) / TERMS).write_bytes(damaged)
        with pytest.raises(pinned.Mismatch, match="cannot be read"):
            pin.check(content)
    if party == "berlin":
        (home(folder) / TERMS).unlink()
        with pytest.raises(pinned.Mismatch, match="cannot be read"):
            pin.check(content)


def test_a_folder_without_authority_keeps_what_it_first_ran(tmp_path: Path, here: str) -> None:
    settings = apps.held_to_agreed(tmp_path, tmp_path, CoordinatorSettings())
    apps.keep(tmp_path, tmp_path, settings, {})
    assert settings.bundle == here == CoordinatorSettings.updated(tmp_path).bundle
    Pin(tmp_path / "flower", here).check(build())


def test_a_task_looks_at_the_newest_epoch(tmp_path: Path) -> None:
    for number, app in ((1, APP), (2, OTHER), (10, APP)):
        folder = tmp_path / "epochs" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / TERMS).write_text(json.dumps({"app": app}))
    (tmp_path / "epochs" / ".joining-x").mkdir()
    pinned.require_in_force(tmp_path, APP)
    shutil.rmtree(tmp_path / "epochs" / "0010")
    with pytest.raises(pinned.Mismatch):
        pinned.require_in_force(tmp_path, APP)


def test_an_upgrade_is_a_new_epoch(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    state = ceremony.root / "berlin.state"
    export_state(ceremony.home("berlin"), PASSPHRASES["berlin"], state)
    for epoch, app, expected in ((2, OTHER, OTHER), (3, "", OTHER)):
        issued = authority.rotate(
            ceremony.authority, PASSPHRASES["authority"], [state], ceremony.handout(epoch), app=app, abandon=epoch > 2
        )
        assert issued.app == terms_of(ceremony, epoch).app == expected
        assert issued.genesis.federation == terms_of(ceremony).federation
    assert ceremony.join("berlin", 3).terms.app == OTHER
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        authority.rotate(
            ceremony.authority, PASSPHRASES["authority"], [state], ceremony.handout(4), app="new", abandon=True
        )
