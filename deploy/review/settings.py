"""Settings that decide who can learn what, each with its value and what this value means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.review.judged import Mark
from dictpfl.deploy.review.spending import SIZES, bounded, promise
from dictpfl.deploy.units import counted
from dictpfl.server.agreement import Agreement


@dataclass(frozen=True)
class Meaning:
    """A setting's name, its value, and what it means; `mark` says whether a reviewer should look twice."""

    name: str
    value: str
    meaning: str
    mark: Mark = "good"


_PADDING: Mapping[str, tuple[str, Mark]] = {
    "none": (
        "The size of uploads follows from what is pruned, to the component, hence from all institutions' data together: the coordinator can tell "
        "which of two data sets it knows one of them has. `steps` hides most of that.",
        "caution",
    ),
    "steps": (
        "Uploads have one of 16 sizes between two powers of two: what is pruned shows only where a count lies beside the edge of one.",
        "good",
    ),
    "full": ("Uploads have the same size in every round of updates.", "good"),
}


def meanings(
    config: FederationConfig | None, agreement: Agreement | None, epsilon: float | None = None
) -> list[Meaning]:
    """Explain the configuration, with what is spent of its privacy; of a coordinator's folder alone, its half of the agreement."""
    if config is not None:
        return [
            *_encryption(config), *_federation(config), *_training(config), *_privacy(config, epsilon), *_others(config),
        ]  # fmt: skip
    return list(_agreed(agreement)) if agreement is not None else []


def _encryption(config: FederationConfig) -> Iterator[Meaning]:
    e = config.encryption
    if e.sealer == "ckks":
        yield Meaning(
            "encryption.sealer", e.sealer, "Uploads are encrypted under CKKS; only institutions have the key."
        )
    else:
        yield Meaning("encryption.sealer", e.sealer, "Nothing is encrypted: the coordinator reads every update.", "bad")
    if e.sealed_share < 1.0:
        clear = f"{1 - e.sealed_share:.0%} of each update crosses in clear: the coordinator reads that part."
        yield Meaning("encryption.sealed_share", f"{e.sealed_share:g}", clear, "bad")
    else:
        yield Meaning("encryption.sealed_share", "1", "All values of an update are encrypted, none is left in clear.")
    yield Meaning(
        "encryption.security", f"{e.security} bit",
        f"Breaking the encryption takes about 2^{e.security} steps by the guidelines' table; 128 is the floor.",
    )  # fmt: skip
    yield Meaning("encryption.pad_to", e.pad_to, *_PADDING[e.pad_to])
    yield Meaning(
        "defences.masks", _said(config.defences.masks),
        "A single upload opens to noise even for who has the key, as long as the coordinator follows the protocol."
        if config.defences.masks else
        "An institution that gets another's upload, from the coordinator or from inside TLS, can open it: all share one key.",
        "good" if config.defences.masks else "caution",
    )  # fmt: skip


def _federation(config: FederationConfig) -> Iterator[Meaning]:
    f = config.federation
    least = f.min_participants
    others = f"With {least} in a sum, each institution sees the sum of the other {least - 1}."
    yield Meaning("federation.participants", str(f.participants), "Institutions that take part.")
    yield Meaning(
        "federation.min_participants", str(least),
        f"An institution refuses to open a sum of fewer. {others}" + (
            " One can subtract itself and read the other." if least < 3 else " Five or more is better." if least < 5 else ""  # noqa: PLR2004
        ),
        "bad" if least < 3 else "caution" if least < 5 else "good",  # noqa: PLR2004 -- the threat model's numbers
    )  # fmt: skip
    if f.sample:
        yield Meaning(
            "federation.sample", str(f.sample),
            f"Institutions that a round asks, of {f.participants}. Everybody can compute whom; each opens all sums, also of rounds in "
            "which it was not asked.",
            "caution" if f.sample < 5 else "good",  # noqa: PLR2004 -- as for min_participants
        )  # fmt: skip
    if f.snapshot_every:
        kept = f"the newest {f.snapshots_kept}" if f.snapshots_kept else "all of them"
        yield Meaning(
            "federation.snapshot_every", counted(f.snapshot_every, "round"),
            f"The coordinator then gets the shared state, sealed under a key that it has not, and keeps {kept}.",
        )  # fmt: skip


def _training(config: FederationConfig) -> Iterator[Meaning]:
    t = config.training
    steps = t.steps or None
    if steps:
        yield Meaning(
            "training.steps",
            str(steps),
            "The work of a round does not depend on how many samples there are; nor does its time.",
        )
    else:
        yield Meaning(
            "training.epochs", str(t.epochs),
            "The work of a round grows with the samples: how long an institution takes shows the coordinator about how many "
            "it has. Set training.steps to hide that.", "caution",
        )  # fmt: skip
    rank, few = config.decomposition.rank, t.batch_size * t.accumulate * (steps or 0)
    tiny = bool(steps) and config.decomposition.enabled and few <= rank
    yield Meaning(
        "training.batch_size", str(t.batch_size),
        f"A round trains on {few} samples an institution, no more than the rank of its tables ({rank}): samples can then be "
        "told from the sum." if tiny else
        "Samples that an update mixes in a step; the more, the less one sum tells of one of them. What all rounds tell together does "
        "not depend on it: see the risks.",
        "caution" if tiny else "good",
    )  # fmt: skip
    if asked := [*config.tallies.opening, *config.tallies.closing]:
        yield Meaning(
            "tallies", ", ".join(asked),
            "All institutions learn the exact sum of these vectors, each filled from an institution's data; all but one of them together learn "
            "the last one's.", "caution",
        )  # fmt: skip
    if t.metrics:
        yield Meaning(
            "training.metrics", ", ".join(t.metrics),
            "All institutions learn the exact sums of these counts over all validation samples, in every round; all but one of them together learn "
            "the last one's.", "caution",
        )  # fmt: skip
    if config.decision:
        yield Meaning(
            "scores", config.decision,
            "All institutions learn the sum of scores that each takes from its samples, one for each shared value; all but one of them together "
            "learn the last one's.", "caution",
        )  # fmt: skip
    if config.data.preprocessing.on:
        yield Meaning(
            "data.preprocessing", "on",
            "All institutions learn counts, means, deviations and histograms of all training rows together, exactly; all but one of them together "
            "learn the last one's.", "caution",
        )  # fmt: skip
    if config.selection.patience:
        yield Meaning(
            "selection.patience", str(config.selection.patience),
            "The coordinator learns in which round institutions stop, about one bit a round on the sum of all validation figures.",
            "caution",
        )  # fmt: skip


