"""The key of a study: made by the authority, sealed to those who approved; and what an institution checks before it takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import BundleError, DictPFLError, StudyError
from dictpfl.deploy.ceremony.authority import Issued, found_study
from dictpfl.deploy.ceremony.authority import Study as Place
from dictpfl.deploy.ceremony.bundle import Bound, Contents
from dictpfl.deploy.ceremony.identity import Identity, canonical
from dictpfl.deploy.studies.code import differing
from dictpfl.deploy.studies.network import Network
from dictpfl.deploy.studies.papers import Notice, Proposal, paper_of
from dictpfl.deploy.studies.proposing import digest_of_given
from dictpfl.deploy.studies.store import Studies, Study, require_current

_FILLED = {"model.architecture": "", "privacy.noise_multiplier": 0.0, "selection.higher": None}
"""Settings that genesis fills in where the proposal has what stands here (None: whatever it has): it knows the model."""


def bound_to(proposal: Proposal) -> Bound:
    """Return what the bundles of a study are sealed under."""
    return Bound(proposal.name, proposal.digest)


def make_key(
    studies: Studies, study: Study, authority: Identity, passphrase: bytes, out: Path, weights: Path | None = None
) -> Issued:
    """Make the key of a study and seal it to those who approved; `out` gets their bundles and the coordinator's half.

    Raises:
        StudyError: too few approved, it was aborted, or its day has passed. BundleError: who approved has left. DictPFLError: refused; `out` is not written.
    """
    proposal = study.wanted
    if study.aborted:
        raise StudyError(f"{study.name} was aborted by {study.aborted.by.name}; clone it under another name")
    require_current(proposal)
    # Before W0 is looked at, for which the model is made: code that is not as it was proposed must not run.
    if others := differing(proposal.code, proposal.config):
        raise StudyError(
            f"the sources of {', '.join(others)} are not here as they were proposed; install what the lead has"
        )
    given = digest_of_given(proposal.config, proposal.sample_shape, proposal.outputs, weights) if weights else ""
    if given != proposal.weights:
        raise StudyError(
            f"{study.name} begins with {f'W0 of SHA-256 {proposal.weights}' if proposal.weights else 'a W0 drawn by its seed'}, found "
            f"{given or 'none'}; give the file that the lead proposed by --weights, or none"
        )
    approvals = study.approvals
    for notice in approvals:
        studies.network.require_institution(notice.by, f"the approval by {notice.by.name}")
    names, least = [notice.by.name for notice in approvals], proposal.config.federation.min_participants
    if len(names) < least:
        raise StudyError(
            f"{study.name} is approved by {len(names)} of {len(proposal.institutions)} ({', '.join(names) or 'nobody'}), at least {least} "
            "(min_participants) must be in a sum; wait for further approvals"
        )
    notice = studies.worded("keyed", study, authority)
    place = Place(study.folder, bound_to(proposal), _papers(proposal, approvals), notice.to_bytes())
    members = {name: studies.network.identities[name] for name in names}
    issued = found_study(
        studies.party,
        passphrase,
        place,
        _agreed(proposal, len(names)),
        members,
        out,
        app=proposal.app,
        sample_shape=proposal.sample_shape,
        outputs=proposal.outputs,
        weights=weights,
    )
    studies.receive(notice, "this notice")  # now that there is one: what was refused above is not said to be there
    return issued


def require_approved(contents: Contents, proposal: Proposal, network: Network) -> list[Notice]:
    """Refuse a bundle's contents that are not what was approved, by all who are in it; returns their approvals.

    Args:
        contents: as the bundle brought them.
        proposal: that this institution has approved.
        network: that it knows.

    Raises:
        BundleError (wrong-bundle): another text, another configuration, or a member who did not approve.
    """
    brought, approvals = read_papers(contents.study)
    if brought.digest != proposal.digest:
        raise _refusal(
            f"it brings a text with digest {brought.digest.hex()[:16]}, this institution approved {proposal.digest.hex()[:16]}"
        )
    for notice in approvals:
        network.require_institution(notice.by, "an approval in the bundle")
        if (notice.kind, notice.digest, notice.network) != ("approved", proposal.digest, network.id):
            raise _refusal(f"{notice.by.name} did not approve this text, and is in it")
    asked = {name: bytes.fromhex(digest) for name, digest in proposal.institutions.items()}
    approved = {notice.by.name: notice.by.fingerprint for notice in approvals}
    members = {name: member.identity for name, member in contents.terms.members.items()}
    if members != approved or not approved.items() <= asked.items():
        raise _refusal(f"its members are {', '.join(sorted(members))}, approvals are of {', '.join(sorted(approved))}")
    genesis = contents.genesis
    wrong = _differences(_agreed(proposal, len(approvals)), genesis.config)
    if (genesis.sample_shape, genesis.outputs) != (proposal.sample_shape, proposal.outputs):
        wrong.append("the shape of samples or the outputs")
    if proposal.weights and genesis.weights_digest.hex() != proposal.weights:
        wrong.append("W0")
    if contents.terms.app != proposal.app:
        wrong.append("the app")
    if wrong:
        raise _refusal(f"{', '.join(wrong)}: not as in the text that was approved")
    return approvals


def _papers(proposal: Proposal, approvals: Sequence[Notice]) -> bytes:
    texts = [notice.to_bytes().decode() for notice in approvals]
    return canonical({"proposal": proposal.to_bytes().decode(), "approvals": texts})


def read_papers(data: bytes) -> tuple[Proposal, list[Notice]]:
    """Read what a bundle brings of a study, signatures checked.

    Raises:
        BundleError (wrong-bundle): damaged.
    """
    try:
        document: Mapping[str, Any] = json.loads(data)
        proposal = paper_of(document["proposal"].encode(), "its proposal")
        approvals = [paper_of(text.encode(), "an approval in it") for text in document["approvals"]]
        good = isinstance(proposal, Proposal) and all(isinstance(paper, Notice) for paper in approvals)
    except (ValueError, KeyError, TypeError, AttributeError, DictPFLError):
        good = False
    if not good:
        raise _refusal("its proposal or approvals are damaged")
    return proposal, approvals  # type: ignore[return-value]  # looked at above


def _agreed(proposal: Proposal, participants: int) -> FederationConfig:
    """Return the configuration with those who approved in place of those who were asked."""
    config = proposal.config
    federation = config.federation.model_copy(update={"participants": participants})
    agreed = config.model_copy(update={"federation": federation})
    agreed.require_sound(proposal.name)
    return agreed


def _differences(wanted: FederationConfig, found: FederationConfig) -> list[str]:
    """Name the settings in which two configurations differ, but for what genesis fills in."""
    here, there = (dict(_flat(config.model_dump(mode="json"), "")) for config in (wanted, found))
    names = sorted(here.keys() | there.keys())
    return [name for name in names if here.get(name) != there.get(name) and not _filled(name, here.get(name))]


def _filled(name: str, wanted: Any) -> bool:
    return any(
        (name == key or name.startswith(f"{key}.")) and (blank is None or wanted in (blank, None, {}))
        for key, blank in _FILLED.items()
    )


def _flat(value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _refusal(why: str) -> BundleError:
    return BundleError(
        f"the bundle is not of the study that was approved: {why}. Nothing was installed; call the authority and the other "
        "institutions",
        code="wrong-bundle",
    )
