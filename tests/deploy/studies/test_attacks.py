"""What a coordinator, a lead or an authority that does not follow the rules reaches with a study: nothing, and it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dictpfl.client.keys.epochs import installed
from dictpfl.common.documents import OTHER_RELEASE
from dictpfl.common.errors import BundleError, StudyError
from dictpfl.deploy.ceremony.authority import Issued, found_study
from dictpfl.deploy.ceremony.authority import Study as Place
from dictpfl.deploy.ceremony.identity import Signer, canonical, coordinator_signer
from dictpfl.deploy.ceremony.joining import join
from dictpfl.deploy.studies.deciding import approve, refuse
from dictpfl.deploy.studies.keying import _agreed, _papers, bound_to, make_key
from dictpfl.deploy.studies.papers import Notice, Proposal, paper_of
from dictpfl.deploy.studies.store import Study
from dictpfl.deploy.studies.taking_part import take_key
from tests.deploy.studies.conftest import APP, World
from tests.support.ceremonies import NAMES, PASSPHRASES, Ceremony


def approved(world: World, study: Study, *names: str) -> list[Notice]:
    """These institutions take the text up and approve it."""
    return [approve(world.studies(name), world.handed(study, name)[0], world.identity(name), APP) for name in names]


def keyed(world: World, study: Study, notices: list[Notice], out: Path) -> Issued:
    world.handed(study, "authority")
    for notice in notices:
        world.studies("authority").receive(notice, "a notice")
    studies = world.studies("authority")
    return make_key(studies, studies.get(study.name), world.identity("authority"), PASSPHRASES["authority"], out)


def taken(world: World, name: str, bundle: Path) -> Study:
    return take_key(world.studies(name), bundle, PASSPHRASES[name], None, APP)[0]


def refused(code: str, act: Callable[[], object], words: str = "") -> str:
    with pytest.raises((BundleError, StudyError), match=words or None) as error:
        act()
    assert error.value.code == code, error.value
    return str(error.value)


# a coordinator, or whoever carries the mail


def test_a_text_that_is_swapped_on_its_way(world: World) -> None:
    study, stranger = world.proposed(), coordinator_signer(world.made.coordinator)
    data = study.wanted.to_bytes()
    altered = data.replace(b'"rounds":3', b'"rounds":9')
    assert altered != data
    refused("tampered-bundle", lambda: paper_of(altered, "it"))
    for signer in (stranger, Signer(study.wanted.lead, stranger.signing)):
        mine = replace(study.wanted, lead=signer.public).signed(signer)
        if signer.public == stranger.public:
            refused(
                "unknown-sender",
                lambda mine=mine: world.studies("berlin").receive(mine, "it"),
                "no institution of this network",
            )
        else:
            refused("tampered-bundle", lambda mine=mine: paper_of(mine.to_bytes(), "it"))
    assert world.studies("berlin").all() == []


def test_an_approval_that_is_claimed(world: World, tmp_path: Path) -> None:
    study, stranger = world.proposed(), coordinator_signer(world.made.coordinator)
    notices = approved(world, study, "berlin", "kyoto")
    oslo = world.identity("oslo").public
    claimed = Notice.made(
        "approved", study.wanted, Signer(replace(oslo, signing=stranger.public.signing), stranger.signing), 1
    )
    refused(
        "unknown-sender", lambda: keyed(world, study, [*notices, claimed], tmp_path / "out"), "oslo.*no institution"
    )
    forged = replace(Notice.made("approved", study.wanted, stranger, 1), by=oslo)
    refused("tampered-bundle", lambda: paper_of(forged.to_bytes(), "it"))
    told = refused("study", lambda: keyed(world, study, notices, tmp_path / "out"))
    assert "approved by 2 of 3 (berlin, kyoto), at least 3" in told
    assert not (tmp_path / "out").exists()
    keying = Notice.made("keyed", study.wanted, stranger, 1)
    refused("unknown-sender", lambda: world.studies("berlin").receive(keying, "it"))
    abort = Notice.made("aborted", study.wanted, world.identity("oslo"), 1)
    refused("unknown-sender", lambda: world.studies("berlin").receive(abort, "it"), "for the lead or the authority")


def test_old_papers_that_are_sent_again(world: World, standing: Ceremony, tmp_path: Path) -> None:
    first = world.proposed()
    world.handed(first, "berlin")
    notice = approve(world.studies("berlin"), world.studies("berlin").get("wide"), world.identity("berlin"), APP)
    world.handed(first, "authority")
    no = refuse(world.studies("berlin"), world.studies("berlin").get("wide"), world.identity("berlin"), "no data yet")
    world.studies("authority").receive(no, "it")
    refused("old-proposal", lambda: world.studies("authority").receive(notice, "it"), "does not count any more")
    second = world.proposed(federation__rounds=4)
    assert second.wanted.version == 2
    world.handed(second, "berlin")
    refused("old-proposal", lambda: world.handed(first, "berlin"), "version 1 of wide, version 2 is here")
    late = replace(second.wanted, name="late", until=datetime.now(UTC).date() - timedelta(days=1)).signed(
        world.identity("kyoto")
    )
    refused("old-proposal", lambda: world.studies("oslo").receive(late, "it"), "could be approved until")
    elsewhere = World(Ceremony.found(tmp_path / "elsewhere"))
    for name in NAMES:
        elsewhere.made.join(name)
    refused("wrong-bundle", lambda: elsewhere.handed(first, "berlin"), "for network")


@pytest.mark.parametrize(
    "changed",
    [
        {"hours": "24"},
        {"hours": -1.0},
        {"version": 0},
        {"memory_gib": True},
        {"name": "../authority"},
        {"sample_shape": []},
    ],
)
def test_a_signed_text_that_means_nothing(world: World, changed: dict[str, object]) -> None:
    """Signed by a member, and made by no release: it is refused in words, not by a traceback."""
    kyoto, document = world.identity("kyoto"), json.loads(world.proposed().wanted.to_bytes())
    del document["signature"]
    document |= changed
    signature = kyoto.sign(b"dictpfl study 1\n" + canonical(document))
    refused("tampered-bundle", lambda: paper_of(canonical({**document, "signature": signature.hex()}) + b"\n", "it"))


def test_a_paper_of_another_release_is_told(world: World) -> None:
    later = world.proposed().wanted.to_bytes().replace(b"dictpfl-study-1", b"dictpfl-study-2")
    assert OTHER_RELEASE in refused("not-a-bundle", lambda: paper_of(later, "it"))
    refused("not-a-bundle", lambda: paper_of(b"{}", "it"), "no paper of a study")


# a lead


def test_a_study_that_is_changed_after_it_was_approved(world: World, tmp_path: Path) -> None:
    study = world.proposed()
    notices = approved(world, study, *NAMES)
    changed = world.proposed(training__steps=9)
    world.handed(changed, "berlin", "authority")
    refused("two-texts", lambda: keyed(world, changed, notices, tmp_path / "out"), "approved a text of wide")
    refused("study", lambda: keyed(world, changed, [], tmp_path / "out"), "approved by 0 of 3")
    own = world.studies("berlin").get("wide")
    assert own.state(world.identity("berlin").public) == "proposed", "what was approved is another text"


def test_different_texts_for_different_sites(world: World, tmp_path: Path) -> None:
    one = world.proposed()
    other = replace(one.wanted, title="the same, it seems").signed(world.identity("kyoto"))
    world.studies("berlin").receive(other, "it")
    refused("two-texts", lambda: world.studies("berlin").receive(one.wanted, "it"), "both version 1 of wide")
    notices = [
        approve(world.studies("berlin"), world.studies("berlin").get("wide"), world.identity("berlin"), APP),
        *approved(world, one, "kyoto", "oslo"),
    ]
    refused("two-texts", lambda: keyed(world, one, notices, tmp_path / "out"), "somebody shows different texts")
    # A clumsy authority gives a key for one text to all: berlin, who approved the other one, cannot open it.
    issued = forged(world, one.wanted, one.wanted, notices, tmp_path / "clumsy")
    refused("tampered-bundle", lambda: taken(world, "berlin", issued.bundle("berlin")), "seal does not fit")
    # One that lies seals berlin's for berlin's text; the approvals inside are of another one.
    issued = forged(world, other, one.wanted, notices, tmp_path / "lying")
    refused("wrong-bundle", lambda: taken(world, "berlin", issued.bundle("berlin")), "brings a text with digest")
    issued = forged(world, other, other, notices, tmp_path / "both")
    refused("wrong-bundle", lambda: taken(world, "berlin", issued.bundle("berlin")), "did not approve this text")
    assert installed(world.studies("berlin").get("wide").folder) == []
    assert [entry["event"] for entry in world.logged("berlin")][-1] == "study approved", "no key was ever had"


# an authority


def forged(
    world: World, sealed_under: Proposal, inside: Proposal, notices: list[Notice], out: Path, **changes: object
) -> Issued:
    """What an authority makes that checks nothing."""
    config = _agreed(inside, 3)
    if changes:
        config = config.model_copy(update={"federation": config.federation.model_copy(update=changes)})
    papers = _papers(inside, notices)
    place = Place(out.parent / f"{out.name}-kept", bound_to(sealed_under), papers, b"{}")
    place.folder.mkdir(mode=0o700)
    studies = world.studies("authority")
    return found_study(
        studies.party, PASSPHRASES["authority"], place, config, studies.network.identities, out,
        app=APP, sample_shape=(6,), outputs=3,
    )  # fmt: skip


def test_a_key_for_other_settings_or_for_who_did_not_approve(world: World, tmp_path: Path) -> None:
    study = world.proposed()
    notices = approved(world, study, *NAMES)
    issued = forged(world, study.wanted, study.wanted, notices, tmp_path / "longer", rounds=99)
    refused(
        "wrong-bundle",
        lambda: taken(world, "berlin", issued.bundle("berlin")),
        r"federation\.rounds: not as in the text",
    )
    issued = forged(world, study.wanted, study.wanted, notices[:2], tmp_path / "fewer")
    refused("wrong-bundle", lambda: taken(world, "berlin", issued.bundle("berlin")), "approvals are of berlin, kyoto")


def test_a_bundle_goes_nowhere_but_to_the_study(world: World, tmp_path: Path) -> None:
    study = world.proposed()
    issued = keyed(world, study, approved(world, study, *NAMES), tmp_path / "out")
    home = world.home("berlin")
    fresh = tmp_path / "fresh"
    shutil.copytree(home, fresh, ignore=shutil.ignore_patterns("epochs", "studies"))
    for folder in (home, fresh):
        refused(
            "wrong-bundle",
            lambda folder=folder: join(folder, PASSPHRASES["berlin"], issued.bundle("berlin")),
            "of the study wide, which",
        )
    world.made.identity("quito")
    refused(
        "wrong-recipient",
        lambda: join(
            world.home("quito"),
            PASSPHRASES["quito"],
            issued.bundle("berlin"),
            authority_fingerprint=world.made.fingerprint,
        ),
    )
    refused("wrong-recipient", lambda: taken(world, "oslo", issued.bundle("berlin")))
    refuse(world.studies("berlin"), world.studies("berlin").get("wide"), world.identity("berlin"), "")
    refused("study", lambda: taken(world, "berlin", issued.bundle("berlin")), "is refused here")
