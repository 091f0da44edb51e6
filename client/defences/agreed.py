"""Signatures on what is in a sum: a quorum's show an institution that all honest ones are asked about the same sum (decision 0075).

Without them a coordinator could say different things to different institutions, and have masks off an upload that the others were told
is missing.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dictpfl.client.defences.pairs import Pairs
from dictpfl.common.messages.masks import SumQuestion, signed_text
from dictpfl.common.messages.protocol import RoundKind


def signed(pairs: Pairs, number: int, kind: RoundKind, question: SumQuestion) -> bytes:
    """Sign attempt and uploads of a question about a round, 64 bytes."""
    return pairs.own.signing.sign(signed_text(pairs.context, number, str(kind), question))


def signers(pairs: Pairs, number: int, kind: RoundKind, question: SumQuestion) -> set[int]:
    """Find the members in the sum whose signatures on it are right."""
    text, peers = signed_text(pairs.context, number, str(kind), question), pairs.roster.peers
    found = set()
    for member, signature in question.signatures.items():
        if member not in question.uploads or member >= len(peers):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(peers[member].signing).verify(signature, text)
        except InvalidSignature:
            continue
        found.add(member)
    return found
