"""Faults planted in the product itself: the audit of a run made with one fails; without one it does not.

The same table as an attacker's view cannot give: none of these faults changes what `dictpfl attack` prints.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dictpfl.client.defences.masks import MaskContext, Masks
from dictpfl.client.defences.pairs import Pairs
from dictpfl.client.institution import forget_institutions
from dictpfl.client.memory.diary import Diary
from dictpfl.client.uploading import Uploads
from dictpfl.common.ckks import opening, sealing
from dictpfl.common.ckks.keys import FederationKey, load_key, make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.ckks.streams import SumOfStreams
from dictpfl.common.errors import OpeningError
from dictpfl.common.law.ledger import Ledger, LedgerForm
from dictpfl.common.law.noise import Noise
from dictpfl.common.law.tags import RoundTags
from dictpfl.deploy.audit.audit import audited
from dictpfl.deploy.audit.cipher.sealed import Box, Parameters
from dictpfl.deploy.audit.formats.keyfile import polynomial
from dictpfl.deploy.simulation.simulate import simulate
from tests.support import ROOT
from tests.support.federations import encrypted

Patch = pytest.MonkeyPatch
ROUNDS = {"federation__rounds": 2}
MASKED = ROUNDS | {"defences__masks": True}
MANY = {"federation__rounds": 28}  # 84 updates: as many as the statistics over uploads need
NARROW = ROUNDS | {"grid__value_bits": 8}  # words that errors reach: fewer bits a value leave room to cut more
PRIVATE = ROUNDS | {
    "privacy__mechanism": "institution", "privacy__noise_multiplier": 1.0, "privacy__max_update_norm": 0.1,
    "pruning__enabled": False,
}  # fmt: skip
CORES = {
    "federation__rounds": 5, "decomposition__form": "core", "decomposition__refresh_every": 2, "decomposition__refresh_ranks": [2, 3, 4],
}  # fmt: skip


def failed(folder: Path, **changes: Any) -> list[str]:
    """Play a federation, and list what its audit says is wrong."""
    forget_institutions()
    try:
        run = simulate(encrypted(**changes), folder, engine="local", record=True)
    finally:
        forget_institutions()
    return [f"{check.what}: {check.detail}" for check in audited(run.folder) if check.failed]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ROUNDS,
        MASKED,
        ROUNDS | {"federation__participants": 6},
        MASKED | {"federation__participants": 6, "defences__mask_partners": 2},
        PRIVATE,
        ROUNDS | {"privacy__mechanism": "example", "privacy__noise_multiplier": 1.0},
        ROUNDS | {"encryption__sealer": "identity", "toy_insecure": True},
        CORES,
    ],
    ids=["three", "masks", "six", "six in a circle", "institution noise", "example noise", "identity", "cores"],
)
def test_run_of_the_product_passes(changes: dict[str, Any], tmp_path: Path) -> None:
    assert failed(tmp_path / "run", **changes) == []


@pytest.mark.slow
def test_void_round_of_the_product_is_replayed(tmp_path: Path, monkeypatch: Patch) -> None:
    """An institution whose ledger holds nonsense is told by its upload; all else of the run is as it should be."""
    real, made = LedgerForm.write, 0

    def write(self: LedgerForm, ledger: Ledger) -> Any:
        nonlocal made
        made += 1
        return real(self, replace(ledger, samples=-100_000) if made == 4 else ledger)

    monkeypatch.setattr(LedgerForm, "write", write)
    (line,) = failed(tmp_path / "run", federation__rounds=3)
    assert "1 wrong" in line
    assert "-100000 samples" in line


def pair_secrets_without_x25519(patch: Patch) -> None:
    def secret(self: Pairs, number: int) -> bytes:
        keys = sorted([self.own.public.receiving, self.roster.peers[number].receiving])
        return hashlib.sha256(b"".join(keys)).digest()

    patch.setattr(Pairs, "_secret", secret)


def own_masks_of_an_empty_secret(patch: Patch) -> None:
    real = Masks._own
    patch.setattr(Masks, "_own", lambda self, context, secret: real(self, context, b""))


def streams_that_repeat(patch: Patch) -> None:
    patch.setattr(MaskContext, "shared", property(lambda self: b"every round"))


def values_in_the_upload_id(patch: Patch) -> None:
    real = Uploads._upload_id

    def upload_id(self: Uploads, *parts: Any) -> bytes:
        return real(self, *parts)[:12] + len(self.own).to_bytes(4, "little")

    patch.setattr(Uploads, "_upload_id", upload_id)


def reused_encryption_of_zero(patch: Patch) -> None:
    kept: dict[int, Any] = {}
    real = CKKSSealer._own_zeros

    def own_zeros(self: CKKSSealer) -> Any:
        zeros = kept.setdefault(id(self), real(self))
        copies = [first.copy() for first in zeros.first]
        zeros.first.clear()
        zeros.first.extend(copies)
        return sealing._Zeros(zeros.seed, sealing.WordStream(zeros.seed, self._prime))

    patch.setattr(CKKSSealer, "_own_zeros", own_zeros)


def no_error_term(patch: Patch) -> None:
    """Leave out what brings the error of a fresh encryption in: what is left is a s alone."""
    real = CKKSSealer.__init__

    def init(self: CKKSSealer, key: FederationKey) -> None:
        real(self, key)
        self._evaluator = SimpleNamespace(sub_inplace=lambda carried, fresh: None)

    patch.setattr(CKKSSealer, "__init__", init)


def constant_seed(patch: Patch) -> None:
    class Constant:
        token_bytes = staticmethod(lambda count: bytes(range(count)))

    patch.setattr(sealing, "secrets", Constant)


def rejection_sampled(patch: Patch) -> None:
    """Seal again until the lowest bit of the first word is that of a value."""
    real = CKKSSealer.seal

    def seal(self: CKKSSealer, components: Any) -> Any:
        while True:
            sealed = real(self, components)
            if int(sealed.words[0]) & 1 == int(components[-1]) & 1:
                return sealed

    patch.setattr(CKKSSealer, "seal", seal)


def key_in_the_diary(patch: Patch) -> None:
    real = Diary.note

    def note(self: Diary, *said: Any, **facts: Any) -> None:
        key = load_key(self._path.parent / "federation.key")
        real(self, *said, **facts, key=key.secret[1000:1032].hex())

    patch.setattr(Diary, "note", note)


def tags_without_the_id(patch: Patch) -> None:
    patch.setattr(RoundTags, "_pads", lambda self, entry: [0, 0])


def zero_mask_streams(patch: Patch) -> None:
    """Streams modulo the words' prime, which are masks, are zero at both sides; those modulo q stay."""
    real = SumOfStreams.take

    def take(self: SumOfStreams, count: int) -> Any:
        drawn = real(self, count)
        return np.zeros_like(drawn) if self._prime < 1 << 55 else drawn

    patch.setattr(SumOfStreams, "take", take)


