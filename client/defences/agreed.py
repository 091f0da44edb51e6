"""Signatures on what is in a sum: a quorum's show an institution that all honest ones are asked about the same sum (decision 0019).

Without them a coordinator could say different things to different institutions, and have masks off an upload that the others were told
is missing.
"""

from __future__ import annotations

from dictpfl.client.defences.pairs import Pairs
from dictpfl.common.messages.manifest import is_signed
from dictpfl.common.messages.masks import SumQuestion, signed_text
from dictpfl.common.messages.protocol import RoundKind


def signed(pairs: Pairs, number: int, kind: RoundKind, question: SumQuestion) -> bytes:
    """Sign attempt and uploads of a question about a round, 64 bytes."""
    return pairs.own.signing.sign(signed_text(pairs.context, number, str(kind), question))


def signers(pairs: Pairs, number: int, kind: RoundKind, question: SumQuestion) -> set[int]:
    """Find the members in the sum whose signatures on it are right."""
    text, peers = signed_text(pairs.context, number, str(kind), question), pairs.roster.peers
    return {
        member
        for member, signature in question.signatures.items()
        if member in question.uploads and member < len(peers) and is_signed(peers[member].signing, signature, text)
    }
