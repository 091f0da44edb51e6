"""Members: identities as given, and who comes and goes at a rotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dictpfl.common.errors import CeremonyError, IdentityError
from dictpfl.deploy.ceremony.identity import PublicIdentity, Role
from dictpfl.deploy.ceremony.keeping import Kept, Members


def identities(files: Mapping[str, Path]) -> dict[str, PublicIdentity]:
    """Return the institutions whose `identity.pub` are given by name.

    Raises:
        IdentityError: damaged, of another name or role, or two with the same key.
    """
    found = {name: PublicIdentity.load(path) for name, path in files.items()}
    for name, identity in found.items():
        if identity.name != name or identity.role is not Role.INSTITUTION:
            raise IdentityError(
                f"{files[name]} is the identity of the {identity.role} {identity.name!r}, expected the institution {name!r}"
            )
    _require_distinct(found)
    return found


def _require_distinct(members: Members) -> None:
    for of in ("receiving", "signing", "node"):
        if len({getattr(member, of) for member in members.values()}) < len(members):
            raise IdentityError("two institutions have the same key; each must make an identity of its own")


def changed(federation: Kept, added: Members, removed: Sequence[str]) -> Members:
    """Return the members after some came and some left.

    Raises:
        CeremonyError (rotation): more than sums can hold, fewer than they must, or nobody of that name. IdentityError: as above.
    """
    members = dict(federation.members)
    for name in removed:
        if members.pop(name, None) is None:
            raise CeremonyError(
                f"{name!r} is no member and cannot be removed; members are {sorted(federation.members)}",
                code="rotation",
            )
    if known := sorted(set(added) & set(members)):
        raise CeremonyError(
            f"{known} are members already; remove them in the same command to replace their identities", code="rotation"
        )
    members |= added
    _require_distinct(members)
    least, capacity = federation.genesis.config.federation.min_participants, federation.genesis.parameters.capacity
    if len(members) > capacity and not federation.genesis.config.federation.sample:
        raise CeremonyError(
            f"{len(members)} institutions, but digits were sized for sums of {capacity} at genesis "
            "(federation.max_participants): more would overflow them. Found a new federation from this model instead",
            code="rotation",
        )
    if len(members) < least:
        raise CeremonyError(
            f"{len(members)} institutions, at least {least} (min_participants) must be in a sum", code="rotation"
        )
    return members
