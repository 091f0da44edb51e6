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

from dictpfl.common.errors import DictPFLError
from dictpfl.common.registry import installed, loaded
from dictpfl.deploy.runs.run import processor, versions

GROUP = "dictpfl.checks"
"""Entry points of checks: a function of a party's folder, or of None, that yields each `Check`."""
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


def checks(folder: Path | None = None) -> Iterator[Check]:
    """Checks of all installed packages: of this machine, and of a party's folder where one is named."""
    for point in installed(GROUP):
        try:
            yield from loaded(point, GROUP)(folder)
        except DictPFLError as error:
            yield Check(point.name, False, str(error))


def machine(_folder: Path | None = None) -> Iterator[Check]:
    """Python, processor, disk, packages, Flower, Opacus, CKKS and the device, cheapest first."""
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
