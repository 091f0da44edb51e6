"""Checks of `dictpfl doctor --folder`: what `up` would refuse in a party's folder, and what it runs with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dictpfl.common.errors import DictPFLError
from dictpfl.deploy.doctor import Check


def deployment_checks(folder: Path | None) -> Iterator[Check]:
    """Certificates, private files, what else `up` would refuse, refused sums and processes in the folder of a coordinator or an institution."""
    from dictpfl.client.folder import SETTINGS
    from dictpfl.common.files import private_files, require_private
    from dictpfl.deploy.ceremony.identity import PUBLIC
    from dictpfl.deploy.operations.places import RUN
    from dictpfl.server.coordinator import AGREEMENT

    if folder is None:
        return
    if not folder.is_dir():
        yield Check("folder", False, f"{folder}: expected a party's folder, found none")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        text = f"{folder} is not this account's to read and write, or its disk is mounted read-only: `up` cannot run"
        yield Check("folder", False, text)
        if not os.access(folder, os.R_OK | os.X_OK):
            return  # whatever is wrong in it, nothing would be found
    if not any((folder / name).exists() for name in (SETTINGS, AGREEMENT, PUBLIC, RUN, "tls")) and not any(
        folder.glob("*.pem")
    ):
        yield Check("folder", False, f"{folder}: expected a party's folder, found nothing of a party in it")
        return
    yield from map(_certificate, sorted(folder.rglob("*.pem")))
    for path in private_files(folder):
        try:
            require_private(path)
        except DictPFLError as error:
            yield Check("private file", False, str(error))
        else:
            yield Check("private file", True, f"{path.relative_to(folder)}: only its owner reads it")
    yield from _refused_by_up(folder.resolve())
    if (folder / SETTINGS).exists():
        yield _refusals(folder)
        yield from _indexes(folder)
    yield from _processes(folder)


def _processes(folder: Path) -> Iterator[Check]:
    """Programs of a running `up`; where none runs, a full disk, which `up` may have ended with."""
    from dictpfl.deploy.operations import disk, health

    found_health = health.of(folder)
    if not found_health:
        yield Check("processes", None, "none: `up` is not running in this folder")
        if full := disk.trouble(folder):
            yield Check("disk", False, full)
    for program in found_health:
        yield Check("process", program.serves, f"{program.program}: {program.found}")


def _certificate(path: Path) -> Check:
    from dictpfl.deploy.operations.certificates import SOON_DAYS, validity

    try:
        found = validity(path)
    except DictPFLError as error:
        return Check("certificate", False, str(error))
    if not found.begun:
        text = f"{path.name} ({found.subject}) is not valid before {found.begins:%Y-%m-%d %H:%M} UTC; most likely this machine's clock is wrong"
        return Check("certificate", False, text)
    left = found.days_left
    ok = False if left <= 0 else None if left < SOON_DAYS else True
    return Check("certificate", ok, f"{path.name} ({found.subject}): {left:.0f} days left, until {found.ends:%Y-%m-%d}")


def _refused_by_up(folder: Path) -> Iterator[Check]:
    """What else `up` would refuse to start with."""
    from dictpfl.client.folder import SETTINGS
    from dictpfl.common.files import owner_only
    from dictpfl.deploy.operations.places import FLOWER, LOGS, RUN
    from dictpfl.server.coordinator import AGREEMENT

    parts = [part for part in (folder, *(folder / name for name in (RUN, LOGS, FLOWER))) if part.is_dir()]
    looks: list[tuple[str, Callable[[], object]]] = [("folder", partial(owner_only, part)) for part in parts]
    if (folder / SETTINGS).exists():
        looks += [(name, partial(look, folder)) for name, look in (("passphrase", _passphrase), ("settings", _node))]
    elif (folder / AGREEMENT).exists():
        looks += [(name, partial(look, folder)) for name, look in (("terms", _terms), ("certificate", _served))]
    for name, look in looks:
        try:
            look()
        except DictPFLError as error:
            yield Check(name, False, str(error))


def _passphrase(folder: Path) -> None:
    from dictpfl.client.folder import InstitutionSettings
    from dictpfl.client.keys.vault import stored_passphrase
    from dictpfl.deploy.operations.health import processes

    name = InstitutionSettings.load(folder).passphrase_file
    if name and ((folder / name).exists() or not processes(folder)):  # what runs without the file has a credential
        stored_passphrase(folder / name)


def _node(folder: Path) -> None:
    """Settings of a node, which the first `up` is told, and the terms of the epoch."""
    from dictpfl.client.keys.epochs import home
    from dictpfl.deploy.operations.agreed import agreed
    from dictpfl.deploy.operations.settings import NodeSettings

    if (folder / NodeSettings.FILE).exists():
        agreed(folder, home(folder), NodeSettings.load(folder).bundle)


def _terms(folder: Path) -> None:
    from dictpfl.deploy.ceremony.installing import require_consistent
    from dictpfl.deploy.operations.agreed import agreed
    from dictpfl.deploy.operations.settings import CoordinatorSettings
    from dictpfl.server.agreement import Agreement
    from dictpfl.server.coordinator import AGREEMENT

    require_consistent(folder, Agreement.load(folder / AGREEMENT))
    agreed(folder, folder, CoordinatorSettings.load(folder).bundle)


def _served(folder: Path) -> None:
    """Certificate, key and authority as the coordinator serves them: that they belong together."""
    from dictpfl.deploy.operations.preflight import require_certificate
    from dictpfl.deploy.operations.settings import CoordinatorSettings

    settings = CoordinatorSettings.load(folder)
    require_certificate(folder / settings.certificate, folder / settings.key, folder / settings.ca)


def _refusals(folder: Path) -> Check:
    from dictpfl.deploy.operations.refusals import Refusals

    try:
        standing = Refusals(folder).standing()
    except DictPFLError as error:
        return Check("refused sums", False, str(error))
    ok = False if standing.locked else None if standing.unseen else True
    return Check("refused sums", ok, standing.text or "none that nobody has looked at")


def _indexes(folder: Path) -> Iterator[Check]:
    """Data that are read when they are needed: still those of the index, and a few samples of them."""
    from dictpfl.client.data.lazy import LazySamples
    from dictpfl.client.data.opening import is_index, opened
    from dictpfl.client.folder import TRAIN, VALIDATION
    from dictpfl.client.keys.epochs import home
    from dictpfl.common.genesis import DOCUMENT, Genesis

    for name in (TRAIN, VALIDATION):
        if not is_index(folder / name) or not (home(folder) / DOCUMENT).exists():
            continue
        try:
            samples = opened(folder / name, Genesis.load(home(folder)).config.data)
            if isinstance(samples, LazySamples):
                samples.check()
        except DictPFLError as error:
            yield Check("samples", False, str(error))
        else:
            yield Check("samples", True, f"{name}: {len(samples):,}, read when they are needed; a few were looked at")
