"""A program of Flower's whose main thread fails ends, whatever threads it has left."""

from __future__ import annotations

import subprocess
import sys

FAILING = """
import importlib.metadata, os, sys, threading, time, types
from dictpfl.deploy.operations import child

def program():
    threading.Thread(target=time.sleep, args=(60,)).start()  # not a daemon: Python waits for it
    raise RuntimeError("the disk is full over there")

child.end_with_parent = lambda: None
child.entry_points = lambda **_: [types.SimpleNamespace(load=lambda: program)]
sys.argv = ["child", "flower-other"]
child.main()
"""


def test_it_ends_at_once_and_says_why() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "RuntimeError: the disk is full over there" in done.stderr
