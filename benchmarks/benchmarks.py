"""This folder as the package `benchmarks` where a script in it is started by its path.

Python then looks here first, and not in the folder above; without this module it would find the `benchmarks` that Opacus
installs beside itself.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent)]
