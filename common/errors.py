"""Every error that dictpfl raises on purpose; each message says what was expected, what was found, and what to do.

    DictPFLError                 error
    ├── ConfigError              config
    ├── LayoutError              layout
    ├── ModelError               model
    ├── DataError                data
    ├── ParameterError           parameters, insecure
    ├── KeyFileError             key-file
    ├── PrivacyError             privacy
    ├── PackingError             packing
    ├── WireError                wire, not-a-blob, version, wrong-kind, truncated, oversized, wrong-federation,
    │   │                        wrong-round, wrong-key, duplicate
    │   └── CorruptError         corrupt
    ├── OpeningError             opening, noise
    │   └── GuardError           guard
    ├── RoundError               round, too-few, drift, reveal, refused, locked, scores-due
    │   ├── BehindError          behind
    │   ├── VoidError            void
    │   └── IntegrityError       integrity; reasons: form, count, invented, cross-round, cross-federation, members, tag
    ├── SnapshotError            snapshot
    ├── EvidenceError            evidence
    ├── MemoryFileError          memory
    ├── JournalError             journal
    ├── EngineError              engine
    ├── CeremonyError            ceremony, rotation
    │   ├── StudyError           study, policy, old-proposal, two-texts
    │   ├── IdentityError        identity
    │   ├── PassphraseError      passphrase
    │   └── BundleError          ceremony-bundle, not-a-bundle, truncated-bundle, tampered-bundle, unknown-sender,
    │                            wrong-recipient, wrong-bundle, same-epoch, old-epoch, imprint
    ├── CustodyError             custody, custody-cut
    ├── CertificateError         certificate
    ├── AppBundleError           bundle
    └── ProcessError             process

Catch a class for a kind of trouble, and compare `error.code` where the exact reason matters. A code is one word, the
same in logs, on the wire and in documentation; no two reasons share one. An error that is raised without a code has the
first one of its class.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

_PLACES = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
_NOT_OWN = (
    *(f"{Path(sysconfig.get_path(name))}{os.sep}" for name in _PLACES),
    f"{Path(__file__).parents[1]}{os.sep}",
)
"""Folders of Python's own modules, of installed packages, and of this project."""


class DictPFLError(Exception):
    """Root of all errors of this project; catch it to catch them all.

    Args:
        message: for people; it stays in the local log.
        code: one of the class's `codes`, where its own `code` is not exact enough.
    """

    code: str = "error"
    """A short word that may leave the institution: it carries no value, path or count."""
    codes: ClassVar[Mapping[str, str]] = {}
    """Further codes of this class, each with its meaning."""

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code


class ConfigError(DictPFLError):
    """The configuration file, or a value in it, cannot be used."""

    code = "config"


class LayoutError(DictPFLError):
    """A vector, a tensor or a plan does not fit the agreed layout."""

    code = "layout"


class ModelError(DictPFLError):
    """The model cannot be built, decomposed or merged."""

    code = "model"


class DataError(DictPFLError):
    """The data cannot be read, split or trained on."""

    code = "data"


class ParameterError(DictPFLError):
    """CKKS parameters, or settings that depend on them, cannot be used."""

    code = "parameters"
    codes: ClassVar = {"insecure": "CKKS parameters or settings are below the security floor"}


class KeyFileError(DictPFLError):
    """A key file is missing, damaged or readable by others."""

    code = "key-file"


class PrivacyError(DictPFLError):
    """The budget of differential privacy is spent, or cannot be told."""

    code = "privacy"


class PackingError(DictPFLError):
    """Values do not fit the digits or components that were agreed on."""

    code = "packing"


class WireError(DictPFLError):
    """A blob or message is refused before any of its ciphertexts is parsed."""

    code = "wire"
    codes: ClassVar = {
        "not-a-blob": "the first bytes are not this protocol's magic",
        "version": "another protocol version",
        "wrong-kind": "an aggregate where an upload belongs, a score where an update belongs, or the like",
        "truncated": "shorter than its header says",
        "oversized": "longer than its header or the agreed capacity allows",
        "wrong-federation": "of another federation",
        "wrong-round": "of another round",
        "wrong-key": "sealed under another key or other parameters",
        "duplicate": "it, or another one of the same institution, was already folded in this round",
    }


class CorruptError(WireError):
    """The blob's digest does not match its content, or SEAL refuses a ciphertext."""

    code = "corrupt"


class OpeningError(DictPFLError):
    """A sum of ciphertexts does not open to integers that may be trusted; shared state is untouched."""

    code = "opening"
    codes: ClassVar = {"noise": "a decoded value is too far from an integer"}


class GuardError(OpeningError):
    """Guard components are not zero: a foreign key, other parameters or a damaged ciphertext."""

    code = "guard"


class RoundError(DictPFLError):
    """A round cannot be finished; shared state is untouched."""

    code = "round"
    codes: ClassVar = {
        "too-few": "fewer institutions contributed than this institution's own minimum",
        "drift": "shared state differs from that of the institutions that contributed",
        "reveal": "an answer about masks would uncover two sums of a round, or too small a sum; nothing was told",
        "refused": "a sum is refused, or another one was tried for the same attempt at a round; only the institution's log says why",
        "locked": "this institution has refused as many sums as it may; it opens none until its operator has looked",
        "scores-due": "something else is asked for where a score round is due; nothing was made",
    }