def no_noise(patch: Patch) -> None:
    patch.setattr(Noise, "noised", lambda self, q, draw: q)


FAULTS: dict[str, tuple[Callable[[Patch], None], dict[str, Any], str]] = {
    "pair secrets without X25519": (pair_secrets_without_x25519, MASKED, "masks, recomputed"),
    "own masks from an empty secret": (own_masks_of_an_empty_secret, MASKED, "masks, recomputed"),
    "streams that repeat every round": (streams_that_repeat, MASKED, "masks, recomputed"),
    "zero mask streams": (zero_mask_streams, MASKED, "masks, recomputed"),
    "values written into the upload id": (values_in_the_upload_id, ROUNDS, "ids follow"),
    "reused encryption of zero": (reused_encryption_of_zero, ROUNDS, "seeds are distinct"),
    "no error term": (no_error_term, NARROW, "errors move"),
    "a constant seed": (constant_seed, ROUNDS, "seeds are distinct"),
    "rejection-sampled ciphertexts": (rejection_sampled, MANY, "goes with a bit of the content"),
    "a key in a log": (key_in_the_diary, ROUNDS, "bytes of the key"),
    "tags that bind no id": (tags_without_the_id, ROUNDS, "tags fit"),
    "no noise": (no_noise, PRIVATE, "agreed noise"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_told(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    plant, changes, line = FAULTS[name]
    plant(monkeypatch)
    lines = failed(tmp_path / "run", **changes)
    assert any(line in said for said in lines), lines


def test_specification_names_every_planted_fault() -> None:
    page = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
    table = page[page.index("**Faults that were planted**") : page.index("## 14")]
    named = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[4:] if line.startswith("| ")}
    assert named == {*FAULTS, "no tolerance check"}


def refuses_noise() -> bool:
    """Tell whether an institution refuses a sum with a coefficient that is 0.3 away from an integer."""
    parameters = CKKSParameters(4096, (60,), 11, 48, 54, 3, 192)
    key, seed = make_key(parameters), secrets.token_bytes(32)
    box = Box(Parameters(4096, 60, 11, 48, 54, 3), polynomial(key.secret))
    errors = [0] * 14
    errors[3] = int(0.3 * 2**11)
    try:
        CKKSOpener(key).open(box.sealed(np.arange(10), seed, errors), [seed], 10)
    except OpeningError as error:
        return error.code == "noise"
    return False


def test_institution_refuses_what_is_far_from_an_integer() -> None:
    assert refuses_noise()


def test_planted_no_tolerance_check_is_told_by_the_test_above(monkeypatch: Patch) -> None:
    monkeypatch.setattr(opening, "TOLERANCE", 1.0)
    assert not refuses_noise()
