"""A study at the coordinator: its half of the agreement in a folder of its own, under the network's certificate and log key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dictpfl.common.errors import BundleError, CeremonyError, IdentityError
from dictpfl.common.files import owner_only, write_private
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.bundle import STUDY
from dictpfl.deploy.ceremony.departures import STUDIES
from dictpfl.deploy.ceremony.identity import CUSTODY_KEY, PUBLIC, Role, coordinator_signer
from dictpfl.deploy.operations.coordinator import Installed, install
from dictpfl.deploy.operations.settings import CoordinatorSettings
from dictpfl.deploy.studies.papers import Notice, read_paper
from dictpfl.deploy.studies.store import Studies, Study


def install_half(studies: Studies, half: Path, *, port: int | None = None) -> tuple[Study, Installed]:
    """Install the coordinator's half of a study; it is then run as any federation's, by the folder that is returned.

    Args:
        studies: of the coordinator's folder.
        half: the folder `coordinator` of what the authority made.
        port: of the study's SuperLink on this machine; None: the next after those of the network's other studies.

    Raises:
        BundleError: not of this network's authority. DictPFLError: refused; nothing was installed.
    """
    network, party = studies.network, studies.party
    if network.own.role is not Role.COORDINATOR:
        raise IdentityError(
            f"{party} is the folder of the {network.own.role} {network.own.name}; expected the coordinator's"
        )
    if not (half / STUDY).is_file():
        raise CeremonyError(
            f"{half} is the half of no study; `dictpfl coordinator install` installs one of a federation"
        )
    notice = read_paper(half / STUDY)
    if not isinstance(notice, Notice) or notice.kind != "keyed" or notice.network != network.id:
        raise BundleError(
            f"{half / STUDY} is no page of a study on this network; ask the authority", code="wrong-bundle"
        )
    if notice.by.fingerprint != network.authority.fingerprint:
        raise BundleError(
            f"{half / STUDY} is signed by {notice.by.name}, who is not this network's authority", code="unknown-sender"
        )
    folder = owner_only(party / STUDIES) / notice.study
    signer, is_new = coordinator_signer(party), not folder.exists()
    try:
        owner_only(folder)
        for name in (CUSTODY_KEY, PUBLIC):
            write_private(folder / name, (party / name).read_bytes())
        _settle(party, folder, port)
        done = install(folder, half, authority_fingerprint=network.authority.fingerprint.hex())
        study = studies.receive(notice, str(half / STUDY))
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)  # half a study would be listed, and keep its port
        raise
    custody.record(party, signer, "study installed", study=study.name, proposal=notice.digest.hex())
    return study, done


def _settle(party: Path, folder: Path, port: int | None) -> None:
    network = CoordinatorSettings.load(party)
    taken = {network.port} | {
        CoordinatorSettings.load(p.parent).port for p in party.glob(f"{STUDIES}/*/{CoordinatorSettings.FILE}")
    }
    told: dict[str, Any] = {"port": port}
    if not (folder / CoordinatorSettings.FILE).exists():
        shared = {name: str(Path("..", "..", getattr(network, name))) for name in ("certificate", "key", "ca")}
        told = {**shared, "heartbeat": network.heartbeat, "port": port or max(taken) + 1}
    CoordinatorSettings.updated(folder, **told)
