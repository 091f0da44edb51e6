"""Papers of a study: the lead's proposal, and what parties say of it. Each is signed, has one form only, and travels in clear."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import ValidationError

from dictpfl.common.config import FederationConfig
from dictpfl.common.documents import require_format
from dictpfl.common.errors import BundleError, CeremonyError, ConfigError, DictPFLError, IdentityError
from dictpfl.deploy.ceremony.identity import PublicIdentity, Signer, canonical, require_name
from dictpfl.deploy.ceremony.terms import require_hash

_FORMAT = "dictpfl-study-1"
_PROPOSAL, _NOTICE = "proposal", "notice"
_CONTEXT = b"dictpfl study 1\n"
_LARGEST = 1 << 22
Kind = Literal["approved", "refused", "paused", "aborted", "keyed"]


@dataclass(frozen=True)
class Proposal:
    """Text of a study, all of it.

    Attributes:
        name: of the study; a file name, too.
        version: from 1 on; whoever approved one has not approved another.
        network: id of the network that it is for, 32 bytes.
        lead: who proposes and signs.
        title: what it is for, in a sentence.
        data: what each institution's samples must be, in a sentence.
        config: configuration, as it will be run, but for what genesis fills in.
        sample_shape, outputs: what the model is built for.
        weights: SHA-256 of W0, in hexadecimal; empty: drawn by the configuration's seed.
        app: SHA-256 of the app bundle that runs it, in hexadecimal.
        code: SHA-256 of the sources behind each callable that the configuration names, by its name.
        institutions: those that are asked, with the fingerprints of their identities in hexadecimal.
        hours: that it may run at an institution, from its first start on.
        memory_gib: that each of its processes may take there, in GiB.
        gpu: it wants one.
        until: last day on which it may be approved or keyed.
        parent: digest of the proposal that it was cloned from, in hexadecimal, or empty.
        signature: Ed25519, 64 bytes; empty until then.
    """

    name: str
    version: int
    network: bytes
    lead: PublicIdentity
    title: str
    data: str
    config: FederationConfig
    sample_shape: tuple[int, ...]
    outputs: int
    weights: str
    app: str
    code: Mapping[str, str]
    institutions: Mapping[str, str]
    hours: float
    memory_gib: float
    gpu: bool
    until: date
    parent: str = ""
    signature: bytes = b""

    def __post_init__(self) -> None:
        """Check names, hashes and numbers.

        Raises:
            IdentityError: a name that is no file name. ConfigError: an app's hash that is none, or a number that means nothing.
        """
        for name in (self.name, *self.institutions):
            require_name(name)
        require_hash(self.app)
        numbers = (self.version, self.outputs, self.hours, self.memory_gib, *self.sample_shape)
        if not all(type(number) in (int, float) and number > 0 for number in numbers) or not self.sample_shape:
            raise ConfigError(
                f"{self.name}: version, shape, outputs, hours and memory must be numbers above 0, found {numbers}"
            )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it, signature included, 32 bytes: what is approved."""
        return hashlib.sha256(self.to_bytes()).digest()

    def signed(self, lead: Signer) -> Self:
        """Return this proposal, signed."""
        return replace(self, signature=lead.sign(_CONTEXT + canonical(self._document())))

    def to_bytes(self) -> bytes:
        """Return the signed page, as JSON with one form only."""
        return canonical({**self._document(), "signature": self.signature.hex()}) + b"\n"

    def _document(self) -> dict[str, Any]:
        plain = (
            "name",
            "version",
            "title",
            "data",
            "outputs",
            "weights",
            "app",
            "hours",
            "memory_gib",
            "gpu",
            "parent",
        )
        return {
            "format": _FORMAT,
            "paper": _PROPOSAL,
            **{name: getattr(self, name) for name in plain},
            "network": self.network.hex(),
            "lead": self.lead.facts(),
            "config": self.config.model_dump(mode="json"),
            "sample_shape": list(self.sample_shape),
            "code": dict(self.code),
            "institutions": dict(self.institutions),
            "until": self.until.isoformat(),
        }

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Read what `to_bytes` made; whether the lead that it names may propose anything is for the caller to say.

        Raises:
            BundleError (tampered-bundle): altered, or of another release.
        """
        try:
            document, signature = _opened(data, _PROPOSAL)
            config = FederationConfig.model_validate(document["config"])
            config.require_sound(origin)
            proposal = cls(
                str(document["name"]),
                int(document["version"]),
                bytes.fromhex(document["network"]),
                PublicIdentity.of(document["lead"], origin),
                str(document["title"]),
                str(document["data"]),
                config,
                tuple(int(size) for size in document["sample_shape"]),
                int(document["outputs"]),
                str(document["weights"]),
                str(document["app"]),
                {str(name): str(digest) for name, digest in document["code"].items()},
                {str(name): str(digest) for name, digest in document["institutions"].items()},
                document["hours"],
                document["memory_gib"],
                bool(document["gpu"]),
                date.fromisoformat(document["until"]),
                str(document["parent"]),
                signature,
            )
            good = proposal.to_bytes() == data and proposal.lead.verify(signature, _CONTEXT + canonical(document))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError, DictPFLError):
            good = False
        if not good:
            raise _altered(origin)
        return proposal


@dataclass(frozen=True)
class Notice:
    """Notice by which a party says something of a study.

    Attributes:
        kind: approved, refused or paused by an institution; aborted by the lead or the authority; keyed by the authority.
        study: its name.
        digest: of the proposal that is meant, 32 bytes.
        network: id of the network, 32 bytes.
        lead: fingerprint of the study's lead, 32 bytes: a coordinator has no proposal to see it from.
        by: who says and signs it.
        number: rises with each notice of a party about a study, so that an older one does not count any more.
        at: when, UTC.
        reason: in words, or empty.
        signature: Ed25519, 64 bytes; empty until then.
    """

    kind: Kind
    study: str
    digest: bytes
    network: bytes
    lead: bytes
    by: PublicIdentity
    number: int
    at: str
    reason: str = ""
    signature: bytes = b""

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            IdentityError: no file name.
        """
        require_name(self.study)

    @classmethod
    def made(cls, kind: Kind, proposal: Proposal, by: Signer, number: int, reason: str = "") -> Self:
        """Return a notice about a proposal, signed."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        about = proposal.digest, proposal.network, proposal.lead.fingerprint
        blank = cls(kind, proposal.name, *about, by.public, number, at, reason)
        return replace(blank, signature=by.sign(_CONTEXT + canonical(blank._document())))

    def to_bytes(self) -> bytes:
        """Return the signed page, as JSON with one form only."""
        return canonical({**self._document(), "signature": self.signature.hex()}) + b"\n"

    def _document(self) -> dict[str, Any]:
        plain = ("kind", "study", "number", "at", "reason")
        return {
            "format": _FORMAT,
            "paper": _NOTICE,
            **{name: getattr(self, name) for name in plain},
            "digest": self.digest.hex(),
            "network": self.network.hex(),
            "lead": self.lead.hex(),
            "by": self.by.facts(),
        }

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Read what `to_bytes` made; whether its party may say that is for the caller to say.

        Raises:
            BundleError (tampered-bundle): altered, or of another release.
        """
        try:
            document, signature = _opened(data, _NOTICE)
            notice = cls(
                document["kind"],
                str(document["study"]),
                bytes.fromhex(document["digest"]),
                bytes.fromhex(document["network"]),
                bytes.fromhex(document["lead"]),
                PublicIdentity.of(document["by"], origin),
                int(document["number"]),
                str(document["at"]),
                str(document["reason"]),
                signature,
            )
            good = notice.kind in get_args(Kind) and notice.to_bytes() == data
            good = good and notice.by.verify(signature, _CONTEXT + canonical(document))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IdentityError):
            good = False
        if not good:
            raise _altered(origin)
        return notice


