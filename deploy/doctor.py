"""Checks of this machine, before a run disappoints."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dictpfl.deploy.runs.run import processor, versions

_LEAST_FREE = 2e9
_OLDEST, _NEWEST, _UNTRIED = (3, 11), (3, 14), (3, 14)
"""Versions of Python, as in `requires-python`; from the third on no test of dictpfl has run."""
_OF_INSTITUTIONS = ("torch", "scikit-learn")
"""Packages that a coordinator does without."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `ok` True, False (needed and missing) or None (worth knowing)."""

    name: str
    ok: bool | None
    found: str


def checks() -> Iterator[Check]:
    """All checks, cheapest first."""
    version = tuple(map(int, platform.python_version_tuple()[:2]))
    found = f"{platform.python_version()} on {platform.platform()}"
    if not _OLDEST <= version <= _NEWEST:
        yield Check("python", False, "{}; expected {}.{} to {}.{}".format(found, *_OLDEST, *_NEWEST))
    elif version >= _UNTRIED:
        yield Check("python", None, f"{found}; every package has wheels for it, but no test of dictpfl has run on it")
    else:
        yield Check("python", True, found)
    yield Check("processor", True, f"{processor()}, {len(os.sched_getaffinity(0))} cores for this process")
    free = shutil.disk_usage(Path.cwd()).free
    yield Check("disk", free > _LEAST_FREE, f"{free / 1e9:.1f} GB free here")
    for package, number in versions().items():
        there = number != "not installed"
        if package in _OF_INSTITUTIONS and not there:
            yield Check(package, None, "not installed; institutions need it: pip install 'dictpfl[institution]'")
        else:
            yield Check(package, there, number)
    ray = find_spec("ray") is not None
    yield Check(
        "flower simulation",
        ray or None,
        "Ray found" if ray else "no Ray: pip install 'dictpfl[simulation]', or --engine local",
    )
    private = find_spec("opacus") is not None and find_spec("dp_accounting") is not None
    yield Check(
        "differential privacy",
        private or None,
        "Opacus and dp-accounting found"
        if private
        else "no Opacus: pip install 'dictpfl[dp]' where privacy.mechanism is set",
    )
    yield _ckks()
    if find_spec("torch") is not None:
        yield _torch()


def deployment_checks(folder: Path) -> Iterator[Check]:
    """Certificates, private files, what else `up` would refuse, refused sums and processes in the folder of a coordinator or an institution."""
    from dictpfl.client.folder import SETTINGS
    from dictpfl.common.errors import DictPFLError
    from dictpfl.common.files import private_files, require_private
    from dictpfl.deploy.ceremony.identity import PUBLIC
    from dictpfl.deploy.operations.places import RUN
    from dictpfl.server.coordinator import AGREEMENT

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
    from dictpfl.common.errors import DictPFLError
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
    from dictpfl.common.errors import DictPFLError
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
    from dictpfl.common.errors import DictPFLError
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
    from dictpfl.common.errors import DictPFLError
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


def _ckks() -> Check:
    """Three uploads sealed, added and opened must give the exact sum; a foreign key must be noticed."""
    from dictpfl.common.ckks.adding import WordSum
    from dictpfl.common.ckks.keys import make_key
    from dictpfl.common.ckks.opening import CKKSOpener
    from dictpfl.common.ckks.parameters import CKKSParameters
    from dictpfl.common.ckks.sealing import CKKSSealer
    from dictpfl.common.errors import DictPFLError, GuardError
    from dictpfl.common.protection import Encryption

    try:
        parameters = CKKSParameters.choose(Encryption(), 3)
        key = make_key(parameters)
        sealer, total = CKKSSealer(key), WordSum(parameters.word_prime)
        bound = 2 ** (parameters.payload_bits - 1) // 3
        vectors = [np.random.default_rng(i).integers(-bound, bound, parameters.components) for i in range(3)]
        uploads = [sealer.seal(vector) for vector in vectors]
        for upload in uploads:
            total.add(total.load(upload.words))
        sealed = (total.total(), [upload.seed for upload in uploads], parameters.components)
        exact = np.array_equal(CKKSOpener(key).open(*sealed), np.sum(vectors, axis=0))
        try:
            CKKSOpener(make_key(parameters)).open(*sealed)
        except GuardError:
            noticed = True
        else:
            noticed = False
    except DictPFLError as error:
        return Check("CKKS self-test", False, str(error))
    found = f"N = {parameters.ring_degree}, {parameters.security}-bit security; three sums of {parameters.components} integers exact"
    return Check(
        "CKKS self-test", exact and noticed, found if exact and noticed else "sums are not exact on this machine"
    )


def _torch() -> Check:
    from dictpfl.deploy.simulation.devices import cards

    found = cards()
    return Check("device", True, ", ".join(found.names) or f"{found.reason}; training runs on the processor")