class BehindError(RoundError):
    """This institution lacks aggregates that the request supposes."""

    code = "behind"


class VoidError(RoundError):
    """A sum is that of the uploads that it names, and one of them holds nonsense: the round is void at every institution."""

    code = "void"


class IntegrityError(RoundError):
    """A sum is not made of the uploads that the coordinator names; shared state is untouched, and evidence is kept.

    Its code stays in the institution's log, as `reason` does: what leaves is `refused`, whatever was wrong.

    Args:
        reason: one of `reasons`.
        message: for people.
    """

    code = "integrity"
    reasons: ClassVar[Mapping[str, str]] = {
        "form": "the manifests cannot be read",
        "count": "manifests and the uploads in the sum do not agree",
        "invented": "an upload is named that its maker has not signed",
        "cross-round": "an upload of another round or key is named",
        "cross-federation": "an upload to another federation is named",
        "members": "too few institutions are in the sum for this one, or some that are no members of the epoch",
        "tag": "the secret tags of the sum do not fit the uploads that are named",
    }

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SnapshotError(DictPFLError):
    """A sealed snapshot of shared state is refused; shared state is untouched."""

    code = "snapshot"


class EvidenceError(DictPFLError):
    """A file is no evidence of a refused sum, or was altered."""

    code = "evidence"


class MemoryFileError(DictPFLError):
    """An institution's memory on disk is damaged, laxly protected or of another federation."""

    code = "memory"


class JournalError(DictPFLError):
    """The coordinator's journal is damaged or of another federation."""

    code = "journal"


class EngineError(DictPFLError):
    """The simulation runtime did not start, died, or left the run unfinished."""

    code = "engine"


class CeremonyError(DictPFLError):
    """A step of the key ceremony is refused; nothing was installed or written."""

    code = "ceremony"
    codes: ClassVar = {"rotation": "a new epoch cannot start from what was given"}


class StudyError(CeremonyError):
    """A study cannot be proposed, approved, keyed or run as it is; nothing was signed, installed or started."""

    code = "study"
    codes: ClassVar = {
        "policy": "it breaks the policy of this institution",
        "old-proposal": "a newer version of the proposal is known here, or its day has passed",
        "two-texts": "the same version of a proposal exists with another text",
    }


class IdentityError(CeremonyError):
    """An identity is missing, damaged, already there, or not the expected party's."""

    code = "identity"


class PassphraseError(CeremonyError):
    """The passphrase is wrong, too short, or cannot be had from a safe place."""

    code = "passphrase"


class BundleError(CeremonyError):
    """A bundle of the ceremony, or an exported state, is refused; nothing of it was installed."""

    code = "ceremony-bundle"
    codes: ClassVar = {
        "not-a-bundle": "a file of another kind, or of another release",
        "truncated-bundle": "the file is shorter than it says",
        "tampered-bundle": "the signature or the seal does not fit the content: it was altered after it was made",
        "unknown-sender": "the signature is good, but not of the party that this one trusts",
        "wrong-recipient": "sealed for another party",
        "wrong-bundle": "properly signed, but its parts contradict each other or what is installed here",
        "same-epoch": "a second bundle for an epoch that is installed",
        "old-epoch": "a bundle for an epoch before the one that is installed",
        "imprint": "its dictionaries, values or layout do not follow from W0 and the seed",
    }


class CustodyError(DictPFLError):
    """A custody log was altered, cut off, or is not signed by the party that it names."""

    code = "custody"
    codes: ClassVar = {"custody-cut": "entries are missing at the log's end that its signed head counts"}


class CertificateError(DictPFLError):
    """A TLS certificate is missing, expired, for another name or of another authority."""

    code = "certificate"


class AppBundleError(DictPFLError):
    """The app bundle is not the one that was agreed on."""

    code = "bundle"


class ProcessError(DictPFLError):
    """A process of a deployment cannot start, keeps ending, or cannot be reached."""

    code = "process"


def own_place(error: BaseException) -> str:
    """Say where in a user's own code an error arose: `model.py, line 12, in forward`; "" if that was elsewhere.

    Own code is neither Python's, nor an installed package's, nor dictpfl's. The innermost place counts; what an error was raised
    from is looked into first.
    """
    for one in _causes(error):
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            if not _is_foreign(frame.filename):
                return f"{_short(frame.filename)}, line {frame.lineno}, in {frame.name}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what an error was raised from, the first cause first, and the error last."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _causes(before)
    yield error


def _is_foreign(filename: str) -> bool:
    # Packages of another environment on the path are nobody's own code either, and compiled ones name their sources without a place.
    return (
        filename.endswith((".pyx", ".pxd", ".pxi"))
        or not Path(filename).is_absolute()
        or filename.startswith((*_NOT_OWN, "<"))
        or not {"site-packages", "dist-packages"}.isdisjoint(Path(filename).parts)
    )


def _short(filename: str) -> str:
    """Name a file from the working directory, where it lies in there."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def out_of_reach() -> tuple[type[Exception], ...]:
    """Errors of huggingface_hub where a hub does not answer, or answers no.

    Its error is also one of the library that carries it: requests, httpx or httpx2, by its release. That library's own
    errors come through as they are.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))
