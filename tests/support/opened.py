"""Uploads and sums as who has the key reads them, without a look at their tags."""

from __future__ import annotations

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.opening import Opener
from dictpfl.common.ckks.parameters import GUARDS, CKKSParameters
from dictpfl.common.law.tags import TAGS
from dictpfl.common.messages.wire import Blob


def components_of(blob: Blob, parameters: CKKSParameters) -> int:
    """Number of components whose ciphertexts, with their guards and the tags, make the words of a blob."""
    words = blob.header.words - TAGS
    return words - GUARDS * -(-words // parameters.ring_degree)


def opened(blob: Blob, opener: Opener, parameters: CKKSParameters) -> Ints:
    """The components of an upload, or of a sum."""
    seeds = [entry.seed for entry in blob.entries]
    return opener.open(blob.words()[:-TAGS], seeds, components_of(blob, parameters))
