"""Checks of this machine, before a run disappoints."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from deploy.run import processor, versions

_LEAST_FREE = 2e9


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `ok` True, False (needed and missing) or None (worth knowing)."""

    name: str
    ok: bool | None
    found: str


def checks() -> Iterator[Check]:
    """All checks, cheapest first."""
    yield Check(
        "python",
        platform.python_version_tuple() >= ("3", "11"),
        f"{platform.python_version()} on {platform.platform()}",
    )
    yield Check("processor", True, f"{processor()}, {len(os.sched_getaffinity(0))} cores for this process")
    free = shutil.disk_usage(Path.cwd()).free
    yield Check("disk", free > _LEAST_FREE, f"{free / 1e9:.1f} GB free here")
    for package, number in versions().items():
        yield Check(package, number != "not installed", number)
    ray = find_spec("ray") is not None
    yield Check(
        "flower simulation",
        ray or None,
        "Ray found" if ray else "no Ray: pip install 'dictpfl[sim]', or --engine local",
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
    yield _torch()


def deployment_checks(folder: Path) -> Iterator[Check]:
    """Certificates, private files and processes in the folder of a coordinator or an institution."""
    from common.errors import DictPFLError
    from deploy.operations import health
    from deploy.operations.certificates import SOON_DAYS, validity
    from deploy.operations.private import private_files, require_private

    for path in sorted(folder.rglob("*.pem")):
        try:
            found = validity(path)
        except DictPFLError as error:
            yield Check("certificate", False, str(error))
            continue
        left = found.days_left
        ok = False if left <= 0 else None if left < SOON_DAYS else True
        yield Check(
            "certificate", ok, f"{path.name} ({found.subject}): {left:.0f} days left, until {found.ends:%Y-%m-%d}"
        )
    for path in private_files(folder):
        try:
            require_private(path)
        except DictPFLError as error:
            yield Check("private file", False, str(error))
        else:
            yield Check("private file", True, f"{path.relative_to(folder)}: only its owner reads it")
    found_health = health.of(folder)
    if not found_health:
        yield Check("processes", None, "none: `up` is not running in this folder")
    for program in found_health:
        yield Check("process", program.serves, f"{program.program}: {program.found}")


def _ckks() -> Check:
    """Three uploads sealed, added and opened must give the exact sum; a foreign key must be noticed."""
    from common.adding import ckks_adder
    from common.errors import DictPFLError, GuardError
    from common.keys import make_key
    from common.opening import CKKSOpener
    from common.parameters import CKKSParameters
    from common.sealing import CKKSSealer
    from common.settings import Encryption

    try:
        parameters = CKKSParameters.choose(Encryption(), 3)
        key = make_key(parameters)
        sealer, adder = CKKSSealer(key), ckks_adder(parameters)
        bound = 2 ** (parameters.payload_bits - 1) // 3
        vectors = [np.random.default_rng(i).integers(-bound, bound, parameters.components) for i in range(3)]
        for vector in vectors:
            (item,) = sealer.seal(vector)
            adder.add(adder.load(memoryview(item), len(item)))
        (total,) = adder.total()
        exact = np.array_equal(CKKSOpener(key).open(memoryview(total), len(total)), np.sum(vectors, axis=0))
        try:
            CKKSOpener(make_key(parameters)).open(memoryview(total), len(total))
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
    import torch

    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU; training runs on the processor"
    return Check("device", True, where)