def _privacy(config: FederationConfig, epsilon: float | None) -> Iterator[Meaning]:
    p = config.privacy
    whom = {"example": "any training sample", "institution": "any institution with all its data"}.get(p.mechanism)
    if whom is None:
        yield Meaning(
            "privacy.mechanism", p.mechanism,
            "No noise is added: nothing bounds what the sums and the finished model tell of a sample.", "caution",
        )  # fmt: skip
        return
    against = (
        f" ({p.curious} other institutions together included)" if p.mechanism == "institution" and p.curious else ""
    )
    yield Meaning(
        "privacy.mechanism", p.mechanism,
        f"Noise hides whether {whom} took part from whoever sees the sums and the model{against}. How well is said by epsilon.",
    )  # fmt: skip
    yield Meaning("privacy.epsilon", f"{p.epsilon:g}" if p.epsilon else "no limit",
                  f"Bounded by {bounded(config, epsilon)}. {SIZES}", promise(config, epsilon))  # fmt: skip
    yield Meaning(
        "privacy.delta", f"{p.delta:g}",
        "Chance that the promise does not hold; it should be well below one over the number of samples.",
    )  # fmt: skip
    if p.figures:
        yield Meaning(
            "privacy.figures", "yes",
            "Losses and validation figures are sent exact, without noise; nothing bounds what they tell of validation samples.",
            "caution",
        )  # fmt: skip


def _others(config: FederationConfig) -> Iterator[Meaning]:
    """Code that the configuration names; and further defences, by their own description, so that a new one is not forgotten here."""
    for key, code in config.own_code.items():
        yield Meaning(
            key, code,
            "Code that is not dictpfl's: it runs at the authority and at every institution, with the rights of the account there. Read it; "
            "allowed_code in an institution's institution.toml names what may run there.", "caution",
        )  # fmt: skip
    named = {"masks"} | (set() if config.defences.masks else {"mask_partners", "reveal_seconds"})
    yield from _described(config.defences, "defences", named)
    if config.toy_insecure:
        yield Meaning(
            "toy_insecure", "yes", "Somebody admitted that this federation protects less than it should; see the head of this page.",
            "bad",
        )  # fmt: skip


def _described(section: BaseModel, prefix: str, without: set[str]) -> Iterator[Meaning]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if name in without:
            continue
        if isinstance(value, BaseModel):
            yield from _described(value, f"{prefix}.{name}", set())
        else:
            mark: Mark = "caution" if value is False else "good"
            yield Meaning(f"{prefix}.{name}", _said(value), (field.description or "").replace("`", ""), mark)


def _agreed(agreement: Agreement) -> Iterator[Meaning]:
    yield Meaning(
        "encryption", "CKKS" if agreement.encrypted else "none",
        "Uploads are encrypted; this coordinator has no key." if agreement.encrypted else
        "Nothing is encrypted: this coordinator reads every update.", "good" if agreement.encrypted else "bad",
    )  # fmt: skip
    clear = agreement.uploads.max_clear
    yield Meaning(
        "part in clear", f"at most {clear:,} bytes an upload" if clear else "none",
        "A part of each update may cross unencrypted." if clear else "No upload may carry anything unencrypted.",
        "bad" if clear else "good",
    )  # fmt: skip
    least = agreement.least
    yield Meaning(
        "min_participants", str(least), f"No round is closed with fewer; each institution sees the sum of the other {least - 1}.",
        "bad" if least < 3 else "caution" if least < 5 else "good",  # noqa: PLR2004 -- the threat model's numbers
    )  # fmt: skip
    yield Meaning(
        "masks", _said(agreement.masks), "Pairwise masks on uploads.", "good" if agreement.masks else "caution"
    )
    yield Meaning(
        "signers", str(len(agreement.signers)),
        "Uploads come with a manifest signed by one of so many institutions." if agreement.signers else "Uploads are not signed.",
        "good" if agreement.signers else "caution",
    )  # fmt: skip
    kept = f"{agreement.snapshots_kept} snapshots" if agreement.snapshots_kept else "everything"
    yield Meaning(
        "snapshots_kept",
        str(agreement.snapshots_kept),
        f"This coordinator keeps {kept}; older sums are dropped."
        if agreement.snapshots_kept
        else "This coordinator keeps every sum.",
    )
    asks = agreement.restart_from is not None
    yield Meaning(
        "restart_from",
        str(agreement.restart_from or "no round"),
        "After a lost journal nothing goes on before the coordinator's operator has said from which round."
        if asks
        else "After a lost journal the federation goes on from the institutions' state by itself.",
        "good" if asks else "caution",
    )
    yield Meaning("epoch", str(agreement.epoch), f"The key in force since round {agreement.first_round}.")


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items())
    return str(value)
