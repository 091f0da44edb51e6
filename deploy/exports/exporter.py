"""Exporters: forms that a federation's model is written in (a door: `dictpfl export --format`)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import taken_back
from dictpfl.common.registry import Registry
from dictpfl.deploy.exports.reduced import reducer_notes

if TYPE_CHECKING:
    from dictpfl.deploy.exports.finished import Checkpoint, Finished
    # At run time it loads torch, which a copy of a run's own file does not need.


class Exporter(ABC):
    """Writes a model in one form; one file of `dictpfl.deploy.exports.formats` each."""

    makes_folder: ClassVar[bool] = False
    """True where the output is a new folder; else it is a file."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of other packages that it imports; it is refused in words where one is missing."""

    @abstractmethod
    def write(self, finished: Finished, output: Path) -> str:
        """Write the model.

        Args:
            finished: the federation; `finished.merged()` is its model.
            output: new folder, made and empty, or file.

        Returns:
            Words about the output, for people.
        """

    def export(self, folder: Path, output: Path, checkpoint: Checkpoint = "last") -> str:
        """Write the model of a run folder, or of an institution's folder; returns the words of `write`.

        Raises:
            ConfigError: no finished round, a package that is missing, or an output that holds something.
        """
        from dictpfl.deploy.exports.finished import Finished, short_of

        finished = Finished.load(folder, checkpoint)
        short = short_of(finished.genesis, finished.state) if checkpoint == "last" else ""
        return "\n".join(
            filter(None, [self.make(finished, output), short, *reducer_notes(finished.genesis.config.tokens)])
        )

    def make(self, finished: Finished, output: Path) -> str:
        """Write the model of a federation that is loaded; see `export`."""
        with self.prepared(output):
            return self.write(finished, output)

    @contextmanager
    def prepared(self, output: Path) -> Iterator[None]:
        """Refuse what `export` refuses, and make the output's folder, if it is one, for the block to fill; see `new_folder`."""
        missing = [name for name in self.needs if find_spec(name.partition(".")[0]) is None]
        if missing:
            raise ConfigError(f"this format needs {', '.join(missing)}, which cannot be imported; install it with pip")
        with new_folder(output) if self.makes_folder else nullcontext():
            yield


EXPORTERS: Registry[type[Exporter]] = Registry(
    "format", key="--format", group="dictpfl.exporters", folder="dictpfl.deploy.exports.formats"
)


def load_exporter(name: str) -> Exporter:
    """Make the exporter that a format's name leads to.

    Raises:
        ConfigError: unknown, or no exporter.
    """
    kind = EXPORTERS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, Exporter)):
        raise ConfigError(f"--format: {name!r} is no exporter; expected a subclass of {__name__}.Exporter")
    return kind()


@contextmanager
def new_folder(folder: Path, *, private: bool = False) -> Iterator[None]:
    """Make a folder for the block to fill, and take it away if that fails, as on a full disk: half a model would stand in the next try's way.

    Args:
        folder: missing or empty.
        private: only its owner may enter.

    Raises:
        ConfigError: it is there and holds something.
    """
    refuse_full(folder)
    with taken_back(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if private:
            folder.chmod(0o700)
        yield


def refuse_full(folder: Path) -> None:
    """Check, before anything is computed, that a folder is missing or empty, and not named as a file; none is made.

    Raises:
        ConfigError: it is there and holds something, would pass for a file of weights, or cannot be made.
    """
    if folder.suffix.lower() == ".safetensors":
        raise ConfigError(
            f"{folder} is named as a file, and a folder is written; name a folder, such as {folder.with_suffix('').name}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is there and holds something; name a new folder with --output, or remove what a command that was killed left there"
        )
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(
            f"cannot make {folder}: {above} is no folder, or may not be written by you; name another place"
        )
