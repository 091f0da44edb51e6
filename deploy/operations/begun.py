"""Owner of a folder, and how far it has come: said before a command looks for files that are not there yet."""

from __future__ import annotations

from pathlib import Path

from dictpfl.client.folder import FORMER_SETTINGS, SETTINGS
from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell
from dictpfl.deploy.ceremony.identity import PUBLIC, PublicIdentity, Role
from dictpfl.server.coordinator import AGREEMENT


def role_of(folder: Path) -> Role:
    """Tell whose folder it is, of those that run something.

    Raises:
        ConfigError: nobody's, or one that has not come so far yet; the message says what comes next.
    """
    if (folder / SETTINGS).exists() or (
        folder / FORMER_SETTINGS
    ).exists():  # of the former name, whoever reads it says what to do
        return Role.INSTITUTION
    if (folder / AGREEMENT).exists():
        return Role.COORDINATOR
    if not (folder / PUBLIC).exists():
        raise ConfigError(
            f"{folder} is no party's folder yet: an institution begins with `dictpfl institution accept INVITATION --name NAME --folder {in_shell(folder)}`, a "
            f"coordinator with `dictpfl coordinator install HALF --folder {in_shell(folder)}`"
        )
    identity = PublicIdentity.load(folder / PUBLIC)
    if identity.role is Role.AUTHORITY:
        raise ConfigError(
            f"{folder} is the folder of the authority {identity.name}, which runs nothing and holds no model"
        )
    if identity.role is Role.COORDINATOR:
        raise ConfigError(
            f"{folder} is a coordinator's folder without {AGREEMENT}: its installation was cut short, or refused. `dictpfl coordinator install HALF "
            f"--folder {in_shell(folder)}` puts it in place"
        )
    raise ConfigError(
        f"{identity.name} has an identity in {folder}, and has not joined yet: send {PUBLIC} to the authority, and when its bundle "
        f"comes, `dictpfl institution join BUNDLE --folder {in_shell(folder)}`"
    )


def require(folder: Path, role: Role) -> None:
    """Refuse a folder of another party, or of one that has not come so far yet.

    Raises:
        ConfigError: it is.
    """
    if (found := role_of(folder)) is not role:
        article = {Role.INSTITUTION: "an institution's", Role.COORDINATOR: "a coordinator's"}
        raise ConfigError(
            f"{folder} is {article[found]} folder, expected {article[role]}; name the right one by --folder"
        )
