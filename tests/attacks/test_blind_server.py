"""The coordinator's process cannot open: what is loaded, what is imported, and what its classes hold."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

SERVER = ROOT / "server"
ADMITTED = {"errors", "files", "arrays", "settings", "words", "documents", "ckks.adding", "ckks.parameters"}
ADMITTED |= {f"messages.{name}" for name in ("protocol", "snapshots", "wire")}
ADMITTED |= {
    "ckks.streams",
    "messages.masks",
    "messages.sharing",
}  # masks come off with it: under them lie ciphertexts
ADMITTED |= {"messages.manifest"}  # public keys, and what they signed
ADMITTED |= {"fingerprint"}  # words for a digest, which people compare
ADMITTED |= {"protection"}  # how many make a quorum, and the form of settings
"""What the coordinator may import of common by itself; none of it opens, seals or holds a key."""
OPENERS = ("ckks.opening", "ckks.keys", "ckks.sealing", "genesis", "law", "config")


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Modules of a fresh interpreter that imported the coordinator's app."""
    code = "import json, sys\nimport dictpfl.server.app\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout))


def test_neither_torch_nor_client_nor_anything_that_opens_is_loaded(loaded: set[str]) -> None:
    assert "dictpfl.server.app" in loaded
    assert "dictpfl.common.ckks.adding" in loaded
    assert not within(loaded, "torch", "tenseal", "dictpfl.client", "dictpfl.deploy"), (
        "words are added by numpy: no SEAL"
    )
    assert not within(loaded, *(f"dictpfl.common.{name}" for name in OPENERS))


def within(names: set[str], *packages: str) -> set[str]:
    """Those of the names that are one of the packages, or in one."""
    return {name for name in names if any(f"{name}.".startswith(f"{package}.") for package in packages)}


def test_what_is_looked_for_exists() -> None:
    """A room that was renamed would make the checks here pass for nothing."""
    for name in ("client", "deploy", *(f"common.{name}" for name in (*OPENERS, *ADMITTED))):
        assert importlib.util.find_spec(f"dictpfl.{name}") is not None, name


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", sorted(SERVER.glob("**/*.py")), ids=lambda path: path.name)
def test_no_module_of_the_coordinator_imports_what_opens(path: Path) -> None:
    found = imports(path)
    assert within(found, "dictpfl.common") == within(found, *(f"dictpfl.common.{name}" for name in ADMITTED))
    assert not within(found, "torch", "tenseal", "importlib", "dictpfl.client", "dictpfl.deploy")
    assert within(found, "dictpfl") <= within(found, "dictpfl.common", "dictpfl.server")
    text = path.read_text(encoding="utf-8")
    for word in ("Decryptor", "SecretKey", "load_secret", "FederationKey", "Opener", "__import__", "pickle"):
        assert word not in text


def test_the_adder_holds_nothing_that_opens() -> None:
    """Not even indirectly: a fresh interpreter that only adds has no decryptor, no key and no opener in any object."""
    code = (
        "import gc, sys\nfrom dictpfl.common.ckks.adding import WordSum\nfrom dictpfl.common.ckks.parameters import CKKSParameters\n"
        "from dictpfl.common.protection import Encryption\n"
        "adder = WordSum(CKKSParameters.choose(Encryption(), 3).word_prime)\n"
        "names = {type(o).__name__ for o in gc.get_objects()} | {type(v).__name__ for v in vars(adder).values()}\n"
        "print(sorted(names & {'Decryptor', 'SecretKey', 'KeyGenerator', 'FederationKey', 'CKKSOpener'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
