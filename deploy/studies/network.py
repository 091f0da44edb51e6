"""The network that studies run on: who its parties are, as the ceremony left it in the folder of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dictpfl.client.keys.epochs import home
from dictpfl.common.errors import BundleError, CeremonyError, IdentityError
from dictpfl.deploy.ceremony.identity import PRIVATE, PublicIdentity, Role, coordinator_signer, public_of
from dictpfl.deploy.ceremony.keeping import Members, kept
from dictpfl.deploy.ceremony.pinning import pinned
from dictpfl.deploy.ceremony.terms import in_force


@dataclass(frozen=True)
class Network:
    """Parties of a network, as one of them knows them.

    Attributes:
        id: of the federation whose ceremony made it, 32 bytes.
        own: whose folder was read.
        authority: who signs its terms.
        members: fingerprint of each institution's identity by name, 32 bytes each.
        identities: the institutions' public keys, which the authority alone has at hand; empty elsewhere.
    """

    id: bytes
    own: PublicIdentity
    authority: PublicIdentity
    members: Mapping[str, bytes]
    identities: Members

    @classmethod
    def of(cls, folder: Path, passphrase: bytes | None = None) -> Network:
        """Read a party's folder; an authority's needs its passphrase, because its list of members is sealed.

        Raises:
            CeremonyError: the party is in no network yet. DictPFLError: something there is damaged.
        """
        own = own_of(folder)
        if own.role is Role.AUTHORITY:
            if passphrase is None:
                raise CeremonyError(f"{folder} is an authority's, whose members are sealed: give its passphrase")
            federation = kept(folder, passphrase)
            members = {name: member.fingerprint for name, member in federation.members.items()}
            return cls(federation.genesis.federation, own, own, members, federation.members)
        terms = in_force(folder, home(folder) if own.role is Role.INSTITUTION else folder) if pinned(folder) else None
        if terms is None:
            raise CeremonyError(
                f"{folder} has joined no federation yet, so there is no network to run a study on; see docs/deploy.md"
            )
        members = {name: member.identity for name, member in terms.members.items()}
        return cls(terms.federation, own, terms.authority, members, {})

    def require_institution(self, party: PublicIdentity, what: str) -> None:
        """Refuse a party that is no institution of this network.

        Raises:
            BundleError (unknown-sender): it is none.
        """
        if party.role is not Role.INSTITUTION or self.members.get(party.name) != party.fingerprint:
            raise BundleError(
                f"{what} is signed by {party.name} ({party.fingerprint.hex()[:12]}), who is no institution of this network; "
                f"its institutions are {', '.join(sorted(self.members))}",
                code="unknown-sender",
            )

    def require_known(self, party: PublicIdentity, what: str) -> None:
        """Refuse a party that is neither an institution nor the authority of this network.

        Raises:
            BundleError (unknown-sender): so it is.
        """
        if party.fingerprint != self.authority.fingerprint:
            self.require_institution(party, what)


def own_of(folder: Path) -> PublicIdentity:
    """Return the party whose folder it is.

    Raises:
        IdentityError: no party's.
    """
    if (folder / PRIVATE).exists():
        return public_of(folder)
    if not pinned(folder):
        raise IdentityError(f"{folder} is the folder of no party of a network; name one by --folder")
    return coordinator_signer(folder).public
