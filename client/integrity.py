"""An institution's side of integrity: it signs and tags what it sends, and keeps evidence of what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from client.epochs import Keyring
from client.evidence import Evidence, keep
from client.manifests import require_manifests
from client.pairs import Pairs
from common.errors import DictPFLError, IntegrityError
from common.genesis import Genesis
from common.manifest import Manifest
from common.packing import Ints
from common.protocol import Aggregate
from common.revealing import SharesQuestion
from common.tagging import tag_key, tagged
from common.wire import Header, read_header


@dataclass(frozen=True)
class Integrity:
    """That of one institution in one epoch."""

    pairs: Pairs
    genesis: Genesis

    def tagged(self, components: Ints, header: Header) -> Ints:
        """What is sealed: the components with their tags behind them."""
        key = tag_key(self.genesis.seed, header.fingerprint, header.kind, header.round)
        return tagged(components, key, self.pairs.number, header.upload_id)

    def manifest(self, upload: bytes) -> bytes:
        """What is sent beside an upload."""
        return Manifest.of(self.pairs.number, upload).signed(self.pairs.own.signing).to_bytes()

    def require_made(self, question: SharesQuestion, upload: bytes, own: bytes) -> None:
        """Of a sum that is to be opened, every upload must be signed by its member: invented ones would leave few real ones.

        Args:
            upload: this institution's, of the same round. `own`: its manifest.

        Raises:
            IntegrityError: not so.
        """
        header = replace(read_header(upload), contributors=len(question.uploads))
        named = Aggregate(header.round, b"", tuple(question.uploads.values()), question.manifests)
        manifests = require_manifests(self.pairs.roster, header, named, own)
        if {manifest.member: manifest.upload_id for manifest in manifests} != dict(question.uploads):
            raise IntegrityError(
                "invented", "the uploads in the sum are not those that their members signed; nothing was told"
            )

    def keep_evidence(
        self, folder: Path, error: DictPFLError, aggregate: Aggregate, own: bytes, components: int
    ) -> Path:
        """Write down a sum that was refused, in the institution's folder; see `client.evidence.Evidence`."""
        reason = error.reason if isinstance(error, IntegrityError) else error.code
        found = Evidence(reason, str(error), self.pairs.number, self.pairs.roster, aggregate, own, components)
        return keep(folder, found, self.pairs.own.signing)


def integrity_of(keys: Keyring) -> Integrity | None:
    """An institution's integrity, where its federation has any."""
    return Integrity(Pairs.load(keys), keys.genesis) if keys.genesis.config.defences.integrity else None
