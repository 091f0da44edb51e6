"""Checks of sums against the recorded uploads that they list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import DictPFLError, RoundError
from dictpfl.deploy.audit.checks.check import Check
from dictpfl.deploy.audit.checks.opened import Opening, Upload
from dictpfl.deploy.audit.cipher.tags import TAGS, tag_key
from dictpfl.deploy.audit.folder import RunFolder
from dictpfl.deploy.audit.formats.blobs import AGGREGATE, Blob
from dictpfl.deploy.audit.formats.streams import Words


def aggregates(run: RunFolder, faults: list[str]) -> Mapping[int, Blob]:
    """Parse the sums of the journal, by round; what does not parse goes to `faults`."""
    parameters, blobs = run.agreement.parameters, {}
    for closed in run.rounds:
        if not closed.aggregate:
            continue
        try:
            blob = Blob.parse(closed.aggregate, parameters.word_bits, parameters.p)
            if blob.direction != AGGREGATE or blob.round != closed.round:
                raise RoundError(f"a blob of direction {blob.direction} and round {blob.round}")
            blobs[closed.round] = blob
        except DictPFLError as error:
            faults.append(f"round {closed.round}: {error}")
    return blobs


def checks(run: RunFolder, opening: Opening) -> Iterator[Check]:
    """Check every sum of the journal."""
    unread: list[str] = []
    sums = aggregates(run, unread)
    yield Check.every("sums parse, and list distinct members", len(run.rounds), unread)
    least = int(run.agreement.config["federation"]["min_participants"])
    small = [f"round {number}: {len(blob.entries)}" for number, blob in sums.items() if len(blob.entries) < least]
    yield Check.every(f"sums hold {least} uploads or more", len(sums), small)
    yield Check.every(
        "sums are those of the recorded uploads that they list, word for word",
        len(sums),
        [*_wrong_words(run, opening, sums)],
    )
    untagged = [f"round {number}: other tags" for number, blob in sums.items() if not is_tagged(run, blob)]
    yield Check.every("tags of sums fit", len(sums), untagged)
    opened, unopened = opened_sums(opening, sums)
    yield Check.every("sums decrypt", len(sums), unopened)
    yield Check.every(
        "integers of sums are the sums of the integers of uploads",
        len(opened),
        [*_wrong_integers(opening, sums, opened)],
    )


def listed(opening: Opening, blob: Blob) -> list[Upload | None]:
    """Find the recorded uploads that a sum lists."""
    known = {(u.blob.round, u.blob.kind, u.blob.attempt, u.entry): u for u in opening.uploads}
    return [known.get((blob.round, blob.kind, blob.attempt, entry)) for entry in blob.entries]


def _wrong_words(run: RunFolder, opening: Opening, sums: Mapping[int, Blob]) -> Iterator[str]:
    prime = run.agreement.parameters.p
    for number, blob in sums.items():
        uploads = [upload for upload in listed(opening, blob) if upload is not None]
        if len(uploads) < len(blob.entries):
            yield f"round {number}: lists {len(blob.entries)} uploads, {len(uploads)} of them were recorded"
        elif {(upload.bare.size, upload.blob.clear.size) for upload in uploads} != {(blob.words.size, blob.clear.size)}:
            yield f"round {number}: {blob.words.size} words and {blob.clear.size} in clear, its uploads have others"
        elif (added([upload.bare for upload in uploads], prime) != blob.words).any():
            yield f"round {number}: other words than the sum of its uploads"
        elif (np.sum([upload.blob.clear for upload in uploads], axis=0) != blob.clear).any():
            yield f"round {number}: other integers in clear than the sum of its uploads"


def is_tagged(run: RunFolder, blob: Blob) -> bool:
    """Tell whether a sum's tags are those of its words and entries."""
    agreement = run.agreement
    key = tag_key(agreement.seed, blob, agreement.parameters.p)
    return bool(key.tags(blob.words[:-TAGS], blob.clear.tolist(), blob.entries) == blob.words[-TAGS:].tolist())


def opened_sums(opening: Opening, sums: Mapping[int, Blob]) -> tuple[dict[int, Ints], list[str]]:
    """Decrypt sums; return their components by round, and what is wrong."""
    opened, faults = {}, []
    limit = 2**opening.parameters.scale_bits // 4
    for number, blob in sums.items():
        try:
            inside = opening.opened(blob.words[:-TAGS], [entry.seed for entry in blob.entries])
        except DictPFLError as error:
            faults.append(f"round {number}: {error}")
            continue
        opened[number] = inside.components
        if inside.guards.any() or (inside.rests.size and int(np.abs(inside.rests).max()) > limit):
            faults.append(f"round {number}: guards are not zero, or a coefficient is not near an integer")
    return opened, faults


def _wrong_integers(opening: Opening, sums: Mapping[int, Blob], opened: Mapping[int, Ints]) -> Iterator[str]:
    for number, components in opened.items():
        parts = [upload.components for upload in listed(opening, sums[number]) if upload is not None]
        if not parts or {part.size for part in parts} != {components.size}:
            yield f"round {number}: its uploads have other numbers of components"
        elif (np.sum(parts, axis=0) != components).any():
            yield f"round {number}: other integers than the sum of its uploads"


def added(parts: Sequence[Words], prime: int) -> Words:
    """Add words modulo the prime."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total = (total + part) % np.uint64(prime)
    return total