def read_paper(path: Path) -> Proposal | Notice:
    """Read a proposal or a notice, whichever the file is.

    Raises:
        BundleError (tampered-bundle): altered. BundleError (not-a-bundle): another kind of file. CeremonyError: not readable.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST)
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}") from error
    return paper_of(data, str(path))


def paper_of(data: bytes, origin: str) -> Proposal | Notice:
    """Read a proposal or a notice; see `read_paper`."""
    try:
        document = json.loads(data)
        form, paper = document["format"], document["paper"]
    except (ValueError, KeyError, TypeError, RecursionError):
        form = paper = None
    if form is None or paper not in (_PROPOSAL, _NOTICE):
        raise BundleError(f"{origin} is no paper of a study; is it the right file?", code="not-a-bundle")
    require_format(form, _FORMAT, origin, partial(BundleError, code="not-a-bundle"))
    return Proposal.of_bytes(data, origin) if paper == _PROPOSAL else Notice.of_bytes(data, origin)


def _opened(data: bytes, paper: str) -> tuple[dict[str, Any], bytes]:
    document = json.loads(data)
    signature = bytes.fromhex(document.pop("signature"))
    if (document["format"], document["paper"]) != (_FORMAT, paper):
        raise ValueError(paper)
    return document, signature


def _altered(origin: str) -> BundleError:
    return BundleError(
        f"{origin} was altered, or written by another release: its signature does not fit. Ask its sender for it again",
        code="tampered-bundle",
    )
