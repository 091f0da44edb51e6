"""Checks of single uploads: form, membership, ids, tags, content."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dictpfl.deploy.audit.checks.check import UNTOLD, Check
from dictpfl.deploy.audit.checks.opened import Opening, Upload, item_mark, maker
from dictpfl.deploy.audit.cipher.tags import TAGS, tag_key
from dictpfl.deploy.audit.folder import RunFolder
from dictpfl.deploy.audit.formats.blobs import Blob


def checks(run: RunFolder, opening: Opening) -> Iterator[Check]:
    """Check every recorded upload."""
    blobs, uploads = opening.blobs, opening.uploads
    yield Check.every(
        "uploads parse, their SHA-256 fits, their words are below p, they open", len(run.uploads), opening.faults
    )
    yield Check.every("uploads are of members, for this federation and key", len(blobs), [*_strangers(run, opening)])
    masked = (
        f"masks of {run.agreement.config['defences']['mask_partners']} partners at most" if run.agreement.masked else ""
    )
    if run.agreement.masked:
        yield Check.every(
            "masks, recomputed from X25519 secrets, come off every upload",
            len(uploads),
            [*_noisy(run, uploads)],
            masked,
        )
    if run.agreement.parameters.encrypted:
        yield Check.every(
            "uploads decrypt: guards are zero, rests within a quarter", len(uploads), [*_noisy(run, uploads)]
        )
    yield Check.every(
        "ids follow from the maker's secret and the ciphertexts", len(uploads), [*_foreign_ids(run, uploads)]
    )
    yield Check.every("tags fit the words, id and seed of their upload", len(uploads), [*_untagged(run, uploads)])
    yield Check.every("components stay within their share of the payload", len(uploads), [*_large(run, uploads)])
    yield _distinct(run, [*blobs.values()])


def _strangers(run: RunFolder, opening: Opening) -> Iterator[str]:
    agreement = run.agreement
    for name, blob in opening.blobs.items():
        party = maker(run, blob)
        if (blob.federation, blob.fingerprint) != (agreement.federation, agreement.fingerprint):
            yield f"{name}: of another federation or key"
        elif party is not None and blob.entries[0].member != party.number:
            yield f"{name}: of member {blob.entries[0].member}, made by {party.name}, which is member {party.number}"


def _noisy(run: RunFolder, uploads: list[Upload]) -> Iterator[str]:
    limit = 2**run.agreement.parameters.scale_bits // 4
    for upload in uploads:
        if upload.inside.guards.any():
            yield f"{upload.name}: guards {upload.inside.guards[:4].tolist()}"
        elif upload.inside.rests.size and int(np.abs(upload.inside.rests).max()) > limit:
            yield f"{upload.name}: a coefficient {int(np.abs(upload.inside.rests).max())} away from an integer, at most {limit}"


def _foreign_ids(run: RunFolder, uploads: list[Upload]) -> Iterator[str]:
    bits = run.agreement.parameters.word_bits
    for upload in uploads:
        wanted = item_mark(upload.party.secret, upload.blob, upload.bare[:-TAGS], bits)
        if upload.entry.upload_id[8:] != wanted:
            yield f"{upload.name}: its id ends in {upload.entry.upload_id[8:].hex()}, expected {wanted.hex()}"


def _untagged(run: RunFolder, uploads: list[Upload]) -> Iterator[str]:
    agreement = run.agreement
    for upload in uploads:
        key = tag_key(agreement.seed, upload.blob, agreement.parameters.p)
        wanted = key.tags(upload.bare[:-TAGS], upload.blob.clear.tolist(), upload.blob.entries)
        if upload.bare[-TAGS:].tolist() != wanted:
            yield f"{upload.name}: other tags"


def _large(run: RunFolder, uploads: list[Upload]) -> Iterator[str]:
    p = run.agreement.parameters
    limit = 2 ** (p.payload_bits - 1) // p.capacity
    for upload in uploads:
        if upload.components.size and int(np.abs(upload.components).max()) > limit:
            yield f"{upload.name}: a component beyond {limit}"


def _distinct(run: RunFolder, blobs: list[Blob]) -> Check:
    """Check seeds; the same ciphertexts may come again under another attempt, and then with the same id."""
    what = "seeds are distinct over the run"
    if not run.agreement.parameters.encrypted:
        return Check(what, 0, UNTOLD, "nothing is encrypted")
    pairs = {(blob.entries[0].seed, blob.entries[0].upload_id) for blob in blobs}
    seeds = [seed for seed, _ in pairs]
    repeated = [f"{seed.hex()[:16]} serves two uploads" for seed in sorted({s for s in seeds if seeds.count(s) > 1})]
    return Check.every(what, len(pairs), repeated)
