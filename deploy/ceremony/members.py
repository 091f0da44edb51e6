"""Who takes part: identities as given, and who comes and goes at a rotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import IdentityError, RotationError
from deploy.ceremony.identity import PublicIdentity, Role
from deploy.ceremony.keeping import Kept, Members


def identities(files: Mapping[str, Path]) -> dict[str, PublicIdentity]:
    """The institutions whose `identity.pub` are given by name.

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
    """Who takes part after some came and some left.

    Raises:
        RotationError: more than sums can hold, fewer than they must, or nobody of that name. IdentityError: as above.
    """
    members = dict(federation.members)
    for name in removed:
        if members.pop(name, None) is None:
            raise RotationError(
                f"{name!r} is no member and cannot be removed; members are {sorted(federation.members)}"
            )
    if known := sorted(set(added) & set(members)):
        raise RotationError(f"{known} are members already; remove them in the same command to replace their identities")
    members |= added
    _require_distinct(members)
    least, capacity = federation.genesis.config.federation.min_participants, federation.genesis.parameters.capacity
    if len(members) > capacity:
        raise RotationError(
            f"{len(members)} institutions, but digits were sized for sums of {capacity} at genesis "
            "(federation.max_participants): more would overflow them. Found a new federation from this model instead"
        )
    if len(members) < least:
        raise RotationError(f"{len(members)} institutions, at least {least} (min_participants) must be in a sum")
    return members
