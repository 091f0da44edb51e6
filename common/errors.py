"""Every error that dictpfl raises on purpose; each message says what was expected, found, and what to do."""


class DictPFLError(Exception):
    """Root of all errors of this project; catch it to catch them all."""

    code = "error"
    """A short word that may leave the institution: it carries no value, path or count."""


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
    """CKKS parameters that cannot hold the payload."""

    code = "parameters"


class InsecureParametersError(ParameterError):
    """CKKS parameters or settings below the security floor."""

    code = "insecure"


class KeyFileError(DictPFLError):
    """A key file is missing, damaged or readable by others."""

    code = "key-file"


class PrivacyError(DictPFLError):
    """What differential privacy allows is spent, or cannot be told."""

    code = "privacy"


class PackingError(DictPFLError):
    """Values do not fit the digits or components that were agreed on."""

    code = "packing"


class WireError(DictPFLError):
    """A blob is refused before any of its ciphertexts is parsed."""

    code = "wire"


class NotABlobError(WireError):
    """The first bytes are not this protocol's magic."""

    code = "not-a-blob"


class VersionError(WireError):
    """The blob is of another protocol version."""

    code = "version"


class WrongKindError(WireError):
    """An aggregate where an upload belongs, a score where an update belongs, or the like."""

    code = "wrong-kind"


class TruncatedError(WireError):
    """The blob is shorter than its header says."""

    code = "truncated"


class OversizedError(WireError):
    """The blob is longer than its header or the agreed capacity allows."""

    code = "oversized"


class CorruptError(WireError):
    """The blob's digest does not match its content, or SEAL refuses a ciphertext."""

    code = "corrupt"


class WrongFederationError(WireError):
    """The blob belongs to another federation."""

    code = "wrong-federation"


class WrongRoundError(WireError):
    """The blob belongs to another round."""

    code = "wrong-round"


class WrongKeyError(WireError):
    """The blob was sealed under another key or other parameters."""

    code = "wrong-key"


class DuplicateError(WireError):
    """The blob, or another one of the same institution, was already folded in this round."""

    code = "duplicate"


class OpeningError(DictPFLError):
    """A sum of ciphertexts does not open to what may be trusted; shared state is untouched."""

    code = "opening"


class GuardError(OpeningError):
    """Guard components are not zero: a foreign key, other parameters or a damaged ciphertext."""

    code = "guard"


class NoiseError(OpeningError):
    """A decoded value is too far from an integer."""

    code = "noise"


class RoundError(DictPFLError):
    """A round cannot be finished; shared state is untouched."""

    code = "round"


class TooFewParticipantsError(RoundError):
    """Fewer institutions contributed than this institution's own minimum."""

    code = "too-few"


class DriftError(RoundError):
    """Shared state differs from that of the institutions that contributed."""

    code = "drift"


class BehindError(RoundError):
    """This institution lacks aggregates that the request supposes."""

    code = "behind"


class IntegrityError(RoundError):
    """A sum is not made of the uploads that the coordinator names; shared state is untouched, and evidence is kept.

    `reason`: a word for what was found.
    """

    code = "integrity"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RevealError(RoundError):
    """What is asked about masks would uncover more than one sum of a round, or too small a one; nothing was told."""

    code = "reveal"


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


class IdentityError(CeremonyError):
    """An identity is missing, damaged, already there, or not the expected party's."""

    code = "identity"


class PassphraseError(CeremonyError):
    """The passphrase is wrong, too short, or cannot be had from a safe place."""

    code = "passphrase"


class RotationError(CeremonyError):
    """A new epoch cannot start from what was given."""

    code = "rotation"


class BundleError(CeremonyError):
    """A bundle or an exported state is refused; nothing of it was installed."""

    code = "bundle"


class NotABundleError(BundleError):
    """The file is of another kind, or of another release."""

    code = "not-a-bundle"


class TruncatedBundleError(BundleError):
    """The file is shorter than it says."""

    code = "truncated-bundle"


class TamperedBundleError(BundleError):
    """The signature or the seal does not fit the content: it was altered after it was made."""

    code = "tampered-bundle"


class UnknownSenderError(BundleError):
    """The signature is good, but not of the party that this one trusts."""

    code = "unknown-sender"


class WrongRecipientError(BundleError):
    """The file was sealed for another party."""

    code = "wrong-recipient"


class WrongBundleError(BundleError):
    """Properly signed, but its parts contradict each other or what is installed here."""

    code = "wrong-bundle"


class EpochError(BundleError):
    """The bundle's epoch cannot follow the one that is installed."""

    code = "epoch"


class SameEpochError(EpochError):
    """A second bundle for an epoch that is installed."""

    code = "same-epoch"


class OldEpochError(EpochError):
    """A bundle for an epoch before the one that is installed."""

    code = "old-epoch"


class CustodyError(DictPFLError):
    """A custody log was altered, cut off, or is not signed by the party that it names."""

    code = "custody"


class CustodyCutError(CustodyError):
    """A custody log lacks entries at its end that its signed head counts."""

    code = "custody-cut"


class CertificateError(DictPFLError):
    """A TLS certificate is missing, expired, for another name or of another authority."""

    code = "certificate"


class AppBundleError(DictPFLError):
    """The app bundle is not the one that was agreed on."""

    code = "bundle"


class ProcessError(DictPFLError):
    """A process of a deployment cannot start, keeps ending, or cannot be reached."""

    code = "process"
