"""The coordinator's process cannot open: what is loaded, what is imported, and what its classes hold."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / "server"
ADMITTED = {"adding", "errors", "files", "parameters", "protocol", "settings", "snapshots", "wire"}
ADMITTED |= {"keystream", "revealing", "sharing"}  # masks come off with it: under them lie ciphertexts
ADMITTED |= {"manifest"}  # public keys, and what they signed
"""What the coordinator may import of common by itself; none of it opens, seals or holds a key."""
OPENERS = ("opening", "keys", "sealing", "genesis", "round", "state", "seeds", "masking", "ledger")


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Modules of a fresh interpreter that imported the coordinator's app."""
    code = "import json, sys\nimport server.app\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout))


def test_neither_torch_nor_client_nor_anything_that_opens_is_loaded(loaded: set[str]) -> None:
    assert "server.app" in loaded
    assert "common.adding" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "client", "deploy")}
    assert not loaded & {f"common.{name}" for name in OPENERS}


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
    assert {name.split(".")[1] for name in found if name.startswith("common.")} <= ADMITTED
    assert not {name for name in found if name.split(".")[0] in ("torch", "client", "deploy", "tenseal", "importlib")}
    text = path.read_text(encoding="utf-8")
    for word in ("Decryptor", "SecretKey", "load_secret", "FederationKey", "Opener", "__import__", "pickle"):
        assert word not in text


def test_the_adder_holds_nothing_that_opens() -> None:
    """Not even indirectly: a fresh interpreter that only adds has no decryptor, no key and no opener in any object."""
    code = (
        "import gc, sys\nfrom common.adding import ckks_adder\nfrom common.parameters import CKKSParameters\n"
        "from common.settings import Encryption\nadder = ckks_adder(CKKSParameters.choose(Encryption(), 3))\n"
        "names = {type(o).__name__ for o in gc.get_objects()} | {type(v).__name__ for v in vars(adder).values()}\n"
        "print(sorted(names & {'Decryptor', 'SecretKey', 'KeyGenerator', 'FederationKey', 'CKKSOpener'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
