"""Search of a run's files for secrets: in raw bytes, hexadecimal, base64 and decimal numbers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dictpfl.deploy.audit.checks.check import Check
from dictpfl.deploy.audit.folder import RunFolder

_WINDOW = 8
_SECRET_FILES = re.compile(r"(federation\.key|peers\.key|genesis\.json|.*\.safetensors|.*\.sealed|.*\.secret)$")
"""Files that hold secrets by their purpose, each in its institution's folder."""
_HEX, _BASE64, _DECIMAL = (
    re.compile(rb"[0-9A-Fa-f]{16,}"),
    re.compile(rb"[A-Za-z0-9+/_-]{12,}"),
    re.compile(rb"\d{9,20}"),
)


def checks(run: RunFolder, further: list[Path]) -> Iterator[Check]:
    """Search all files of the run but those that hold secrets by their purpose, and further files and folders."""
    secrets = needles(run)
    files = [path for path in sorted(run.path.rglob("*")) if path.is_file() and not _is_secret(path, run)]
    for place in further:
        files += sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    faults = [f"{path.name}: bytes of {what}" for path in files for what in sorted(held(path.read_bytes(), secrets))]
    yield Check.every("no file but those for secrets holds bytes of one", len(files), faults)


def needles(run: RunFolder) -> dict[str, NDArray[np.uint64]]:
    """All windows of 8 bytes of every secret, by what it is; any of them gives it away."""
    secrets = {"the key": b"".join(key.secret.astype("<u8").tobytes() for key in run.keys[:1])}
    secrets["the seed"] = run.agreement.seed
    for party in run.parties:
        secrets[f"a private key of {party.name}"] = party.receiving
        secrets[f"the signing key of {party.name}"] = party.signing
        secrets[f"the secret of {party.name}"] = party.secret
    return {what: np.unique(_windows(data)) for what, data in secrets.items() if data}


def held(data: bytes, secrets: dict[str, NDArray[np.uint64]]) -> set[str]:
    """Tell which secrets bytes hold a part of, in whatever of the encodings."""
    windows = [_windows(piece) for piece in _decoded(data)]
    flat = np.concatenate([np.zeros(0, np.uint64), *windows])
    return {what for what, words in secrets.items() if np.isin(flat, words).any()}


def _decoded(data: bytes) -> Iterator[bytes]:
    yield data
    for run in _HEX.findall(data):
        for start in (0, 1):
            whole = run[start:][: (len(run) - start) // 2 * 2]
            yield bytes.fromhex(whole.decode())
    for run in _BASE64.findall(data):
        text = run.translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            yield base64.b64decode(text[start:][: (len(text) - start) // 4 * 4])
    for number in _DECIMAL.findall(data):
        if int(number) < 1 << 64:
            yield int(number).to_bytes(8, "little")


def _windows(data: bytes) -> NDArray[np.uint64]:
    """All windows of 8 bytes as words."""
    parts = [np.frombuffer(data, "<u8", (len(data) - at) // _WINDOW, at) for at in range(min(_WINDOW, len(data)))]
    return np.concatenate([np.zeros(0, np.uint64), *(part.astype(np.uint64) for part in parts)])


def _is_secret(path: Path, run: RunFolder) -> bool:
    inside = path.relative_to(run.path).parts
    return inside[0] == "institutions" and bool(_SECRET_FILES.match(path.name))
