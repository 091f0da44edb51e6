"""Template of a federation's configuration, as the authority fills it in with all institutions."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import taken_back

_NAME = "federation.toml"


def template() -> str:
    """Return the template's text: TOML, with words in capitals to fill in, and masks on, which simulations keep off."""
    return (files("dictpfl.deploy") / "ceremony" / _NAME).read_text(encoding="utf-8")


def write_template(path: Path) -> None:
    """Write the template.

    Raises:
        ConfigError: something is there already, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file, taken_back(path):
            file.write(template())
            file.flush()
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; choose another name, or move it away") from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another folder") from error
